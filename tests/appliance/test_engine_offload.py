"""Layers go to GPUs as llama.cpp will put them there, as many as fit, and a refusal says with which numbers."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import DoesNotFitError, EngineError
from plugsky.engine.headers.estimate import Holding, compute_bytes, estimate, kv_bytes
from plugsky.engine.headers.offload import MARGIN, Device, place
from plugsky.engine.headers.shape import Layer, Shape
from plugsky.engine.llama import devices as llama_devices
from plugsky.engine.llama import native
from plugsky_bundles.gguf import Tensor

GIB = 1 << 30
HOLDING = Holding(cells=4096, batch=256, sequences=16, outputs=16)
CPU = Device(0, "CPU", "cpu", "", 64 * GIB, 64 * GIB)
ROOMY = 1 << 50


def model(layers=8, layer_size=GIB, *, tied=False):
    """``layers`` alike, an embedding of 1 GiB and an output matrix, which is the embedding if ``tied``."""
    names = ["token_embd.weight"] if tied else ["token_embd.weight", "output.weight"]
    tensors = tuple(Tensor(name, "F16", (1024, 32_768), 0, GIB) for name in names)
    one = Layer(query=1024, key=256, value=256, forward=4096, state=0, windowed=False, size=layer_size)
    return Shape(
        layers=(one,) * layers,
        width=1024,
        heads=16,
        vocabulary=32_768,
        projects=True,
        names=32_768,
        window=0,
        size=layers * layer_size + GIB * len(tensors),
        tensors=tensors,
    )


def gpu(number, free, kind="gpu"):
    return Device(number, f"CUDA{number}", kind, "", free, 2 * free)


def room_for(layers, shape, holding=HOLDING):
    """A device's memory that holds exactly so many of the model's layers."""
    one = shape.layers[0]
    return layers * (one.size + kv_bytes(one, shape, holding)) + compute_bytes(shape, holding) + MARGIN


def runs(placement):
    return [(share.device.number, share.layers) for share in placement.shares]


def test_without_a_gpu_the_host_keeps_everything():
    placement = place(model(), HOLDING, ROOMY, [CPU])
    assert placement.shares == ()
    assert placement.host == estimate(model(), HOLDING)


def test_a_gpu_with_room_for_all_gets_all_and_the_host_keeps_the_embedding():
    placement = place(model(), HOLDING, ROOMY, [CPU, gpu(1, ROOMY)])
    assert runs(placement) == [(1, 9)]
    assert placement.host.weights == GIB
    assert placement.host.kv == 0


def test_a_shared_embedding_is_on_both_sides():
    placement = place(model(tied=True), HOLDING, ROOMY, [gpu(0, ROOMY)])
    assert placement.host.weights == GIB
    assert placement.shares[0].need == room_for(8, model(tied=True)) + GIB


TABLES = {
    "one that holds three layers, of which the output is the smallest": ([3], [(0, 3)]),
    "two that hold five together": ([2, 3], [(0, 2), (1, 3)]),
    "one too small for a layer between two": ([2, 0, 3], [(0, 2), (2, 3)]),
    "a second that is not needed": ([20, 20], [(0, 9)]),
    "none with room for a layer": ([0, 0], []),
}


@pytest.mark.parametrize(("rooms", "expected"), TABLES.values(), ids=TABLES)
def test_as_many_layers_as_fit_go_to_as_few_devices_as_hold_them(rooms, expected):
    shape = model()
    devices = [gpu(number, room_for(layers, shape)) for number, layers in enumerate(rooms)]
    assert runs(place(shape, HOLDING, ROOMY, devices)) == expected


def test_a_longer_cache_leaves_room_for_fewer_layers():
    shape = model(layer_size=GIB // 8)
    device, long = gpu(0, room_for(40, shape)), replace(HOLDING, cells=1 << 20)
    held = [place(shape, one, ROOMY, [device]).gpu_layers for one in (long, replace(long, kv_type="q4_0"), HOLDING)]
    assert held == sorted(held)
    assert 0 < held[0] < held[1] <= held[2] == 9


def test_an_integrated_gpu_makes_no_room():
    assert place(model(), HOLDING, ROOMY, [CPU, gpu(1, ROOMY, "integrated")]).gpu_layers == 0


@pytest.mark.parametrize(("wanted", "had"), [(0, 0), (4, 4), (9, 9), (500, 9)])
def test_so_many_layers_go_as_are_wanted_and_there_are(wanted, had):
    assert place(model(), HOLDING, ROOMY, [gpu(0, ROOMY)], wanted).gpu_layers == had


def test_wanted_layers_that_fit_nowhere_are_refused_with_the_numbers_of_each_device():
    with pytest.raises(DoesNotFitError) as refusal:
        place(model(), HOLDING, ROOMY, [gpu(0, GIB), gpu(1, 2 * GIB)], 9)
    assert refusal.value.have == 3 * GIB
    assert refusal.value.need > 9 * GIB
    for said in ("9 layers", "CUDA0", "CUDA1"):
        assert said in refusal.value.why


def test_wanted_layers_are_refused_where_there_is_no_gpu():
    with pytest.raises(EngineError, match="there is none here") as refusal:
        place(model(), HOLDING, ROOMY, [CPU], 4)
    assert refusal.value.kind is ErrorKind.NOT_SUPPORTED
    assert "CPU" in refusal.value.why


def test_what_the_host_cannot_keep_beside_the_gpus_is_refused_with_both_parts():
    shape = model()
    with pytest.raises(DoesNotFitError) as refusal:
        place(shape, HOLDING, 2 * GIB, [gpu(0, room_for(3, shape))])
    assert refusal.value.have == 2 * GIB
    assert "3 layers" in refusal.value.why
    assert "KV cache" in refusal.value.why
    assert place(shape, HOLDING, 2 * GIB, [gpu(0, room_for(9, shape))]).gpu_layers == 9


def where_llama_cpp_puts(shares, layers):
    """For each layer and the output its device, None for the host: llama_model_base::load_tensors, in its floats."""
    count = sum(shares)
    splits = np.cumsum(np.array(shares, dtype=np.float32))
    splits = (splits / splits[-1]).astype(np.float32) if count else splits
    first, found = max(layers + 1 - count, 0), []
    for layer in range(layers + 1):
        if layer < first:
            found.append(None)
        else:
            at = np.float32(layer - first) / np.float32(count)
            found.append(int(np.searchsorted(splits, at, side="right")))
    return found


@settings(deadline=None)
@given(st.integers(1, 120), st.lists(st.integers(0, 40), min_size=1, max_size=8))
def test_llama_cpp_reads_the_shares_as_they_are_meant_and_none_is_overfilled(layers, rooms):
    shape = model(layers)
    devices = [gpu(number, room_for(room, shape)) for number, room in enumerate(rooms)]
    placement = place(shape, HOLDING, ROOMY, devices)
    put = where_llama_cpp_puts([share.layers for share in placement.shares], layers)
    assert put == sorted(put, key=lambda device: -1 if device is None else device)
    for number, share in enumerate(placement.shares):
        assert put.count(number) == share.layers
        assert share.need <= share.device.free
    assert all(one.device.number < another.device.number for one, another in pairwise(placement.shares))
    assert placement.gpu_layers == min(layers + 1, sum(rooms))


@pytest.mark.integration
def test_ggml_tells_of_the_cpu_and_its_memory():
    native.load_kernels()
    (cpu,) = (device for device in llama_devices.devices() if device.kind == "cpu")
    assert cpu.name == "CPU"
    assert cpu.description
    assert GIB // 4 < cpu.free <= cpu.total
