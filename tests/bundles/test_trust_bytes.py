"""A changed, missing or extra byte anywhere in a bundle; a file more, a file less, a link: each is refused by name."""

import io
import os
import shutil
from pathlib import Path

import pytest

from bundles.forge import NOW, Forge, InMemory, copy_of, put_blob
from plugsky_bundles.errors import (
    BlobMissing,
    DigestMismatch,
    MediaUnreadable,
    MetadataMissing,
    NotFound,
    UnlistedFile,
    VerificationError,
)
from plugsky_bundles.format import blob_path
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import Directory, open_bundle
from plugsky_bundles.progress import ProgressEvent
from plugsky_bundles.state import TrustState
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.verify import verify_metadata
from plugsky_bundles.walk import walk


def verify(forge: Forge, bundle: Path) -> VerifiedBundle:
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    verify_payload(verified)
    return verified


def files(bundle: Path) -> list[Path]:
    return sorted(path for path in bundle.rglob("*") if path.is_file())


def test_the_right_bundle_is_accepted(forge, bundle):
    verified = verify(forge, bundle)
    assert (verified.channel, verified.version) == ("demo", 1)
    assert [signer.name for signer in verified.signers["models"]] == ["targets-1"]
    assert len(verified.entries["models/tiny/tiny.gguf"].chunks) == 3


CHANGES = {
    "first bit of the first byte": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "case bit of the middle byte": lambda data: (
        (m := len(data) // 2) and data[:m] + bytes([data[m] ^ 0x20]) + data[m + 1 :]
    ),
    "a bit of the last byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "a byte cut off": lambda data: data[:-1],
    "everything cut off": lambda _: b"",
    "a byte added": lambda data: data + b"\n",
    "a byte put in front": lambda data: b" " + data,
    "a second copy added": lambda data: data + data,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_to_any_file_is_refused(forge, bundle, change):
    for path in files(bundle):
        data = path.read_bytes()
        path.write_bytes(change(data))
        with pytest.raises(VerificationError) as caught:
            verify(forge, bundle)
        assert caught.value.exit_code == 5, path
        assert type(caught.value) is not VerificationError, path
        path.write_bytes(data)
    verify(forge, bundle)


@pytest.mark.parametrize("name", ["1.root.json", "timestamp.json"])
def test_no_byte_of_a_file_that_only_its_signatures_protect_can_change(forge, right, name):
    metadata = InMemory({path.name: path.read_bytes() for path in (right / "metadata").iterdir()})
    walk(metadata, forge.fingerprint, NOW)
    data = metadata[name]
    for index in range(len(data)):
        metadata[name] = data[:index] + bytes([data[index] ^ 0x20]) + data[index + 1 :]
        with pytest.raises(VerificationError):
            walk(metadata, TrustState(data) if name == "1.root.json" else forge.fingerprint, NOW)


def test_any_file_that_is_missing_is_named(forge, bundle):
    for path in files(bundle):
        data = path.read_bytes()
        path.unlink()
        with pytest.raises((BlobMissing, MetadataMissing)) as caught:
            verify(forge, bundle)
        assert path.name in str(caught.value)
        path.write_bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        "extra",
        "metadata/2.root.json.bak",
        "metadata/extra.json",
        "metadata/2.targets.json",
        "blobs/extra",
        "blobs/aa/sha256-" + "aa" * 32,
        "evidence/extra.txt",
        "install.sh",
        ".hidden",
        "docs/a/b",
        "line\nbreak",
        "latin-\udce9",
    ],
)
def test_a_file_that_nobody_signed_is_named(forge, bundle, name):
    path = bundle / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(UnlistedFile) as caught:
        verify(forge, bundle)
    assert str(caught.value).isprintable()


def test_a_blob_of_another_bundle_is_an_unlisted_file(forge, bundle):
    put_blob(bundle, b"from another bundle")
    with pytest.raises(UnlistedFile):
        verify(forge, bundle)


def test_an_empty_directory_does_not_belong_in_a_bundle(forge, bundle):
    (bundle / "blobs/zz").mkdir()
    with pytest.raises(UnlistedFile, match="empty directory"):
        verify(forge, bundle)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_anything_but_a_file_in_a_files_place_is_refused(forge, right, tmp_path, kind):
    for number, name in enumerate(["metadata/timestamp.json", "evidence/custody.jsonl", "README.txt", "blob"]):
        bundle = Path(shutil.copytree(right, tmp_path / f"{number}"))
        path = next((bundle / "blobs").rglob("sha256-*")) if name == "blob" else bundle / name
        aside = tmp_path / f"aside-{number}"
        path.rename(aside)
        if kind == "link":
            path.symlink_to(aside)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()
        with pytest.raises((UnlistedFile, MetadataMissing, BlobMissing)):
            verify(forge, bundle)


def test_a_directory_that_is_a_link_is_refused(forge, bundle, tmp_path):
    (bundle / "blobs").rename(tmp_path / "blobs")
    (bundle / "blobs").symlink_to(tmp_path / "blobs")
    with pytest.raises(UnlistedFile, match="symbolic link"):
        verify(forge, bundle)


def test_a_file_swapped_for_a_link_after_listing_is_not_followed(forge, bundle, tmp_path):
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    blob = next((bundle / "blobs").rglob("sha256-*"))
    blob.rename(tmp_path / "aside")
    blob.symlink_to(tmp_path / "aside")
    with pytest.raises(UnlistedFile, match="changed while it was read"):
        verify_payload(verified)


def test_a_directory_swapped_for_a_link_after_listing_is_not_followed(forge, bundle, tmp_path):
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    (bundle / "evidence").rename(tmp_path / "aside")
    (bundle / "evidence").symlink_to(tmp_path / "aside")
    with pytest.raises(UnlistedFile):
        verify_payload(verified)


def test_a_file_swapped_for_a_pipe_after_listing_does_not_hang(forge, bundle):
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    blob = next((bundle / "blobs").rglob("sha256-*"))
    blob.unlink()
    os.mkfifo(blob)
    with pytest.raises(UnlistedFile):
        verify_payload(verified)


class Broken(io.BytesIO):
    """A file on a medium that gives nothing back."""

    def read(self, _size=-1):
        raise OSError(5, "Input/output error")

    readinto = read


def test_media_that_cannot_be_read_says_so(forge, bundle, monkeypatch):
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    monkeypatch.setattr(Directory, "open", lambda *_: Broken())
    for read in (verify_payload, lambda v: verify_metadata(v.bundle, forge.fingerprint, now=NOW)):
        with pytest.raises(MediaUnreadable, match="Input/output error") as caught:
            read(verified)
        assert caught.value.exit_code == 5


def test_media_that_cannot_be_listed_says_so(bundle, monkeypatch):
    def broken(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("plugsky_bundles.media_directory.os.scandir", broken)
    with pytest.raises(MediaUnreadable):
        open_bundle(bundle)


def test_a_file_that_grows_after_listing_is_refused(forge, bundle):
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    with (bundle / "README.txt").open("ab") as file:
        file.write(b"x" * (3 << 20))
    with pytest.raises(DigestMismatch):
        verify_payload(verified)


def test_metadata_verification_reads_no_payload(forge, bundle):
    """Only the full read opens the blobs of files: a changed one of the same size passes until then."""
    entry = verify(forge, bundle).entries["python/plugsky-0.1.0-py3-none-any.whl"]
    (bundle / blob_path(entry.sha256)).write_bytes(b"x" * entry.length)
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    with pytest.raises(DigestMismatch, match="plugsky-0"):
        verify_payload(verified)


def test_blobs_of_one_bundle_under_the_metadata_of_another_are_refused(forge, bundle, tmp_path):
    other = Forge(tmp_path / "other").sealed(files={"policy/channel.json": b"{}"})
    shutil.rmtree(bundle / "blobs")
    shutil.copytree(other / "blobs", bundle / "blobs")
    with pytest.raises(VerificationError):
        verify(forge, bundle)


def test_two_bundles_in_one_directory_are_refused(forge, bundle, tmp_path):
    shutil.copytree(Forge(tmp_path / "other").sealed(), bundle, dirs_exist_ok=True)
    with pytest.raises(VerificationError):
        verify(forge, bundle)


def test_a_full_read_reports_every_byte(forge, bundle):
    events: list[ProgressEvent] = []
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    verify_payload(verified, events.append)
    assert (
        events[-1].done
        == events[-1].total
        == sum(e.length for e in verified.entries.values())
        + sum(listed.length for listed in verified.evidence.values())
    )


def test_what_is_no_bundle_is_not_found(tmp_path, forge):
    with pytest.raises(NotFound):
        open_bundle(tmp_path / "nothing")
    with pytest.raises(NotFound):
        open_bundle(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotFound):
        open_bundle(tmp_path / "file")


def test_a_tree_of_directories_without_end_is_refused(bundle):
    (bundle / "/".join(["docs", *"abcdefghijklm"])).mkdir(parents=True)
    with pytest.raises(UnlistedFile, match="nested too deep"):
        open_bundle(bundle)


def test_a_copy_of_a_bundle_is_the_same_bundle(forge, right):
    copied = verify(forge, copy_of(right))
    assert copied.bundle_id == verify(forge, right).bundle_id
