"""A projector of some kilobytes that libmtmd really runs: two layers over nine patches, weights drawn by a seed."""

import functools
import math
import random
import struct

from bundles.gguf_forge import ARRAY, BOOL, F32, F32_TENSOR, STRING, U32, Forge
from bundles.small_llama import WIDTH as TEXT_WIDTH

SIDE, PATCH, WIDTH, HEADS, FORWARD = 24, 8, 32, 2, 48
IMAGE_TOKENS = (SIDE // PATCH) ** 2


@functools.cache
def small_projector(seed: int = 1, *, kind: str = "mlp", width: int = TEXT_WIDTH, side: int = SIDE) -> bytes:
    """The bytes of its GGUF, for a model with vectors of ``width``: a LLaVA's ("mlp") or a Gemma 3's ("gemma3")."""
    draw = random.Random(seed)  # noqa: S311 - weights, not secrets
    patches = (side // PATCH) ** 2
    shapes = {
        "v.patch_embd.weight": (PATCH, PATCH, 3, WIDTH),
        "v.position_embd.weight": (WIDTH, patches),
        "v.post_ln.weight": (WIDTH,),
        "v.post_ln.bias": (WIDTH,),
    }
    for layer in range(2):
        shapes |= {
            f"v.blk.{layer}.{name}.weight": (WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_out")
        }
        shapes |= {f"v.blk.{layer}.{name}.{part}": (WIDTH,) for name in ("ln1", "ln2") for part in ("weight", "bias")}
        shapes |= {
            f"v.blk.{layer}.ffn_up.weight": (WIDTH, FORWARD),
            f"v.blk.{layer}.ffn_down.weight": (FORWARD, WIDTH),
        }
    if kind == "gemma3":
        shapes |= {"mm.input_projection.weight": (width, WIDTH), "mm.soft_emb_norm.weight": (WIDTH,)}
    else:
        shapes |= {"mm.0.weight": (WIDTH, width), "mm.0.bias": (width,)}
        shapes |= {"mm.2.weight": (width, width), "mm.2.bias": (width,)}
    forge = Forge(
        keys=[
            ("general.architecture", STRING, "clip"),
            ("general.type", STRING, "mmproj"),
            ("general.name", STRING, "Small eye"),
            ("general.file_type", U32, 0),
            ("clip.has_vision_encoder", BOOL, True),
            ("clip.projector_type", STRING, kind),
            ("clip.vision.image_size", U32, side),
            ("clip.vision.patch_size", U32, PATCH),
            ("clip.vision.embedding_length", U32, WIDTH),
            ("clip.vision.feed_forward_length", U32, FORWARD),
            ("clip.vision.block_count", U32, 2),
            ("clip.vision.projection_dim", U32, width),
            ("clip.vision.attention.head_count", U32, HEADS),
            ("clip.vision.attention.layer_norm_epsilon", F32, 1e-6),
            ("clip.vision.projector.scale_factor", U32, 1),
            ("clip.vision.image_mean", ARRAY, (F32, [0.5, 0.5, 0.5])),
            ("clip.vision.image_std", ARRAY, (F32, [0.5, 0.5, 0.5])),
            ("clip.use_gelu", BOOL, True),
        ],
        tensors=[(name, shape, F32_TENSOR, 4 * math.prod(shape)) for name, shape in shapes.items()],
    )
    data = forge.header()
    for name, shape in shapes.items():
        ones = name.endswith(("ln1.weight", "ln2.weight", "post_ln.weight", "norm.weight"))
        values = [1.0 if ones else draw.gauss(0, 0.4) for _ in range(math.prod(shape))]
        data += bytes(-len(data) % forge.alignment) + struct.pack(f"<{len(values)}f", *values)
    return data + bytes(-len(data) % forge.alignment)
