"""The recipe for two targets for real: each has its own parts, what is alike travels once, a site takes its own."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plugsky.cli.bundle_build import WHEELHOUSE
from plugsky.core import settings
from plugsky.core.paths import checkout
from plugsky_builder import build as building
from plugsky_builder import recipe
from plugsky_builder.debs import renewal
from plugsky_bundles import ceremony
from plugsky_bundles.drafting import read_draft
from plugsky_bundles.errors import NotForThisHost, SourceUnreachable
from plugsky_bundles.media import open_bundle
from plugsky_bundles.preflight import SiteFacts, choose_lock, for_host
from plugsky_bundles.progress import silent
from plugsky_bundles.trustdir import open_trust

pytestmark = pytest.mark.integration

RECIPES = Path(__file__).parents[2] / "bundles" / "recipes"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A build of the recipe, without its rehearsal, in a directory and at a time of the caller's choice.

    Its Debian packages are locked anew, because a mirror drops those of the lock that comes along one day.
    """
    base = tmp_path_factory.mktemp("targets")
    ceremony.init(base / "trust", b"correct horse", now=NOW)
    chosen = settings.load({}).values
    wheelhouse = chosen.wheelhouse or (checkout() or chosen.cache) / WHEELHOUSE
    if not list(wheelhouse.glob("llama_cpp_python-*.whl")):
        pytest.skip(f"llama-cpp-python's compiled wheel is not in {wheelhouse}")
    text = (RECIPES / "two-targets.toml").read_text()
    text = text.replace("../locks/debs-", "debs-").replace("../locks", str(RECIPES.parent / "locks"))
    (base / "two-targets.toml").write_text(text + '\n[rehearsal]\nskip = "another test does"\n')
    asked = recipe.load(base / "two-targets.toml")
    try:
        renewal.renew(asked, chosen.cache, now=datetime.now(UTC), progress=silent)
    except SourceUnreachable as error:
        pytest.skip(f"Debian's mirror cannot be reached: {error}")

    def build(out: str, now: datetime) -> building.Built:
        try:
            return building.build(
                asked,
                base / out,
                base / "trust",
                cache=chosen.cache,
                wheelhouse=wheelhouse,
                now=now,
                passphrase=lambda: b"correct horse",
            )
        except SourceUnreachable as error:
            pytest.skip(f"the package index cannot be reached: {error}")

    return base, build


@pytest.fixture(scope="module")
def built(workshop):
    base, build = workshop
    made = build("out", NOW)
    return made, read_draft(open_bundle(made.path), open_trust(base / "trust").root).entries


def site(python: str, system: str, glibc: str, machine: str = "x86_64") -> SiteFacts:
    return SiteFacts({}, {}, 1 << 40, 1 << 20, 1, {}, python, machine, os=system, glibc=glibc)


def test_each_target_has_its_own_wheels_and_a_lock_that_says_for_whom(built):
    _, entries = built
    for folder, tag, python, glibc in (("debian-12", "cp311", "3.11", "2.36"), ("debian-13", "cp313", "3.13", "2.41")):
        wheels = [path.rsplit("/", 1)[-1] for path in entries if path.startswith(f"python/{folder}-amd64/")]
        assert any(name.startswith("numpy-") and f"-{tag}-{tag}-" in name for name in wheels)
        assert any(name.startswith("llama_cpp_python-") and "-py3-none-" in name for name in wheels)
        assert entries[f"python/{folder}-amd64/requirements.txt"].custom == {
            "os": folder,
            "arch": "amd64",
            "machine": "x86_64",
            "python": python,
            "accelerator": "cpu",
            "glibc": glibc,
        }
    assert "python/requirements.txt" not in entries


def test_what_both_targets_need_travels_once(built):
    made, entries = built
    digests = [entry.sha256 for path, entry in entries.items() if path.endswith(".whl")]
    assert len(set(digests)) < 0.7 * len(digests)
    assert made.media_bytes < made.bytes


def test_programs_and_startup_files_are_listed_for_a_reviewer(built):
    _, entries = built
    (pip,) = [entry for path, entry in entries.items() if path.startswith("python/debian-13-amd64/pip-")]
    assert pip.custom["programs"] == ["pip", "pip3"]
    assert all("startup" not in entry.custom for path, entry in entries.items() if "/cryptography-" in path)


@pytest.mark.parametrize(
    ("facts", "folder"),
    [(site("3.11", "debian-12", "2.36"), "debian-12-amd64"), (site("3.13", "debian-13", "2.41"), "debian-13-amd64")],
    ids=["Debian 12", "Debian 13"],
)
def test_a_site_takes_the_parts_that_are_for_it(built, facts, folder):
    _, entries = built
    lock = choose_lock(entries, facts)
    assert lock == f"python/{folder}/requirements.txt"
    python = {path.rsplit("/", 1)[0] for path in for_host(entries, lock) if path.startswith("python/")}
    assert python == {f"python/{folder}"}


@pytest.mark.parametrize(
    "facts",
    [site("3.12", "ubuntu-24.04", "2.39"), site("3.13", "debian-13", "2.41", "aarch64")],
    ids=["another Python", "another processor"],
)
def test_a_host_that_nothing_is_for_is_told_what_there_is(built, facts):
    _, entries = built
    with pytest.raises(NotForThisHost) as caught:
        choose_lock(entries, facts)
    assert "debian-12" in caught.value.why
    assert "debian-13" in caught.value.why


def test_the_same_recipe_and_locks_give_the_same_content_elsewhere_and_later(built, workshop):
    first, _ = built
    second = workshop[1]("elsewhere/deeper", NOW + timedelta(days=40))
    assert second.content_id == first.content_id

    def blobs(made):
        return sorted(path.name for path in (made.path / "blobs").rglob("sha256-*"))

    assert blobs(second) == blobs(first)
