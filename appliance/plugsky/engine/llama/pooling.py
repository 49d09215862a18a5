"""Embeddings and rerank scores through llama.cpp: one vector for each whole text, with no cache kept between batches.

How the vectors of a text's tokens become one (mean, first or last token, classifier) is a fact of the GGUF, as is
whether tokens see only those before them; neither is ever guessed. Where they do, texts are computed in pieces of a
batch, because llama.cpp keeps a row of the vocabulary for each token of a batch, though nobody reads it: 5 GB for 8192
tokens of a model that knows 152,064. An encoder's texts cannot be cut, and its rows are part of the estimate.

llama.cpp asserts, and so ends the process, where a batch of such a model is longer than its physical batch, a position
lies outside its table or two sequences share one number: :meth:`PooledContext.compute` refuses all three before.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import llama_cpp
import numpy as np
import numpy.typing as npt

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.headers.estimate import Holding
from plugsky.engine.llama import native
from plugsky.engine.llama import params as llama_params

Vector = npt.NDArray[np.float32]

LONGEST: Final = 8192
"""Tokens of the longest text, whatever the model was trained for: a text is computed in one piece."""
_NAMES: Final = {
    llama_cpp.LLAMA_POOLING_TYPE_MEAN: "mean",
    llama_cpp.LLAMA_POOLING_TYPE_CLS: "cls",
    llama_cpp.LLAMA_POOLING_TYPE_LAST: "last_token",
}
_ONE_VECTOR: Final = frozenset(
    {llama_cpp.LLAMA_POOLING_TYPE_MEAN, llama_cpp.LLAMA_POOLING_TYPE_CLS, llama_cpp.LLAMA_POOLING_TYPE_LAST}
)


@dataclass(frozen=True, slots=True)
class PairForm:
    """How a model that judges pairs wants a query and a document written.

    Either a ``template`` with ``{query}`` and ``{document}``, or tokens ``before`` the query, ``between`` the two and
    ``after`` the document.
    """

    template: str | None
    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


def pair_form(model: native.Model) -> PairForm:
    """The pair form of ``model``: its GGUF's template named ``rerank``, else its vocabulary's special tokens.

    A vocabulary that ends texts with a separator and not with an end token (BERT's) ends pairs with it too, as such
    models were trained: ``[CLS] query [SEP] document [SEP]``.
    """
    template = llama_cpp.llama_model_chat_template(model.handle, b"rerank")
    if template:
        return PairForm(template.decode("utf-8", "replace"))
    vocab = llama_cpp.llama_model_get_vocab(model.handle)
    bos, eos, sep = (
        (token,) if wanted and token >= 0 else ()
        for wanted, token in (
            (llama_cpp.llama_vocab_get_add_bos(vocab), llama_cpp.llama_vocab_bos(vocab)),
            (llama_cpp.llama_vocab_get_add_eos(vocab), llama_cpp.llama_vocab_eos(vocab)),
            (llama_cpp.llama_vocab_get_add_sep(vocab), llama_cpp.llama_vocab_sep(vocab)),
        )
    )
    return PairForm(None, bos, (*eos, *sep), eos or sep)


class PooledContext:
    """One llama.cpp context that pools. Only its owner thread may call it."""

    def __init__(self, model: native.Model, holding: Holding, mode: Literal["embed", "rerank"], threads: int) -> None:
        """A context that takes ``holding.cells`` tokens at once at most, of at most ``holding.sequences`` texts.

        ``holding.batch`` must be as large where a text has to be computed in one piece. Raises ``not_supported`` for a
        model that cannot do what ``mode`` says, or cannot be held like this.
        """
        self.longest = min(holding.cells, model.n_ctx_train, LONGEST)
        self.places, self._most = holding.sequences, holding.batch
        self._handle: Any = llama_params.make_context(model.handle, holding, threads, on_gpu=model.on_gpu)
        if not self._handle:
            raise native.no_context(holding)
        self._memory: Any = llama_cpp.llama_get_memory(self._handle)
        if not self._memory:
            self.longest = min(self.longest, self._most)
        self._n_vocab = model.n_vocab
        self._pooling = pooling = llama_cpp.llama_pooling_type(self._handle)
        ranks = pooling == llama_cpp.LLAMA_POOLING_TYPE_RANK
        if not (ranks if mode == "rerank" else pooling in _ONE_VECTOR):
            self.close()
            what = "scores of pairs" if mode == "rerank" else "embeddings"
            why = "its file names no way to make one of its tokens' vectors"
            if pooling in _ONE_VECTOR:
                why = "it makes embeddings"
            elif ranks:
                why = "it makes scores of pairs"
            raise EngineError(ErrorKind.NOT_SUPPORTED, f"this model makes no {what}", why=why)
        self.pooling: str = _NAMES.get(pooling, "")
        """How it makes one vector of those of a text's tokens."""
        self.dimensions: int = (llama_cpp.llama_model_n_cls_out if ranks else llama_cpp.llama_model_n_embd_out)(
            model.handle
        )
        self._tokens = np.zeros(self.longest, dtype=np.int32)
        self._positions = np.zeros(self.longest, dtype=np.int32)
        self._outputs = np.ones(self.longest, dtype=np.int8)
        self._counts = np.ones(self.longest, dtype=np.int32)
        self._numbers = np.arange(self.places, dtype=np.int32)
        self._addresses = np.zeros(self.longest, dtype=np.uintp)
        self._steps = np.arange(self.longest, dtype=np.int32)
        self._batch = llama_cpp.llama_batch(
            token=_pointer(self._tokens, ctypes.c_int32),
            pos=_pointer(self._positions, ctypes.c_int32),
            n_seq_id=_pointer(self._counts, ctypes.c_int32),
            seq_id=_pointer(self._addresses, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._outputs, ctypes.c_int8),
        )

    def compute(self, texts: Sequence[Sequence[int]]) -> list[Vector]:
        """The vector of each text, in one batch. Of a model that judges pairs: its scores, the first is *the* score.

        Raises :class:`llama.BatchRefusedError` for texts that it must not be given, and
        :class:`llama.ContextBrokenError`.
        """
        total = sum(map(len, texts))
        if not texts or not all(texts) or len(texts) > self.places or total > self.longest:
            raise native.BatchRefusedError
        if any(min(text) < 0 or max(text) >= self._n_vocab for text in texts):
            raise native.BatchRefusedError
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, False)
        vectors: dict[int, Vector] = {}
        for pieces in cut(texts, self._most):
            self._compute(pieces, texts)
            for place, start, end in pieces:
                vectors[place] = self._joined(vectors.get(place), self._vector(place), start, end)
        return [vectors[place] for place in range(len(texts))]

    def _compute(self, pieces: Sequence[tuple[int, int, int]], texts: Sequence[Sequence[int]]) -> None:
        filled = 0
        for place, start, end in pieces:
            at = slice(filled, filled + end - start)
            self._tokens[at] = texts[place][start:end]
            self._positions[at] = self._steps[start:end]
            self._addresses[at] = self._numbers.ctypes.data + self._numbers.itemsize * place
            filled += end - start
        self._batch.n_tokens = filled
        # Without a cache there is nothing to decode from: the model is an encoder.
        compute = llama_cpp.llama_decode if self._memory else llama_cpp.llama_encode
        code = compute(self._handle, self._batch)
        if code in (1, -1):
            raise native.BatchRefusedError
        if code != 0:
            raise native.ContextBrokenError(f"computing a batch of texts gave {code}")
        llama_cpp.llama_synchronize(self._handle)

    def _joined(self, before: Vector | None, vector: Vector, start: int, end: int) -> Vector:
        """The vector of a text's first ``end`` tokens, of that of its first ``start`` and that of those between."""
        if before is None or self._pooling in (llama_cpp.LLAMA_POOLING_TYPE_LAST, llama_cpp.LLAMA_POOLING_TYPE_RANK):
            return vector
        if self._pooling == llama_cpp.LLAMA_POOLING_TYPE_CLS:
            return before
        return ((before * start + vector * (end - start)) / end).astype(np.float32)

    def set_threads(self, n: int) -> None:
        """Use ``n`` threads from the next batch on."""
        llama_cpp.llama_set_n_threads(self._handle, n, n)

    def close(self) -> None:
        """Give back what lies outside Python's memory."""
        llama_cpp.llama_free(self._handle)

    def _vector(self, place: int) -> Vector:
        row = llama_cpp.llama_get_embeddings_seq(self._handle, place)
        if not row:
            raise native.ContextBrokenError(f"no vector for text {place}")
        return np.ctypeslib.as_array(row, shape=(self.dimensions,)).copy()


def cut(texts: Sequence[Sequence[int]], most: int) -> list[list[tuple[int, int, int]]]:
    """``texts`` in batches of at most ``most`` tokens: which text, from which of its tokens up to which."""
    batches: list[list[tuple[int, int, int]]] = [[]]
    room = most
    for place, text in enumerate(texts):
        start = 0
        while start < len(text):
            if not room:
                batches.append([])
                room = most
            end = min(len(text), start + room)
            batches[-1].append((place, start, end))
            room -= end - start
            start = end
    return batches


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
