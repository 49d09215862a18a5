"""How tokens are chosen, as values: the parameters of a request checked and laid out as a chain of stages.

Pure. :mod:`plugsky.engine.llama` turns the stages into native samplers. The order is llama.cpp's own: bias, penalties,
top_k, top_p, min_p, temperature, then the draw. A temperature of 0 is greedy. Penalties count the tokens of the answer,
as the OpenAI API defines them, not those of the prompt.
"""

import math
import secrets
from dataclasses import dataclass
from typing import Final

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Params
from plugsky.engine.errors import EngineError, bad_request

MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 256
MAX_BIASES: Final = 1024
MAX_TEMPERATURE: Final = 100.0
_ANY_SEED: Final = 0xFFFFFFFF  # llama.cpp draws a seed of its own for this one


@dataclass(frozen=True)
class LogitBias:
    """Add a constant to the logits of these tokens."""

    biases: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Penalties:
    """Make tokens of the answer less likely to come again."""

    repeat: float
    frequency: float
    presence: float


@dataclass(frozen=True)
class TopK:
    """Keep the ``k`` likeliest tokens."""

    k: int


@dataclass(frozen=True)
class TopP:
    """Keep the likeliest tokens whose probabilities sum to ``p``."""

    p: float


@dataclass(frozen=True)
class MinP:
    """Keep tokens at least ``p`` times as likely as the likeliest."""

    p: float


@dataclass(frozen=True)
class Temperature:
    """Divide logits by ``t``."""

    t: float


@dataclass(frozen=True)
class Draw:
    """Draw one token by its probability, with a random state of the request's own."""

    seed: int


@dataclass(frozen=True)
class Greedy:
    """Take the likeliest token."""


Stage = LogitBias | Penalties | TopK | TopP | MinP | Temperature | Draw | Greedy


def check(params: Params, n_vocab: int) -> None:
    """Refuse parameters out of range. Raises ``bad_request`` that names the field, ``unsupported_field`` where due."""
    for name, low, high in _RANGES:
        value = getattr(params, name)
        if not low <= value <= high:  # NaN is in no range
            raise bad_request(f"{name} must be between {low:g} and {high:g}", name)
    if len(params.stop) > MAX_STOPS:
        raise bad_request(f"stop holds {len(params.stop)} strings; at most {MAX_STOPS} are allowed", "stop")
    if not all(0 < len(stop) <= MAX_STOP_CHARS for stop in params.stop):
        raise bad_request(f"each stop string has 1 to {MAX_STOP_CHARS} characters", "stop")
    if len(params.logit_bias) > MAX_BIASES:
        raise bad_request(f"logit_bias names {len(params.logit_bias)} tokens; at most {MAX_BIASES}", "logit_bias")
    if not all(0 <= token < n_vocab for token in params.logit_bias):
        raise bad_request(f"logit_bias names a token outside 0 to {n_vocab - 1}", "logit_bias")
    if not all(math.isfinite(bias) for bias in params.logit_bias.values()):
        raise bad_request("logit_bias must be finite numbers", "logit_bias")
    if params.top_logprobs is not None:
        raise EngineError(
            ErrorKind.UNSUPPORTED_FIELD, "this engine does not report log-probabilities", param="top_logprobs"
        )


_RANGES: Final = (
    ("temperature", 0.0, MAX_TEMPERATURE),
    ("top_k", 0, 1 << 30),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("presence_penalty", -100.0, 100.0),
    ("frequency_penalty", -100.0, 100.0),
    ("repeat_penalty", 0.01, 100.0),
)


def stages(params: Params) -> tuple[Stage, ...]:
    """The chain for ``params``, which :func:`check` has passed. Draws a seed where none is given."""
    chain: list[Stage] = []
    if params.logit_bias:
        chain.append(LogitBias(tuple(sorted(params.logit_bias.items()))))
    if params.presence_penalty or params.frequency_penalty or params.repeat_penalty != 1.0:
        chain.append(Penalties(params.repeat_penalty, params.frequency_penalty, params.presence_penalty))
    if params.temperature == 0:
        return (*chain, Greedy())
    if params.top_k:
        chain.append(TopK(params.top_k))
    if params.top_p < 1.0:
        chain.append(TopP(params.top_p))
    if params.min_p > 0.0:
        chain.append(MinP(params.min_p))
    if params.temperature != 1.0:
        chain.append(Temperature(params.temperature))
    return (*chain, Draw(_seed(params.seed)))


def _seed(asked: int | None) -> int:
    """A seed of 32 bits; longer ones are reduced, never refused."""
    seed = secrets.randbits(32) if asked is None else asked & 0xFFFFFFFF
    return 0 if seed == _ANY_SEED else seed
