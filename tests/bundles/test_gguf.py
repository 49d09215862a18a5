"""The GGUF reader: what it reports of a good file, and every malformed file it refuses."""

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles.gguf_forge import (
    ARRAY,
    BOOL,
    F32,
    F32_TENSOR,
    I32,
    Q4_0_TENSOR,
    STRING,
    TOKENS,
    U8,
    U16,
    U32,
    U64,
    Forge,
    pair,
    string,
)
from plugsky_bundles import gguf, gguf_header
from plugsky_bundles.errors import GgufError
from plugsky_bundles.gguf_types import ValueType


def read(data: bytes) -> gguf.GgufInfo:
    return gguf.read(io.BytesIO(data), len(data))


def test_the_facts_of_a_small_model_are_read():
    data = Forge().build()
    info = read(data)
    assert (info.version, info.size, info.alignment) == (3, len(data), 32)
    assert (info.architecture, info.name, info.quantisation) == ("llama", "Tiny", "F32")
    assert (info.context_length, info.embedding_length, info.pooling) == (128, 8, None)
    assert (info.tokenizer, info.vocabulary) == ("gpt2", len(TOKENS))
    assert info.parameters == 64 + 5 + 64
    assert info.chat_template == "{{ messages[0].content }}"
    assert dict(info.templates) == {"": "{{ messages[0].content }}"}
    assert info.arrays["tokenizer.ggml.tokens"] == gguf_header.ArrayShape(ValueType.STRING, len(TOKENS))
    assert info.data_offset % 32 == 0
    assert info.header_length <= info.data_offset < info.header_length + 32
    assert [(t.name, t.type, t.offset - info.data_offset, t.length) for t in info.tensors] == [
        ("token_embd.weight", "F32", 0, 256),
        ("output_norm.weight", "F32", 256, 20),
        ("output.weight", "F16", 288, 128),
    ]


def test_a_tensors_offset_points_at_its_bytes():
    data = Forge().build()
    for number, tensor in enumerate(read(data).tensors):
        assert set(data[tensor.offset : tensor.offset + tensor.length]) == {number + 1}


def test_version_2_a_larger_alignment_and_an_unpadded_end_are_read():
    forge = Forge(version=2, alignment=64, padded_end=False).with_key("general.alignment", U32, 64)
    assert read(forge.build()).tensors[1].offset % 64 == 0


def test_a_vocabulary_only_file_without_tensors_is_read():
    info = read(Forge(tensors=[]).build())
    assert (info.tensors, info.parameters, info.data_offset) == ((), 0, info.header_length)


def test_the_quantisation_of_a_file_without_a_known_file_type_is_its_heaviest_tensor_type():
    forge = Forge(tensors=[("a", (32, 64), Q4_0_TENSOR, 1152), ("b", (4,), F32_TENSOR, 16)])
    assert read(forge.with_key("general.file_type", U32, 1024).build()).quantisation == "Q4_0"


def test_a_big_value_is_reported_with_its_exact_place():
    words = ["x" * 100] * 3000
    data = Forge().with_key("tokenizer.ggml.merges", ARRAY, (STRING, words)).build()
    (span,) = read(data).big_values
    assert data[span.offset : span.offset + 12] == struct.pack("<IQ", STRING, 3000)
    assert span.length == 12 + 3000 * 108


@given(lengths=st.lists(st.integers(0, 60), max_size=30), window=st.integers(1, 70))
def test_strings_are_walked_wherever_the_window_cuts_them(lengths, window):
    forge = Forge().with_key("custom.words", ARRAY, (STRING, ["x" * length for length in lengths]))
    data = forge.with_key("custom.after", U32, 7).build()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf_header, "WINDOW", window)
        assert read(data).metadata["custom.after"] == 7


def test_a_long_string_is_passed_over_and_not_kept():
    data = Forge().with_key("tokenizer.huggingface.json", STRING, "x" * (gguf_header.MAX_STRING + 1)).build()
    info = read(data)
    assert "tokenizer.huggingface.json" not in info.metadata
    assert len(info.big_values) == 1


def test_strings_beyond_what_may_be_kept_together_are_passed_over():
    forge = Forge()
    for number in range(10):
        forge.with_key(f"custom.{number}", STRING, "x" * gguf_header.MAX_STRING)
    info = read(forge.build())
    assert sum(key.startswith("custom.") for key in info.metadata) == 7


def test_named_templates_are_reported():
    info = read(Forge().with_key("tokenizer.chat_template.tool_use", STRING, "{{ tools }}").build())
    assert info.templates["tool_use"] == "{{ tools }}"


def test_a_part_of_a_split_model_says_so():
    forge = Forge().with_key("split.no", U16, 1).with_key("split.count", U16, 3).with_key("split.tensors.count", I32, 9)
    assert read(forge.build()).split == gguf.Split(1, 3, 9)


def _raw_key(key: bytes, kind: int, rest: bytes) -> bytes:
    """A file whose only key is written by hand."""
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string(key) + struct.pack("<I", kind) + rest


def _one_tensor(dimensions, kind=F32_TENSOR, length=32, **changes) -> bytes:
    return Forge(tensors=[("t", dimensions, kind, length)], **changes).build()


TWICE = [("a", (8,), F32_TENSOR, 32), ("a", (8,), F32_TENSOR, 32)]
TWO = [("a", (8,), F32_TENSOR, 32), ("b", (8,), F32_TENSOR, 32)]

MALFORMED = {
    "an empty file": (b"", "too few"),
    "a short file": (b"GGUF", "too few"),
    "text instead of a model": (b"<!DOCTYPE html><title>Sign in</title>", "begins with"),
    "an old ggml file": (b"lmgg" + bytes(40), "begins with"),
    "version 1": (Forge(version=1).build(), "version is 1"),
    "version 4": (Forge(version=4).build(), "version is 4"),
    "a big-endian file": (Forge(version=0x03000000).build(), "big-endian"),
    "2^63 keys": (Forge(key_count=1 << 63).build(), "limits"),
    "2^63 tensors": (Forge(tensor_count=1 << 63).build(), "limits"),
    "more keys than there are": (Forge(key_count=60000).build(), ""),
    "more tensors than there are": (Forge(tensor_count=60000).build(), ""),
    "a key of 2^63 bytes": (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 63), "allowed are 1 to"),
    "an empty key": (Forge().with_key("", U32, 1).build(), "allowed are 1 to"),
    "a key that is not UTF-8": (Forge().with_key(b"a\xff", U32, 1).build(), "not UTF-8"),
    "a key with a line break": (Forge().with_key("a\nb", U32, 1).build(), "do not print"),
    "a key twice": (Forge(keys=[*Forge().keys, ("general.name", STRING, "x")]).build(), "occurs twice"),
    "an unknown value type": (_raw_key(b"a", 13, bytes(16)), "unknown type 13"),
    "a string of 2^63 bytes": (_raw_key(b"a", STRING, struct.pack("<Q", 1 << 63)), "past the end"),
    "a string longer than the file": (_raw_key(b"a", STRING, struct.pack("<Q", 999)), "past the end"),
    "a string that is not UTF-8": (Forge().with_key("general.name", STRING, b"\xc0\x80").build(), "not UTF-8"),
    "an array of 2^62 numbers": (_raw_key(b"a", ARRAY, struct.pack("<IQ", U64, 1 << 62)), "exceeds"),
    "an array longer than the file": (_raw_key(b"a", ARRAY, struct.pack("<IQ", U64, 9999)), "past the end"),
    "an array of strings that ends early": (_raw_key(b"a", ARRAY, struct.pack("<IQ", STRING, 9)), "past the end"),
    "an array of arrays": (_raw_key(b"a", ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(40)), "array of arrays"),
    "an array of an unknown type": (_raw_key(b"a", ARRAY, struct.pack("<IQ", 77, 1)), "unknown type 77"),
    "a boolean of 2": (Forge().with_key("a", BOOL, 2).build(), "boolean"),
    "no architecture": (Forge(keys=[("general.name", STRING, "x")]).build(), "architecture"),
    "an architecture that is a number": (Forge().with_key("general.architecture", U32, 1).build(), "short string"),
    "a template that is a number": (Forge().with_key("tokenizer.chat_template", U32, 1).build(), "short string"),
    "a template too long to check": (
        Forge().with_key("tokenizer.chat_template", STRING, "x" * (gguf_header.MAX_STRING + 1)).build(),
        "short string",
    ),
    "a context length that is a string": (Forge().with_key("llama.context_length", STRING, "x").build(), "not a count"),
    "a negative context length": (Forge().with_key("llama.context_length", I32, -1).build(), "not a count"),
    "alignment 0": (Forge().with_key("general.alignment", U32, 0).build(), "power of two"),
    "alignment 3": (Forge().with_key("general.alignment", U32, 3).build(), "power of two"),
    "alignment 2^31": (Forge().with_key("general.alignment", U32, 1 << 31).build(), "power of two"),
    "token scores of bytes": (
        Forge().with_key("tokenizer.ggml.scores", ARRAY, (U8, [0] * len(TOKENS))).build(),
        "array of float32",
    ),
    "fewer scores than tokens": (
        Forge().with_key("tokenizer.ggml.scores", ARRAY, (F32, [0.0])).build(),
        "number of tokens",
    ),
    "token types without tokens": (
        Forge(keys=[("general.architecture", STRING, "x"), ("tokenizer.ggml.token_type", ARRAY, (I32, [1]))]).build(),
        "number of tokens",
    ),
    "tokens that are a string": (Forge().with_key("tokenizer.ggml.tokens", STRING, "x").build(), "array of string"),
    "part 3 of 3, counted from 0": (
        Forge().with_key("split.no", U16, 3).with_key("split.count", U16, 3).build(),
        "part 3",
    ),
    "no dimensions": (_one_tensor(()), "0 dimensions"),
    "five dimensions": (_one_tensor((1, 1, 1, 1, 8)), "5 dimensions"),
    "a dimension of 0": (_one_tensor((8, 0)), "impossible"),
    "dimensions whose product overflows": (_one_tensor(((1 << 42) + 1, 1 << 22)), "impossible"),
    "dimensions whose size in bytes is beyond the file": (_one_tensor((1 << 60,)), "ends at byte"),
    "an unknown tensor type": (_one_tensor((8,), kind=99), "unknown type 99"),
    "a removed tensor type": (_one_tensor((8,), kind=4), "unknown type 4"),
    "a row that is not whole blocks": (_one_tensor((33,), kind=Q4_0_TENSOR, length=18), "multiple"),
    "a tensor name of 64 bytes": (Forge(tensors=[("t" * 64, (8,), 0, 32)]).build(), "allowed are 1 to 63"),
    "a tensor name twice": (Forge(tensors=TWICE).build(), "occurs twice"),
    "overlapping tensors": (Forge(tensors=TWO, offsets=[0, 0]).build(), "overlaps"),
    "a gap between tensors": (Forge(tensors=TWO, offsets=[0, 64]).build(), "gap"),
    "a first tensor that does not begin at 0": (Forge(tensors=TWO, offsets=[32, 64]).build(), "gap"),
    "an unaligned tensor": (Forge(tensors=TWO, offsets=[0, 33]).build(), "gap"),
    "a tensor past the end": (Forge().build()[:-32], "ends at byte"),
    "a byte behind the last tensor": (Forge(extra=b"x").build(), "follow the last tensor"),
    "a second file behind the first": (Forge().build() * 2, "follow the last tensor"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused_by_its_fault(name):
    data, fault = MALFORMED[name]
    with pytest.raises(GgufError) as caught:
        read(data)
    assert fault in caught.value.why
    assert caught.value.exit_code == 5
    assert caught.value.next


def test_a_file_shorter_than_announced_is_refused():
    data = Forge().build()
    with pytest.raises(GgufError, match="the file ends at byte"):
        gguf.read(io.BytesIO(data[:100]), len(data))


def test_a_header_beyond_its_limit_is_refused_without_reading_the_file():
    class Sparse(io.RawIOBase):
        def __init__(self) -> None:
            head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<IQ", STRING, 1 << 40)
            self.head, self.given = head, 0

        def read(self, count=-1):
            assert count <= gguf_header.WINDOW
            part = self.head[self.given :][:count].ljust(count, b"\0")
            self.given += count
            return part

    file = Sparse()
    with pytest.raises(GgufError, match="that a header may have"):
        gguf.read(file, 1 << 41)
    assert file.given <= gguf_header.WINDOW


class Metered(io.BytesIO):
    """Fails the test when more is read than the reader promises."""

    total = 0

    def read(self, count=-1):
        assert 0 <= count <= gguf_header.WINDOW
        part = super().read(count)
        self.total += len(part)
        assert self.total <= gguf_header.MAX_HEADER
        return part


def judge(data: bytes) -> gguf.GgufInfo | None:
    """The reader's verdict: facts or `GgufError`, never anything else."""
    try:
        info = gguf.read(Metered(data), len(data))
    except GgufError:
        return None
    assert all(0 <= tensor.offset <= tensor.offset + tensor.length <= len(data) for tensor in info.tensors)
    assert all(0 < span.offset <= span.offset + span.length <= info.header_length for span in info.big_values)
    return info


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data):
    judge(data)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_behind_a_right_beginning_are_read_or_refused(data):
    judge(b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + data)


SMALL = Forge().build()
HEAD = len(Forge().header())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, HEAD - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_small_model_with_changed_header_bytes_is_read_or_refused(changes):
    data = bytearray(SMALL)
    for at, byte in changes:
        data[at] = byte
    judge(bytes(data))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, HEAD - 8),
    st.sampled_from([0, 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1]),
)
def test_a_small_model_with_an_extreme_number_anywhere_is_read_or_refused(at, number):
    judge(SMALL[:at] + struct.pack("<Q", number) + SMALL[at + 8 :])


@settings(deadline=None)
@given(st.integers(0, len(SMALL) - 1))
def test_every_truncation_is_refused(length):
    padding = len(SMALL) - len(Forge(padded_end=False).build())
    if length < len(SMALL) - padding:
        assert judge(SMALL[:length]) is None


scalars = st.one_of(
    st.tuples(st.just(U32), st.integers(0, (1 << 32) - 1)),
    st.tuples(st.just(I32), st.integers(-(1 << 31), (1 << 31) - 1)),
    st.tuples(st.just(F32), st.floats(width=32, allow_nan=False)),
    st.tuples(st.just(BOOL), st.booleans()),
    st.tuples(st.just(STRING), st.text(max_size=40)),
    st.tuples(st.just(ARRAY), st.tuples(st.just(STRING), st.lists(st.text(max_size=9), max_size=5))),
)


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"custom\.[a-z]{1,12}", fullmatch=True), scalars, max_size=8))
def test_what_was_written_is_what_is_read(custom):
    forge = Forge()
    for key, (kind, content) in custom.items():
        forge.with_key(key, kind, content)
    info = read(forge.build())
    for key, (kind, content) in custom.items():
        if kind == ARRAY:
            assert info.arrays[key] == gguf_header.ArrayShape(ValueType.STRING, len(content[1]))
        else:
            assert info.metadata[key] == content


def test_a_key_pair_of_the_forge_is_laid_out_as_the_specification_says():
    expected = b"\x01\0\0\0\0\0\0\0k" + b"\x04\0\0\0" + b"\x07\0\0\0"
    assert pair("k", U32, 7) == expected
