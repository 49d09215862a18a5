"""The changes of a plan carried out on llama.cpp's cache, and the memory of what was taken out of it.

llama.cpp saves and restores whole sequences only, so a part of one goes through a scratch sequence that nothing else
uses: copied there (no bytes move), read or written, and removed again.
"""

import ctypes
import mmap
from typing import Any

import llama_cpp

from plugsky.engine.scheduling.plan import Copy, Forget, Op, Remove, Restore, Save


def pages(size: int) -> Any:
    """Memory for a copy, in pages of its own, which the system has back at once when the copy is let go.

    malloc(3) takes blocks of this size out of the heap once some were freed, and a heap full of holes of every size
    holds twice what is in use.
    """
    pages = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return (ctypes.c_uint8 * size).from_buffer(pages)


class SequenceState:
    """The cache of one context. ``scratch`` is the sequence that state goes through."""

    def __init__(self, handle: Any, memory: Any, *, scratch: int) -> None:
        self._handle = handle
        self._memory = memory
        self._scratch = scratch
        self._saved: dict[int, Any] = {}

    def apply(self, op: Op) -> bool:
        """Carry out one change. False when llama.cpp did not."""
        match op:
            case Copy(src, dst, start, end):
                llama_cpp.llama_memory_seq_cp(self._memory, src, dst, start, end)
                return True
            case Remove(seq, start, end):
                return bool(llama_cpp.llama_memory_seq_rm(self._memory, seq, start, end))
            case Save(ticket, seq, start, end):
                return self._save(ticket, seq, start, end)
            case Restore(ticket, seq, start, end, keep):
                return self._restore(ticket, seq, start, end, keep=keep)
            case Forget(ticket):
                return self._saved.pop(ticket, None) is not None

    def _save(self, ticket: int, seq: int, start: int, end: int) -> bool:
        llama_cpp.llama_memory_seq_cp(self._memory, seq, self._scratch, start, end)
        size = llama_cpp.llama_state_seq_get_size(self._handle, self._scratch)
        state = pages(size)
        whole = llama_cpp.llama_state_seq_get_data(self._handle, state, size, self._scratch) == size
        self._saved[ticket] = state
        llama_cpp.llama_memory_seq_rm(self._memory, self._scratch, -1, -1)
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, seq, start, end)) and whole

    def _restore(self, ticket: int, seq: int, start: int, end: int, *, keep: bool) -> bool:
        state = self._saved[ticket] if keep else self._saved.pop(ticket)
        read = llama_cpp.llama_state_seq_set_data(self._handle, state, len(state), self._scratch)
        llama_cpp.llama_memory_seq_cp(self._memory, self._scratch, seq, start, end)
        llama_cpp.llama_memory_seq_rm(self._memory, self._scratch, -1, -1)
        return bool(read == len(state))
