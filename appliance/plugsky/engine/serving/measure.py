"""What a model makes of a fixed text, and whether it answers: the engine's part of a health check.

The file is loaded the way an engine loads it, except that it is not hashed: whoever asks has just compared its bytes.
For a model that generates there is the **NLL**: the mean negative log-likelihood, in nats per token, of the first
:data:`TOKENS` tokens of ``known_text.txt`` (C. Darwin, *The Voyage of the Beagle*, 1845; public domain), each predicted
from all before it. The number depends on the weights, and in its fourth digit on CPU and batch (docs/benchmarks.md);
text that is generated may differ from its first word on, so it is no measure.
A model that embeds or reranks has no NLL: it must make of a short text, or of a pair of them, numbers that mean
something. An embedding has a direction, so that it can be scaled to length 1; a score is finite.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from plugsky.core.frames import Message, Prepare
from plugsky.engine.headers.estimate import Holding
from plugsky.engine.headers.offload import place
from plugsky.engine.headers.shape import shape
from plugsky.engine.known_text import TEXT
from plugsky.engine.llama import native
from plugsky.engine.llama.pooling import PooledContext, pair_form
from plugsky.engine.loading import loading
from plugsky.engine.loading.model_file import check_file
from plugsky.engine.prompting.inputs import Inputs
from plugsky.engine.prompting.prompts import Prompts
from plugsky.engine.prompting.renderer import Renderer
from plugsky.engine.scheduling.plan import Chunk
from plugsky.engine.stepping.embedding import normalised

TOKENS: Final = 128
BATCH: Final = 64
"""Tokens per decode. Each asks for its logits, so a batch takes 64 x vocabulary x 4 bytes: 67 MB for 262,144 tokens."""
CELLS: Final = 512
ANSWER: Final = 16
"""Tokens within which an answer must show a character that is not a space."""
QUESTION: Final = "Say hello."
MICRO: Final = 1_000_000

_LOADED: Final = 40
_READ: Final = 95
"""Per cent of the work that are done when the model is loaded, and when the text is read."""

Told = Callable[[int], None]


def measure(file: Path, mode: str, threads: int, told: Told) -> dict[str, Any]:
    """Measure the model in ``file``; ``told`` hears how many per cent are done.

    The members are those of ``plugsky.models.measuring.Measured``. Raises :class:`~plugsky.engine.errors.EngineError`
    as :func:`plugsky.engine.loading.loading.load` does.
    """

    def loaded(fraction: float) -> bool:
        told(int(_LOADED * fraction))
        return True

    embeds = mode != "generate"
    batch = CELLS if embeds else BATCH
    holding = Holding(CELLS, batch, sequences=1, outputs=batch, vectors=embeds, features=native.features())
    place(shape(check_file(file)), holding, loading.free_memory())
    model = native.Model(file, loaded)
    try:
        if mode != "generate":
            pools: Literal["embed", "rerank"] = "rerank" if mode == "rerank" else "embed"
            pooled = PooledContext(model, holding, pools, threads)
            try:
                answered = _pools(model, pooled, pools)
            finally:
                pooled.close()
            return {
                "text_sha256": "",
                "tokens": 0,
                "nll_micronats": None,
                "answered": answered,
                "build": native.build(),
            }
        context = native.Context(model, holding, threads)
        try:
            return _generates(model, context, told)
        finally:
            context.close()
    finally:
        model.close()


def _generates(model: native.Model, context: native.Context, told: Told) -> dict[str, Any]:
    text = TEXT.read_text(encoding="utf-8")
    tokens = model.tokens(text, add_special=True, parse_special=False)[: min(TOKENS, model.n_ctx_train)]
    loss = nll(context, tokens, lambda done: told(_LOADED + (_READ - _LOADED) * done // len(tokens)))
    context.clear(0)
    return {
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "tokens": max(0, len(tokens) - 1),
        "nll_micronats": round(loss * MICRO) if math.isfinite(loss) else None,
        "answered": answers(model, context),
        "build": native.build(),
    }


def _pools(model: native.Model, context: PooledContext, mode: Literal["embed", "rerank"]) -> bool:
    inputs = Inputs(model, mode, pair_form(model), context.longest)
    embeds = mode == "embed"
    frame = Prepare(rid=0, tenant="", text=QUESTION if embeds else None, pair=None if embeds else (QUESTION, QUESTION))
    (vector,) = context.compute([inputs.prepare(frame).tokens])
    return normalised(vector) is not None if embeds else math.isfinite(float(vector[0]))


def nll(context: native.Context, tokens: Sequence[int], told: Told, batch: int = BATCH) -> float:
    """The mean NLL of all ``tokens`` but the first, in nats per token; NaN or infinite where the weights are broken.

    Fewer than two tokens have none: NaN. Place 0 of ``context`` must be empty; it holds ``tokens`` afterwards.
    """
    total = 0.0
    for start in range(0, len(tokens), batch):
        part = tokens[start : start + batch]
        rows = context.decode([Chunk(0, 0, start, part, outputs=len(part))])
        for row, following in zip(rows, tokens[start + 1 : start + 1 + len(part)], strict=False):
            logits = row.astype(np.float64)
            peak = logits.max()
            total += float(peak + np.log(np.exp(logits - peak).sum()) - logits[following])
        told(start + len(part))
    return total / (len(tokens) - 1) if len(tokens) > 1 else math.nan


def answers(model: native.Model, context: native.Context) -> bool:
    """Whether the likeliest answer to a short question shows a visible character within :data:`ANSWER` tokens.

    Place 0 of ``context`` must be empty.
    """
    pending, done, said = _question(model, context), 0, b""
    for _ in range(ANSWER):
        rows: list[native.Logits] = []
        while pending:
            part, pending = pending[:BATCH], pending[BATCH:]
            rows = context.decode([Chunk(0, 0, done, part, outputs=1)])
            done += len(part)
        token = int(np.argmax(rows[-1]))
        if model.ends(token):
            return False
        said += model.piece(token)
        if said.decode("utf-8", "ignore").strip():
            return True
        pending = (token,)
    return False


def _question(model: native.Model, context: native.Context) -> tuple[int, ...]:
    renderer = Renderer(model.template, bos=model.bos, eos=model.eos) if model.template else None
    try:
        prompts = Prompts(model, renderer, min(context.cells, model.n_ctx_train) - ANSWER)
        if renderer is None:
            return prompts.prepare(Prepare(rid=0, tenant="", text=QUESTION)).tokens
        return prompts.prepare(Prepare(rid=0, tenant="", messages=(Message("user", QUESTION),))).tokens
    finally:
        if renderer is not None:
            renderer.close()
