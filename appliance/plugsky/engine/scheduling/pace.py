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

from collections.abc import Sequence
from typing import Final, NamedTuple

FADE: Final = 0.95
FIRST: Final = (2_000.0, 4_000.0, 2_000.0)
"""µs believed of a machine nothing is known of: a small model on two cores."""
SHARE: Final = 0.5
_BELIEF: Final = 0.05
_VAGUE: Final = tuple(value / 20.0 for value in FIRST)
_OUTLIER: Final = 8.0


class Prices(NamedTuple):
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
        self._squares: tuple[float, ...] = (0.0,) * 6
        self._sums: tuple[float, ...] = (0.0,) * 3
        self.believed = Prices(*FIRST)

    def learn(self, decode: int, prefill: int, t_us: int) -> None:
        """A step with so many tokens of each kind took ``t_us``. One that stalled counts for eight times the belief."""
        last = self.believed
        expected = last.step + last.decode * decode + last.prefill * prefill
        t_us = min(t_us, int(_OUTLIER * expected))
        x = a, b, c = 1.0 / t_us, decode / t_us, prefill / t_us
        squares = (a * a, a * b, a * c, b * b, b * c, c * c)
        self._squares = _faded(self._squares, squares)
        self._sums = _faded(self._sums, x)
        pull = [_BELIEF / max(value, vague) ** 2 for value, vague in zip(last, _VAGUE, strict=True)]
        aa, ab, ac, bb, bc, cc = self._squares
        fit = _solved(
            (aa + pull[0], ab, ac, bb + pull[1], bc, cc + pull[2]),
            [known + weight * value for known, weight, value in zip(self._sums, pull, last, strict=True)],
        )
        self.believed = Prices(*(max(1.0, value) for value in fit))

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


def _faded(before: Sequence[float], now: Sequence[float]) -> tuple[float, ...]:
    return tuple(FADE * old + new for old, new in zip(before, now, strict=True))


def _solved(matrix: Sequence[float], right: Sequence[float]) -> tuple[float, float, float]:
    """The solution of three equations, of whose symmetric, positive definite matrix the upper half is given by rows.

    Done by hand: what numpy takes for so few numbers is felt in every step.
    """
    aa, ab, ac, bb, bc, cc = matrix
    a, b, c = right
    by_b, by_c = ab / aa, ac / aa
    bb, bc, b = bb - by_b * ab, bc - by_b * ac, b - by_b * a
    cc, c = cc - by_c * ac, c - by_c * a
    z = (c - bc / bb * b) / (cc - bc / bb * bc)
    y = (b - bc * z) / bb
    return (a - ab * y - ac * z) / aa, y, z
