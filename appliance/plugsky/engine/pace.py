"""How long a step takes, learnt from the steps so far, and how many prompt tokens fit into the next.

A step's time is taken to be ``a + b * decode + c * prefill`` for the tokens that decode and those of prompts: ``a`` is
what any step costs. The three are fitted by least squares of the relative error, recent steps counting most, and each
is held where it was believed to be as far as the steps do not say (those of one kind cannot tell ``a`` from the rest).
A change of clock or cores is followed within some tens of steps.

The budget holds the target: ``a + b * decode + c * budget <= target``. A step that completes a prompt may take longer,
because a first token is worth more than an even pace: its *reach* is counted likewise. Where decoding alone comes near
the target or beyond, prompts still get :data:`SHARE` of the time that it takes, and one token at least, so that they
move however slow the machine is, and a step takes at most ``1 + SHARE`` times as long as it would without them.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

FADE: Final = 0.95
FIRST: Final = (2_000.0, 4_000.0, 2_000.0)
"""µs believed of a machine nothing is known of: a small model on two cores."""
SHARE: Final = 0.5
_BELIEF: Final = 0.05
_VAGUE: Final = np.array(FIRST) / 20.0
_OUTLIER: Final = 8.0


@dataclass(frozen=True, slots=True)
class Prices:
    """What the parts of one step cost, in µs: being run at all, each token that decodes, each of a prompt."""

    step: float
    decode: float
    prefill: float


class Pace:
    """``target_us`` is how long a step may take while some task decodes; ``alone_us`` while none does.

    ``first_us`` is how long it may take if that completes a prompt.
    """

    def __init__(self, target_us: int, alone_us: int, batch: int, first_us: int = 0) -> None:
        self._target_us = target_us
        self._first_us = first_us
        self._alone_us = alone_us
        self._batch = batch
        self._squares = np.zeros((3, 3))
        self._sums = np.zeros(3)
        self.believed = Prices(*FIRST)

    def learn(self, decode: int, prefill: int, t_us: int) -> None:
        """A step with so many tokens of each kind took ``t_us``. One that stalled counts for eight times the belief."""
        last = self.believed
        expected = last.step + last.decode * decode + last.prefill * prefill
        t_us = min(t_us, int(_OUTLIER * expected))
        x = np.array((1.0, decode, prefill)) / t_us
        self._squares = FADE * self._squares + np.outer(x, x)
        self._sums = FADE * self._sums + x
        values = np.array((last.step, last.decode, last.prefill))
        pull = _BELIEF / np.maximum(values, _VAGUE) ** 2
        fit = np.linalg.solve(self._squares + np.diag(pull), self._sums + pull * values)
        self.believed = Prices(*(max(1.0, float(value)) for value in fit))

    def budget(self, decode: int) -> int:
        """Prompt tokens for a step in which ``decode`` tasks decode."""
        return self._within(self._target_us if decode else self._alone_us, decode)

    def reach(self, decode: int) -> int:
        """The same for a step whose prompts are completed by it; never less than the budget."""
        return max(self.budget(decode), self._within(self._first_us, decode))

    def _within(self, target_us: int, decode: int) -> int:
        without = self.believed.step + self.believed.decode * decode
        return min(max(1, int(max(target_us - without, SHARE * without) / self.believed.prefill)), self._batch - decode)

    def prices(self, decode: int, prefill: int, t_us: int) -> Prices:
        """What is believed, scaled so that the parts of this step come to ``t_us``."""
        now = self.believed
        factor = t_us / (now.step + now.decode * decode + now.prefill * prefill)
        return Prices(now.step * factor, now.decode * factor, now.prefill * factor)
