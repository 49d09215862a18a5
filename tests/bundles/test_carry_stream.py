"""The tar stream of a bundle: one way to write it, and a reader that accepts nothing else, reading forward once."""

import dataclasses
import hashlib
import io
import os
import subprocess
import tarfile
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles.carriage import PIECES, Carriage, flip
from plugsky_bundles import streaming, ustar
from plugsky_bundles.errors import (
    BlobMissing,
    BundleError,
    DigestMismatch,
    FileTooLarge,
    MalformedStream,
    MediaUnreadable,
    MetadataMissing,
    NotFound,
    StreamCut,
    StreamEncrypted,
    VerificationError,
)
from plugsky_bundles.format import blob_path
from plugsky_bundles.forward_read import verify_forward
from plugsky_bundles.media import open_bundle, open_media
from plugsky_bundles.media_order import MAX_EARLY, payload_order
from plugsky_bundles.metadata import Listed
from plugsky_bundles.tar_stream import TarStream


class Workshop(Carriage):
    """A sealed bundle and its right stream."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.stream = b"".join(bytes(block) for block in streaming.stream(self.verified))

    def members(self) -> list[tuple[str, bytes]]:
        with tarfile.open(fileobj=io.BytesIO(self.stream)) as tar:
            return [(member.name, tar.extractfile(member).read()) for member in tar.getmembers()]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return Workshop(tmp_path_factory.mktemp("stream"))


def tar_of(members, end=ustar.END) -> bytes:
    """A stream of members; one that is bytes stands as it is."""
    return b"".join(m if isinstance(m, bytes) else member(*m) for m in members) + end


def member(name: str, data: bytes) -> bytes:
    return ustar.header(name, len(data)) + data + bytes(ustar.padding(len(data)))


def read_all(workshop, data: bytes, path: Path, *, through: str = "file"):
    """Verify a stream as `bundle verify` does: metadata first, then every byte."""
    if through == "file":
        path.write_bytes(data)
        return verify_forward(workshop.verify(open_media(path)))
    reading, writing = os.pipe()

    def feed():
        with os.fdopen(writing, "wb") as file:
            file.write(data)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        media = TarStream(reading, Path("-"))
        return verify_forward(workshop.verify(media))
    finally:
        while os.read(reading, 1 << 20):
            """What the reader left: the feeder waits for it to be taken."""
        feeder.join()


@pytest.mark.parametrize("through", ["file", "pipe"])
def test_a_stream_is_verified_to_its_last_byte(workshop, tmp_path, through):
    assert read_all(workshop, workshop.stream, tmp_path / "b.tar", through=through) == ("models/zebra/zebra.gguf",)


def test_a_stream_is_the_same_bundle(workshop, tmp_path):
    (tmp_path / "b.tar").write_bytes(workshop.stream)
    verified = workshop.verify(open_media(tmp_path / "b.tar"))
    assert (verified.bundle_id, verified.content_id) == (workshop.verified.bundle_id, workshop.verified.content_id)


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to], ids=["a link", "a second name"])
def test_what_lies_under_the_temporary_name_of_a_stream_is_not_written_to(workshop, tmp_path, plant):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    plant(tmp_path / ".b.tar.part", victim)
    streaming.save(
        lambda file: file.writelines(streaming.stream(workshop.verified)), len(workshop.stream), tmp_path / "b.tar"
    )
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "b.tar").is_symlink()
    assert (tmp_path / "b.tar").read_bytes() == workshop.stream


def test_a_stream_is_the_same_wherever_and_whenever_it_is_written(workshop, tmp_path):
    streaming.save(
        lambda file: file.writelines(streaming.stream(workshop.verified)), len(workshop.stream), tmp_path / "b"
    )
    assert (tmp_path / "b").read_bytes() == workshop.stream
    again = workshop.verify(open_media(tmp_path / "b"))
    assert b"".join(map(bytes, streaming.stream(again))) == workshop.stream
    assert streaming.stream_length(workshop.verified) == len(workshop.stream)


def test_metadata_comes_first_then_what_is_read_early_then_payload_in_order(workshop):
    names = [name for name, _ in workshop.members()]
    assert names == [part.name for part in workshop.verified.contents.parts]
    assert names[:2] == ["metadata/1.root.json", "metadata/timestamp.json"]
    blobs = [name.rpartition("-")[2] for name in names if name.startswith("blobs/")]
    early = {chunk.sha256 for chunk in workshop.verified.lists.values()} | {
        workshop.verified.entries["models/tiny/model.json"].sha256
    }
    payload = [b.sha256 for b in payload_order(workshop.verified.entries.values()) if b.sha256 not in early]
    assert blobs == sorted(early) + payload


def test_a_plain_tar_lists_and_unpacks_the_directory(workshop, tmp_path):
    (tmp_path / "b.tar").write_bytes(workshop.stream)
    listed = subprocess.run(["tar", "tf", tmp_path / "b.tar"], check=True, capture_output=True, text=True)
    assert listed.stderr == ""
    assert listed.stdout.split() == [name for name, _ in workshop.members()]
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xf", tmp_path / "b.tar", "-C", tmp_path / "out"], check=True)
    unpacked = workshop.verify(open_bundle(tmp_path / "out"))
    assert unpacked.bundle_id == workshop.verified.bundle_id


def odd(
    name: str = "blobs/ab/oddity", kind: bytes = tarfile.REGTYPE, data: bytes = b"", form=tarfile.USTAR_FORMAT, **more
):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    info.pax_headers = more.pop("pax", {})
    for field, value in more.items():
        setattr(info, field, value)
    return info.tobuf(form) + data + bytes(ustar.padding(len(data)))


def patched(name: str, data: bytes, at: int, new: bytes) -> bytes:
    """A member with some bytes of its header replaced and a right checksum."""
    head = bytearray(ustar.header(name, len(data)))
    head[at : at + len(new)] = new
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + data + bytes(ustar.padding(len(data)))


LONG = "blobs/" + "x" * 300
ODDITIES = {
    "a symbolic link out": odd(kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a symbolic link in": odd(kind=tarfile.SYMTYPE, linkname="../metadata/timestamp.json"),
    "a hard link": odd(kind=tarfile.LNKTYPE, linkname="metadata/timestamp.json"),
    "a character device": odd(kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "a block device": odd(kind=tarfile.BLKTYPE, devmajor=8),
    "a fifo": odd(kind=tarfile.FIFOTYPE),
    "a directory": odd("blobs/ab/", kind=tarfile.DIRTYPE),
    "a contiguous file": odd(kind=tarfile.CONTTYPE),
    "an old tar's file": odd(kind=tarfile.AREGTYPE),
    "a GNU sparse file": odd(kind=tarfile.GNUTYPE_SPARSE),
    "a GNU long name": odd(LONG, form=tarfile.GNU_FORMAT),
    "a GNU long link": odd(kind=tarfile.GNUTYPE_LONGLINK, data=b"metadata/timestamp.json\0"),
    "a pax header that changes a path": odd(form=tarfile.PAX_FORMAT, pax={"path": "../../evil"}),
    "a pax header that changes a size": odd(form=tarfile.PAX_FORMAT, pax={"size": "99999999999"}),
    "a global pax header": odd(kind=tarfile.XGLTYPE, data=b"18 path=../evil.x\n"),
    "a header in GNU's format": odd(form=tarfile.GNU_FORMAT),
    "setuid bits": odd(mode=0o4755),
    "an owner": odd(uid=1000),
    "an owner's name": odd(uname="root"),
    "another time": odd(mtime=1),
    "an absolute name": patched("blobs/ab/x", b"", 0, b"/etc/x\0"),
    "a name that climbs": odd("../evil"),
    "a name that climbs inside": odd("blobs/../../evil"),
    "a name with a dot": odd("./README.txt"),
    "an empty name": odd(""),
    "a doubled slash": odd("blobs//x"),
    "a backslash": odd("blobs\\x"),
    "a stream of NTFS": odd("README.txt:x"),
    "a device of DOS": odd("docs/CON"),
    "a name with an end inside": patched("blobs/ab/xyz", b"", 9, b"\0z"),
    "a newline in a name": odd("docs/a\nb"),
    "a letter outside ASCII": odd("docs/\u212a"),
    "a bidi override": odd("docs/\u202etxt"),
    "a negative size": patched("docs/x", b"", 124, b"-0000000001\0"),
    "a size in base 256": patched("docs/x", b"", 124, b"\x80" + bytes(10) + b"\x01"),
    "a size with a space": patched("docs/x", b"", 124, b"0000000000 \0"),
    "a size without an end": patched("docs/x", b"", 124, b"000000000000"),
    "a wrong checksum": ustar.header("docs/x", 0)[:150] + b"7" + ustar.header("docs/x", 0)[151:],
    "bytes in the header's padding": patched("docs/x", b"", 505, b"x"),
    "a link's name on a file": patched("docs/x", b"", 157, b"/etc/passwd"),
    "another magic": patched("docs/x", b"", 257, b"ustar  \0"),
    "a needless prefix": patched("x", b"", 345, b"docs"),
    "a file nobody listed": member("docs/unlisted.txt", b"hello"),
    "a blob nobody listed": member(f"blobs/ab/sha256-ab{'0' * 62}", b"hello"),
    "metadata nobody listed": member("metadata/7.models.json", b"{}"),
    "a second root": member("metadata/3.root.json", b"{}"),
    "a part again": None,
    "an unpacked volume's label": member("volume.json", b"{}"),
}
PLACES = {"first": 0, "after the metadata": 9, "before the payload": -5, "in the payload": -2, "last": None}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("oddity", ODDITIES)
def test_nothing_but_the_listed_parts_in_their_one_form_is_accepted(workshop, tmp_path, oddity, place):
    members = workshop.members()
    at = len(members) if PLACES[place] is None else PLACES[place]
    members.insert(at, ODDITIES[oddity] or member(*members[at if place == "in the payload" else -1]))
    with pytest.raises((VerificationError, NotFound)) as caught:
        read_all(workshop, tar_of(members), tmp_path / "b.tar")
    assert caught.value.exit_code in (5, 7)
    if place != "first":
        assert caught.value.exit_code == 5


CUTS = {
    "to nothing": lambda _: b"",
    "inside the first header": lambda stream: stream[:100],
    "inside a file of metadata": lambda stream: stream[:600],
    "behind the metadata": lambda stream: stream[: stream.index(b"README.txt")],
    "inside the payload": lambda stream: stream[:-2000],
    "by its end": lambda stream: stream[:-1024],
    "by its last block": lambda stream: stream[:-512],
    "by one byte": lambda stream: stream[:-1],
}


@pytest.mark.parametrize("through", ["file", "pipe"])
@pytest.mark.parametrize("cut", CUTS)
def test_a_stream_that_was_cut_is_refused(workshop, tmp_path, cut, through):
    with pytest.raises(StreamCut, match=r"ends early|is empty|Nothing arrived") as caught:
        read_all(workshop, CUTS[cut](workshop.stream), tmp_path / "b.tar", through=through)
    assert caught.value.exit_code == 5


TAILS = {
    "one byte": b"x",
    "a zero byte": b"\0",
    "a zero block": bytes(512),
    "a record of zeros, as tar writes": bytes(8192),
    "another member": member("docs/x", b""),
    "a second bundle": None,
}


@pytest.mark.parametrize("through", ["file", "pipe"])
@pytest.mark.parametrize("tail", TAILS)
def test_nothing_may_follow_the_end(workshop, tmp_path, tail, through):
    data = workshop.stream + (workshop.stream if TAILS[tail] is None else TAILS[tail])
    with pytest.raises(MalformedStream, match="follows the end"):
        read_all(workshop, data, tmp_path / "b.tar", through=through)


def test_one_zero_block_is_no_end(workshop, tmp_path):
    data = tar_of(workshop.members(), end=bytes(512) + member("docs/x", b"") + ustar.END)
    with pytest.raises(MalformedStream, match="zero block"):
        read_all(workshop, data, tmp_path / "b.tar")


def test_padding_must_be_zeros(workshop, tmp_path):
    data = bytearray(workshop.stream)
    _, content = workshop.members()[-1]
    assert len(content) % 512
    data[-1025] = 1
    with pytest.raises(MalformedStream, match="padding"):
        read_all(workshop, bytes(data), tmp_path / "b.tar")


def test_parts_in_another_order_are_refused(workshop, tmp_path):
    right = workshop.members()
    for first in range(len(right) - 1):
        swapped = [*right]
        swapped[first], swapped[first + 1] = swapped[first + 1], swapped[first]
        with pytest.raises(VerificationError):
            read_all(workshop, tar_of(swapped), tmp_path / "b.tar")


def test_a_part_left_out_is_refused(workshop, tmp_path):
    right = workshop.members()
    for out in range(len(right)):
        with pytest.raises((MalformedStream, BlobMissing, MetadataMissing, VerificationError)) as caught:
            read_all(workshop, tar_of(right[:out] + right[out + 1 :]), tmp_path / "b.tar")
        assert caught.value.exit_code == 5


def test_a_changed_byte_anywhere_is_refused(workshop, tmp_path):
    starts, offset = [], 0
    for name, data in workshop.members():
        starts += [(name, offset + 3), (name, offset + 512), (name, offset + 512 + max(0, len(data) - 1))]
        offset += len(member(name, data))
    for _name, at in starts:
        data = bytearray(workshop.stream)
        data[at] ^= 1
        with pytest.raises((VerificationError, NotFound)):
            read_all(workshop, bytes(data), tmp_path / "b.tar")


def test_a_changed_payload_byte_names_blob_and_file(workshop, tmp_path):
    data = bytearray(workshop.stream)
    data[data.index(PIECES[1]) + 1000] ^= 1
    with pytest.raises(DigestMismatch, match=r"sha256-[0-9a-f]{64} of models/tiny/tiny.gguf"):
        read_all(workshop, bytes(data), tmp_path / "b.tar")


def test_what_claims_to_precede_the_payload_is_bounded_before_it_is_held(workshop, tmp_path):
    huge = ustar.header("metadata/1.root.json", 1 << 32)
    (tmp_path / "b.tar").write_bytes(huge + bytes(4096))
    tracemalloc.start()
    with pytest.raises(MalformedStream, match="at most"):
        open_media(tmp_path / "b.tar")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_endless_small_files_before_the_payload_are_refused(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr("plugsky_bundles.tar_stream.MAX_HELD", 1000)
    members = workshop.members()
    flood = [(f"docs/{number}", b"") for number in range(2000)]
    with pytest.raises(MalformedStream, match="at most"):
        read_all(workshop, tar_of(members[:9] + flood + members[9:]), tmp_path / "b.tar")


def test_a_bundle_with_too_much_before_its_payload_is_not_streamed(workshop):
    contents = dataclasses.replace(workshop.verified.contents, evidence={"docs/big": Listed(MAX_EARLY, "0" * 64)})
    with pytest.raises(FileTooLarge):
        streaming.stream_length(dataclasses.replace(workshop.verified, contents=contents))


def test_blobs_are_passed_over_and_do_not_come_back(workshop, tmp_path):
    (tmp_path / "b.tar").write_bytes(workshop.stream)
    media = open_media(tmp_path / "b.tar")
    payload = workshop.verify(media).contents.payload
    with media.open(blob_path(payload[-1].sha256)) as file:
        assert hashlib.sha256(file.read()).hexdigest() == payload[-1].sha256
    with pytest.raises(MediaUnreadable, match="gone by"):
        media.open(blob_path(payload[0].sha256))
    media.check_end()


def test_early_files_can_be_read_at_any_time(workshop, tmp_path):
    (tmp_path / "b.tar").write_bytes(workshop.stream)
    media = open_media(tmp_path / "b.tar")
    contents = workshop.verify(media).contents
    media.check_end()
    for part in contents.before_payload:
        assert hashlib.sha256(media.read(part.name, limit=part.length)).hexdigest() == part.sha256


def test_a_source_that_turns_bad_ends_the_stream_unfinished(tmp_path):
    carriage = Carriage(tmp_path)
    flip(carriage.path / carriage.blob_of("models/tiny/tiny.gguf", 1))
    with pytest.raises(DigestMismatch, match=r"models/tiny/tiny.gguf"):
        streaming.save(lambda file: file.writelines(streaming.stream(carriage.verified)), 1, tmp_path / "b.tar")
    assert not list(tmp_path.glob("*b.tar*"))


@pytest.mark.parametrize("beginning", [b"", b"hello", bytes(1024), b"PK\3\4" * 300, os.urandom(2000)])
def test_what_is_no_stream_is_refused(tmp_path, beginning):
    (tmp_path / "b.tar").write_bytes(beginning)
    with pytest.raises((MalformedStream, StreamCut, NotFound)):
        open_media(tmp_path / "b.tar")


@pytest.mark.parametrize("beginning", [b"age-encryption.org/v1\n", b"-----BEGIN AGE ENCRYPTED FILE-----\n"])
def test_what_is_still_encrypted_is_known_by_how_it_begins(tmp_path, beginning):
    (tmp_path / "b.tar").write_bytes(beginning + os.urandom(600))
    with pytest.raises(StreamEncrypted, match="is encrypted with age"):
        open_media(tmp_path / "b.tar")


def test_of_a_stream_without_a_byte_the_sender_is_to_be_looked_at(tmp_path):
    (tmp_path / "b.tar").touch()
    with pytest.raises(StreamCut, match=r"b\.tar is empty") as refused:
        open_media(tmp_path / "b.tar")
    assert "Look at what the sender said" in refused.value.next


def test_the_documented_time_is_the_one_that_is_written():
    assert f'"{ustar.MTIME:011o}" NUL (1980-01-02' in (Path(__file__).parents[2] / "docs/formats.md").read_text()


SEGMENT = st.text("abcxyzABC019._+~-", min_size=1, max_size=30)
NAME = st.lists(SEGMENT, min_size=1, max_size=8).map("/".join)


@given(NAME, st.integers(0, ustar.MAX_SIZE))
def test_a_header_is_read_as_it_was_written(name, size):
    try:
        block = ustar.header(name, size)
    except FileTooLarge:
        return
    assert ustar.parse(block) == (name, size)
    info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    assert (info.name, info.size, info.isreg(), info.mode, info.uid, info.gid) == (name, size, True, 0o644, 0, 0)


@given(NAME, st.integers(0, 1 << 26), st.integers(0, 511), st.integers(1, 255))
def test_any_changed_byte_of_a_header_is_refused_or_another_header(name, size, at, flip):
    try:
        block = bytearray(ustar.header(name, size))
    except FileTooLarge:
        return
    block[at] ^= flip
    with pytest.raises(MalformedStream):
        ustar.parse(bytes(block))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_stream_is_refused_with_a_named_error(workshop, tmp_path_factory, data):
    stream = bytearray(workshop.stream)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(stream) - 1))
        change = data.draw(st.sampled_from(["flip", "cut", "zero", "double"]))
        length = data.draw(st.sampled_from([1, 512, 1024, 5000]))
        if change == "flip":
            stream[start] ^= data.draw(st.integers(1, 255))
        elif change == "cut":
            del stream[start : start + length]
        elif change == "zero":
            stream[start : start + length] = bytes(len(stream[start : start + length]))
        else:
            stream[start:start] = stream[start : start + length]
        if not stream:
            break
    if bytes(stream) == workshop.stream:
        return
    with pytest.raises(BundleError) as caught:
        read_all(workshop, bytes(stream), tmp_path_factory.getbasetemp() / "damaged.tar")
    assert caught.value.exit_code in (5, 7)
