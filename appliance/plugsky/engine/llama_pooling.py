"""Embeddings and rerank scores through llama.cpp: one vector for each whole text, with no cache kept between batches.

How the vectors of a text's tokens become one (mean, first or last token, classifier) is a fact of the GGUF, as is
whether tokens see only those before them; neither is ever guessed. llama.cpp asserts, and so ends the process, where a
batch of such a model is longer than its physical batch, a position lies outside its table or two sequences share one
number: :meth:`PooledContext.compute` refuses all three before.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import llama_cpp
import numpy as np
import numpy.typing as npt

from plugsky.core.errors import ErrorKind
from plugsky.engine import llama
from plugsky.engine.errors import DoesNotFitError, EngineError

Vector = npt.NDArray[np.float32]

LONGEST: Final = 8192
"""Tokens of the longest text, whatever the model was trained for: a text is computed in one piece."""
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


def pair_form(model: llama.Model) -> PairForm:
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

    def __init__(
        self,
        model: llama.Model,
        *,
        mode: Literal["embed", "rerank"],
        cells: int,
        places: int,
        threads: int,
        free_memory: int,
    ) -> None:
        """A context whose batches hold ``cells`` tokens at most, of at most ``places`` texts.

        Raises ``not_supported`` for a model that cannot do what ``mode`` says, and :class:`DoesNotFitError`.
        """
        self.longest = min(cells, model.n_ctx_train, LONGEST)
        need = model.size + model.kv_bytes(self.longest)
        if need > free_memory:
            raise DoesNotFitError(need, free_memory)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self.longest
        params.n_seq_max = self.places = places
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
        params.kv_unified = True
        params.embeddings = True
        params.no_perf = True
        self._handle: Any = llama_cpp.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise EngineError(
                ErrorKind.INTERNAL, "llama.cpp cannot make a context for this model", why=llama.last_error()
            )
        self._memory: Any = llama_cpp.llama_get_memory(self._handle)
        self._n_vocab = model.n_vocab
        pooling = llama_cpp.llama_pooling_type(self._handle)
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
        self.dimensions: int = (llama_cpp.llama_model_n_cls_out if ranks else llama_cpp.llama_model_n_embd_out)(
            model.handle
        )
        self._tokens = np.zeros(self.longest, dtype=np.int32)
        self._positions = np.zeros(self.longest, dtype=np.int32)
        self._outputs = np.ones(self.longest, dtype=np.int8)
        self._counts = np.ones(self.longest, dtype=np.int32)
        self._numbers = np.arange(places, dtype=np.int32)
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
            raise llama.BatchRefusedError
        if any(min(text) < 0 or max(text) >= self._n_vocab for text in texts):
            raise llama.BatchRefusedError
        filled = 0
        for place, text in enumerate(texts):
            end = filled + len(text)
            self._tokens[filled:end] = text
            self._positions[filled:end] = self._steps[: len(text)]
            self._addresses[filled:end] = self._numbers.ctypes.data + self._numbers.itemsize * place
            filled = end
        self._batch.n_tokens = filled
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, False)
        # Without a cache there is nothing to decode from: the model is an encoder.
        compute = llama_cpp.llama_decode if self._memory else llama_cpp.llama_encode
        code = compute(self._handle, self._batch)
        if code in (1, -1):
            raise llama.BatchRefusedError
        if code != 0:
            raise llama.ContextBrokenError(f"computing a batch of texts gave {code}")
        llama_cpp.llama_synchronize(self._handle)
        return [self._vector(place) for place in range(len(texts))]

    def set_threads(self, n: int) -> None:
        """Use ``n`` threads from the next batch on."""
        llama_cpp.llama_set_n_threads(self._handle, n, n)

    def close(self) -> None:
        """Give back what lies outside Python's memory."""
        llama_cpp.llama_free(self._handle)

    def _vector(self, place: int) -> Vector:
        row = llama_cpp.llama_get_embeddings_seq(self._handle, place)
        if not row:
            raise llama.ContextBrokenError(f"no vector for text {place}")
        return np.ctypeslib.as_array(row, shape=(self.dimensions,)).copy()


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
