"""Whether a generation works on this host, asked before anything runs from it: its own Python, its own models.

Each model is measured in a process of the generation's own environment (:mod:`plugsky.models.measuring`), one after the
other, so that the memory for the largest is enough. A model is

* ``ok`` when it loads, answers something visible, and its NLL over the fixed text is within :data:`TOLERANCE` of the
  one signed with the bundle; where none was signed, or over another text, loading and answering must do; a model that
  embeds or reranks answers with numbers, and visible is that they are some;
* ``failed`` when it does not; one failed model is a failed generation;
* ``refused`` when it does not fit into the memory that is free now. That says nothing about the generation: the models
  that run now hold the memory, and are still running. It is told and recorded, and fails nothing;
* ``unchecked`` where the generation has no Python environment to run it with.

The last verdict lies in the generation, ``health.json``: news for people, which nothing trusts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from plugsky.core.clock import rfc3339
from plugsky.core.errors import PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.core.settings import physical_cores
from plugsky.fleet.generations import Generation
from plugsky.models import catalogue, measuring
from plugsky.models.catalogue import ModelEntry
from plugsky.models.measuring import DoesNotFit, Failed, Measured, Outcome
from plugsky_bundles import strict_json
from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import MalformedMetadata, printable
from plugsky_bundles.progress import Progress, ProgressEvent, silent

SCHEMA: Final = "plugsky.health/1"
FILE: Final = "health.json"
MAX_FILE: Final = 1 << 20
TOLERANCE_PERCENT: Final = 2
MICRO: Final = 1_000_000
State = Literal["ok", "failed", "refused", "unchecked"]
STATES: Final = ("ok", "failed", "refused", "unchecked")
_TIME = re.compile(r"[0-9TZ:.+-]{20,40}", re.ASCII)


@dataclass(frozen=True)
class ModelHealth:
    """How one model did, and why; ``nll_micronats`` as measured here, None where it was not."""

    state: State
    why: str
    nll_micronats: int | None = None


@dataclass(frozen=True)
class Verdict:
    """How every model of a generation did, by id, at the time ``at`` (RFC 3339)."""

    at: str
    models: Mapping[str, ModelHealth]

    @property
    def failed(self) -> bool:
        return any(model.state == "failed" for model in self.models.values())

    @property
    def why(self) -> str:
        """What every model that is not ok did, in one line; empty where all are."""
        return "; ".join(f"{name}: {model.why}" for name, model in self.models.items() if model.state != "ok")

    @property
    def summary(self) -> str:
        """For the record: ``2 ok, 1 refused``."""
        counts = [(sum(model.state == state for model in self.models.values()), state) for state in STATES]
        return ", ".join(f"{count} {state}" for count, state in counts if count) or "no models"

    def to_json(self) -> dict[str, object]:
        models = {name: dict(vars(model)) for name, model in self.models.items()}
        return {"schema": SCHEMA, "at": self.at, "models": models}


def check(paths: SitePaths, generation: Generation, *, progress: Progress = silent) -> Verdict:
    """Check every model of ``generation``; nothing is kept. An entry that cannot be read is a model that failed."""
    at = rfc3339(datetime.now(UTC))
    try:
        entries = catalogue.models(paths, generation.number)
    except (PlugskyError, MalformedMetadata) as error:
        return Verdict(at, {"catalogue": ModelHealth("failed", f"{error.what}: {error.why}")})
    python = generation.path / "venv" / "bin" / "python"
    models: dict[str, ModelHealth] = {}
    for done, entry in enumerate(entries):

        def told(percent: int, before: int = 100 * done, name: str = entry.id) -> None:
            progress(ProgressEvent("health", before + percent, 100 * len(entries), name))

        models[entry.id] = _of_model(python, entry, told)
        told(100)
    return Verdict(at, models)


def judge(entry: ModelEntry, outcome: Outcome) -> ModelHealth:
    """What an outcome says of a model. Pure."""
    match outcome:
        case Failed(why):
            return ModelHealth("failed", why)
        case DoesNotFit(need, have):
            why = f"it needs {need // MICRO} MB of memory and {have // MICRO} MB are free, so it was not checked"
            return ModelHealth("refused", why)
        case Measured(answered=False) if entry.mode != "generate":
            return ModelHealth("failed", "it loads, and what it makes of a short text is no number: it is broken")
        case Measured(answered=False):
            return ModelHealth("failed", "it loads, and its answer to a short question is empty", outcome.nll_micronats)
        case Measured():
            return _against_signed(entry, outcome)


def _against_signed(entry: ModelEntry, measured: Measured) -> ModelHealth:
    signed, found = entry.health, measured.nll_micronats
    if entry.mode == "generate" and found is None:
        return ModelHealth("failed", "what it makes of the fixed text is no number: its weights are broken")
    if signed is None or found is None:
        return ModelHealth("ok", "it loads; no NLL was signed with it", found)
    if (signed.text_sha256, signed.tokens) != (measured.text_sha256, measured.tokens):
        if signed.text_sha256 == measured.text_sha256:
            why = f"it reads the fixed text as {measured.tokens} tokens, signed were {signed.tokens}"
            return ModelHealth("failed", why, found)
        return ModelHealth("ok", "it loads and answers; its NLL was signed for another text", found)
    off = f"an NLL of {found / MICRO:.4f} nats per token, signed were {signed.nll_micronats / MICRO:.4f}"
    if abs(found - signed.nll_micronats) * 100 > TOLERANCE_PERCENT * signed.nll_micronats:
        return ModelHealth("failed", f"it has {off}: more than {TOLERANCE_PERCENT} % apart", found)
    return ModelHealth("ok", f"it has {off}", found)


def keep(generation: Path, verdict: Verdict) -> None:
    """Write the verdict into its generation."""
    write_file(generation / FILE, strict_json.encode(verdict.to_json()), mode=0o444)


def kept(generation: Path) -> Verdict | None:
    """The last verdict on a generation; None before the first, and where it cannot be read."""
    try:
        with (generation / FILE).open("rb") as file:
            values = strict_json.parse_object(file.read(MAX_FILE + 1), FILE, limit=MAX_FILE)
    except (OSError, MalformedMetadata):
        return None
    match values:
        case {"schema": "plugsky.health/1", "at": str(at), "models": dict(models)} if _TIME.fullmatch(at):
            found = {printable(name): _kept_model(model) for name, model in models.items()}
            return Verdict(at, {name: model for name, model in found.items() if model is not None})
    return None


def _kept_model(values: object) -> ModelHealth | None:
    match values:
        case {"state": "ok" | "failed" | "refused" | "unchecked" as state, "why": str(why), "nll_micronats": nll}:
            return ModelHealth(state, printable(why), nll if type(nll) is int else None)
    return None


def _of_model(python: Path, entry: ModelEntry, told: measuring.Told) -> ModelHealth:
    if not python.exists():
        return ModelHealth("unchecked", "the generation has no Python environment to run it with")
    limit_s = measuring.patience_s(entry.size)
    try:
        return judge(entry, measuring.measure(python, entry.path, entry.mode, physical_cores(), told, limit_s))
    except OSError as error:
        return ModelHealth("failed", f"{error.filename or entry.path.name}: {error.strerror or error}")
