"""The memory that a model will take is known before it is loaded, within a tenth of what llama.cpp then says."""

import io
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from appliance.embed_model import embed_model
from appliance.engine_host import spec_of
from appliance.gemma_model import gemma_model
from bundles.gguf_forge import F32_TENSOR, STRING, U32, Forge
from bundles.small_llama import small_llama
from bundles.small_memories import small_jamba, small_mamba
from plugsky.engine.errors import DoesNotFitError
from plugsky.engine.headers.estimate import Holding, copied_cells, estimate, kv_bytes
from plugsky.engine.headers.shape import shape
from plugsky.engine.llama import native
from plugsky.engine.loading import loading
from plugsky_bundles import gguf
from plugsky_bundles.gguf import Tensor

__all__ = ["embed_model", "gemma_model"]

PROBE = Path(__file__).with_name("memory_probe.py")
CHAT = Holding(cells=4096, batch=256, sequences=16, outputs=16)
MIB = 1 << 20


def forged(architecture, keys, tensors):
    """The shape of a model that is nothing but a header."""
    forge = Forge(
        keys=[
            ("general.architecture", STRING, architecture),
            *((f"{architecture}.{key}", U32, value) for key, value in keys.items()),
        ],
        tensors=[(name, dims, F32_TENSOR, 4 * math.prod(dims)) for name, dims in tensors.items()],
    )
    data = forge.header()
    for dims in tensors.values():
        data += bytes(-len(data) % forge.alignment) + bytes(4 * math.prod(dims))
    data += bytes(-len(data) % forge.alignment)
    return shape([gguf.read(io.BytesIO(data), len(data))])


def attention(layer, key, value=None):
    """The tensors of one layer whose keys and values have these widths."""
    return {
        f"blk.{layer}.attn_q.weight": (32, 32),
        f"blk.{layer}.attn_k.weight": (32, key),
        f"blk.{layer}.attn_v.weight": (32, value or key),
    }


def kept(model, **options):
    """Bytes that each layer keeps, for 1024 cells and 2 sequences."""
    holding = Holding(**({"cells": 1024, "batch": 64, "sequences": 2, "outputs": 2} | options))
    return [kv_bytes(layer, model, holding) for layer in model.layers]


def test_each_layer_keeps_keys_and_values_of_its_own_widths():
    model = forged("llama", {}, attention(0, 8) | attention(1, 16, 4))
    assert kept(model) == [1024 * 16 * 2, 1024 * 20 * 2]


def test_cells_are_rounded_up_as_llama_cpp_does():
    assert kept(forged("llama", {}, attention(0, 8)), cells=1000) == [1024 * 16 * 2]


QUANTISED = {"f16": 2 * 32, "q8_0": 34, "q4_0": 18}


@pytest.mark.parametrize(("kind", "row"), QUANTISED.items())
def test_a_quantised_cache_is_counted_in_blocks(kind, row):
    assert kept(forged("llama", {}, attention(0, 32)), kv_type=kind) == [1024 * 2 * row]


def test_layers_that_see_a_window_keep_it_for_each_sequence():
    layers = {name: dims for n in range(6) for name, dims in attention(n, 8).items()}
    model = forged("gemma3", {"attention.sliding_window": 128}, layers)
    assert kept(model, whole_window=False) == [512 * 16 * 2] * 5 + [1024 * 16 * 2]
    assert kept(model) == [1024 * 16 * 2] * 6


def test_a_recurrent_layer_keeps_one_state_for_each_sequence():
    keys = {"ssm.inner_size": 64, "ssm.state_size": 16, "ssm.conv_kernel": 4}
    model = forged("jamba", keys, {"blk.0.ssm_conv1d.weight": (4, 64)} | attention(1, 8))
    assert kept(model) == [2 * 4 * (3 * 64 + 16 * 64), 1024 * 16 * 2]


def test_layers_that_use_the_cache_of_earlier_ones_keep_nothing():
    layers = {name: dims for n in range(3) for name, dims in attention(n, 8).items()}
    assert kept(forged("gemma4", {"attention.shared_kv_layers": 2}, layers))[1:] == [0, 0]


def test_an_encoder_keeps_nothing():
    assert kept(forged("bert", {}, attention(0, 8))) == [0]


def test_copies_in_host_memory_take_at_most_half_of_what_is_left():
    model = forged("llama", {}, attention(0, 8) | attention(1, 8))
    holding = Holding(cells=1024, batch=64, sequences=2, outputs=2)
    each = 2 * 16 * 2
    assert copied_cells(model, holding, 2 * 100 * each) == 100
    assert copied_cells(model, holding, 1 << 30) == 1024, "never more than the cache has"
    assert copied_cells(model, holding, -1) == 0
    assert copied_cells(forged("bert", {}, attention(0, 8)), holding, 1 << 30) == 0


UP = Tensor("blk.0.ffn_up.weight", "Q4_K", (256, 8), 0, 1152)
EMBEDDING = Tensor("token_embd.weight", "Q4_K", (256, 8), 0, 1152)
OUTPUT = Tensor("output.weight", "F32", (256, 8), 0, 8192)
X86, ARM = frozenset({"AVX2", "REPACK"}), frozenset({"NEON", "DOTPROD", "REPACK"})
REARRANGED = {
    "kernels that rearrange nothing": (frozenset({"AVX2"}), (UP,), 0),
    "a type that x86 wants in another order": (X86, (UP,), 1152),
    "rows that do not go up in eights": (X86, (replace(UP, dimensions=(256, 12)),), 0),
    "a type that only ARM rearranges": (X86, (replace(UP, type="Q6_K"),), 0),
    "the same on ARM": (ARM, (replace(UP, type="Q6_K"),), 1152),
    "plain floats": (X86, (OUTPUT,), 0),
    "an embedding that is only looked up": (X86, (EMBEDDING, OUTPUT), 0),
    "an embedding that is the output too": (X86, (EMBEDDING,), 1152),
}


@pytest.mark.parametrize(("features", "tensors", "more"), REARRANGED.values(), ids=REARRANGED)
def test_weights_that_the_cpu_wants_in_another_order_are_counted_twice(features, tensors, more):
    model = replace(forged("llama", {}, attention(0, 8)), tensors=tensors)
    assert estimate(model, replace(CHAT, features=features)).weights == model.size + more


def test_a_model_that_does_not_fit_is_refused_before_it_is_mapped(tmp_path, monkeypatch):
    file = tmp_path / "small.gguf"
    file.write_bytes(small_llama())
    monkeypatch.setattr(loading, "free_memory", lambda: 1000)
    monkeypatch.setattr(native, "Model", None)
    with pytest.raises(DoesNotFitError) as refusal:
        loading.load(spec_of(file, n_ctx=256), lambda _fraction: True)
    assert refusal.value.have == 1000
    assert refusal.value.need > file.stat().st_size
    for part in ("weights", "KV cache", "compute buffers", "outputs", "vocabulary"):
        assert part in refusal.value.why


def measured(file, holding):
    """What llama.cpp and the kernel say, and the estimate for the same."""
    settings = {key: value for key, value in asdict(holding).items() if key != "features"}
    command = [sys.executable, str(PROBE), str(file), json.dumps(settings)]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    assert told["code"] == 0
    with file.open("rb") as stream:
        model = shape([gguf.read(stream, file.stat().st_size)])
    return told, model


def near(holding, told, model):
    """Assert that llama.cpp's buffers and the process are as large as was foreseen, within a tenth."""
    foreseen = estimate(model, replace(holding, features=native.features()))
    assert foreseen.weights == pytest.approx(told["model"], rel=0.01)
    assert foreseen.kv == pytest.approx(told["KV"] + told["RS"], rel=0.01)
    assert foreseen.weights + foreseen.kv + foreseen.compute == pytest.approx(
        told["model"] + told["KV"] + told["RS"] + told["compute"], rel=0.1
    )
    # The process has touched every buffer only when a batch asked for all its rows.
    if holding.outputs == holding.batch:
        assert foreseen.total == pytest.approx(told["rss"], rel=0.1)
    else:
        assert foreseen.outputs == pytest.approx(told["output"], rel=0.01)


HOLDINGS = {
    "as an engine holds it": CHAT,
    "all rows asked for": Holding(4096, 256, 16, 256),
    "a long cache in about 8 bits": Holding(16384, 256, 16, 16, kv_type="q8_0"),
    "a long cache in about 4 bits": Holding(16384, 256, 16, 16, kv_type="q4_0"),
    "fewer rows than tokens": Holding(4096, 512, 100, 80),
}


@pytest.mark.integration
@pytest.mark.parametrize("holding", HOLDINGS.values(), ids=HOLDINGS)
def test_the_estimate_of_the_chat_model_is_what_it_takes(chat_model, holding):
    near(holding, *measured(chat_model, holding))


WINDOWED = {
    "whole windows": Holding(4096, 256, 4, 4),
    "no more than is seen": Holding(8192, 256, 4, 4, whole_window=False),
    "quantised": Holding(8192, 256, 4, 4, kv_type="q8_0"),
}


@pytest.mark.integration
@pytest.mark.parametrize("holding", WINDOWED.values(), ids=WINDOWED)
def test_the_estimate_of_a_model_with_windows_is_what_it_takes(gemma_model, holding):
    near(holding, *measured(gemma_model, holding))


@pytest.mark.integration
@pytest.mark.parametrize("make", [small_mamba, small_jamba], ids=["recurrent", "hybrid"])
def test_the_estimate_of_a_state_for_each_sequence_is_what_it_takes(tmp_path, make):
    file = tmp_path / "small.gguf"
    file.write_bytes(make())
    told, model = measured(file, CHAT)
    assert estimate(model, CHAT).kv == pytest.approx(told["KV"] + told["RS"], abs=MIB // 50)


@pytest.mark.integration
def test_the_estimate_of_an_embedding_model_is_what_it_takes(embed_model):
    holding = Holding(512, 512, 64, 512, vectors=True)
    near(holding, *measured(embed_model, holding))


@pytest.mark.integration
def test_the_estimate_of_a_tiny_model_is_what_its_buffers_take(tmp_path):
    file = tmp_path / "small.gguf"
    file.write_bytes(small_llama())
    told, model = measured(file, CHAT)
    foreseen = estimate(model, CHAT)
    assert foreseen.kv == told["KV"]
    assert foreseen.total == pytest.approx(sum(told[kind] for kind in ("model", "KV", "compute", "output")), abs=MIB)
