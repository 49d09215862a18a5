"""LoRA adapters change what a model says by exactly what they hold, and nothing once they are off again."""

import math
import struct

import numpy as np
import pytest

from bundles.gguf_forge import F32, F32_TENSOR, STRING, Forge
from bundles.small_llama import TOKENS, WIDTH, small_llama
from plugsky.core.errors import ErrorKind
from plugsky.engine import llama, model_file
from plugsky.engine.errors import EngineError
from plugsky.engine.estimate import Holding
from plugsky.engine.llama_adapters import NONE, AdapterFile, Adapters
from plugsky.engine.plan import Chunk

pytestmark = pytest.mark.integration
RANK = 2


def small_adapter(seed=1, architecture="llama", width=WIDTH):
    """The bytes of an adapter of the small model's last layer."""
    shapes = {"output.weight.lora_a": (width, RANK), "output.weight.lora_b": (RANK, len(TOKENS))}
    forge = Forge(
        keys=[
            ("general.architecture", STRING, architecture),
            ("general.type", STRING, "adapter"),
            ("adapter.type", STRING, "lora"),
            ("adapter.lora.alpha", F32, float(RANK)),
        ],
        tensors=[(name, shape, F32_TENSOR, 4 * math.prod(shape)) for name, shape in shapes.items()],
    )
    data, draw = forge.header(), np.random.default_rng(seed)
    for shape in shapes.values():
        values = draw.normal(size=math.prod(shape))
        data += bytes(-len(data) % forge.alignment) + struct.pack(f"<{len(values)}f", *values)
    return data + bytes(-len(data) % forge.alignment)


@pytest.fixture
def model(tmp_path):
    file = tmp_path / "small.gguf"
    file.write_bytes(small_llama())
    model = llama.Model(file, lambda _fraction: True)
    yield model
    model.close()


@pytest.fixture
def context(model):
    context = llama.Context(model, Holding(256, 64, 2, 64), threads=1)
    yield context
    context.close()


def written(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


def logits(context):
    row = context.decode([Chunk(1, 0, 0, (72, 101, 108), outputs=1)])[0].copy()
    context.clear(0)
    return row


def test_an_adapter_counts_by_its_scale_and_not_at_all_when_it_is_off(model, context, tmp_path):
    file = written(tmp_path, "a.gguf", small_adapter())
    other = written(tmp_path, "b.gguf", small_adapter(seed=2))
    adapters = Adapters(model, {"one": AdapterFile(file), "twice": AdapterFile(file, 2.0), "other": AdapterFile(other)})
    seen = {}
    for name in (NONE, "one", "twice", "other", "one", NONE):
        adapters.use(context, name)
        row = logits(context)
        if name in seen:
            np.testing.assert_array_equal(row, seen[name])
        seen[name] = row
    change = seen["one"] - seen[NONE]
    assert np.abs(change).max() > 0.1
    np.testing.assert_allclose(seen["twice"] - seen[NONE], 2 * change, atol=1e-3)
    assert np.abs(seen["other"] - seen["one"]).max() > 0.1
    adapters.close()


def test_an_unknown_adapter_is_named_and_changes_nothing(model, context, tmp_path):
    adapters = Adapters(model, {"one": AdapterFile(written(tmp_path, "a.gguf", small_adapter()))})
    before = logits(context)
    with pytest.raises(EngineError, match="no adapter 'two'") as refusal:
        adapters.use(context, "two")
    assert (refusal.value.kind, refusal.value.why) == (ErrorKind.NOT_FOUND, "it has: one")
    np.testing.assert_array_equal(logits(context), before)
    adapters.close()


UNFIT = {
    "one for another architecture": small_adapter(architecture="bert"),
    "one for another width": small_adapter(width=WIDTH * 2),
    "a whole model": small_llama(),
    "no GGUF at all": b"GIF89a" * 100,
    "a file cut short": small_adapter()[:-400],
}


@pytest.mark.parametrize("data", UNFIT.values(), ids=UNFIT)
def test_a_file_that_does_not_fit_the_model_is_refused(model, tmp_path, data):
    with pytest.raises(EngineError, match="the adapter one does not fit this model") as refusal:
        Adapters(model, {"one": AdapterFile(written(tmp_path, "a.gguf", data))})
    assert refusal.value.kind is ErrorKind.TAMPERED


def test_an_adapter_passes_the_checks_of_a_model_file(tmp_path):
    model_file.check_file(written(tmp_path, "a.gguf", small_adapter()))
    with pytest.raises(EngineError, match="no sound GGUF"):
        model_file.check_file(written(tmp_path, "b.gguf", small_adapter()[:-400]))
