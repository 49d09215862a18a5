"""An encoder of a few kilobytes that llama.cpp really runs: one BERT layer, a few words, weights drawn by a seed."""

import functools
import math
import struct

import numpy as np

from bundles.gguf_forge import ARRAY, BOOL, F32, F32_TENSOR, I32, STRING, U32, Forge

WIDTH, HEADS, FORWARD, CONTEXT, EPSILON = 16, 2, 32, 64, 1e-5
MEAN, CLS, LAST, RANK = 1, 2, 3, 4
WORDS = ("apple", "pear", "fruit", "engine", "wheel", "road")
TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\u2581{word}" for word in WORDS))
UNKNOWN, BEGIN, SEPARATOR = 1, 2, 3
NORMAL, CONTROL = 1, 3

SHAPES = {
    "token_embd.weight": (WIDTH, len(TOKENS)),
    "position_embd.weight": (WIDTH, CONTEXT),
    "token_types.weight": (WIDTH, 2),
    "token_embd_norm.weight": (WIDTH,),
    "token_embd_norm.bias": (WIDTH,),
    **{f"blk.0.attn_{name}.weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
    "blk.0.attn_output_norm.weight": (WIDTH,),
    "blk.0.attn_output_norm.bias": (WIDTH,),
    "blk.0.ffn_up.weight": (WIDTH, FORWARD),
    "blk.0.ffn_down.weight": (FORWARD, WIDTH),
    "blk.0.layer_output_norm.weight": (WIDTH,),
    "blk.0.layer_output_norm.bias": (WIDTH,),
    "cls.output.weight": (WIDTH, 1),
    "cls.output.bias": (1,),
}


@functools.cache
def weights(seed=1):
    """Its tensors by name, as numpy has them: (rows, columns)."""
    draw = np.random.default_rng(seed)
    return {name: draw.normal(0, 0.5, shape[::-1]).astype(np.float32) for name, shape in SHAPES.items()}


def small_bert(pooling=RANK, template=None):
    """The bytes of its GGUF. ``pooling`` None: the file names none."""
    tensors = {name: value for name, value in weights().items() if pooling == RANK or "cls" not in name}
    keys = [
        ("general.architecture", STRING, "bert"),
        ("general.name", STRING, "Small"),
        ("general.file_type", U32, 0),
        ("bert.context_length", U32, CONTEXT),
        ("bert.embedding_length", U32, WIDTH),
        ("bert.block_count", U32, 1),
        ("bert.feed_forward_length", U32, FORWARD),
        ("bert.attention.head_count", U32, HEADS),
        ("bert.attention.layer_norm_epsilon", F32, EPSILON),
        ("bert.attention.causal", BOOL, False),
        *([] if pooling is None else [("bert.pooling_type", U32, pooling)]),
        ("tokenizer.ggml.model", STRING, "bert"),
        ("tokenizer.ggml.pre", STRING, "jina-v2-en"),
        ("tokenizer.ggml.token_type_count", U32, 2),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, list(TOKENS))),
        ("tokenizer.ggml.token_type", ARRAY, (I32, [CONTROL] * 5 + [NORMAL] * len(WORDS))),
        ("tokenizer.ggml.bos_token_id", U32, BEGIN),
        ("tokenizer.ggml.eos_token_id", U32, SEPARATOR),
        ("tokenizer.ggml.unknown_token_id", U32, UNKNOWN),
        ("tokenizer.ggml.seperator_token_id", U32, SEPARATOR),
        ("tokenizer.ggml.padding_token_id", U32, 0),
        ("tokenizer.ggml.mask_token_id", U32, 4),
        *([] if template is None else [("tokenizer.chat_template.rerank", STRING, template)]),
    ]
    sizes = [(name, SHAPES[name], F32_TENSOR, 4 * math.prod(SHAPES[name])) for name in tensors]
    forge = Forge(keys=keys, tensors=sizes)
    data = forge.header()
    for value in tensors.values():
        data += bytes(-len(data) % forge.alignment) + struct.pack(f"<{value.size}f", *value.ravel())
    return data + bytes(-len(data) % forge.alignment)


def hidden(tokens):
    """What the layer makes of ``tokens``, computed here: one row for each."""
    of = weights()
    x = of["token_embd.weight"][list(tokens)] + of["position_embd.weight"][: len(tokens)] + of["token_types.weight"][0]
    x = _norm(x, "token_embd_norm")
    query, key, value = (x @ of[f"blk.0.attn_{name}.weight"].T for name in "qkv")
    heads = []
    for at in range(0, WIDTH, WIDTH // HEADS):
        part = slice(at, at + WIDTH // HEADS)
        scores = query[:, part] @ key[:, part].T / math.sqrt(WIDTH // HEADS)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(shares / shares.sum(axis=1, keepdims=True) @ value[:, part])
    x = _norm(x + np.concatenate(heads, axis=1) @ of["blk.0.attn_output.weight"].T, "blk.0.attn_output_norm")
    up = x @ of["blk.0.ffn_up.weight"].T
    bent = 0.5 * up * (1 + np.vectorize(math.erf)(up / math.sqrt(2)))
    return _norm(x + bent @ of["blk.0.ffn_down.weight"].T, "blk.0.layer_output_norm")


def score(tokens):
    """What its classifier makes of ``tokens``, computed here."""
    return float(hidden(tokens)[0] @ weights()["cls.output.weight"][0] + weights()["cls.output.bias"][0])


def _norm(x, name):
    of = weights()
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + EPSILON)
    return scaled * of[f"{name}.weight"] + of[f"{name}.bias"]
