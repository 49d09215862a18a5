"""llama.cpp's samplers: the chain that narrows the candidates of one sequence, and the array that it works on.

A sibling of :mod:`plugsky.engine.llama.native`. The last choice among what is left is ours
(:mod:`plugsky.engine.tokens.choosing`).
"""

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

import llama_cpp
import numpy as np

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.tokens import choosing, sampling
from plugsky.engine.tokens.choosing import Logits


class DryMaker(Protocol):
    """What a chain needs of its model."""

    n_vocab: int

    def dry(self, multiplier: float, base: float, allowed_length: int, last_n: int) -> Any: ...


class Chain:
    """Native samplers that narrow the candidates, with what they remember. Close it: Python does not free it."""

    def __init__(
        self, stages: Sequence[sampling.Narrowing], model: DryMaker, candidates: "Candidates", last_n: int
    ) -> None:
        """``last_n`` is what all tokens of an answer come to at most."""
        self._candidates = candidates
        self._handle: Any = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for stage in stages:
            llama_cpp.llama_sampler_chain_add(self._handle, _native(stage, model, last_n))

    def narrow(self, ids: choosing.Ids | None, logits: Logits) -> tuple[choosing.Ids, Logits]:
        """The candidates left of ``ids`` (None: all tokens) and their logits, until the next call."""
        return self._candidates.narrowed(self._handle, ids, logits)

    def accept(self, token: int) -> None:
        """Count ``token`` as part of the answer, for the penalties."""
        llama_cpp.llama_sampler_accept(self._handle, token)

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._handle)


class Candidates:
    """The array of candidates that native samplers narrow down, used again for each token."""

    def __init__(self, n_vocab: int) -> None:
        self._rows = np.zeros(n_vocab, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._ids = np.arange(n_vocab, dtype=np.int32)
        self._data = ctypes.cast(self._rows.ctypes.data, llama_cpp.llama_token_data_p)

    def narrowed(self, chain: Any, ids: choosing.Ids | None, logits: Logits) -> tuple[choosing.Ids, Logits]:
        """What ``chain`` leaves of the tokens ``ids``; views that the next call changes."""
        rows = self._rows[: len(logits)]
        rows["id"] = self._ids if ids is None else ids
        rows["logit"] = logits
        array = llama_cpp.llama_token_data_array(data=self._data, size=len(rows), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
        if not 0 < array.size <= len(rows):
            raise EngineError(ErrorKind.INTERNAL, "the sampler left no token to choose")
        left = rows[: array.size]
        return left["id"], left["logit"]


def _native(stage: sampling.Narrowing, model: DryMaker, all_of_it: int) -> Any:
    def last(n: int) -> int:
        return all_of_it if n < 0 else min(n, all_of_it)

    match stage:
        case sampling.Penalties(repeat, frequency, presence, last_n):
            return llama_cpp.llama_sampler_init_penalties(model.n_vocab, last(last_n), repeat, frequency, presence)
        case sampling.Dry(multiplier, base, allowed_length, last_n):
            return model.dry(multiplier, base, allowed_length, last(last_n))
        case sampling.TopK(k):
            return llama_cpp.llama_sampler_init_top_k(k)
        case sampling.Typical(p):
            return llama_cpp.llama_sampler_init_typical(p, 1)
        case sampling.TopP(p):
            return llama_cpp.llama_sampler_init_top_p(p, 1)
        case sampling.MinP(p):
            return llama_cpp.llama_sampler_init_min_p(p, 1)
