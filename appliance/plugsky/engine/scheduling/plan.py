"""What one step does to a context, as values: changes of its KV cache, then one batch.

The words are those of batching: a :class:`Plan` is one step, a :class:`Chunk` a run of tokens of one request, a *cell*
one token's place in the KV cache, a *sequence* a number under which cells are found (0 to n_seq_max - 1). Ranges are
positions, half open; an end of :data:`TO_THE_END` is open. They have nothing to do with the plan of an installation
or the chunks of a file on media.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TO_THE_END: Final = -1


@dataclass(frozen=True, slots=True)
class Copy:
    """Sequence ``dst`` holds the cells of ``src`` in this range too; no bytes move (``llama_memory_seq_cp``)."""

    src: int
    dst: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Remove:
    """``seq`` lets go of its cells in this range; those that nobody else holds are free (``llama_memory_seq_rm``)."""

    seq: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Save:
    """Keep the cells of ``seq`` in this range in host memory under ``ticket``, then remove the range.

    The ticket is that of a request, or negative where a sequence is moved or of an ended request.
    """

    ticket: int
    seq: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Restore:
    """Put back what was saved under ``ticket`` as the cells of ``seq`` in this range, and forget the saved copy.

    It begins where what was saved begins, and ends there too or before. For a moment it takes the cells of all of it.
    """

    ticket: int
    seq: int
    start: int
    end: int
    keep: bool = False
    """Keep the saved copy."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop what was saved under ``ticket``: nobody came back for it."""

    ticket: int


Op = Copy | Remove | Save | Restore | Forget


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one request, at positions from ``start`` of ``seq``.

    Logits are wanted for the last ``outputs`` tokens: none within a prompt, 1 to choose the next token, more to score.
    Its tokens are a vocabulary's, or all those of one image (:mod:`.virtual`).
    """

    ticket: int
    seq: int
    start: int
    tokens: Sequence[int]
    outputs: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: carry out ``ops`` in their order, then compute ``chunks`` in one batch under the adapters ``adapter``.

    Adapters are switched, if at all, between the ops and the batch. No chunks: only the ops.
    """

    ops: tuple[Op, ...]
    chunks: tuple[Chunk, ...]
    adapter: str = ""
