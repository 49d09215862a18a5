"""Images through libmtmd: a projector makes of a picture the vectors that stand for it in a prompt.

A projector is a GGUF of its own, made for one model; it is checked like a model before it comes here. libmtmd is part
of llama.cpp, but not of every build: :func:`available` tells. It only ever gets pixels; files of anybody's making are
decoded elsewhere (:mod:`plugsky.engine.vision.pictures`).

When a projector is loaded a grey picture is computed on trial. Refused by name are: positions of more than one number a
token (M-RoPE), images of less tokens than tell them apart, images whose tokens must see each other and do not fit into
one batch, and a machine that takes longer than :data:`MAX_ENCODE_S` for one image: an image is one piece of work, for
which everybody else waits.
"""

import ctypes
import time
import weakref
from pathlib import Path
from typing import Any, Final

import llama_cpp
import numpy as np
import numpy.typing as npt

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.llama import native
from plugsky.engine.scheduling import virtual
from plugsky.engine.scheduling.plan import Chunk
from plugsky.engine.vision.pictures import Picture
from plugsky.engine.vision.pixels import library_file

MAX_ENCODE_S: Final = 30.0
_GREY: Final = 127
_Vectors = npt.NDArray[np.float32]


def available() -> bool:
    """Whether this build of llama.cpp has what images need."""
    return library_file().exists()


class ImagePiece:
    """An image or one tile of it, ready to be computed: its pixels as the projector wants them."""

    def __init__(self, projector: "Projector", handle: Any, count: int) -> None:
        self._projector = projector
        self.handle = handle
        self.count: Final = count
        """How many tokens it stands for."""
        weakref.finalize(self, projector.free, handle)

    def compute(self, chunk: Chunk) -> list[native.Logits]:
        """Compute it as ``chunk``, all of it, on the owner's thread; see :meth:`.llama.Context.decode`."""
        return self._projector.compute(self, chunk)


class Projector:
    """One projector beside a model and its context. Close it before them.

    :meth:`pieces` may be called from any thread, :meth:`compute` from the owner's.
    """

    def __init__(
        self, model: native.Model, context: native.Context, file: Path, *, side: int, batch: int, threads: int
    ) -> None:
        """``side`` is that of its pictures in pixels, ``batch`` the context's. Raises as the module's text says."""
        if not available():
            raise _not_supported("this build of llama.cpp cannot read images", "libmtmd is not part of it")
        from llama_cpp import mtmd_cpp  # not before: it loads a library that need not be there

        self._mtmd: Any = mtmd_cpp
        self._mtmd.mtmd_log_set(native.LOG_CALLBACK, ctypes.c_void_p(0))
        params = self._mtmd.mtmd_context_params_default()
        params.use_gpu = False
        params.print_timings = False
        params.n_threads = threads
        params.warmup = False
        self._handle: Any = self._mtmd.mtmd_init_from_file(str(file).encode(), model.handle, params)
        if not self._handle:
            raise EngineError(
                ErrorKind.TAMPERED, f"the projector {file.name} does not fit this model", why=native.last_error()
            )
        self._context = context
        self._marker: bytes = self._mtmd.mtmd_default_marker()
        self._width: int = llama_cpp.llama_model_n_embd_inp(model.handle)
        self._batch = batch
        self._latest: tuple[weakref.ref[ImagePiece], _Vectors] | None = None
        self.image_bytes: Final = 3 * 4 * side * side
        """Memory that one piece takes at most."""
        try:
            self._try(side)
        except EngineError:
            self.close()
            raise

    def pieces(self, picture: Picture) -> list[tuple[int, ...] | ImagePiece]:
        """What stands for ``picture`` in a prompt: tokens of the model's own around one piece or more."""
        mtmd = self._mtmd
        pixels = (ctypes.c_uint8 * len(picture.rgb)).from_buffer_copy(picture.rgb)
        bitmap = mtmd.mtmd_bitmap_init(picture.width, picture.height, pixels)
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            text = mtmd.mtmd_input_text(self._marker, len(self._marker), False, True)
            bitmaps = (ctypes.c_void_p * 1)(bitmap)
            if mtmd.mtmd_tokenize(self._handle, chunks, ctypes.byref(text), bitmaps, 1) != 0:
                raise EngineError(ErrorKind.NOT_SUPPORTED, "this model cannot read this image", param="images")
            count = mtmd.mtmd_input_chunks_size(chunks)
            return [self._piece(mtmd.mtmd_input_chunks_get(chunks, number)) for number in range(count)]
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def compute(self, piece: ImagePiece, chunk: Chunk) -> list[native.Logits]:
        """See :meth:`ImagePiece.compute`."""
        vectors = self._vectors(piece)
        handle = self._context.handle
        blind = not self._mtmd.mtmd_decode_use_non_causal(self._handle, piece.handle)
        llama_cpp.llama_set_causal_attn(handle, blind)
        try:
            for start in range(0, piece.count, self._batch):
                part = vectors[start : start + self._batch]
                is_last = start + len(part) == piece.count
                self._decode(part, chunk, start, with_logits=is_last and bool(chunk.outputs))
        finally:
            llama_cpp.llama_set_causal_attn(handle, True)
        return self._context.rows(chunk.outputs)

    def free(self, handle: Any) -> None:
        """Give back a piece's memory. From any thread."""
        self._mtmd.mtmd_input_chunk_free(handle)

    def close(self) -> None:
        """Give back what lies outside Python's memory."""
        self._mtmd.mtmd_free(self._handle)

    def _piece(self, chunk: Any) -> tuple[int, ...] | ImagePiece:
        kind = self._mtmd.mtmd_input_chunk_get_type(chunk)
        if kind == self._mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            count = ctypes.c_size_t()
            tokens = self._mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
            return tuple(tokens[: count.value])
        return ImagePiece(
            self, self._mtmd.mtmd_input_chunk_copy(chunk), self._mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        )

    def _vectors(self, piece: ImagePiece) -> _Vectors:
        """The vectors of ``piece``; the latest are kept, as a full cache has them computed in vain."""
        if self._latest is not None and self._latest[0]() is piece:
            return self._latest[1]
        if self._mtmd.mtmd_encode_chunk(self._handle, piece.handle) != 0:
            raise native.BatchRefusedError
        found = self._mtmd.mtmd_get_output_embd(self._handle)
        vectors = np.ctypeslib.as_array(found, shape=(piece.count, self._width)).copy()
        self._latest = (weakref.ref(piece), vectors)
        return vectors

    def _decode(self, part: _Vectors, chunk: Chunk, offset: int, *, with_logits: bool) -> None:
        count = len(part)
        start = chunk.start + offset
        positions = np.arange(start, start + count, dtype=np.int32)
        counts = np.ones(count, dtype=np.int32)
        place = np.array([chunk.seq], dtype=np.int32)
        places = np.full(count, place.ctypes.data, dtype=np.uintp)
        outputs = np.zeros(count, dtype=np.int8)
        outputs[-1] = with_logits
        batch = llama_cpp.llama_batch(
            n_tokens=count,
            embd=_pointer(part, ctypes.c_float),
            pos=_pointer(positions, ctypes.c_int32),
            n_seq_id=_pointer(counts, ctypes.c_int32),
            seq_id=_pointer(places, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(outputs, ctypes.c_int8),
        )
        try:
            self._context.run(batch)
        except (native.CacheFullError, native.BatchRefusedError):
            # What came before of this image is taken back: to whoever asked, nothing was computed.
            memory = llama_cpp.llama_get_memory(self._context.handle)
            llama_cpp.llama_memory_seq_rm(memory, chunk.seq, chunk.start, -1)
            raise

    def _try(self, side: int) -> None:
        if not self._mtmd.mtmd_support_vision(self._handle):
            raise _not_supported("this projector reads no images")
        if self._mtmd.mtmd_decode_use_mrope(self._handle):
            raise _not_supported("this projector's images have positions in two dimensions (M-RoPE)")
        for piece in self.pieces(Picture(side, side, bytes([_GREY]) * (3 * side * side))):
            if isinstance(piece, tuple):
                continue
            if piece.count < virtual.SHORTEST:
                raise _not_supported(f"this projector's images have {piece.count} tokens: too few to tell them apart")
            together = self._mtmd.mtmd_decode_use_non_causal(self._handle, piece.handle)
            if together and piece.count > self._batch:
                raise _not_supported(
                    f"this projector's images have {piece.count} tokens that must be computed at once",
                    f"a batch here holds {self._batch}",
                )
            began = time.monotonic()
            self._vectors(piece)
            took = time.monotonic() - began
            if took > MAX_ENCODE_S:
                raise _not_supported(
                    f"this machine takes {took:.0f} s for an image, over {MAX_ENCODE_S:.0f} s",
                    "everybody else waits for as long",
                )


def _not_supported(what: str, why: str = "") -> EngineError:
    return EngineError(ErrorKind.NOT_SUPPORTED, what, why=why)


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
