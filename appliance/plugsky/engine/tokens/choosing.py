"""One token out of one row of logits: the last word of a chain of stages, and how a grammar has a say in it.

Pure. Guarantees: (1) a draw depends on the seed, the place in the answer and the logits alone, so that neighbours
change nothing and a resumed answer goes on as it would have; (2) under a grammar a token comes as often as its
probability among the tokens that the grammar admits. The token is drawn first and only then checked, because nearly
all pass; one that does not is taken out, with those that begin with a wrong byte, and the next draw uses a random
number of its own: with the same one, tokens beside a refused one would come too often.
"""

import hashlib
import struct
from itertools import count
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.grammars.constraint import Constraint
from plugsky.engine.grammars.grammar import refused
from plugsky.engine.tokens import sampling

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]

_BLOCK: Final = 256
_CHECKED_AT_ONCE: Final = 16


class Chain(Protocol):
    """The stages before the last, with what they remember of the answer."""

    def narrow(self, ids: Ids | None, logits: Logits) -> tuple[Ids, Logits]:
        """The candidates left of ``ids`` (None: all tokens) and their logits."""

    def accept(self, token: int) -> None: ...

    def close(self) -> None: ...


class Chooser:
    """How one sequence chooses its tokens. ``stages`` are all; ``chain`` carries out those that narrow."""

    def __init__(
        self,
        stages: tuple[sampling.Stage, ...],
        room: Logits,
        chain: Chain | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        """``room`` holds at least a row of logits and may be shared by all that choose on one thread."""
        self._room = room
        self._chain = chain
        self._constraint = constraint
        self._seed = next((stage.seed for stage in stages if isinstance(stage, sampling.Draw)), None)
        self._temperature = next((stage.t for stage in stages if isinstance(stage, sampling.Temperature)), 1.0)
        biases = next((stage.biases for stage in stages if isinstance(stage, sampling.LogitBias)), ())
        self._biased = np.array([token for token, _ in biases], dtype=np.int32)
        self._biases = np.array([bias for _, bias in biases], dtype=np.float32)
        self._place = 0

    @property
    def done(self) -> bool:
        """Whether the answer can only end here: nothing need be computed to know it."""
        return self._constraint is not None and self._constraint.exhausted

    def pick(self, logits: Logits) -> int:
        """Choose one token. ``logits`` is one row of the last decode; it is not changed."""
        if len(self._biased):
            logits = logits.copy()
            logits[self._biased] += self._biases
        token = self._choose(None, logits, 0)
        if self._constraint is None or self._constraint.allows(token):
            return token
        return self._admitted(self._constraint, logits)

    def accept(self, token: int) -> None:
        """Count ``token`` as the next of the answer. Raises ``bad_request`` where the grammar does not admit it."""
        if self._constraint is not None:
            self._constraint.accept(token)
        if self._chain is not None:
            self._chain.accept(token)
        self._place += 1

    def close(self) -> None:
        """Give back what lives outside Python's memory."""
        if self._chain is not None:
            self._chain.close()

    def _admitted(self, constraint: Constraint, logits: Logits) -> int:
        possible = constraint.possible()
        for attempt in count(1):
            ids = np.flatnonzero(possible).astype(np.int32)
            if not len(ids):
                raise refused("no token of this model can go on as the grammar says")
            values = logits[ids]
            token = self._choose(ids, values, attempt)
            if constraint.allows(token):
                return token
            constraint.rule_out(token, possible)
            # The likeliest are in the way: check more of them each time, so that few rounds are needed.
            most = min(_CHECKED_AT_ONCE << attempt, len(ids))
            for likely in ids[np.argpartition(values, -most)[-most:]].tolist():
                if possible[likely] and not constraint.allows(likely):
                    constraint.rule_out(likely, possible)
        raise AssertionError

    def _choose(self, ids: Ids | None, logits: Logits, attempt: int) -> int:
        if self._chain is not None:
            ids, logits = self._chain.narrow(ids, logits)
        if self._seed is None:
            at = int(np.argmax(logits))
        else:
            at = draw(logits, self._temperature, uniform(self._seed, self._place, attempt), self._room)
        return at if ids is None else int(ids[at])


def uniform(seed: int, place: int, attempt: int) -> float:
    """A number from 0 up to 1 that looks random and is always the same for the same three."""
    digest = hashlib.blake2b(struct.pack("<IQI", seed, place, attempt), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2.0**53


def draw(logits: Logits, temperature: float, at: float, room: Logits) -> int:
    """The index at which the probabilities, summed in order, pass ``at``. Raises ``internal`` for logits of no use.

    ``room`` is overwritten: rows are long, and one is drawn from per token.
    """
    weights = room[: len(logits)]
    np.subtract(logits, logits.max(), out=weights)
    np.multiply(weights, np.float32(1.0 / temperature), out=weights)
    np.exp(weights, out=weights)
    starts = np.arange(0, len(weights), _BLOCK)
    sums = np.cumsum(np.add.reduceat(weights, starts), dtype=np.float64)
    total = float(sums[-1])
    if not 0.0 < total < np.inf:
        raise EngineError(ErrorKind.INTERNAL, "the model gave no usable probabilities")
    block = min(int(np.searchsorted(sums, at * total, side="right")), len(sums) - 1)
    inside = weights[starts[block] : starts[block] + _BLOCK]
    before = float(sums[block - 1]) if block else 0.0
    within = min(
        int(np.searchsorted(np.cumsum(inside, dtype=np.float64), at * total - before, side="right")), len(inside) - 1
    )
    if inside[within] > 0.0:
        return int(starts[block]) + within
    return int(starts[block]) + int(np.argmax(inside))  # rounding led past the block's last candidate
