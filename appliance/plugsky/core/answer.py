"""What comes of a request, as frames carry it: tokens and text step by step, and at the end what it used."""

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "cancelled", "deadline"]


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a request consumed, counted by the engine. ``engine_us`` is its share of measured compute time.

    How many of the completion's tokens were reasoning, the gateway tells, which reads them as the model's family does;
    and how many of the prompt's were images.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    engine_us: int = 0
    reasoning_tokens: int = 0
    image_tokens: int = 0


class Finish(msgspec.Struct, frozen=True, omit_defaults=True):
    """The end of a request: why it ended and what it used.

    ``stop`` is the stop string that ended it, empty if none did. ``embedding`` holds little-endian 32-bit floats, as a
    vector of length 1; ``score`` is that of a pair.
    """

    reason: FinishReason
    usage: Usage
    embedding: bytes = b""
    score: float | None = None
    stop: str = ""


class TokenLogprob(msgspec.Struct, frozen=True, omit_defaults=True):
    """The log-probability of one token, whose text is ``piece``, and of the likeliest in its place.

    Those are ``(id, piece, logprob)``. A piece may hold a part of a character.
    """

    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()
    piece: bytes = b""


class StepItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """News of one request in one step: token ids, the text they complete (whole characters), perhaps its end.

    ``prompt_logprobs`` are those of the prompt's next tokens, from its second on: the first has none. All of them come
    before the first of ``ids``.
    """

    rid: int
    ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    final: Finish | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
