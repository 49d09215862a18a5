"""Which layers of a model go to which GPU: as many as fit, on as few devices as hold them. Pure.

llama.cpp puts the last layers of a model on GPUs, the output matrix counting as one more behind them, and gives each
device a run of them, in the order of its list. A layer takes its weights and its part of the cache along; each device
that computes also has buffers for the largest graph. The embedding of the input, and the rows of logits, stay with the
host. Of each device :data:`MARGIN` is left to its driver and to the kernels it loads.

Integrated GPUs are left alone: their memory is the host's, so they make no room, and the CPU's kernels are chosen for
the host at hand. Source: llama.cpp's llama-model.cpp, ``load_tensors``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import DoesNotFitError, EngineError
from plugsky.engine.headers.estimate import Estimate, Holding, compute_bytes, estimate, kv_bytes
from plugsky.engine.headers.shape import Shape
from plugsky_bundles.sizes import size

MARGIN: Final = 512 << 20

DeviceKind = Literal["cpu", "gpu", "integrated", "accelerator"]


@dataclass(frozen=True, slots=True)
class Device:
    """A device as ggml tells of it; memory in bytes. ``number`` is its place in ggml's list."""

    number: int
    name: str
    kind: DeviceKind
    description: str
    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Share:
    """The run of layers that one device gets, and the bytes it takes there."""

    device: Device
    layers: int
    need: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model goes: what the host keeps, and the devices that get the rest, in the order of their layers."""

    host: Estimate
    shares: tuple[Share, ...] = ()

    @property
    def gpu_layers(self) -> int:
        """Layers that are not the host's."""
        return sum(share.layers for share in self.shares)

    def __str__(self) -> str:
        parts = [f"{share.layers} layers in {size(share.need)} of {share.device.name}" for share in self.shares]
        return "; ".join([*parts, f"{size(self.host.total)} of the host's memory: {self.host}"])


def place(
    model: Shape, holding: Holding, free: int, devices: Sequence[Device] = (), gpu_layers: int | None = None
) -> Placement:
    """Where ``model`` goes on a host with ``free`` bytes of memory and these ``devices``.

    ``gpu_layers`` is how many layers are wanted on GPUs; None for as many as fit.

    Raises :class:`DoesNotFitError`, which says what the need is made of, and ``not_supported`` when layers are wanted
    on a GPU where there is none.
    """
    gpus = [device for device in devices if device.kind == "gpu"]
    every = len(model.layers) + 1
    if gpu_layers and not gpus:
        raise EngineError(
            ErrorKind.NOT_SUPPORTED,
            f"{gpu_layers} layers are to go to a GPU, and there is none here",
            why=f"llama.cpp sees {', '.join(device.name for device in devices) or 'no device'}",
            next="leave gpu_layers at auto",
        )
    most = every if gpu_layers is None else min(gpu_layers, every)
    layers, own = _bytes_of_each(model, holding), compute_bytes(model, holding) + MARGIN
    for count in range(most if gpus else 0, -1, -1):
        shares = _shared_out(layers[every - count :], own, gpus)
        if shares is None and gpu_layers is not None:
            raise _too_large(layers[every - count :], own, gpus)
        if shares is not None:
            placement = Placement(estimate(model, holding, count), shares)
            if placement.host.total > free:
                raise DoesNotFitError(placement.host.total, free, str(placement if shares else placement.host))
            return placement
    raise AssertionError


def _shared_out(waiting: list[int], own: int, gpus: Sequence[Device]) -> tuple[Share, ...] | None:
    """Layers of so many bytes, in order, on the first devices with room for them and ``own`` more; None without it."""
    shares = []
    for device in gpus:
        need, layers = own, 0
        while layers < len(waiting) and need + waiting[layers] <= device.free:
            need += waiting[layers]
            layers += 1
        if layers:
            shares.append(Share(device, layers, need))
            waiting = waiting[layers:]
    return None if waiting else tuple(shares)


def _bytes_of_each(model: Shape, holding: Holding) -> list[int]:
    """What each layer takes of a device, and at the end the output matrix."""
    layers = [layer.size + kv_bytes(layer, model, holding) for layer in model.layers]
    return [*layers, model.output.length if model.output is not None else 0]


def _too_large(layers: list[int], own: int, gpus: Sequence[Device]) -> DoesNotFitError:
    room = "; ".join(f"{size(device.free)} free on {device.name}" for device in gpus)
    return DoesNotFitError(
        sum(layers) + own * len(gpus),
        sum(device.free for device in gpus),
        f"{len(layers)} layers take {size(sum(layers))}, each device {size(own)} more for buffers and driver; {room}",
    )
