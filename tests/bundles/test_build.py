"""Recipe -> bundle: the same content twice is the same id, and whatever goes wrong leaves nothing in the way."""

import fcntl
import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bundles.gguf_forge import STRING, U16, Forge
from bundles.recipe_text import local, one_model
from plugsky_builder import build as building
from plugsky_builder import recipe
from plugsky_builder.build import Built
from plugsky_bundles import ceremony, sealing, signing
from plugsky_bundles.errors import (
    BundleError,
    Busy,
    DigestMismatch,
    ExistsError,
    GgufError,
    NotFound,
    RecipeError,
)
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import open_bundle
from plugsky_bundles.progress import silent
from plugsky_bundles.verify import verify_metadata

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PASSPHRASE = b"correct horse"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Workshop:
    """A build machine: a trust directory, a cache, an output directory and a recipe with one tiny model."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.out = base / "out"
        self.cache = base / "cache"
        self.trust = base / "trust"
        self.fingerprint = ceremony.init(self.trust, PASSPHRASE, now=NOW).fingerprint
        (base / "LICENSE").write_text("MIT\n")
        self.write_model(Forge().build())

    def write_model(self, data: bytes, pin: str | None = None, context: int = 128) -> None:
        (self.base / "tiny.gguf").write_bytes(data)
        weights = f"file = {local('tiny.gguf', pin or sha256(data))}"
        text = one_model(weights, local("LICENSE", sha256(b"MIT\n")), context=context)
        (self.base / "lab.toml").write_text(text + '[playbooks]\ninclude = ["preflight.yml"]\n')

    def build(self, *, out: Path | None = None, now: datetime = NOW, progress=silent) -> Built:
        return building.build(
            recipe.load(self.base / "lab.toml"),
            out or self.out,
            self.trust,
            cache=self.cache,
            wheelhouse=self.base / "wheels",
            now=now,
            progress=progress,
        )

    def seal(self, built: Built) -> None:
        signing.sign(built.path, self.trust, PASSPHRASE, now=NOW)
        sealing.seal(built.path, self.trust, PASSPHRASE, NOW)


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path)


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_a_built_bundle_is_signed_sealed_and_verified(workshop):
    built = workshop.build()
    assert (built.path, built.channel, built.version) == (workshop.out / "plugsky-lab-1", "lab", 1)
    assert not built.unchanged
    workshop.seal(built)
    verified = verify_metadata(open_bundle(built.path), workshop.fingerprint, now=NOW)
    verify_payload(verified)
    assert verified.content_id == built.content_id
    assert set(verified.entries) == {
        "models/tiny/tiny.gguf",
        "models/tiny/model.json",
        "models/tiny/LICENSE",
        "playbooks/preflight.yml",
        "policy/channel.json",
        "policy/revocations.json",
    }
    assert len(verified.entries) == built.files
    assert len(verified.entries["models/tiny/tiny.gguf"].chunks) == 2


def test_building_elsewhere_and_later_gives_the_same_content_and_the_same_blobs(workshop, tmp_path):
    first = workshop.build()
    second = workshop.build(out=tmp_path / "elsewhere", now=NOW + timedelta(days=40))
    assert first.content_id == second.content_id
    assert tree(first.path / "blobs") == tree(second.path / "blobs")


def test_building_again_changes_nothing_before_and_after_sealing(workshop):
    built = workshop.build()
    before = tree(workshop.out)
    again = workshop.build(now=NOW + timedelta(days=1))
    assert (again.unchanged, again.sealed, again.version) == (True, False, 1)
    assert tree(workshop.out) == before
    workshop.seal(built)
    before = tree(workshop.out)
    again = workshop.build(now=NOW + timedelta(days=1))
    assert (again.unchanged, again.sealed, again.content_id) == (True, True, built.content_id)
    assert tree(workshop.out) == before


def test_changed_content_replaces_a_draft_and_follows_a_sealed_bundle(workshop):
    first = workshop.build()
    workshop.write_model(Forge().with_key("general.name", STRING, "Second").build())
    second = workshop.build()
    assert second.version == 1
    assert second.content_id != first.content_id
    workshop.seal(second)
    workshop.write_model(Forge().with_key("general.name", STRING, "Third").build())
    assert workshop.build().version == 2


@pytest.mark.parametrize("lost", [False, True], ids=["a whole draft", "a draft that lost a blob"])
def test_a_draft_that_someone_signed_is_not_thrown_away(workshop, lost):
    first = workshop.build()
    signing.sign(first.path, workshop.trust, PASSPHRASE, now=NOW)
    if lost:
        next((first.path / "blobs").rglob("sha256-*")).unlink()
    before = tree(workshop.out)
    workshop.write_model(Forge().with_key("general.name", STRING, "Second").build())
    with pytest.raises(ExistsError, match="is signed already") as caught:
        workshop.build()
    assert f"plugsky bundle seal {first.path}" in caught.value.next
    assert tree(workshop.out) == before


def test_a_draft_that_lost_a_blob_is_built_again(workshop):
    built = workshop.build()
    before = tree(workshop.out)
    next((built.path / "blobs").rglob("sha256-*")).unlink()
    assert not workshop.build().unchanged
    assert tree(workshop.out) == before


def test_an_expired_bundle_is_built_again_under_the_next_version(workshop):
    workshop.seal(workshop.build())
    built = workshop.build(now=NOW + timedelta(days=366))
    assert (built.version, built.unchanged) == (2, False)


def test_a_sealed_bundle_of_another_trust_directory_is_not_overwritten(workshop, tmp_path):
    workshop.seal(workshop.build())
    (tmp_path / "second").mkdir()
    other = Workshop(tmp_path / "second")
    other.out = workshop.out
    before = tree(workshop.out)
    with pytest.raises(ExistsError, match="already sealed"):
        other.build()
    assert tree(workshop.out) == before


@pytest.mark.parametrize(
    ("change", "error", "reason", "code"),
    [
        (lambda w: w.write_model(Forge().build(), pin="0" * 64), DigestMismatch, "not what the recipe pins", 5),
        (lambda w: w.write_model(b"<html>Sign in</html>" * 9), GgufError, "begins with", 5),
        (lambda w: w.write_model(b"<html>", pin=sha256(Forge().build())), DigestMismatch, "recipe pins", 5),
        (lambda w: w.write_model(Forge().build()[:-40]), GgufError, "ends at byte", 5),
        (
            lambda w: w.write_model(Forge().with_key("tokenizer.chat_template", STRING, "{{ ''.__class__ }}").build()),
            GgufError,
            "__class__",
            5,
        ),
        (lambda w: w.write_model(Forge().build(), context=999), RecipeError, "trained for 128", 2),
        (
            lambda w: w.write_model(Forge().with_key("split.no", U16, 0).with_key("split.count", U16, 2).build()),
            RecipeError,
            "part 1 of 2",
            2,
        ),
        (lambda w: (w.base / "tiny.gguf").unlink(), NotFound, "recipe names it", 7),
        (lambda w: (w.base / "LICENSE").write_text("GPL\n"), DigestMismatch, "LICENSE is not what", 5),
    ],
    ids=[
        "a wrong hash",
        "a web page instead of a model",
        "a web page under a model's hash",
        "a truncated model",
        "an evil template",
        "too long a context",
        "one part of a split model",
        "no file",
        "another licence text",
    ],
)
def test_a_bad_part_is_refused_and_nothing_lies_in_the_output(workshop, change, error, reason, code):
    change(workshop)
    with pytest.raises(error, match=reason) as caught:
        workshop.build()
    assert caught.value.exit_code == code
    assert list(workshop.out.iterdir()) == []


@pytest.mark.parametrize(
    "change", [lambda d: d[:-20] + b"!" + d[-19:], lambda d: d + b"!"], ids=["a byte", "a byte more"]
)
def test_a_file_that_changed_since_it_was_sealed_is_refused_although_its_name_and_pin_are_the_same(workshop, change):
    workshop.seal(workshop.build())
    path = workshop.base / "tiny.gguf"
    path.write_bytes(change(path.read_bytes()))
    text = (workshop.base / "lab.toml").read_text()
    (workshop.base / "lab.toml").write_text(
        text.replace("preflight.yml", "*.yml").replace("[[model]]", 'title = "x"\n[[model]]')
    )
    with pytest.raises((DigestMismatch, GgufError)):
        workshop.build()
    assert [path.name for path in workshop.out.iterdir()] == ["plugsky-lab-1"]


def test_a_playbook_that_does_not_exist_is_refused(workshop):
    text = (workshop.base / "lab.toml").read_text()
    (workshop.base / "lab.toml").write_text(text.replace("preflight.yml", "preflihgt.yml"))
    with pytest.raises(RecipeError, match="No playbook matches"):
        workshop.build()


@pytest.mark.parametrize("moment", range(4))
def test_an_interrupted_build_leaves_nothing_and_the_next_one_completes(workshop, moment):
    heard = []

    def progress(event):
        heard.append(event)
        if len([e for e in heard if e.stage == "write"]) > moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workshop.build(progress=progress)
    assert list(workshop.out.iterdir()) == []
    workshop.seal(workshop.build())


def test_what_a_killed_build_left_is_cleared_away(workshop):
    (workshop.out / ".plugsky-lab-1.partial" / "blobs").mkdir(parents=True)
    built = workshop.build()
    assert list(workshop.out.iterdir()) == [built.path]


def test_two_builds_at_once_are_refused(workshop):
    workshop.out.mkdir()
    handle = os.open(workshop.out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="another build is running"):
            workshop.build()
    finally:
        os.close(handle)


def test_progress_counts_the_bytes_that_are_written(workshop):
    heard = []
    built = workshop.build(progress=heard.append)
    written = [event for event in heard if event.stage == "write"]
    assert [event.done for event in written] == sorted(event.done for event in written)
    assert written[-1].done == written[-1].total == built.bytes


def test_a_build_without_a_trust_directory_says_how_to_make_one(workshop, tmp_path):
    workshop.trust = tmp_path / "none"
    with pytest.raises(BundleError, match="plugsky trust init"):
        workshop.build()
