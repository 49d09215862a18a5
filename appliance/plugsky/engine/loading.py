"""From a file on disk to a model that can step: checked by our own reader first, refused with numbers if too large.

The whole file is hashed before llama.cpp maps it, at each load: one to two seconds per gigabyte. Hashing beside mapping
gained nothing above the noise on two cores, and llama.cpp would read bytes that nobody had vouched for; hashed first,
the weights are in the page cache when they are mapped. So what is served under a digest had that digest when it was
loaded. A file changed in place after that is not noticed until the next load.
"""

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from plugsky.core.errors import ErrorKind
from plugsky.engine import canary, llama
from plugsky.engine.batcher import Bounds
from plugsky.engine.embedding import Embedder
from plugsky.engine.errors import DoesNotFitError, EngineError
from plugsky.engine.estimate import Holding, estimate
from plugsky.engine.inputs import Inputs
from plugsky.engine.llama_pooling import LONGEST, PooledContext, pair_form
from plugsky.engine.measurer import TEXT
from plugsky.engine.orders import Report
from plugsky.engine.prompts import Prompts
from plugsky.engine.renderer import Renderer
from plugsky.engine.shape import shape
from plugsky.engine.spec import EngineSpec
from plugsky.engine.stepper import Stepper
from plugsky.engine.tasks import Limits
from plugsky_bundles import gguf, split_model
from plugsky_bundles.errors import BundleError
from plugsky_bundles.gguf import GgufInfo

PLACES: Final = 16
BATCH: Final = 256
SEQUENCES: Final = 96
"""Sequences of a context that requests and what is parked of them may take."""
TEXTS: Final = 64
"""Texts in one batch of an engine that embeds or reranks."""

HASHED: Final = 0.5
"""The fraction of loading that hashing counts as."""
_CHUNK: Final = 1 << 20
_KNOWN: Final = 2000
"""Characters of the fixed text that a canary is made of."""
_REPAIR: Final = "plugsky bundle install --repair, with the bundle it came with"
_REINSTALL: Final = "plugsky bundle verify BUNDLE, then plugsky bundle install BUNDLE"


@dataclass(frozen=True)
class Loaded:
    """A model in memory with everything that serves it."""

    model: llama.Model
    context: llama.Context | PooledContext
    renderer: Renderer | None
    prompts: Prompts | Inputs
    cells: int
    """KV cells that its requests share; none where nothing is kept between batches."""
    stepper: Callable[[Callable[[Report], None]], Stepper | Embedder]
    """Makes what steps the context, with the callback for its reports. To be called once."""
    read_canary: Callable[[], canary.Verdict] | None = None
    """Asks whether sequences are kept apart, on the owner's thread between steps; None where there is no cache."""

    def close(self) -> None:
        """Give back what lies outside Python's memory."""
        if self.renderer is not None:
            self.renderer.close()
        self.context.close()
        self.model.close()


def load(spec: EngineSpec, progress: Callable[[float], bool]) -> Loaded:
    """Load ``spec``. ``progress`` gets fractions from 0 to 1 and gives False to stop.

    Raises :class:`EngineError`: ``model_not_found`` when the file is missing, ``tampered`` when it is no GGUF file, a
    damaged one or not the one that was installed, ``not_supported`` when it cannot do what its mode says,
    ``overloaded`` with both numbers when it does not fit into memory.
    """
    check_fit(spec, check_file(spec.file), free_memory())
    check_digest(spec.file, spec.digest, lambda fraction: progress(HASHED * fraction))
    model = llama.Model(spec.file, lambda fraction: progress(HASHED + (1 - HASHED) * fraction))
    if spec.mode != "generate":
        return _pooling(model, spec.mode, spec)
    renderer = Renderer(model.template, bos=model.bos, eos=model.eos) if model.template else None
    try:
        if renderer is not None:
            renderer.start()
        context = llama.Context(
            model,
            cells=spec.n_ctx + canary.CELLS,
            places=SEQUENCES + canary.SEQUENCES + 1,
            batch=BATCH,
            threads=spec.threads,
            free_memory=free_memory(),
        )
    except EngineError:
        if renderer is not None:
            renderer.close()
        model.close()
        raise
    limits = Limits(
        cells=context.cells - canary.CELLS,
        spare=canary.CELLS,
        batch=BATCH,
        places=PLACES,
        sequences=SEQUENCES,
        reuse=context.reuse,
    )
    n_ctx = min(limits.cells, model.n_ctx_train)
    known = model.tokens(TEXT.read_text(encoding="utf-8")[:_KNOWN], add_special=True, parse_special=False)
    prompts = Prompts(model, renderer, n_ctx)
    return Loaded(
        model,
        context,
        renderer,
        prompts,
        limits.cells,
        lambda report: Stepper(context, limits, report),
        lambda: canary.run(context, known, SEQUENCES),
    )


def _pooling(model: llama.Model, mode: Literal["embed", "rerank"], spec: EngineSpec) -> Loaded:
    try:
        context = PooledContext(
            model, mode=mode, cells=spec.n_ctx, places=TEXTS, threads=spec.threads, free_memory=free_memory()
        )
    except EngineError:
        model.close()
        raise
    inputs = Inputs(model, mode, pair_form(model), context.longest)
    bounds = Bounds(tokens=context.longest, texts=TEXTS)
    scores = mode == "rerank"
    return Loaded(model, context, None, inputs, 0, lambda report: Embedder(context, bounds, report, scores=scores))


def check_fit(spec: EngineSpec, headers: Sequence[GgufInfo], free: int) -> None:
    """Refuse what will not fit into ``free`` bytes, before anything of it is hashed or mapped.

    Raises :class:`DoesNotFitError`, which says what the need is made of.
    """
    if spec.mode == "generate":
        places = SEQUENCES + canary.SEQUENCES + 1
        holding = Holding(spec.n_ctx + canary.CELLS, BATCH, places, places, features=llama.features())
    else:
        longest = min(spec.n_ctx, headers[0].context_length or LONGEST, LONGEST)
        holding = Holding(longest, longest, TEXTS, longest, vectors=True, features=llama.features())
    need = estimate(shape(headers), holding)
    if need.total > free:
        raise DoesNotFitError(need.total, free, str(need))


def check_file(file: Path) -> tuple[GgufInfo, ...]:
    """Refuse what llama.cpp should never map, also among the other parts of a split model whose first is ``file``.

    What the files say of themselves, in the order of the parts.

    Raises :class:`EngineError` as :func:`load` says.
    """
    files = _files(file)
    headers = tuple(_header(part) for part in files)
    try:
        split_model.check_set([part.name for part in files], headers)
    except BundleError as error:
        raise _unsound(file, error) from error
    return headers


def _files(first: Path) -> tuple[Path, ...]:
    """Every file of a model: llama.cpp finds the parts of a split one beside the first, by their names."""
    try:
        return tuple(first.with_name(name) for name in split_model.part_names(first.name))
    except BundleError as error:
        raise _unsound(first, error) from error


def _header(file: Path) -> GgufInfo:
    try:
        with file.open("rb") as stream:
            return gguf.read(stream, os.fstat(stream.fileno()).st_size)
    except FileNotFoundError:
        raise EngineError(
            ErrorKind.MODEL_NOT_FOUND, f"the model file {file.name} is missing", why=str(file.parent), next=_REINSTALL
        ) from None
    except OSError as error:
        raise _unreadable(file, error) from error
    except BundleError as error:
        raise _unsound(file, error) from error


def check_digest(file: Path, digest: str, progress: Callable[[float], bool]) -> None:
    """Refuse a model, ``file`` or its first part, whose digest is not ``digest`` (hex). ``progress`` is as for load.

    Raises :class:`EngineError`: ``tampered``; ``cancelled`` when ``progress`` says stop.
    """
    chunk = memoryview(bytearray(_CHUNK))
    digests = []
    done, part = 0, file
    try:
        files = _files(file)
        size = sum(part.stat().st_size for part in files)
        for part in files:
            sha256 = hashlib.sha256()
            with part.open("rb", buffering=0) as stream:
                while count := stream.readinto(chunk):
                    sha256.update(chunk[:count])
                    done += count
                    if not progress(min(1.0, done / max(size, 1))):
                        raise EngineError(ErrorKind.CANCELLED, f"loading {file.name} was stopped")
            digests.append(sha256.hexdigest())
    except OSError as error:
        raise _unreadable(part, error) from error
    found = split_model.digest_of(digests)
    if not hmac.compare_digest(found.encode(), digest.encode()):
        raise EngineError(
            ErrorKind.TAMPERED,
            f"the model file {file.name} is not the one that was installed",
            why=f"its SHA-256 is {found}, installed was {digest}",
            next=_REPAIR,
        )


def _unsound(file: Path, error: BundleError) -> EngineError:
    return EngineError(
        ErrorKind.TAMPERED, f"{file.name} is no sound GGUF file: {error.what}", why=error.why, next=_REINSTALL
    )


def _unreadable(file: Path, error: OSError) -> EngineError:
    return EngineError(
        ErrorKind.INTERNAL, f"the model file {file.name} cannot be read", why=error.strerror or str(error)
    )


def free_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes this process may still take: what the kernel calls available, or what is left of its cgroup's limit."""
    lines = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    free = next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    own = (proc / "self/cgroup").read_text().partition("0::/")[2].strip()
    try:
        limit = (cgroups / own / "memory.max").read_text().strip()
        used = int((cgroups / own / "memory.current").read_text())
    except OSError:  # cgroup v1, or no cgroup of our own: the kernel's number is all there is
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))
