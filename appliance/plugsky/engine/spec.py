"""What one engine is told to load: the plain value that the catalogue, the supervisor and the process share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plugsky.core.settings import KvType, Numa

Mode = Literal["generate", "embed", "rerank"]


@dataclass(frozen=True)
class EngineSpec:
    """One model, one mode. ``n_ctx`` counts the KV cells all its sequences share; ``threads`` is its share of cores."""

    model_id: str
    file: Path
    digest: str
    """The model's digest as installed, in hex; replies name it. The engine checks it before it serves.

    Of a model in one file its SHA-256; of a split one, whose first part ``file`` is, see plugsky_bundles.split_model.
    """
    mode: Mode
    n_ctx: int
    threads: int
    kv_type: KvType = "f16"
    gpu_layers: int | None = None
    """Layers to put on GPUs, the output matrix being one; None for as many as fit."""
    numa: Numa = "off"
    batch: int = 256
    """Tokens computed at once at most. An encoder's texts are computed whole, however long they are."""
