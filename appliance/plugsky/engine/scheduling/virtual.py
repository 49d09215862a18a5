"""Images among the tokens of a prompt: each is a run of *virtual* tokens, numbers below zero that no vocabulary has.

So the prefix tree, the exact comparison, the cells and the bill of an image are those of any tokens. Rules:

1. The numbers of a run come from a SHA-256 over the picture, whose it is and how long the run is, 30 bits each: two
   runs are alike when their pictures are. A run has at least :data:`SHORTEST` tokens, so that a likeness by chance, or
   made on purpose, would take a collision of 240 bits.
2. The first token of a run is below all others (:data:`FIRST_END`), so any run of tokens says where its images begin
   and end, even of images side by side.
3. An image is computed as one piece or not at all, so nothing shares a part of one (:func:`whole`).
4. llama.cpp is never handed a virtual token: it is given the image's vectors instead.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.signedinteger[Any]]

SHORTEST: Final = 8
"""Tokens in the run of the smallest image that is taken."""
FIRST_END: Final = -(1 << 30)
"""The first token of a run is below this, the others are not."""
_LOWEST: Final = -(1 << 31)
_BITS: Final = (1 << 30) - 1


def run(picture: bytes, count: int) -> tuple[int, ...]:
    """The ``count`` virtual tokens of the image that ``picture`` names, whatever its length. None are the same twice.

    Raises :class:`ValueError` for less than :data:`SHORTEST`.
    """
    if count < SHORTEST:
        raise ValueError(f"a run of {count} virtual tokens is shorter than {SHORTEST}")
    seed = hashlib.sha256(count.to_bytes(4) + picture).digest()
    numbers = np.frombuffer(hashlib.shake_256(seed).digest(4 * count), dtype=">u4").astype(np.int64) & _BITS
    numbers += FIRST_END
    numbers[0] += _LOWEST - FIRST_END
    return tuple(numbers.tolist())


def is_first(token: int) -> bool:
    """Whether an image begins with ``token``."""
    return token < FIRST_END


def whole(tokens: Numbers, length: int) -> int:
    """``length``, or where the image begins that would be cut after ``length`` of the ``tokens``."""
    while 0 < length < len(tokens) and FIRST_END <= tokens[length] < 0:
        length -= 1
    return length


def stretch(tokens: Numbers) -> int:
    """How many of the first ``tokens`` may be computed in one piece: up to the next image, or all of one."""
    if not len(tokens) or tokens[0] >= 0:
        virtual = np.flatnonzero(tokens < 0)
        return int(virtual[0]) if len(virtual) else len(tokens)
    others = np.flatnonzero((tokens[1:] >= 0) | (tokens[1:] < FIRST_END))
    return 1 + int(others[0]) if len(others) else len(tokens)


def images(tokens: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Where each image among ``tokens`` begins, and its run.

    Raises :class:`ValueError` where a run goes on that never began.
    """
    numbers = np.asarray(tokens, dtype=np.int64)
    if len(numbers) and numbers.min() < _LOWEST:
        raise ValueError("a token is below the virtual ones")
    start = 0
    while start < len(numbers):
        end = start + stretch(numbers[start:])
        if numbers[start] < 0:
            if not is_first(int(numbers[start])):
                raise ValueError("an image has no beginning")
            yield start, tuple(numbers[start:end].tolist())
        start = end
