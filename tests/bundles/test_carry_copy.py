"""Copying to a stick: one read, resumed where it was cut, read back past the page cache, and honest about how."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundles.carriage import Carriage, flip, tree
from plugsky_bundles import carrying, readback
from plugsky_bundles.carrying import SEAL
from plugsky_bundles.errors import (
    BlobMissing,
    DigestMismatch,
    ExistsError,
    FileTooLarge,
    MediaUnreadable,
    MetadataMissing,
    NoSpace,
    NotFound,
    NotSealed,
    ReadBackMismatch,
)
from plugsky_bundles.media import Directory, open_bundle, open_media
from plugsky_bundles.media_order import Part
from plugsky_bundles.readback import FileSystem, ReadBack, file_system, read_back


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Carriage(tmp_path_factory.mktemp("copy"))


@pytest.fixture
def source(made, tmp_path):
    """A copy of the bundle that a test may harm, and its verified metadata."""
    return made.verify(open_bundle(Path(shutil.copytree(made.path, tmp_path / "source"))))


@pytest.fixture
def stick(tmp_path):
    (tmp_path / "stick").mkdir()
    return tmp_path / "stick" / "plugsky-demo-1"


def copy(verified, path, **options):
    return carrying.copy([verified.bundle], verified.contents, verified.contents.parts, path, **options)


def test_a_copy_is_the_bundle_and_was_read_back(made, source, stick):
    done = copy(source, stick)
    assert tree(stick) == tree(made.path)
    size = sum(part.length for part in source.contents.parts)
    assert (done.written, done.kept, done.read_back.total) == (size, 0, size)
    assert made.verify(open_bundle(stick)).bundle_id == source.bundle_id


def test_the_source_is_read_once_and_never_changed(made, source, stick, monkeypatch):
    before = {path: path.stat() for path in source.bundle.path.rglob("*")}
    opened, real = Counter(), Directory.open

    def counted(self, name):
        opened[name] += 1
        return real(self, name)

    monkeypatch.setattr(Directory, "open", counted)
    copy(source, stick)
    assert opened == Counter({part.name: 1 for part in source.contents.parts})
    after = {path: path.stat() for path in source.bundle.path.rglob("*")}
    assert {p: (s.st_mtime_ns, s.st_mode, s.st_size) for p, s in before.items()} == {
        p: (s.st_mtime_ns, s.st_mode, s.st_size) for p, s in after.items()
    }


def test_a_second_copy_writes_nothing_but_reads_all_of_it(source, stick):
    copy(source, stick)
    before = {path: path.stat().st_mtime_ns for path in stick.rglob("*")}
    done = copy(source, stick)
    assert (done.written, done.kept) == (0, sum(part.length for part in source.contents.parts))
    assert done.read_back.total == done.kept
    assert before == {path: path.stat().st_mtime_ns for path in stick.rglob("*")}


def test_a_copy_that_is_cut_short_is_not_sealed_and_is_finished_by_the_same_call(made, source, stick):
    total = sum(part.length for part in source.contents.parts)

    def cut(event):
        if event.stage == "copy" and event.done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(source, stick, progress=cut)
    with pytest.raises((NotSealed, MetadataMissing)):
        made.verify(open_bundle(stick))
    done = copy(source, stick)
    assert 0 < done.kept < total
    assert done.kept + done.written == total
    assert tree(stick) == tree(made.path)


def test_what_a_stick_lost_is_copied_again_and_it_is_not_sealed_meanwhile(made, source, stick):
    copy(source, stick)
    lost = made.blob_of("models/tiny/tiny.gguf", 1)
    flip(stick / lost, 99)
    seen = []
    done = copy(source, stick, progress=lambda event: seen.append((event.stage, (stick / SEAL).exists())))
    assert done.written == 100_000 + (stick / SEAL).stat().st_size
    assert ("read back", False) in seen
    assert tree(stick) == tree(made.path)


DAMAGE = {
    "a changed byte": (lambda blob: flip(blob, 50_000), DigestMismatch, "was changed"),
    "a byte too few": (lambda blob: os.truncate(blob, 99_999), DigestMismatch, "ends early"),
    "a byte too many": (lambda blob: os.truncate(blob, 100_001), DigestMismatch, "too long"),
    "a blob taken away": (Path.unlink, BlobMissing, "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_source_is_named_by_blob_and_file_and_not_left_on_the_stick(made, source, stick, damage):
    harm, error, words = DAMAGE[damage]
    blob = made.blob_of("models/tiny/tiny.gguf", 1)
    harm(source.bundle.path / blob)
    with pytest.raises(error, match=words) as caught:
        copy(source, stick)
    assert blob in caught.value.what
    assert caught.value.exit_code == 5
    if error is DigestMismatch:
        assert "models/tiny/tiny.gguf" in caught.value.what
    assert not (stick / blob).exists()
    assert not (stick / SEAL).exists()


def test_metadata_swapped_after_it_was_verified_is_not_copied(source, stick):
    flip(source.bundle.path / "metadata/1.models.json", 40)
    with pytest.raises(DigestMismatch, match=r"1\.models\.json"):
        copy(source, stick)
    assert not (stick / SEAL).exists()


STRANGERS = {
    "a file": lambda path: (path / "autorun.inf").write_text("x"),
    "a directory": lambda path: (path / "photos").mkdir(),
    "a link": lambda path: (path / "blobs").symlink_to("/etc"),
    "a directory in a file's place": lambda path: (path / SEAL).mkdir(parents=True),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_is_not_of_the_bundle_is_never_overwritten(source, stick, stranger):
    stick.mkdir()
    STRANGERS[stranger](stick)
    before = sorted(stick.rglob("*"))
    with pytest.raises(ExistsError):
        copy(source, stick)
    assert sorted(stick.rglob("*")) == before


def test_places_that_cannot_be_are_refused(source, tmp_path):
    with pytest.raises(ExistsError, match="itself"):
        copy(source, source.bundle.path)
    with pytest.raises(ExistsError, match="inside it"):
        copy(source, source.bundle.path / source.bundle.path.name)
    with pytest.raises(NotFound):
        copy(source, tmp_path / "nowhere" / "plugsky-demo-1")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExistsError):
        copy(source, tmp_path / "file")


def test_a_stream_is_copied_to_a_stick_as_its_directory(made, tmp_path, stick):
    from plugsky_bundles import streaming

    (tmp_path / "b.tar").write_bytes(b"".join(map(bytes, streaming.stream(made.verified))))
    copy(made.verify(open_media(tmp_path / "b.tar")), stick)
    assert tree(stick) == tree(made.path)


def test_a_file_beyond_4_gib_is_refused_on_fat_before_the_first_write(tmp_path):
    part = Part("evidence/big", 1 << 32, "0" * 64)
    with pytest.raises(FileTooLarge, match="vfat"):
        carrying.check_room(tmp_path, FileSystem("vfat", tmp_path), [part], {})
    part = Part("evidence/fits", (1 << 32) - 1, "0" * 64)
    carrying.check_room(tmp_path, FileSystem("vfat", tmp_path), [part], {})


@contextmanager
def mounted(kind, options, at: Path, device="none"):
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", kind, "-o", options, device, at], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a {kind} is not possible here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


@pytest.mark.integration
@pytest.mark.parametrize(("options", "words"), [("size=256k", "kB are free"), ("nr_inodes=10", "inodes")])
def test_a_stick_that_is_too_small_is_refused_before_the_first_write(source, tmp_path, options, words):
    with mounted("tmpfs", options, tmp_path / "small") as place:
        with pytest.raises(NoSpace, match=words):
            copy(source, place / "plugsky-demo-1")
        assert list(place.iterdir()) == []


@pytest.mark.integration
def test_a_file_system_in_memory_proves_nothing_about_a_medium_and_that_is_said(source, tmp_path):
    with mounted("tmpfs", "size=16m", tmp_path / "memory") as place:
        done = copy(source, place / "plugsky-demo-1")
    assert done.file_system == "tmpfs"
    assert done.read_back == ReadBack(cached=done.written)
    assert not done.read_back.proves_medium


@pytest.mark.integration
def test_a_real_file_system_on_a_loop_device_is_read_back_directly(made, source, tmp_path):
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
    with mounted("ext4", "loop", tmp_path / "disk-mount", image) as place:
        done = copy(source, place / "plugsky-demo-1")
        assert made.verify(open_bundle(place / "plugsky-demo-1")).bundle_id == source.bundle_id
    assert done.file_system == "ext4"
    assert done.read_back == ReadBack(direct=done.written)


def test_without_direct_reads_the_page_cache_is_dropped_and_probed(tmp_path, monkeypatch):
    monkeypatch.setattr(readback, "_open_direct", lambda *_: None)
    file = tmp_path / "file"
    file.write_bytes(os.urandom(3 << 20))
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    digest, how = read_back(file, lambda _: None)
    assert how.direct == 0
    assert how.total == 3 << 20
    assert digest == read_back(file, lambda _: None)[0]


def test_a_kernel_that_does_not_tell_counts_as_one_that_still_held_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(readback, "_open_direct", lambda *_: None)
    real = os.preadv

    def silent(descriptor, buffers, offset, flags=0):
        if flags:
            raise OSError(95, "Operation not supported")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", silent)
    (tmp_path / "file").write_bytes(b"x" * 5000)
    _, how = read_back(tmp_path / "file", lambda _: None)
    assert how == ReadBack(cached=5000)


def test_the_file_system_under_a_path_is_told_by_the_kernels_table(tmp_path):
    assert file_system(Path("/proc")).kind == "proc"
    assert file_system(tmp_path).kind != "unknown"
    status = tmp_path.stat()
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    (tmp_path / "table").write_text(f"36 35 {device} / /media/usb rw,nosuid shared:1 - vfat /dev/sdb1 rw\n")
    on = file_system(tmp_path, tmp_path / "table")
    assert (on, on.largest_file) == (FileSystem("vfat", Path("/media/usb")), (1 << 32) - 1)


COPY = """
import sys
from datetime import datetime
from pathlib import Path
from plugsky_bundles import carrying
from plugsky_bundles.errors import BundleError
from plugsky_bundles.media import open_bundle
from plugsky_bundles.verify import verify_metadata
source, stick, pin, now = sys.argv[1:]
verified = verify_metadata(open_bundle(Path(source)), pin, now=datetime.fromisoformat(now))
try:
    carrying.copy([verified.bundle], verified.contents, verified.contents.parts, Path(stick))
except BundleError as error:
    print(error.code, error)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def lying_stick(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to make the lying stick with")
    library = tmp_path_factory.mktemp("stick") / "lying_stick.so"
    code = Path(__file__).with_name("lying_stick.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, code, "-ldl"], check=True)
    return library


LIES = {
    "keeps less than its label says": ({"STICK_BYTES": "150000"}, "read_back_mismatch", "smaller than its label"),
    "keeps nothing": ({"STICK_BYTES": "0"}, "read_back_mismatch", "smaller than its label"),
    "gives back another byte": ({"STICK_ROTTEN": "/blobs/"}, "read_back_mismatch", "worn out"),
    "cannot be read": ({"STICK_BROKEN": "/blobs/"}, "read_back_mismatch", "or none"),
    "forgets its seal": ({"STICK_ROTTEN": "timestamp.json"}, "read_back_mismatch", "timestamp.json"),
}


@pytest.mark.integration
@pytest.mark.parametrize("lie", LIES)
def test_a_stick_that_lies_is_found_out_before_it_is_sealed(made, source, stick, lying_stick, lie):
    environment, code, words = LIES[lie]
    done = subprocess.run(
        [sys.executable, "-c", COPY, source.bundle.path, stick, made.forge.fingerprint, "2026-11-22T12:00:00+00:00"],
        env={**os.environ, "LD_PRELOAD": str(lying_stick), "STICK_PATH": str(stick), **environment,
             "PYTHONPATH": str(Path(carrying.__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 5, done
    assert done.stdout.startswith(code)
    assert words in done.stdout
    assert not (stick / SEAL).exists()
    assert tree(source.bundle.path) == tree(made.path)


def test_a_source_that_cannot_be_read_says_so(made, source, stick, monkeypatch):
    real = Directory.open

    class Broken:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def readinto(self, _):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Directory, "open", lambda self, name: Broken(real(self, name)))
    with pytest.raises(MediaUnreadable, match="Input/output error"):
        copy(source, stick)


def test_the_error_of_a_lying_stick_is_a_refusal():
    assert ReadBackMismatch.exit_code == 5
