"""From a file on disk to a model that can step: checked by our own reader first, refused with numbers if too large.

The digest of the whole file is taken at each load, beside it (:mod:`plugsky.engine.loading.head_start`): what is served
under a digest had that digest when it was loaded.

Where the time goes, in CPU time of the loading thread, SmolLM2-135M with a warm page cache: 0.11 s for Python and what
the head start needs, 0.22 s for numpy, llama.cpp and ourselves, 0.02 s for our reader, 0.12 s for llama.cpp's model,
0.4 s for its context, and for the canary that an engine reads before it serves about half of the 0.75 s that one core
takes for 96 tokens; llama.cpp's own two
calls take 0.3 to 0.4 s. The digest (0.12 s), the child's start and its template run beside that: to be ready takes 0.74
of what it took one after another (median of six interleaved rounds on a busy machine, from 0.56 to 0.89).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import DoesNotFitError, EngineError
from plugsky.engine.headers import adapters
from plugsky.engine.headers.estimate import Holding, copied_cells
from plugsky.engine.headers.offload import Device, Placement, place
from plugsky.engine.headers.shape import shape
from plugsky.engine.headers.sight import Sight, sight
from plugsky.engine.known_text import TEXT
from plugsky.engine.llama import devices as llama_devices
from plugsky.engine.llama import native
from plugsky.engine.llama.images import Projector
from plugsky.engine.llama.pooling import LONGEST, PooledContext, pair_form
from plugsky.engine.loading import adapter_files, canary
from plugsky.engine.loading.head_start import HeadStart
from plugsky.engine.loading.model_file import check_digest, check_file
from plugsky.engine.prompting.images import Images
from plugsky.engine.prompting.inputs import Inputs
from plugsky.engine.prompting.prompts import Prompts
from plugsky.engine.prompting.renderer import Renderer
from plugsky.engine.scheduling.batcher import Bounds
from plugsky.engine.scheduling.tasks import Limits
from plugsky.engine.spec import EngineSpec, Mode, ProjectorSpec
from plugsky.engine.stepping.embedding import Embedder
from plugsky.engine.stepping.orders import Report
from plugsky.engine.stepping.stepper import Stepper
from plugsky.engine.vision.pictures import Pictures
from plugsky_bundles.gguf import GgufInfo

PLACES: Final = 16
SEQUENCES: Final = 96
"""Sequences of a context that requests and what is parked of them may take."""
TEXTS: Final = 64
"""Texts in one batch of an engine that embeds or reranks."""

HASHED: Final = 0.5
"""The fraction of loading that hashing counts as."""
_KNOWN: Final = 2000
"""Characters of the fixed text that a canary is made of."""


@dataclass(frozen=True)
class Loaded:
    """A model in memory with everything that serves it."""

    model: native.Model
    context: native.Context | PooledContext
    renderer: Renderer | None
    prompts: Prompts | Inputs
    cells: int
    """KV cells that its requests share; none where nothing is kept between batches."""
    stepper: Callable[[Callable[[Report], None]], Stepper | Embedder]
    """Makes what steps the context, with the callback for its reports. To be called once."""
    read_canary: Callable[[], canary.Verdict] | None = None
    """Asks whether sequences are kept apart, on the owner's thread between steps; None where there is no cache."""
    projector: Projector | None = None
    images: Images | None = None
    verdict: canary.Verdict | None = None
    """What :attr:`read_canary` said at load: nothing that tripped."""

    caps: tuple[str, ...] = ()
    """What peers are told of it beside: how it pools, as `pooling:mean`."""

    def close(self) -> None:
        """Give back what lies outside Python's memory."""
        if self.images is not None:
            self.images.close()
        if self.projector is not None:
            self.projector.close()
        if self.renderer is not None:
            self.renderer.close()
        self.context.close()
        self.model.close()


def load(spec: EngineSpec, progress: Callable[[float], bool], head: HeadStart | None = None) -> Loaded:
    """Load ``spec``. ``progress`` gets fractions from 0 to 1 and gives False to stop. ``head`` is what was begun of it.

    Raises :class:`EngineError`: ``model_not_found`` when the file is missing, ``tampered`` when it is no GGUF file, a
    damaged one or not the one that was installed, ``not_supported`` when it cannot do what its mode says,
    be held as ``spec`` says or use an adapter, ``overloaded`` with both numbers when it does not fit into memory,
    ``internal`` when the canary trips; :class:`native.ContextBrokenError` when llama.cpp cannot compute it.
    """
    head = head or HeadStart(spec)
    loaded = None

    def mapped(fraction: float) -> bool:
        return progress(HASHED * head.hashed + (1 - HASHED) * fraction)

    def hashed(fraction: float) -> bool:
        return progress(HASHED * fraction + 1 - HASHED)

    try:
        headers = check_file(spec.file)
        adapted = adapter_files.check(spec, headers, lambda: progress(0.0))
        seen = None if spec.projector is None else _seen(spec.mode, spec.projector, progress)
        free = free_memory() - spec.taken - (seen.need if seen is not None else 0)
        holding, placement = fit(spec, headers, free, llama_devices.devices(), adapted)
        llama_devices.spread(spec.numa)
        try:
            model = native.Model(spec.file, mapped, placement)
        except EngineError:
            head.vouch(hashed)  # of a changed file this says more than llama.cpp does
            raise
        if spec.mode == "generate":
            saved = copied_cells(shape(headers), holding, free - placement.host.total)
            loaded = _generating(spec, model, holding, head, saved, seen)
        else:
            loaded = _pooling(model, holding, spec.mode, spec.threads)
        try:
            verdict = loaded.read_canary() if loaded.read_canary is not None else None
        finally:
            head.vouch(hashed)  # of a changed file this says more than a canary does
        if verdict is not None:
            canary.refuse_tripped(verdict)
    except (EngineError, native.ContextBrokenError):
        if loaded is not None:
            loaded.close()
        head.close()
        raise
    return replace(loaded, verdict=verdict)


def _seen(mode: Mode, projector: ProjectorSpec, progress: Callable[[float], bool]) -> Sight:
    """What a projector is, once it is known to be the one that was installed."""
    if mode != "generate":
        raise EngineError(ErrorKind.NOT_SUPPORTED, f"a model of mode {mode} reads no images")
    seen = sight(check_file(projector.file)[0])
    check_digest(projector.file, projector.digest, lambda _fraction: progress(0.0))
    return seen


def _generating(
    spec: EngineSpec, model: native.Model, holding: Holding, head: HeadStart, saved: int, seen: Sight | None
) -> Loaded:
    renderer = Renderer(model.template, bos=model.bos, eos=model.eos, child=head.child) if model.template else None
    starting = head.beside(renderer.start if renderer is not None else head.dismiss)
    context = projector = images = None
    try:
        for adapter in spec.adapters:
            model.add_adapter(adapter)
        context = native.Context(model, holding, spec.threads)
        if spec.projector is not None and seen is not None:
            file = spec.projector.file
            projector = Projector(model, context, file, side=seen.side, batch=holding.batch, threads=spec.threads)
            images = Images(projector, Pictures())
    except EngineError:
        if context is not None:
            context.close()
        model.close()
        raise
    limits = Limits(
        cells=context.cells - canary.CELLS,
        spare=canary.CELLS,
        batch=holding.batch,
        places=PLACES,
        sequences=SEQUENCES,
        saved=saved,
        reuse=context.reuse,
    )
    n_ctx = min(limits.cells, model.n_ctx_train)
    known = model.tokens(TEXT.read_text(encoding="utf-8")[:_KNOWN], add_special=True, parse_special=False)

    def read_canary() -> canary.Verdict:
        context.set_adapter(adapters.NONE)
        return canary.run(context, known, SEQUENCES)

    loaded = Loaded(
        model,
        context,
        renderer,
        Prompts(model, renderer, n_ctx, tuple(adapter.id for adapter in spec.adapters), images),
        limits.cells,
        lambda report: Stepper(context, limits, report),
        read_canary,
        projector,
        images,
    )
    try:
        starting.result()
    except EngineError:
        loaded.close()
        raise
    return loaded


def _pooling(model: native.Model, holding: Holding, mode: Literal["embed", "rerank"], threads: int) -> Loaded:
    try:
        context = PooledContext(model, holding, mode, threads)
    except EngineError:
        model.close()
        raise
    inputs = Inputs(model, mode, pair_form(model), context.longest)
    bounds = Bounds(tokens=context.longest, texts=TEXTS)
    scores = mode == "rerank"
    return Loaded(
        model,
        context,
        None,
        inputs,
        0,
        lambda report: Embedder(context, bounds, report, scores=scores),
        caps=(f"pooling:{context.pooling}",) if context.pooling else (),
    )


def fit(
    spec: EngineSpec, headers: Sequence[GgufInfo], free: int, devices: Sequence[Device] = (), adapted: int = 0
) -> tuple[Holding, Placement]:
    """How the model is held and where it goes, before anything of it is hashed or mapped.

    ``adapted`` counts the bytes of its adapters. Layers that see a window only keep every cell of it where that fits,
    and otherwise just what they see.

    Raises :class:`DoesNotFitError`, which says what the need is made of, when ``free`` bytes and ``devices`` have no
    room for it; ``not_supported`` when ``spec`` wants layers on a GPU that is not there.
    """
    model = shape(headers)
    holding = replace(_holding(spec, headers[0].context_length, whole=not model.projects), adapters=adapted)
    try:
        return holding, place(model, holding, free, devices, spec.gpu_layers)
    except DoesNotFitError:
        if not any(layer.windowed for layer in model.layers):
            raise
    narrow = replace(holding, whole_window=False)
    return narrow, place(model, narrow, free, devices, spec.gpu_layers)


def _holding(spec: EngineSpec, longest: int | None, *, whole: bool) -> Holding:
    """``whole``: a text of this model must be computed in one batch."""
    features = native.features()
    if spec.mode == "generate":
        cells, sequences = spec.n_ctx + canary.CELLS, SEQUENCES + canary.SEQUENCES + 1
        outputs = PLACES + Limits.outputs
        return Holding(cells, spec.batch, sequences, outputs, kv_type=spec.kv_type, features=features)
    cells = min(spec.n_ctx, longest or LONGEST, LONGEST)
    batch = cells if whole else min(cells, spec.batch)
    return Holding(cells, batch, TEXTS, batch, kv_type=spec.kv_type, vectors=True, features=features)


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
