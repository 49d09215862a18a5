"""Models of a few kilobytes that cannot go back in a text: Mamba, Jamba with attention beside it, Gemma's windows."""

import functools
import math
import random

from bundles.gguf_forge import ARRAY, I32, U32
from bundles.small_llama import FORWARD, HEADS, TOKENS, WIDTH, written

INNER, STATE, KERNEL, RANK = 2 * WIDTH, 8, 4, 4
WINDOW = 16
FACTS = [
    ("ssm.conv_kernel", U32, KERNEL),
    ("ssm.inner_size", U32, INNER),
    ("ssm.state_size", U32, STATE),
    ("ssm.time_step_rank", U32, RANK),
]


def _recurrent(block: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{block}.attn_norm.weight": (WIDTH,),
        f"{block}.ssm_in.weight": (WIDTH, 2 * INNER),
        f"{block}.ssm_conv1d.weight": (KERNEL, INNER),
        f"{block}.ssm_conv1d.bias": (INNER,),
        f"{block}.ssm_x.weight": (INNER, RANK + 2 * STATE),
        f"{block}.ssm_dt.weight": (RANK, INNER),
        f"{block}.ssm_dt.bias": (INNER,),
        f"{block}.ssm_a": (STATE, INNER),
        f"{block}.ssm_d": (INNER,),
        f"{block}.ssm_out.weight": (INNER, WIDTH),
    }


def _attention(block: str) -> dict[str, tuple[int, ...]]:
    projections = {f"{block}.attn_{name}.weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
    return {f"{block}.attn_norm.weight": (WIDTH,)} | projections


def _forward(block: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{block}.ffn_norm.weight": (WIDTH,),
        f"{block}.ffn_gate.weight": (WIDTH, FORWARD),
        f"{block}.ffn_up.weight": (WIDTH, FORWARD),
        f"{block}.ffn_down.weight": (FORWARD, WIDTH),
    }


@functools.cache
def small_mamba() -> bytes:
    """The bytes of its GGUF: two recurrent layers."""
    return _drawn("mamba", [*FACTS], _recurrent("blk.0") | _recurrent("blk.1"))


@functools.cache
def small_jamba() -> bytes:
    """The bytes of its GGUF: a recurrent layer and one with attention."""
    norms = {"dt": RANK, "b": STATE, "c": STATE}
    shapes = _recurrent("blk.0") | _forward("blk.0") | _attention("blk.1") | _forward("blk.1")
    shapes |= {f"blk.0.ssm_{name}_norm.weight": (width,) for name, width in norms.items()}
    facts = [
        *FACTS,
        ("feed_forward_length", U32, FORWARD),
        ("attention.head_count", U32, HEADS),
        ("attention.head_count_kv", ARRAY, (I32, [0, HEADS])),
    ]
    return _drawn("jamba", facts, shapes)


@functools.cache
def small_gemma() -> bytes:
    """The bytes of its GGUF: five layers that see :data:`WINDOW` tokens, and one that sees all."""
    shapes = {}
    for block in (f"blk.{number}" for number in range(6)):
        shapes |= _attention(block) | _forward(block)
        shapes |= {f"{block}.attn_{name}_norm.weight": (WIDTH // HEADS,) for name in ("q", "k")}
        shapes |= {f"{block}.post_{name}_norm.weight": (WIDTH,) for name in ("attention", "ffw")}
    facts = [
        ("feed_forward_length", U32, FORWARD),
        ("attention.head_count", U32, HEADS),
        ("attention.sliding_window", U32, WINDOW),
    ]
    return _drawn("gemma3", facts, shapes)


def _drawn(architecture: str, facts: list, shapes: dict[str, tuple[int, ...]]) -> bytes:
    draw = random.Random(1)  # noqa: S311 - weights, not secrets
    shapes = {
        "token_embd.weight": (WIDTH, len(TOKENS)),
        "output_norm.weight": (WIDTH,),
        "output.weight": (WIDTH, len(TOKENS)),
    } | shapes
    return written(
        architecture,
        facts,
        {name: (shape, [_value(name, draw) for _ in range(math.prod(shape))]) for name, shape in shapes.items()},
    )


def _value(name: str, draw: random.Random) -> float:
    if name.endswith("ssm_a"):
        return -draw.uniform(0.1, 1.0)  # states fade; with another sign they would grow without end
    return 1.0 if "norm" in name else draw.gauss(0, 0.3)
