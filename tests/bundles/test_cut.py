"""The cut rule: chunks cover the file, stay small, and a small change changes few of them."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles.gguf_forge import ARRAY, F32_TENSOR, STRING, Forge
from plugsky_bundles import cut, gguf, gguf_header
from plugsky_bundles.format import MAX_CHUNK, MIB

ROW = MIB // 4


def model(sizes, template="t", words=()) -> tuple[bytes, list[cut.Cut]]:
    """A model whose tensors have these sizes in MiB, and where it is cut."""
    forge = Forge(tensors=[(f"t{n}", (ROW, size), F32_TENSOR, size * MIB) for n, size in enumerate(sizes)])
    if words:
        forge.with_key("tokenizer.ggml.merges", ARRAY, (STRING, list(words)))
    data = forge.with_key("tokenizer.chat_template", STRING, template).build()
    return data, cut.chunks_of(gguf.read(io.BytesIO(data), len(data)))


def lengths(sizes) -> list[int]:
    """The lengths in MiB of the chunks behind the header."""
    return [length // MIB for _, length in model(sizes)[1][1:]]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1], [1]),
        ([1, 2, 5, 1], [8, 1]),
        ([7, 7, 7], [14, 7]),
        ([9], [9]),
        ([3, 9, 3], [3, 9, 3]),
        ([9, 9], [9, 9]),
        ([70], [64, 6]),
    ],
)
def test_tensors_are_put_together_and_long_ones_stand_alone(sizes, expected):
    assert lengths(sizes) == expected


def test_a_big_value_is_its_own_chunk_and_the_rest_of_the_header_surrounds_it():
    data, cuts = model([1], words=["x" * 100] * 3000)
    (before, value, after, tensors) = cuts
    assert value[1] == 12 + 3000 * 108
    assert before == (0, value[0])
    assert after == (value[0] + value[1], tensors[0] - value[0] - value[1])
    assert tensors == (len(data) - MIB, MIB)


def test_a_changed_template_changes_only_the_chunk_that_holds_it():
    words = ["x" * 100] * 3000
    old, new = model([9, 3], "old", words), model([9, 3], "a much longer new template", words)
    chunks = [{data[at : at + length] for at, length in cuts} for data, cuts in (old, new)]
    (changed,) = chunks[1] - chunks[0]
    assert b"a much longer new template" in changed
    assert len(changed) < 2000


def test_an_equal_long_tensor_is_an_equal_chunk_whatever_stands_before_it():
    (one, cuts_one), (two, cuts_two) = model([9]), model([3, 9])
    last_one, last_two = cuts_one[-1], cuts_two[-1]
    assert last_one[1] == last_two[1] == 9 * MIB
    assert one[last_one[0]] != two[last_two[0]], "the forge fills each tensor with its number"


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, []),
        (1, [(0, 1)]),
        (MAX_CHUNK, [(0, MAX_CHUNK)]),
        (MAX_CHUNK + 1, [(0, MAX_CHUNK), (MAX_CHUNK, 1)]),
        ((1 << 32) + 1, [(at, min(MAX_CHUNK, (1 << 32) + 1 - at)) for at in range(0, (1 << 32) + 1, MAX_CHUNK)]),
    ],
)
def test_a_plain_file_is_cut_at_multiples_of_64_mib(size, expected):
    assert cut.plain_chunks(size) == expected


@settings(deadline=None)
@given(st.lists(st.integers(1, 600_000), min_size=0, max_size=12))
def test_chunks_cover_the_file_exactly_in_order(elements):
    tensors = [(f"t{n}", (count,), F32_TENSOR, count * 4) for n, count in enumerate(elements)]
    header = Forge(tensors=tensors).header()
    size = len(header)
    for _, _, _, length in tensors:
        size += -size % 32 + length
    info = gguf.read(io.BytesIO(header + bytes(min(size - len(header), gguf_header.WINDOW))), size)
    at = 0
    for offset, length in cut.chunks_of(info):
        assert offset == at
        assert 0 < length <= MAX_CHUNK
        at += length
    assert at == size
