"""A model of a few kilobytes that llama.cpp really runs: one layer, a vocabulary of bytes, weights drawn by a seed."""

import functools
import math
import random
import struct
from typing import Any

from bundles.gguf_forge import ARRAY, F32, F32_TENSOR, I32, STRING, U32, Forge

WIDTH, HEADS, FORWARD, CONTEXT = 32, 4, 64, 256
NORMAL, CONTROL = 1, 3
HELLO = "{{ messages[0].content }}"


def byte_names() -> list[str]:
    """The 256 bytes as a GPT-2 vocabulary spells them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    names = {byte: chr(byte) for byte in plain}
    names |= {byte: chr(256 + n) for n, byte in enumerate(b for b in range(256) if b not in names)}
    return [names[byte] for byte in range(256)]


TOKENS = [*byte_names(), "\u0120t", "<end>"]
END = len(TOKENS) - 1
INFILL = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
"""Control tokens by which llama.cpp knows a model that writes between two texts."""


@functools.cache
def small_llama(
    seed: int = 1, *, silent: bool = False, spread: float = 0.3, pooling: int | None = None, infill: bool = False
) -> bytes:
    """The bytes of its GGUF. ``silent``: its likeliest next token is always the end of the text, else an ``e``.

    A wider ``spread`` of its weights makes it surer of itself, and so worse at any text. ``pooling`` is how the file
    says that vectors of tokens become one, by llama.cpp's number. ``infill``: it has the tokens :data:`INFILL` too.
    """
    words = [*TOKENS, *INFILL] if infill else TOKENS
    draw = random.Random(seed)  # noqa: S311 - weights, not secrets
    shapes = {
        "token_embd.weight": (WIDTH, len(words)),
        "output_norm.weight": (WIDTH,),
        "output.weight": (WIDTH, len(words)),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.attn_q.weight": (WIDTH, WIDTH),
        "blk.0.attn_k.weight": (WIDTH, WIDTH),
        "blk.0.attn_v.weight": (WIDTH, WIDTH),
        "blk.0.attn_output.weight": (WIDTH, WIDTH),
        "blk.0.ffn_norm.weight": (WIDTH,),
        "blk.0.ffn_gate.weight": (WIDTH, FORWARD),
        "blk.0.ffn_up.weight": (WIDTH, FORWARD),
        "blk.0.ffn_down.weight": (FORWARD, WIDTH),
    }
    weights = {
        name: [draw.gauss(0, 0.03 if "blk" in name else spread) for _ in range(math.prod(shape))]
        for name, shape in shapes.items()
    }
    for name in shapes:
        if "norm" in name:
            weights[name] = [1.0] * WIDTH
    # One feature is always on; whatever reads it from there is said whatever the text.
    for row in range(len(words)):
        weights["token_embd.weight"][row * WIDTH] = 4.0
        weights["output.weight"][row * WIDTH] = 1.0 if row == (END if silent else ord("e")) else 0.0
    facts = [
        ("feed_forward_length", U32, FORWARD),
        ("attention.head_count", U32, HEADS),
        *([] if pooling is None else [("pooling_type", U32, pooling)]),
    ]
    return written("llama", facts, {name: (shape, weights[name]) for name, shape in shapes.items()}, words)


def written(
    architecture: str,
    facts: list[tuple[str, int, Any]],
    tensors: dict[str, tuple[tuple[int, ...], list[float]]],
    words: list[str] = TOKENS,
) -> bytes:
    """A GGUF with the small vocabulary and these ``tensors``: shape and values of each. ``facts`` are of its kind."""
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blk.")}
    forge = Forge(
        keys=[
            ("general.architecture", STRING, architecture),
            ("general.name", STRING, "Small"),
            ("general.file_type", U32, 0),
            (f"{architecture}.context_length", U32, CONTEXT),
            (f"{architecture}.embedding_length", U32, WIDTH),
            (f"{architecture}.block_count", U32, len(blocks)),
            (f"{architecture}.attention.layer_norm_rms_epsilon", F32, 1e-5),
            *((f"{architecture}.{key}", kind, value) for key, kind, value in facts),
            ("tokenizer.ggml.model", STRING, "gpt2"),
            ("tokenizer.ggml.pre", STRING, "gpt-2"),
            ("tokenizer.ggml.tokens", ARRAY, (STRING, words)),
            ("tokenizer.ggml.token_type", ARRAY, (I32, [NORMAL] * END + [CONTROL] * (len(words) - END))),
            ("tokenizer.ggml.merges", ARRAY, (STRING, ["\u0120 t"])),
            ("tokenizer.ggml.eos_token_id", U32, END),
            ("tokenizer.ggml.bos_token_id", U32, END),
            ("tokenizer.chat_template", STRING, HELLO),
        ],
        tensors=[(name, shape, F32_TENSOR, 4 * math.prod(shape)) for name, (shape, _) in tensors.items()],
    )
    data = forge.header()
    for _, values in tensors.values():
        data += bytes(-len(data) % forge.alignment) + struct.pack(f"<{len(values)}f", *values)
    return data + bytes(-len(data) % forge.alignment)
