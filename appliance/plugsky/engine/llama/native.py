"""llama.cpp through llama-cpp-python's low-level functions; only it and its ``llama_*`` siblings import ``llama_cpp``.

One :class:`Model` (safe to read from any thread) and one :class:`Context` (one owner thread). The KV cache is unified:
any sequence may use any cell. ``n_batch == n_ubatch`` and a synchronise after each decode, so that no sequence can read
another's cells while they are written. Batches are arrays that llama.cpp reads in place: the number of foreign calls
per step grows with sequences, never with tokens. A step's few numbers are kept from numpy: after each decode its code
has left the processor's caches, and fetching that again takes longer than the work.

llama.cpp ends the process on a C++ exception or a failed assertion, so everything that reaches it is checked before:
token ids, lengths, places. Its log goes to :mod:`logging`, errors only; they name tensors and numbers, never content.
"""

import ctypes
import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import llama_cpp
import numpy as np

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.grammars.constraint import Constraint, Pieces
from plugsky.engine.grammars.grammar import GrammarSpec
from plugsky.engine.headers.adapters import NONE
from plugsky.engine.headers.estimate import Holding, rows
from plugsky.engine.headers.offload import Placement
from plugsky.engine.llama import kernels
from plugsky.engine.llama import params as llama_params
from plugsky.engine.llama.adapters import Adapters
from plugsky.engine.llama.cache import SequenceState
from plugsky.engine.llama.sampling import Candidates, Chain
from plugsky.engine.scheduling.kv_cache import Reuse
from plugsky.engine.scheduling.plan import Chunk, Op
from plugsky.engine.spec import AdapterSpec
from plugsky.engine.tokens import choosing, sampling
from plugsky.engine.tokens.choosing import Chooser
from plugsky.engine.tokens.markers import Infill, spelt_like_control

LOG: Final = logging.getLogger(__name__)
Logits = choosing.Logits

_ERROR_LEVEL: Final = 4
_SPECIAL: Final = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
_DRY_BREAKERS: Final = (b"\n", b":", b'"', b"*")
_DRY_KEPT: Final = 8
_errors: deque[str] = deque(maxlen=3)


def _on_log(level: int, text: bytes, _data: object) -> None:
    line = text.decode("utf-8", "replace").strip()
    if level == _ERROR_LEVEL and line:
        _errors.append(line[:300])
        LOG.error("llama.cpp: %s", line[:300])


LOG_CALLBACK: Final = llama_cpp.llama_log_callback(_on_log)  # kept alive: llama.cpp holds its address


class CacheFullError(Exception):
    """The KV cache has no cells for this batch. Nothing was computed."""


class BatchRefusedError(Exception):
    """llama.cpp refused the batch as wrong. Nothing was computed."""


class ContextBrokenError(Exception):
    """A decode failed half way: the context must not be used again."""


def last_error() -> str:
    """The last thing llama.cpp said was wrong."""
    return _errors[-1] if _errors else "it gave no reason"


def load_kernels() -> str:
    """Load the fastest CPU kernels that travel with llama.cpp; returns their CPU family. Raises ``not_supported``."""
    llama_cpp.llama_log_set(LOG_CALLBACK, ctypes.c_void_p(0))
    return kernels.load(Path(llama_cpp.__file__).parent / "lib")


def build() -> str:
    """The build of llama.cpp and the CPU features it uses: answers are comparable within one such value only."""
    load_kernels()
    features = llama_cpp.llama_print_system_info()
    return f"llama-cpp-python-{llama_cpp.__version__}-{hashlib.sha256(features).hexdigest()[:8]}"


def features() -> frozenset[str]:
    """What the CPU kernels in use can do, by llama.cpp's names for it, as in ``AVX2`` and ``REPACK``."""
    load_kernels()
    said = llama_cpp.llama_print_system_info().decode("utf-8", "replace")
    facts = (fact.rpartition(":")[2].partition("=") for fact in said.split("|"))
    return frozenset(name.strip() for name, _, value in facts if value.strip() not in ("", "0"))


def no_context(holding: Holding) -> EngineError:
    """The error for a model that llama.cpp makes no context for, with its reason.

    It cannot keep every model's cache in fewer bits; otherwise the memory was refused that was counted as free.
    """
    kind = ErrorKind.INTERNAL if holding.kv_type == "f16" else ErrorKind.NOT_SUPPORTED
    return EngineError(kind, "llama.cpp cannot make a context for this model as asked", why=last_error())


class Model:
    """The weights and the vocabulary of one GGUF file, mapped read-only."""

    def __init__(self, file: Path, progress: Callable[[float], bool], placement: Placement | None = None) -> None:
        """Load ``file``. ``progress`` gets fractions from 0 to 1 and gives False to stop.

        Layers go where ``placement`` says; all are the host's without one. Raises ``tampered`` when llama.cpp cannot
        read the file.
        """
        load_kernels()
        llama_cpp.llama_backend_init()
        _errors.clear()
        self._handle: Any = llama_params.load_model(file, progress, placement)
        self.on_gpu = bool(placement is not None and placement.shares)
        if not self._handle:
            raise EngineError(
                ErrorKind.TAMPERED,
                f"llama.cpp cannot load {file.name}",
                why=last_error(),
                next="plugsky bundle verify, then install the bundle again",
            )
        self._vocab: Any = llama_cpp.llama_model_get_vocab(self._handle)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = llama_cpp.llama_model_n_ctx_train(self._handle)
        template = llama_cpp.llama_model_chat_template(self._handle, None)
        self.template: str | None = template.decode("utf-8", "replace") if template else None
        self.bos: str = self._name(llama_cpp.llama_vocab_bos(self._vocab))
        self.eos: str = self._name(llama_cpp.llama_vocab_eos(self._vocab))
        self.markers: dict[int, str] = self._markers()
        self.infill: Infill | None = self._infill()
        self._pieces: dict[int, bytes] = {}
        self._all_pieces: Pieces | None = None
        self._making_pieces = threading.Lock()
        self._dry: dict[tuple[float, float, int, int], Any] = {}
        self.adapters = Adapters(self._handle)

    @property
    def handle(self) -> Any:
        """llama.cpp's own pointer, for the modules beside this one."""
        return self._handle

    def tokens(self, text: str, *, add_special: bool, parse_special: bool = True) -> tuple[int, ...]:
        """``text`` as token ids; names of control tokens in it become those tokens if ``parse_special``.

        User-defined tokens are found either way.
        """
        data = text.encode()
        room = len(data) + 8
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), buffer, room, add_special, parse_special)
        if count < 0:
            raise EngineError(ErrorKind.INTERNAL, f"{len(data)} bytes of text did not fit into {room} tokens")
        return tuple(buffer[:count])

    def piece(self, token: int) -> bytes:
        """The bytes of one token; none for a control token. Bytes, because a character may span tokens."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._bytes(token, special=False)
        return known

    def ends(self, token: int) -> bool:
        """Whether ``token`` ends a generation (end of text, of turn, of message)."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def pieces(self) -> Pieces:
        """The bytes of all tokens. The first call takes a fraction of a second; it may come from any thread."""
        with self._making_pieces:
            if self._all_pieces is None:
                self._all_pieces = Pieces([self.piece(n) for n in range(self.n_vocab)], self.ends, self.markers)
            return self._all_pieces

    def dry(self, multiplier: float, base: float, allowed_length: int, last_n: int) -> Any:
        """A native DRY sampler. Owner's thread only.

        Finding the tokens that break a run takes milliseconds, so the last few samplers are kept, to be copied.
        """
        asked = (multiplier, base, allowed_length, last_n)
        known = self._dry.pop(asked, None)
        if known is None:
            words = (ctypes.c_char_p * len(_DRY_BREAKERS))(*_DRY_BREAKERS)
            known = llama_cpp.llama_sampler_init_dry(self._vocab, *asked, words, len(words))
            if len(self._dry) >= _DRY_KEPT:
                llama_cpp.llama_sampler_free(self._dry.pop(next(iter(self._dry))))
        self._dry[asked] = known
        return llama_cpp.llama_sampler_clone(known)

    def add_adapter(self, adapter: AdapterSpec) -> None:
        """Load an adapter beside the weights, before any context. Raises ``tampered`` when llama.cpp cannot use it."""
        if not self.adapters.load(adapter.id, adapter.file, adapter.scale):
            raise EngineError(
                ErrorKind.TAMPERED, f"llama.cpp cannot load the adapter {adapter.id} for this model", why=last_error()
            )

    def close(self) -> None:
        """Unmap the weights. Close its contexts first."""
        self.adapters.close()
        for sampler in self._dry.values():
            llama_cpp.llama_sampler_free(sampler)
        self._dry.clear()
        llama_cpp.llama_model_free(self._handle)

    def _markers(self) -> dict[int, str]:
        """The tokens a client must not be able to write, with the text that llama.cpp would take for each.

        All control tokens, and user-defined ones that look like them: many vocabularies keep their roles there, among
        runs of spaces, accented letters and HTML tags, which are anybody's to write.
        """
        markers = {}
        for token in range(self.n_vocab):
            kind = llama_cpp.llama_vocab_get_attr(self._vocab, token)
            if kind & _SPECIAL:
                text = llama_cpp.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")
                if kind & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL or spelt_like_control(text):
                    markers[token] = text
        return markers

    def _infill(self) -> Infill | None:
        named = (llama_cpp.llama_vocab_fim_pre, llama_cpp.llama_vocab_fim_suf, llama_cpp.llama_vocab_fim_mid)
        tokens = Infill(*(asked(self._vocab) for asked in named))
        return tokens if min(tokens) >= 0 else None

    def _name(self, token: int) -> str:
        return self._bytes(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _bytes(self, token: int, *, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count


class Context:
    """One llama.cpp context with its KV cache. Only its owner thread may call it."""

    def __init__(self, model: Model, holding: Holding, threads: int) -> None:
        """Raises ``not_supported`` for a model that generates nothing, or cannot be held like this."""
        self._handle: Any = llama_params.make_context(model.handle, holding, threads, on_gpu=model.on_gpu)
        if not self._handle:
            raise no_context(holding)
        self._memory: Any = llama_cpp.llama_get_memory(self._handle)
        if not self._memory:
            self.close()
            raise EngineError(ErrorKind.NOT_SUPPORTED, "this model generates no text", why="it is an encoder")
        self._model = model
        self._adapter = NONE
        self._candidates = Candidates(model.n_vocab)
        self._weights = np.empty(model.n_vocab, dtype=np.float32)
        batch, places, self._most_rows = holding.batch, holding.sequences, rows(holding)
        self._state = SequenceState(self._handle, self._memory, scratch=places - 1)
        self._tokens = (ctypes.c_int32 * batch)()
        self._positions = (ctypes.c_int32 * batch)()
        self._outputs = (ctypes.c_int8 * batch)()
        self._counts = (ctypes.c_int32 * batch)(*[1] * batch)
        self._places = (ctypes.c_int32 * places)(*range(places))
        self._addresses = (ctypes.c_void_p * batch)()
        self._rows_at = 0
        self._rows: list[Logits] = []
        self._batch = llama_cpp.llama_batch(
            token=self._tokens,
            pos=self._positions,
            n_seq_id=self._counts,
            seq_id=ctypes.cast(self._addresses, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=self._outputs,
        )

    @property
    def handle(self) -> Any:
        """llama.cpp's own pointer, for the modules beside this one."""
        return self._handle

    @property
    def cells(self) -> int:
        """KV cells of the cache, after llama.cpp's own rounding."""
        return int(llama_cpp.llama_n_ctx(self._handle))

    def decode(self, chunks: Sequence[Chunk]) -> list[Logits]:
        """Compute all ``chunks`` in one batch; a row of logits for each of their outputs, in order.

        The rows are valid until the next decode. Raises :class:`CacheFullError`, :class:`ContextBrokenError` or
        :class:`BatchRefusedError`, the last also for more rows than the context was made for.
        """
        rows = sum(chunk.outputs for chunk in chunks)
        if rows > self._most_rows:
            raise BatchRefusedError
        tokens: list[Any] = []
        positions: list[Any] = []
        addresses: list[Any] = []
        outputs: list[Any] = []
        first = ctypes.addressof(self._places)
        for chunk in chunks:
            count = len(chunk.tokens)
            tokens += chunk.tokens
            positions += range(chunk.start, chunk.start + count)
            addresses += [first + 4 * chunk.seq] * count
            outputs += [0] * (count - chunk.outputs) + [1] * chunk.outputs
        filled = len(tokens)
        self._tokens[:filled] = tokens
        self._positions[:filled] = positions
        self._addresses[:filled] = addresses
        self._outputs[:filled] = outputs
        self._batch.n_tokens = filled
        self.run(self._batch)
        return self.rows(rows)

    def run(self, batch: Any) -> None:
        """Compute llama.cpp's own ``batch``. Raises as :meth:`decode` does."""
        code = llama_cpp.llama_decode(self._handle, batch)
        if code == 1:
            raise CacheFullError
        if code == -1:
            raise BatchRefusedError
        if code != 0:
            raise ContextBrokenError(f"llama_decode gave {code}")
        llama_cpp.llama_synchronize(self._handle)

    def sampler(self, stages: tuple[sampling.Stage, ...], grammar: GrammarSpec | None = None) -> Chooser:
        """How one sequence of this context chooses. Raises ``schema_refused`` for a grammar that cannot be read."""
        constraint = Constraint(grammar, self._model.pieces()) if grammar is not None and grammar.text else None
        narrowing = [stage for stage in stages if isinstance(stage, sampling.Narrowing)]
        chain = Chain(narrowing, self._model, self._candidates, self.cells) if narrowing else None
        return Chooser(stages, self._weights, chain, constraint)

    def piece(self, token: int) -> bytes:
        """See :meth:`Model.piece`."""
        return self._model.piece(token)

    def ends(self, token: int) -> bool:
        """See :meth:`Model.ends`."""
        return self._model.ends(token)

    @property
    def reuse(self) -> Reuse:
        """What of a sequence another can go on with: any beginning, or the whole where the model cannot go back."""
        handle = self._model.handle
        whole = llama_cpp.llama_model_is_recurrent(handle) or llama_cpp.llama_model_is_hybrid(handle)
        return "whole" if whole or llama_cpp.llama_model_n_swa(handle) else "prefix"

    def apply(self, ops: Iterable[Op]) -> None:
        """Carry out changes of the cache, in their order. What is saved lies in this process's memory.

        Raises :class:`ContextBrokenError` when llama.cpp does not do as told: nobody then knows what the cache holds.
        """
        for op in ops:
            if not self._state.apply(op):
                raise ContextBrokenError(f"the cache could not be changed: {type(op).__name__}")

    def clear(self, place: int) -> None:
        """Give back all cells of one place."""
        llama_cpp.llama_memory_seq_rm(self._memory, place, -1, -1)

    def set_adapter(self, name: str) -> None:
        """Compute with the model's adapter ``name`` from the next decode on, with none if it is empty.

        Raises :class:`ContextBrokenError` when llama.cpp does not do as told.
        """
        if name != self._adapter:
            if not self._model.adapters.use(self._handle, name):
                raise ContextBrokenError(f"switching to the adapter {name!r} failed")
            self._adapter = name

    def set_threads(self, n: int) -> None:
        """Use ``n`` threads from the next decode on."""
        llama_cpp.llama_set_n_threads(self._handle, n, n)

    def close(self) -> None:
        llama_cpp.llama_free(self._handle)

    def rows(self, count: int) -> list[Logits]:
        """What the latest batch gave for its outputs: llama.cpp keeps the rows side by side, in the batch's order."""
        if not count:
            return []
        logits = llama_cpp.llama_get_logits(self._handle)
        if not logits:
            raise ContextBrokenError("there are no logits")
        address = ctypes.addressof(logits.contents)
        if address != self._rows_at or count > len(self._rows):
            self._rows_at = address
            self._rows = list(np.ctypeslib.as_array(logits, shape=(count, self._model.n_vocab)))
        return self._rows[:count]
