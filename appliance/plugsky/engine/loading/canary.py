"""A known text read alone and among neighbours: what the model makes of it must be the same.

Sequences share one cache, and nothing but masks keeps them apart. Should a bug of llama.cpp, of a kernel or of our own
counting let one sequence read another's cells, answers would hold what other tenants wrote, and no error would tell. So
a known text is teacher-forced twice, alone and in batches with two others, and the next-token distributions are
compared: mean KL divergence over :data:`JUDGED` positions, in nats. The text is every third token of
``known_text.txt``, which no model can foresee, and one neighbour holds in advance what is judged: who reads a few of
its cells foresees it.

Batches of another shape use other kernels, so a healthy engine need not give 0; 0.004 has been seen. The bound is
:data:`BOUND`; one leaked cell gave 0.13 and eight 2.8 with SmolLM2-135M, and at the worst of six places in the text
0.03 and 0.8. Judging 16 positions costs 1.7 times as much and finds less: what leaks tells most about what comes
first, and gave 0.09 and 1.4. It costs :data:`COST` tokens of compute, once
at load and when asked for, and two times :data:`JUDGED` rows of logits. It uses sequences and cells that nothing else
uses, so it may run between any two steps, with everybody's cells in place.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.llama import native
from plugsky.engine.scheduling.plan import Chunk

BOUND: Final = 0.02
BEFORE: Final = 8
"""Tokens of the canary that are in the cache before the judged ones are computed."""
JUDGED: Final = 8
STRIDE: Final = 3
"""The canary is every third token of the text: no model expects what comes next, unless it sees it elsewhere."""
SEQUENCES: Final = 3
CELLS: Final = 256
"""Cells kept for it: llama.cpp counts in 256."""
COST: Final = 2 * BEFORE + 5 * JUDGED

Rows = npt.NDArray[np.float32]


class Reader(Protocol):
    """What a canary needs; :class:`plugsky.engine.llama.native.Context` is the real one."""

    def decode(self, chunks: Sequence[Chunk]) -> list[Rows]: ...

    def clear(self, place: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """The mean KL divergence in nats, and how long it took to find."""

    kl: float
    t_us: int

    @property
    def tripped(self) -> bool:
        return not self.kl <= BOUND  # also when it is no number


def run(reader: Reader, tokens: Sequence[int], first: int) -> Verdict:
    """Read a canary made of ``tokens`` alone and among others, as sequences from ``first`` on; they must be empty.

    A batch that is refused, because a sequence holds positions that nobody gave it, is an infinite divergence. Whatever
    else ``reader`` raises is passed on; the sequences are cleared.
    """
    began = time.monotonic_ns()
    scattered = [tokens[STRIDE * n % len(tokens)] for n in range(BEFORE + 2 * JUDGED)]
    own, other = scattered[: BEFORE + JUDGED], scattered[BEFORE + JUDGED :]
    judged = [Chunk(-1, first, at, (own[at],), outputs=1) for at in range(BEFORE, len(own))]
    beginning = Chunk(-1, first, 0, own[:BEFORE], outputs=0)
    giveaway = own[BEFORE:]
    try:
        reader.decode([beginning])
        alone = np.stack([_log_softmax(row) for row in reader.decode(judged)])
        reader.clear(first)
        reader.decode(
            [Chunk(-1, first + 1, 0, giveaway, outputs=0), beginning, Chunk(-1, first + 2, 0, other[:1], outputs=0)]
        )
        rows = reader.decode(
            [Chunk(-1, first + 1, JUDGED, other, outputs=0), *judged, Chunk(-1, first + 2, 1, other[1:], outputs=0)]
        )
        kl = float(np.mean([_divergence(before, _log_softmax(row)) for before, row in zip(alone, rows, strict=True)]))
    except native.BatchRefusedError:
        kl = math.inf
    finally:
        for seq in range(first, first + SEQUENCES):
            reader.clear(seq)
    return Verdict(kl, (time.monotonic_ns() - began) // 1000)


def refuse_tripped(verdict: Verdict) -> None:
    """Raise ``internal`` when ``verdict`` tripped: such an engine must serve nobody."""
    if verdict.tripped:
        raise EngineError(
            ErrorKind.INTERNAL,
            "the canary tripped: requests in this engine would read each other's text",
            why=f"a known text diverges by {verdict.kl:.3f} nats among neighbours, allowed are {BOUND}",
            next="Do not use this model with this build on this host; report both to the supplier",
        )


def _log_softmax(row: Rows) -> Rows:
    shifted: Rows = row - row.max()
    return shifted - np.float32(np.log(np.exp(shifted).sum(dtype=np.float64)))


def _divergence(p: Rows, q: Rows) -> float:
    """KL(p || q) of two rows of log-probabilities."""
    return float(np.sum(np.exp(p) * (p - q), dtype=np.float64))
