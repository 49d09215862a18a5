"""Media that mix bundles, lie about sizes, or change while they are read: refused by name, and the site runs on."""

import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from bundles.forge import Forge, blob_path, put_blob
from bundles.gguf_forge import Forge as GgufForge
from bundles.standing_site import StandingSite
from plugsky.fleet import installation, site_trust
from plugsky_bundles.errors import (
    BlobMissing,
    BundleError,
    Busy,
    DigestMismatch,
    MetadataMissing,
    NotFound,
    UnlistedFile,
    UntrustedRoot,
)
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import open_media
from plugsky_bundles.uncached import FileReader

PART = "python/part.bin"
PLAYBOOK = "playbooks/preflight.yml"


@pytest.fixture(scope="module")
def right(site) -> Path:
    return site.bundle({**site.files, PART: os.urandom(1 << 20), "models/small/small.gguf": other_model()})


def other_model() -> bytes:
    return GgufForge().with_key("general.name", 8, "Other").build()


def blob(site, bundle: Path, path: str) -> Path:
    return bundle / blob_path(site.verify(bundle).entries[path].blobs[0].sha256)


# Mixtures


def mixed_metadata(other: Path, bundle: Path) -> None:
    shutil.rmtree(bundle / "metadata")
    shutil.copytree(other / "metadata", bundle / "metadata")


def mixed_blobs(other: Path, bundle: Path) -> None:
    shutil.rmtree(bundle / "blobs")
    shutil.copytree(other / "blobs", bundle / "blobs")


def both(other: Path, bundle: Path) -> None:
    shutil.copytree(other, bundle, dirs_exist_ok=True)


def inside(other: Path, bundle: Path) -> None:
    shutil.copytree(other, bundle / other.name)


def one_role(other: Path, bundle: Path) -> None:
    shutil.copy(other / "metadata/1.python.json", bundle / "metadata/1.python.json")


def linked(other: Path, bundle: Path) -> None:
    (bundle / "latest").symlink_to(other)


MIXED = {
    "the metadata of another bundle": (mixed_metadata, DigestMismatch),
    "the blobs of another bundle": (mixed_blobs, BlobMissing),
    "two bundles in one directory": (both, None),
    "a bundle inside the bundle": (inside, UnlistedFile),
    "one role file of another bundle": (one_role, DigestMismatch),
    "a link called latest": (linked, UnlistedFile),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_mixture_changes_nothing(site, bundle, tmp_path, name):
    mix, error = MIXED[name]
    number = len(list(site.forge.base.glob("plugsky-mix*")))
    mix(site.bundle({"policy/a": b"a", "python/b": b"b"}, channel=f"mix{number}"), bundle)
    site.refuses(bundle, error)


def test_a_mixture_of_two_trust_directories_changes_nothing(site, bundle, tmp_path):
    other = Forge(tmp_path / "stranger").sealed()
    site.refuses(other, UntrustedRoot)
    mixed_metadata(other, bundle)
    site.refuses(bundle, UntrustedRoot)


def test_a_link_on_the_stick_is_only_as_good_as_what_it_leads_to(site, right, tmp_path):
    latest = tmp_path / "latest"
    latest.symlink_to(right)
    assert site.verify(latest).bundle_id == site.verify(right).bundle_id
    latest.unlink()
    latest.symlink_to(tmp_path / "gone")
    before = site.listing()
    with pytest.raises(NotFound) as caught:
        site.install(latest)
    assert caught.value.exit_code == 7
    site.unchanged(before)


# Bytes


def harm(how, path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    if (changed := how(data)) is not None:
        path.write_bytes(changed)


DAMAGE = {
    "the first bit": (lambda d: bytes([d[0] ^ 1]) + d[1:], DigestMismatch),
    "the middle bit": (
        lambda d: d[: len(d) // 2] + bytes([d[len(d) // 2] ^ 16]) + d[len(d) // 2 + 1 :],
        DigestMismatch,
    ),
    "the last bit": (lambda d: d[:-1] + bytes([d[-1] ^ 128]), DigestMismatch),
    "a byte less": (lambda d: d[:-1], DigestMismatch),
    "a block less": (lambda d: d[:-4096], DigestMismatch),
    "nothing left": (lambda _: b"", DigestMismatch),
    "a byte more": (lambda d: d + b"\0", DigestMismatch),
    "a block more": (lambda d: d + bytes(4096), DigestMismatch),
    "twice": (lambda d: d + d, DigestMismatch),
    "zeros": (lambda d: bytes(len(d)), DigestMismatch),
    "not there": (lambda _: None, BlobMissing),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_blob_changes_nothing(site, bundle, name):
    how, error = DAMAGE[name]
    harm(how, blob(site, bundle, PART))
    site.refuses(bundle, error)


def test_a_hole_is_as_good_as_the_zeros_it_stands_for_and_no_better(site, tmp_path):
    """A stick that lost its data and gives zeros, and a file that never had other bytes."""
    zeros = site.bundle({"python/zeros.bin": bytes(1 << 20), "policy/a": b"a"}, channel="holes")
    path = blob(site, zeros, "python/zeros.bin")
    with path.open("r+b") as file:
        file.truncate(0)
        file.truncate(1 << 20)
    assert path.stat().st_blocks == 0
    verify_payload(site.verify(zeros))


def test_two_names_of_one_digest_are_one_blob_and_two_files(site, tmp_path):
    twins = site.bundle({"policy/a": b"same", "policy/b": b"same"}, channel="twins")
    verified = site.verify(twins)
    verify_payload(verified)
    assert len([name for name in verified.bundle.files if name.startswith("blobs/")]) == 1
    harm(lambda _: b"evil", blob(site, twins, "policy/b"))
    site.refuses(twins, DigestMismatch)


# Between one look and the next


class AtCopy:
    """Does something to the media once, when the copying begins."""

    def __init__(self, act) -> None:
        self.act, self.done = act, False

    def __call__(self, event) -> None:
        if event.stage == "copy" and not self.done:
            self.done = True
            self.act()


def swapped_for_a_link(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}-aside"))
    path.symlink_to(path.with_name(f"{path.name}-aside"))


def swapped_for_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


SWAPS = {
    "a blob for other bytes": (lambda path, _: harm(lambda d: bytes([d[0] ^ 1]) + d[1:], path), DigestMismatch),
    "a blob for a link to itself": (lambda path, _: swapped_for_a_link(path), UnlistedFile),
    "a blob for a pipe": (lambda path, _: swapped_for_a_pipe(path), UnlistedFile),
    "a blob for a shorter one": (lambda path, _: harm(lambda d: d[:-1], path), DigestMismatch),
    "a blob that is gone": (lambda path, _: path.unlink(), BlobMissing),
    "the blobs' directory for a link": (lambda _, bundle: swapped_for_a_link(bundle / "blobs"), UnlistedFile),
    "the bundle for an empty directory": (
        lambda _, bundle: (bundle.rename(bundle.with_name("aside")), bundle.mkdir()),
        BlobMissing,
    ),
}


@pytest.mark.parametrize("name", SWAPS)
def test_what_is_swapped_between_the_plan_and_the_copy_changes_nothing(site, bundle, name):
    swap, error = SWAPS[name]
    path = blob(site, bundle, PART)
    act = AtCopy(lambda: swap(path, bundle))
    site.refuses(bundle, error, progress=act)
    assert act.done


def test_a_bundle_swapped_for_a_link_to_another_changes_nothing(site, bundle, tmp_path):
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    path = other / blob(site, bundle, PART).relative_to(bundle)
    harm(lambda d: d[:-1] + b"!", path)

    def swap():
        bundle.rename(bundle.with_name("aside"))
        bundle.symlink_to(other)

    site.refuses(bundle, DigestMismatch, progress=AtCopy(swap))


def test_metadata_swapped_after_it_was_verified_is_not_read_again(site, tmp_path):
    """What was verified is what counts; a second read of the stick's metadata is never believed."""
    fresh = StandingSite(tmp_path, site.forge)
    bundle = site.bundle(channel="swapped")
    verified = fresh.verify(bundle, site.forge.fingerprint)
    for path in (bundle / "metadata").iterdir():
        path.write_bytes(b"{}")
    fresh.carry_out(verified)
    assert site_trust.load(fresh.paths) == verified.state


def test_a_stick_that_gives_other_bytes_on_the_second_read_changes_nothing(site, bundle, monkeypatch):
    """A full verification first; then the same blob reads differently, as from a worn-out or a hostile stick."""
    path = blob(site, bundle, PART)
    verify_payload(site.verify(bundle))
    real = FileReader.readinto
    wanted = path.stat().st_ino

    def lies(self, view, /):
        count = real(self, view)
        if count and os.fstat(self._descriptor).st_ino == wanted:
            view[0] ^= 1
        return count

    monkeypatch.setattr(FileReader, "readinto", lies)
    site.refuses(bundle, DigestMismatch)


# The place where it is put together


def test_a_staging_that_others_could_write_to_is_made_private_first(site, bundle):
    site.paths.staging.mkdir(exist_ok=True)
    site.paths.staging.chmod(0o777)
    modes = []

    def look(event):
        if event.stage == "copy":
            modes.append(stat.S_IMODE(site.paths.staging.stat().st_mode))

    path = blob(site, bundle, PART)
    harm(lambda d: d[:-1] + b"!", path)
    with pytest.raises(DigestMismatch):
        site.install(bundle, progress=look)
    assert set(modes) == {0o700}
    assert site.staged() == []


def test_a_staging_that_is_a_link_is_not_followed(site, bundle, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(site.paths.staging, ignore_errors=True)
    site.paths.staging.symlink_to(elsewhere)
    harm(lambda d: d[:-1] + b"!", blob(site, bundle, PART))
    with pytest.raises(DigestMismatch):
        site.install(bundle)
    assert list(elsewhere.iterdir()) == []
    assert not site.paths.staging.is_symlink()


def test_a_part_that_somebody_put_into_staging_is_not_written_through(site, bundle, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    entry = site.verify(bundle).entries[PART]
    site.paths.staging.mkdir(exist_ok=True)
    (site.paths.staging / f"sha256-{entry.sha256}.part").symlink_to(victim)
    harm(lambda d: d[:-1] + b"!", blob(site, bundle, PART))
    with pytest.raises(DigestMismatch):
        site.install(bundle)
    assert victim.read_bytes() == b"untouched"


def test_two_installers_at_once_are_one_too_many(site, right):
    """The second is told so at once and changes nothing; its exit status says that it may be tried again."""
    verified = site.verify(right)
    plan = installation.plan_for(verified, site.paths)
    before = site.listing()
    errors: list[BundleError] = []

    def second():
        try:
            installation.install(verified, plan, site.paths, site._trail, "user:second")
        except BundleError as error:
            errors.append(error)

    with installation.site_lock(site.paths.root):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert [(type(error), error.exit_code) for error in errors] == [(Busy, 8)]
    site.unchanged(before)


def test_too_many_files_are_refused_before_they_are_listed(site, bundle, monkeypatch):
    monkeypatch.setattr("plugsky_bundles.media_directory.MAX_FILES", 20)
    for number in range(20):
        put_blob(bundle, bytes([number]))
    site.refuses(bundle, UnlistedFile, "too many files")


def test_a_bundle_without_its_timestamp_is_damaged_and_not_half_trusted(site, bundle):
    (bundle / "metadata/timestamp.json").unlink()
    site.refuses(bundle, MetadataMissing)
    assert not open_media(bundle).sealed
