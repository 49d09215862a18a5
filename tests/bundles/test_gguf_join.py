"""A model that was split is joined to the very file that it was."""

import io

import pytest

from bundles.gguf_forge import F32_TENSOR, Forge
from bundles.gguf_splitter import split
from bundles.small_llama import small_llama
from plugsky_bundles import gguf
from plugsky_bundles.errors import GgufError
from plugsky_bundles.gguf_join import joined

TENSORS = [(f"t{number}", (number,), F32_TENSOR, 4 * number) for number in (3, 8, 9, 40)]
WHOLE = {
    "a small one": Forge().build(),
    "one that runs": small_llama(),
    "tensors that need padding": Forge(tensors=TENSORS).build(),
}


def opened(parts):
    """Each part as an open file, with its facts."""
    return [(io.BytesIO(part), gguf.read(io.BytesIO(part), len(part))) for part in parts]


@pytest.mark.parametrize("whole", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_parts_of_a_model_make_the_file_that_was_split(whole, count, tmp_path):
    (tmp_path / "whole.gguf").write_bytes(whole)
    parts = [path.read_bytes() for path in split(tmp_path / "whole.gguf", tmp_path, "m", count)]
    assert b"".join(joined(opened(parts))) == whole


def test_a_part_that_got_shorter_is_refused():
    ((file, info), *_) = opened([Forge().build()])
    file.truncate(info.size - 200)
    with pytest.raises(GgufError, match="earlier than it said"):
        list(joined([(file, info)]))
