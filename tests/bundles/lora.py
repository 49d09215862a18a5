"""LoRA adapters of random weights, for whichever matrices of a model: files that llama.cpp really applies."""

import math
import struct

import numpy as np

from bundles.gguf_forge import F32, F32_TENSOR, STRING, Forge

RANK = 2


def lora(matrices, seed=1, architecture="llama", strength=1.0, forge=None):
    """The bytes of an adapter of rank 2 for ``matrices``, their dimensions by name; ``forge`` changes its header."""
    shapes = {}
    for name, (across, down) in matrices.items():
        shapes |= {f"{name}.lora_a": (across, RANK), f"{name}.lora_b": (RANK, down)}
    file = Forge(
        keys=[
            ("general.architecture", STRING, architecture),
            ("general.type", STRING, "adapter"),
            ("adapter.type", STRING, "lora"),
            ("adapter.lora.alpha", F32, float(RANK)),
        ],
        tensors=[(name, shape, F32_TENSOR, 4 * math.prod(shape)) for name, shape in shapes.items()],
    )
    if forge is not None:
        forge(file)
    data, draw = file.header(), np.random.default_rng(seed)
    for _, shape, _, _ in file.tensors:
        values = strength * draw.normal(size=math.prod(shape))
        data += bytes(-len(data) % file.alignment) + struct.pack(f"<{len(values)}f", *values)
    return data + bytes(-len(data) % file.alignment)
