"""The files of a model's adapters: checked like the model's own, but all of them before llama.cpp maps anything."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.headers import adapters
from plugsky.engine.loading.model_file import check_digest, check_file
from plugsky.engine.spec import AdapterSpec, EngineSpec
from plugsky_bundles.gguf import GgufInfo


def check(spec: EngineSpec, headers: Sequence[GgufInfo], going_on: Callable[[], bool]) -> int:
    """Refuse adapters that are not the ones installed, or not for the model with these ``headers``.

    The bytes that they take beside it. ``going_on`` gives False to stop.

    Raises :class:`EngineError` that names the adapter: ``model_not_found`` when its file is missing, ``tampered`` when
    it is no GGUF file, a damaged one or another than was installed, ``not_supported`` when the model cannot use it.
    """
    if spec.adapters and spec.mode != "generate":
        raise EngineError(ErrorKind.NOT_SUPPORTED, f"an engine of mode {spec.mode} takes no adapters")
    adapters.check_names(spec.adapters)
    need = 0
    for adapter in spec.adapters:
        with _naming(adapter):
            header = check_file(adapter.file)[0]
        adapters.check_fits(adapter.id, header, headers)
        with _naming(adapter):
            check_digest(adapter.file, adapter.digest, lambda _: going_on())
        need += adapters.memory(header, spec.batch)
    return need


@contextlib.contextmanager
def _naming(adapter: AdapterSpec) -> Iterator[None]:
    """Have errors name ``adapter``."""
    try:
        yield
    except EngineError as error:
        what = f"the adapter {adapter.id} cannot be loaded: {error.what}"
        raise EngineError(error.kind, what, why=error.why, next=error.next) from error
