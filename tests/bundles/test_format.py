import hashlib
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky_bundles.errors import BundleError, MalformedChunkList, MalformedMetadata, UnsafeName, printable
from plugsky_bundles.format import (
    MAX_CHUNK,
    Chunk,
    FileEntry,
    blob_path,
    bundle_dirname,
    check_channel,
    check_entry,
    check_evidence_path,
    check_target_path,
    check_target_paths,
    content_id,
    decode_chunk_list,
    encode_chunk_list,
)

A, B = "aa" * 32, "bb" * 32

chunks = st.lists(
    st.builds(Chunk, st.binary(min_size=32, max_size=32).map(bytes.hex), st.integers(1, MAX_CHUNK)),
    min_size=1,
    max_size=20,
)


@given(chunks)
def test_a_chunk_list_reads_back_as_it_was_written(given_chunks):
    assert decode_chunk_list(encode_chunk_list(given_chunks)) == tuple(given_chunks)


@given(st.binary(max_size=200))
def test_any_bytes_either_are_the_one_writing_of_a_chunk_list_or_are_refused(data):
    try:
        decoded = decode_chunk_list(data)
    except MalformedChunkList:
        return
    assert encode_chunk_list(decoded) == data


GOOD = encode_chunk_list([Chunk(A, 5), Chunk(B, 7)])
BAD_LISTS = {
    "nothing": b"",
    "a header cut short": GOOD[:15],
    "no chunks": GOOD[:12] + struct.pack(">I", 0),
    "another magic": b"X" + GOOD[1:],
    "another version": GOOD[:8] + struct.pack(">I", 2) + GOOD[12:],
    "one byte too few": GOOD[:-1],
    "one byte too many": GOOD + b"\0",
    "a count too high": GOOD[:12] + struct.pack(">I", 3) + GOOD[16:],
    "a count too low": GOOD[:12] + struct.pack(">I", 1) + GOOD[16:],
    "a count of four thousand million": GOOD[:12] + b"\xff" * 4 + GOOD[16:],
    "an empty chunk": GOOD[:-4] + struct.pack(">I", 0),
    "a chunk over 64 MiB": GOOD[:-4] + struct.pack(">I", MAX_CHUNK + 1),
}


@pytest.mark.parametrize("data", BAD_LISTS.values(), ids=BAD_LISTS.keys())
def test_a_chunk_list_that_is_not_exact_is_refused(data):
    with pytest.raises(MalformedChunkList):
        decode_chunk_list(data)


GOOD_PATHS = [
    "models/smollm2-135m-instruct/SmolLM2-135M-Instruct-Q4_1.gguf",
    "python/llama_cpp_python-0.3.36-cp311-cp311-linux_x86_64.whl",
    "debs/libgomp1_12.2.0-14+deb12u1~x_amd64.deb",
    "playbooks/roles/base/tasks/main.yml",
    "playbooks/__init__.py",
    "policy/revocations.json",
]


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_an_ordinary_name_is_allowed(path):
    check_target_path(path)


BAD_PATHS = {
    "empty": "",
    "absolute": "/models/a",
    "a parent": "models/../a",
    "a parent that comes back": "models/a/../../b",
    "a dot": "models/./a",
    "an empty segment": "models//a",
    "a trailing slash": "models/a/",
    "a role alone": "models",
    "no role": "other/a",
    "a role's look-alike": "models-evil/a",
    "a backslash": "models/a\\b",
    "a null": "models/a\0b",
    "a newline": "models/a\n",
    "a drive": "models/C:x",
    "a stream": "models/x:stream",
    "a space": "models/a b",
    "a trailing dot": "models/a.",
    "a hidden file": "models/.a",
    "an option": "models/-rf",
    "a home": "models/~root",
    "a device": "models/CON",
    "a device with an extension": "models/nul.txt",
    "a serial port": "models/com1",
    "a segment too long": "models/" + "a" * 201,
    "a path too long": "models/" + "/".join(["a" * 100] * 6),
    "too deep": "models/" + "/".join("abcdefgh"),
    "not ASCII": "models/ß",
    "a Kelvin sign": "models/\u212a",
    "a bidirectional override": "models/a\u202egpj",
    "half a surrogate pair": "models/\udc80",
    "full-width digits": "models/\uff11",
}


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS.keys())
def test_a_name_that_could_mislead_is_refused(path):
    with pytest.raises(UnsafeName) as caught:
        check_target_path(path)
    assert str(caught.value).isprintable()


COLLISIONS = {
    "twice the same": ["models/a", "models/a"],
    "only case differs": ["models/x/Model.gguf", "models/x/model.gguf"],
    "a directory's case differs": ["models/X/a", "models/x/A"],
    "a file is also a directory": ["models/a", "models/a/b"],
    "a file is also a directory further up": ["models/a/b/c/d", "models/A"],
}


@pytest.mark.parametrize("paths", COLLISIONS.values(), ids=COLLISIONS.keys())
def test_names_that_a_file_system_could_mix_up_are_refused(paths):
    with pytest.raises(UnsafeName):
        check_target_paths(paths)


def test_names_with_a_common_beginning_do_not_collide():
    check_target_paths(["models/a/b", "models/a/bc", "models/ab", "python/a"])


ENTRY = FileEntry("models/m/m.gguf", 12, A, (Chunk(A, 5), Chunk(B, 7)))
BAD_ENTRIES = {
    "chunks that do not add up": (replace(ENTRY, length=13), MalformedChunkList),
    "a digest in capitals": (replace(ENTRY, sha256=A.upper()), MalformedMetadata),
    "a digest too short": (replace(ENTRY, sha256=A[:-1]), MalformedMetadata),
    "a negative length": (replace(ENTRY, length=-1), MalformedMetadata),
    "a truth value as length": (replace(ENTRY, length=True, chunks=()), MalformedMetadata),
    "one blob over 64 MiB": (replace(ENTRY, length=MAX_CHUNK + 1, chunks=()), MalformedMetadata),
}


@pytest.mark.parametrize(("entry", "error"), BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_an_entry_that_does_not_fit_together_is_refused(entry, error):
    check_entry(ENTRY)
    with pytest.raises(error):
        check_entry(entry)


def test_a_file_without_chunks_is_its_own_blob():
    assert FileEntry("policy/a", 3, A).blobs == (Chunk(A, 3),)


def test_the_content_id_is_the_hash_of_the_sorted_lines_and_of_nothing_else():
    one, two = FileEntry("python/b", 2, B, custom={"x": 1}), FileEntry("models/a", 1, A)
    expected = hashlib.sha256(f"models/a 1 {A}\npython/b 2 {B}\n".encode()).hexdigest()
    assert content_id([one, two]) == content_id([two, replace(one, custom={})]) == expected


@pytest.mark.parametrize("digest", ["../../etc/passwd", A.upper(), A + "0", "", "sha256-" + A])
def test_a_blob_has_no_path_unless_its_name_is_a_digest(digest):
    with pytest.raises(MalformedMetadata):
        blob_path(digest)


def test_blobs_and_bundles_lie_where_the_format_says():
    assert blob_path(A) == f"blobs/aa/sha256-{A}"
    assert bundle_dirname("riyadh-1", 7) == "plugsky-riyadh-1-7"


@pytest.mark.parametrize("channel", ["", "-a", "A", "a/b", "a.b", "a" * 33, "a\n", None, 3])
def test_a_channel_is_a_short_lower_case_word(channel):
    with pytest.raises(UnsafeName):
        check_channel(channel)


@pytest.mark.parametrize("path", ["evidence", "metadata/x", "docs/../x", "autorun.inf", "tools/.x", ""])
def test_only_the_named_places_hold_files_beside_the_targets(path):
    check_evidence_path("evidence/custody.jsonl")
    with pytest.raises(UnsafeName):
        check_evidence_path(path)


def test_an_error_says_what_why_and_next_on_one_harmless_line():
    error = BundleError("a\x1b[31m", "b\n\u202e", "c\udc80")
    assert str(error) == "a\\x1b[31m: b\\n\\u202e. c\\udc80"
    assert (error.code, error.exit_code) == ("bundle_error", 1)
    assert len(printable("x" * 10_000)) < 1000
