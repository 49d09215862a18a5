"""Reasons why a site cannot take a bundle, each found before the first write and told with its numbers."""

import dataclasses

import pytest

from bundles.forge import NOW, Forge
from bundles.test_plan import FRESH
from plugsky_bundles.errors import NotForThisHost, UnfitSite
from plugsky_bundles.format import FileEntry
from plugsky_bundles.media import open_bundle
from plugsky_bundles.plan import plan_install
from plugsky_bundles.verify import verify_metadata

DEBIAN_12 = {"os": "debian-12", "machine": "x86_64", "python": "3.11", "glibc": "2.36", "unpacked": 100}
DEBIAN_13 = {"os": "debian-13", "machine": "x86_64", "python": "3.13", "glibc": "2.41", "unpacked": 9000}
ALIKE = {**DEBIAN_12, "os": "ubuntu-22.04", "glibc": "2.35"}
HOST = dataclasses.replace(FRESH, os="debian-12", glibc="2.36", memory=8 << 30)


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    forge = Forge(tmp_path_factory.mktemp("preflight"))
    return verify_metadata(open_bundle(forge.sealed()), forge.fingerprint, now=NOW)


def entry(path, length=0, **custom) -> FileEntry:
    return FileEntry(path, length, f"{abs(hash(path)):064x}"[:64], (), custom)


def with_files(verified, *entries: FileEntry):
    """The bundle as if it had these files in place of its models and Python parts."""
    kept = {path: e for path, e in verified.entries.items() if e.role not in ("models", "python")}
    return dataclasses.replace(verified, entries=kept | {e.path: e for e in entries})


def for_both(verified):
    return with_files(
        verified,
        entry("python/debian-12-amd64/requirements.txt", **DEBIAN_12),
        entry("python/debian-12-amd64/a.whl"),
        entry("python/debian-13-amd64/requirements.txt", **DEBIAN_13),
        entry("python/debian-13-amd64/a.whl"),
        entry("debs/debian-12-amd64/Packages"),
        entry("debs/debian-13-amd64/Packages"),
        entry("debs/plugsky-archive-keyring.asc"),
    )


def test_the_parts_for_this_host_are_chosen_and_those_for_others_left_out(verified):
    plan = plan_install(for_both(verified), HOST)
    assert plan.lock == "python/debian-12-amd64/requirements.txt"
    assert plan.venv_bytes == 200
    paths = {file.path for file in plan.files}
    assert not any("debian-13" in path for path in paths)
    assert {
        "python/debian-12-amd64/a.whl",
        "debs/debian-12-amd64/Packages",
        "debs/plugsky-archive-keyring.asc",
    } <= paths


def test_another_host_gets_other_parts_and_so_another_plan(verified):
    other = dataclasses.replace(HOST, os="debian-13", glibc="2.41", python="3.13")
    plan = plan_install(for_both(verified), other)
    assert plan.lock == "python/debian-13-amd64/requirements.txt"
    assert plan.digest != plan_install(for_both(verified), HOST).digest


@pytest.mark.parametrize("host", [{"python": "3.12"}, {"machine": "aarch64"}, {"glibc": "2.31"}])
def test_a_host_without_parts_is_refused_and_told_which_there_are(verified, host):
    with pytest.raises(NotForThisHost, match=r"with debian-12; Python 3\.13 on x86_64 with debian-13"):
        plan_install(for_both(verified), dataclasses.replace(HOST, **host))


def test_a_system_like_one_with_parts_gets_them_with_a_warning(verified):
    plan = plan_install(for_both(verified), dataclasses.replace(HOST, os="ubuntu-22.10"))
    assert plan.lock == "python/debian-12-amd64/requirements.txt"
    assert plan.warnings == ("the Python parts were made for debian-12; this is ubuntu-22.10 with the same Python",)


def test_the_parts_for_the_own_system_come_before_those_that_would_do(verified):
    both = with_files(
        verified,
        entry("python/a-amd64/requirements.txt", **ALIKE),
        entry("python/debian-12-amd64/requirements.txt", **DEBIAN_12),
    )
    assert plan_install(both, HOST).lock == "python/debian-12-amd64/requirements.txt"


def test_a_model_larger_than_memory_is_a_warning_while_another_fits(verified):
    models = with_files(verified, entry("models/big/big.gguf", 20 << 30), entry("models/small/small.gguf", 1 << 30))
    plan = plan_install(models, HOST)
    assert plan.warnings == ("the model big will not load: it has 21.5 GB, this host has 8.6 GB of memory",)
    assert plan.to_json()["warnings"] == list(plan.warnings)


def test_the_parts_of_a_split_model_count_together(verified):
    parts = [entry(f"models/big/big-0000{n}-of-00002.gguf", 5 << 30) for n in (1, 2)]
    models = with_files(verified, *parts, entry("models/small/small.gguf", 1 << 30))
    assert "has 10.7 GB" in plan_install(models, HOST).warnings[0]


def test_a_bundle_whose_every_model_is_larger_than_memory_is_refused(verified):
    with pytest.raises(NotForThisHost, match=r"the smallest, small, has 9\.7 GB, this host has 8\.6 GB"):
        plan_install(
            with_files(verified, entry("models/big/b.gguf", 20 << 30), entry("models/small/s.gguf", 9 << 30)), HOST
        )


def test_unknown_memory_refuses_nothing(verified):
    models = with_files(verified, entry("models/big/big.gguf", 20 << 30))
    assert plan_install(models, dataclasses.replace(HOST, memory=0)).warnings == ()


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"max_file": (1 << 32) - 1}, "has 4294967296 bytes, the limit here is 4294967295"),
        ({"links": False}, "hard links"),
        ({"apart": ("/mnt/store",)}, "/mnt/store must be on that"),
    ],
)
def test_file_systems_that_cannot_hold_a_site_are_refused(verified, facts, why):
    long = with_files(verified, entry("models/long/long.gguf", 1 << 32))
    assert plan_install(long, HOST)
    with pytest.raises(UnfitSite, match=why) as caught:
        plan_install(long, dataclasses.replace(HOST, **facts))
    assert caught.value.exit_code == 1


def test_what_is_installed_already_asks_nothing_of_the_file_system(verified):
    there = dataclasses.replace(HOST, installed={verified.bundle_id: 1}, links=False, free_bytes=0)
    assert plan_install(verified, there).installed
