"""How tokens are chosen, as values: the parameters of a request checked and laid out as a chain of stages.

Pure. :mod:`plugsky.engine.llama.native` turns the stages that narrow into native samplers,
:mod:`plugsky.engine.tokens.choosing` carries out the others. The order is llama.cpp's own: bias, penalties, DRY, top_k,
typical, top_p, min_p, temperature, then the draw. A temperature of 0 is greedy. Penalties and DRY count the tokens of
the answer, as the OpenAI API defines them, not those of the prompt.
"""

import secrets
from dataclasses import dataclass
from typing import Final

from plugsky.core.frames import Params
from plugsky.engine.errors import bad_request
from plugsky.engine.grammars import gbnf

MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 256
MAX_BIASES: Final = 1024
MAX_BIAS: Final = 1e6
MAX_TEMPERATURE: Final = 100.0
MIN_TEMPERATURE: Final = 1e-6
"""Below it the likeliest token is taken: nothing else has a probability that a float can tell from 0."""
MAX_TOP_LOGPROBS: Final = 20
MAX_TRIGGERS: Final = 16


@dataclass(frozen=True)
class LogitBias:
    """Add a constant to the logits of these tokens."""

    biases: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Penalties:
    """Make tokens of the answer less likely to come again; ``last_n`` of them count, or all (-1)."""

    repeat: float
    frequency: float
    presence: float
    last_n: int = -1


@dataclass(frozen=True)
class Dry:
    """Make a token less likely the longer the run of tokens that it would repeat: "don't repeat yourself".

    The penalty is ``multiplier * base ** (length - allowed_length)``. The end of a line, a colon, a quotation mark and
    an asterisk break a run.
    """

    multiplier: float
    base: float
    allowed_length: int
    last_n: int


@dataclass(frozen=True)
class TopK:
    """Keep the ``k`` likeliest tokens."""

    k: int


@dataclass(frozen=True)
class Typical:
    """Keep the tokens nearest to the expected surprise whose probabilities sum to ``p``."""

    p: float


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
    """Draw one token by its probability, with random numbers of the request's own."""

    seed: int


@dataclass(frozen=True)
class Greedy:
    """Take the likeliest token."""


Narrowing = Penalties | Dry | TopK | Typical | TopP | MinP
"""Stages that change candidates by what came before, or drop some."""
Stage = LogitBias | Narrowing | Temperature | Draw | Greedy


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
    if not all(abs(bias) <= MAX_BIAS for bias in params.logit_bias.values()):
        raise bad_request(f"logit_bias must be numbers between -{MAX_BIAS:g} and {MAX_BIAS:g}", "logit_bias")
    for name in ("top_logprobs", "prompt_logprobs"):
        value = getattr(params, name)
        if value is not None and not 0 <= value <= MAX_TOP_LOGPROBS:
            raise bad_request(f"{name} must be between 0 and {MAX_TOP_LOGPROBS}", name)
    _check_grammar(params)


def _check_grammar(params: Params) -> None:
    if params.grammar_triggers and not params.grammar:
        raise bad_request("grammar_triggers are given without a grammar", "grammar_triggers")
    if len(params.grammar_triggers) > MAX_TRIGGERS:
        raise bad_request(f"grammar_triggers holds more than {MAX_TRIGGERS} texts", "grammar_triggers")
    if not all(0 < len(trigger) <= MAX_STOP_CHARS for trigger in params.grammar_triggers):
        raise bad_request(f"each trigger has 1 to {MAX_STOP_CHARS} characters", "grammar_triggers")
    if params.grammar:
        if params.ignore_eos:
            raise bad_request("an answer under a grammar ends when the grammar says so", "ignore_eos")
        gbnf.read(params.grammar)


_RANGES: Final = (
    ("temperature", 0.0, MAX_TEMPERATURE),
    ("top_k", 0, 1 << 30),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("typical_p", 0.0, 1.0),
    ("presence_penalty", -100.0, 100.0),
    ("frequency_penalty", -100.0, 100.0),
    ("repeat_penalty", 0.01, 100.0),
    ("repeat_last_n", -1, 1 << 20),
    ("dry_multiplier", 0.0, 100.0),
    ("dry_base", 1.0, 100.0),
    ("dry_allowed_length", 0, 1 << 20),
    ("dry_penalty_last_n", -1, 1 << 20),
)


def stages(params: Params) -> tuple[Stage, ...]:
    """The chain for ``params``, which :func:`check` has passed. Draws a seed where none is given."""
    chain: list[Stage] = []
    if params.logit_bias:
        chain.append(LogitBias(tuple(sorted(params.logit_bias.items()))))
    penalised = params.presence_penalty or params.frequency_penalty or params.repeat_penalty != 1.0
    if penalised and params.repeat_last_n:
        repeat, frequency, presence = params.repeat_penalty, params.frequency_penalty, params.presence_penalty
        chain.append(Penalties(repeat, frequency, presence, params.repeat_last_n))
    if params.dry_multiplier and params.dry_penalty_last_n:
        length, last_n = params.dry_allowed_length, params.dry_penalty_last_n
        chain.append(Dry(params.dry_multiplier, params.dry_base, length, last_n))
    if params.temperature < MIN_TEMPERATURE:
        return (*chain, Greedy())
    if params.top_k:
        chain.append(TopK(params.top_k))
    if params.typical_p < 1.0:
        chain.append(Typical(params.typical_p))
    if params.top_p < 1.0:
        chain.append(TopP(params.top_p))
    if params.min_p > 0.0:
        chain.append(MinP(params.min_p))
    if params.temperature != 1.0:
        chain.append(Temperature(params.temperature))
    return (*chain, Draw(_seed(params.seed)))


def _seed(asked: int | None) -> int:
    """A seed of 32 bits; longer ones are reduced, never refused."""
    return secrets.randbits(32) if asked is None else asked & 0xFFFFFFFF
