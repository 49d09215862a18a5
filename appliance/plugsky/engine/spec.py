"""What one engine is told to load: the plain value that the catalogue, the supervisor and the process share."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from plugsky.core.settings import KvType, Numa

Mode = Literal["generate", "embed", "rerank"]

_ADAPTER: Final = re.compile(
    r"([a-z0-9][a-z0-9._-]{0,63}):([0-9a-f]{64}):([0-9]{1,3}(?:\.[0-9]{1,6})?):(.+)", re.DOTALL
)


@dataclass(frozen=True)
class AdapterSpec:
    """A LoRA adapter: the ``id`` that requests ask for it by, its file and that file's SHA-256 as installed, in hex.

    ``scale`` is how strongly it is applied, to six decimals: 1 as it was trained. As text it is
    ``ID:SHA256:SCALE:FILE``.
    """

    id: str
    file: Path
    digest: str
    scale: float = 1.0

    def __str__(self) -> str:
        return f"{self.id}:{self.digest}:{self.scale:.6f}:{self.file}"

    @classmethod
    def parse(cls, text: str) -> "AdapterSpec":
        """The adapter that ``text`` names. Raises :class:`ValueError` that says what is wrong."""
        words = _ADAPTER.fullmatch(text)
        if words is None:
            raise ValueError("an adapter is written ID:SHA256:SCALE:FILE")
        scale = float(words[3])
        if not scale > 0:
            raise ValueError(f"the scale of the adapter {words[1]} is {words[3]}: it would do nothing")
        return cls(words[1], Path(words[4]), words[2], scale)


@dataclass(frozen=True)
class ProjectorSpec:
    """The GGUF that makes images readable to a model, and its digest as installed, in hex."""

    file: Path
    digest: str


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
    adapters: tuple[AdapterSpec, ...] = ()
    """The adapters that a request may ask for; checked like the model before anything is mapped."""
    projector: ProjectorSpec | None = None
    taken: int = 0
    """Bytes of the host's memory that are not free though the kernel says so: what other engines have mapped."""
