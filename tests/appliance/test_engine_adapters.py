"""LoRA adapters: refused by name unless they are the model's own; then they change what it says by what they hold."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from appliance.engine_host import digest_of, spec_of
from bundles.gguf_forge import ARRAY, F16_TENSOR, F32, F32_TENSOR, F64, STRING, U32
from bundles.lora import RANK, lora
from bundles.small_llama import TOKENS, WIDTH, small_llama
from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import DoesNotFitError, EngineError
from plugsky.engine.headers.adapters import NONE, check_fits, check_known, memory
from plugsky.engine.headers.estimate import Holding
from plugsky.engine.llama import native
from plugsky.engine.loading import loading
from plugsky.engine.scheduling.plan import Chunk
from plugsky.engine.spec import AdapterSpec
from plugsky_bundles import gguf
from plugsky_bundles.errors import BundleError

OUTPUT = {"output.weight": (WIDTH, len(TOKENS))}
QUERY = {"blk.0.attn_q.weight": (WIDTH, WIDTH)}
EMBEDDING = {"token_embd.weight.lora_a": (RANK, len(TOKENS)), "token_embd.weight.lora_b": (RANK, WIDTH)}


def header(data):
    return gguf.read(io.BytesIO(data), len(data))


MODEL = header(small_llama())


def keyed(key, kind, value):
    return lora(OUTPUT, forge=lambda file: file.with_key(key, kind, value))


def of_tensors(tensors, kind=F32_TENSOR):
    """An adapter of exactly these tensors."""
    size = 2 if kind == F16_TENSOR else 4

    def forge(file):
        file.tensors = [(name, shape, kind, size * int(np.prod(shape))) for name, shape in tensors.items()]

    return lora({}, forge=forge)


def pair(name, a, b):
    return of_tensors({f"{name}.lora_a": a, f"{name}.lora_b": b})


MISFITS = {
    "a whole model": (small_llama(), "general.type"),
    "a control vector": (keyed("adapter.type", STRING, "control"), "adapter.type"),
    "one for another architecture": (lora(OUTPUT, architecture="qwen2"), "architecture qwen2, the model's is llama"),
    "one for another width": (lora({"output.weight": (64, len(TOKENS))}), "of 64 x 2 and 2 x 258, .* is of 32 x 258"),
    "one for another vocabulary": (lora({"output.weight": (WIDTH, 300)}), "2 x 300"),
    "one for a model with more layers": (lora({"blk.7.attn_q.weight": (WIDTH, WIDTH)}), r"no tensor blk\.7\.attn_q"),
    "one of two ranks": (pair("output.weight", (WIDTH, 2), (3, len(TOKENS))), "3 x 258"),
    "one with half a pair": (of_tensors({"output.weight.lora_a": (WIDTH, 2)}), "only one half"),
    "one that replaces weights": (of_tensors({"output_norm.weight": (WIDTH,)}), "no half of a pair"),
    "one for a norm": (pair("output_norm.weight", (WIDTH, 2), (2, 1)), "no matrix"),
    "one with more dimensions": (pair("output.weight", (WIDTH, 2, 3), (2, len(TOKENS), 3)), "32 x 2 x 3"),
    "one of looked-up rows the wrong way round": (lora({"token_embd.weight": (WIDTH, len(TOKENS))}), "token_embd"),
    "one of integers": (of_tensors({"output.weight.lora_a": (WIDTH, 2)}, kind=26), "type I32"),
    "one without tensors": (lora({}), "no tensors"),
    "an activated one": (keyed("adapter.alora.invocation_tokens", ARRAY, (U32, [1, 2])), "activated"),
    "one with a strength that is no number": (keyed("adapter.lora.alpha", F32, float("nan")), "alpha"),
}


@pytest.mark.parametrize(("data", "why"), MISFITS.values(), ids=MISFITS)
def test_an_adapter_that_is_not_for_the_model_is_refused_by_name(data, why):
    with pytest.raises(EngineError, match="the adapter medical does not fit this model") as refusal:
        check_fits("medical", header(data), [MODEL])
    assert refusal.value.kind is ErrorKind.NOT_SUPPORTED
    assert re.search(why, refusal.value.why)


def test_an_adapter_for_looked_up_rows_fits_only_where_the_output_has_weights_of_its_own():
    check_fits("medical", header(of_tensors(EMBEDDING)), [MODEL])
    tied = replace(MODEL, tensors=tuple(t for t in MODEL.tensors if t.name != "output.weight"))
    with pytest.raises(EngineError, match="does not fit") as refusal:
        check_fits("medical", header(of_tensors(EMBEDDING)), [tied])
    assert "output matrix too" in refusal.value.why


def test_values_that_llama_cpp_trusts_must_be_of_its_type():
    with pytest.raises(BundleError, match=r"'adapter\.lora\.alpha' is not of type float32"):
        header(keyed("adapter.lora.alpha", F64, 2.0))


def test_an_adapter_takes_its_tensors_and_its_widest_product():
    assert memory(header(lora(OUTPUT | QUERY)), batch=10) == 4 * RANK * (3 * WIDTH + len(TOKENS)) + 4 * 10 * len(TOKENS)


@pytest.mark.parametrize("name", ["Medical", "two"])
def test_a_name_of_no_adapter_is_answered_with_those_there_are(name):
    check_known(NONE, ())
    check_known("one", ("zero", "one"))
    with pytest.raises(EngineError, match=f"no adapter '{name}'") as refusal:
        check_known(name, ("zero", "one"))
    assert (refusal.value.kind, refusal.value.why) == (ErrorKind.MODEL_NOT_FOUND, "it has: one, zero")


DIGEST = "ab" * 32


def test_an_adapter_is_one_word_of_a_command_line():
    adapter = AdapterSpec("medical", Path("/srv/a:b.gguf"), DIGEST, 0.5)
    assert str(adapter) == f"medical:{DIGEST}:0.500000:/srv/a:b.gguf"
    assert AdapterSpec.parse(str(adapter)) == adapter


WRONG = [
    "",
    "a:b:1:c",
    f"A:{DIGEST}:1:f",
    f"a:{DIGEST}:1:",
    f"a:{DIGEST}:-1:f",
    f"a:{DIGEST}:nan:f",
    f"a:{DIGEST}:0:f",
    f"a:{DIGEST}:1.2.3:f",
]


@pytest.mark.parametrize("text", WRONG)
def test_what_names_no_adapter_is_refused(text):
    with pytest.raises(ValueError, match="adapter"):
        AdapterSpec.parse(text)


def written(folder, name, data):
    (folder / name).write_bytes(data)
    return folder / name


@pytest.fixture
def file(tmp_path):
    """The small model's file."""
    return written(tmp_path, "small.gguf", small_llama())


def adapter_of(file, name="medical", scale=1.0):
    return AdapterSpec(name, file, digest_of(file), scale)


def load(spec):
    return loading.load(spec, lambda _fraction: True)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (lora(OUTPUT, architecture="qwen2"), ErrorKind.NOT_SUPPORTED),
        (lora(OUTPUT)[:-400], ErrorKind.TAMPERED),
        (b"GIF89a" * 100, ErrorKind.TAMPERED),
    ],
    ids=["of another architecture", "cut short", "no GGUF"],
)
def test_a_model_is_not_loaded_with_an_adapter_that_cannot_be_used(file, tmp_path, data, kind):
    spec = replace(spec_of(file, 256), adapters=(adapter_of(written(tmp_path, "a.gguf", data)),))
    with pytest.raises(EngineError, match="the adapter medical") as refusal:
        load(spec)
    assert refusal.value.kind is kind


def test_an_adapter_that_is_not_the_one_installed_or_not_there_is_refused_by_name(file, tmp_path):
    adapter = adapter_of(written(tmp_path, "a.gguf", lora(OUTPUT)))
    adapter.file.write_bytes(lora(OUTPUT, seed=2))
    with pytest.raises(EngineError, match=r"adapter medical .* a\.gguf is not the one that was installed") as refusal:
        load(replace(spec_of(file, 256), adapters=(adapter,)))
    assert refusal.value.kind is ErrorKind.TAMPERED
    adapter.file.unlink()
    with pytest.raises(EngineError, match=r"adapter medical .* a\.gguf is missing") as refusal:
        load(replace(spec_of(file, 256), adapters=(adapter,)))
    assert refusal.value.kind is ErrorKind.MODEL_NOT_FOUND


def test_adapters_of_one_name_and_adapters_for_vectors_are_refused(file, tmp_path):
    adapter = adapter_of(written(tmp_path, "a.gguf", lora(OUTPUT)))
    with pytest.raises(EngineError, match="two adapters medical"):
        load(replace(spec_of(file, 256), adapters=(adapter, adapter)))
    with pytest.raises(EngineError, match="mode embed takes no adapters"):
        load(replace(spec_of(file, 256, "embed"), adapters=(adapter,)))


def test_what_adapters_take_counts_when_memory_is_short(file, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda: 1)
    spec = spec_of(file, 256)
    with pytest.raises(DoesNotFitError) as plain:
        load(spec)
    adapter = adapter_of(written(tmp_path, "a.gguf", lora(OUTPUT)))
    with pytest.raises(DoesNotFitError) as adapted:
        load(replace(spec, adapters=(adapter, replace(adapter, id="other"))))
    assert adapted.value.need - plain.value.need == 2 * memory(header(lora(OUTPUT)), spec.batch)
    assert "adapters" in adapted.value.why


@pytest.fixture
def model(file):
    model = native.Model(file, lambda _fraction: True)
    yield model
    model.close()


def context_of(model):
    return native.Context(model, Holding(256, 64, 2, 64), threads=1)


def logits(context):
    row = context.decode([Chunk(1, 0, 0, (72, 101, 108), outputs=1)])[0].copy()
    context.clear(0)
    return row


@pytest.mark.integration
def test_an_adapter_counts_by_its_scale_and_not_at_all_when_it_is_off(model, tmp_path):
    file = written(tmp_path, "a.gguf", lora(OUTPUT))
    model.add_adapter(adapter_of(file, "one"))
    model.add_adapter(adapter_of(file, "twice", 2.0))
    model.add_adapter(adapter_of(written(tmp_path, "b.gguf", lora(OUTPUT | QUERY, seed=2)), "other"))
    model.add_adapter(adapter_of(written(tmp_path, "c.gguf", of_tensors(EMBEDDING)), "embedding"))
    context = context_of(model)
    seen = {}
    for name in (NONE, "one", "twice", "other", "embedding", "one", NONE):
        context.set_adapter(name)
        row = logits(context)
        if name in seen:
            np.testing.assert_array_equal(row, seen[name])
        seen[name] = row
    context.close()
    change = seen["one"] - seen[NONE]
    assert np.abs(change).max() > 0.1
    np.testing.assert_allclose(seen["twice"] - seen[NONE], 2 * change, atol=1e-3)
    assert np.abs(seen["other"] - seen["one"]).max() > 0.1


@pytest.mark.integration
@pytest.mark.parametrize("data", [small_llama(), lora(OUTPUT)[:-400]], ids=["a whole model", "cut short"])
def test_what_llama_cpp_cannot_load_is_named(model, tmp_path, data):
    with pytest.raises(EngineError, match=r"llama\.cpp cannot load the adapter medical") as refusal:
        model.add_adapter(adapter_of(written(tmp_path, "a.gguf", data)))
    assert refusal.value.kind is ErrorKind.TAMPERED
