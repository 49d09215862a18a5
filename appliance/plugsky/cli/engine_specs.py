"""Which engines a site runs: one for each model, as its settings say."""

from plugsky.core.settings import Settings
from plugsky.engine.life.leases import granted_cores
from plugsky.engine.spec import EngineSpec
from plugsky.models.catalogue import ModelEntry


def engine_spec(entry: ModelEntry, settings: Settings, engines: int) -> EngineSpec:
    """The engine of one model beside others, ``engines`` in all. It begins with its cores when all are busy."""
    return EngineSpec(
        entry.id,
        entry.path,
        entry.sha256,
        entry.mode,
        n_ctx=min(settings.context, entry.context),
        threads=max(1, granted_cores(settings.threads) // max(1, engines)),
        kv_type=settings.kv_type,
        gpu_layers=settings.gpu_layers,
        numa=settings.numa,
        batch=settings.batch,
    )
