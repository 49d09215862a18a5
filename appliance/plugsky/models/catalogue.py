"""The models of a site: what the current generation brought, as the signed bundle describes them.

``models/<id>/model.json`` of the generation is the entry; its digest was signed with the bundle. Entries are read
strictly: a field that is missing, unknown or of another type is a damaged installation and not a guess. Paths name the
generation itself and not ``current``, so an entry keeps meaning the same file when the site is switched over.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky_bundles import split_model, strict_json
from plugsky_bundles.errors import GgufError
from plugsky_bundles.format import is_sha256

SCHEMA: Final = "plugsky.model/1"
ENTRY: Final = "model.json"
MAX_ENTRY: Final = 256 * 1024
LOCAL: Final = "local"
"""The origin of a model that no bundle brought."""
Mode = Literal["generate", "embed", "rerank"]
MODES: Final = ("generate", "embed", "rerank")


@dataclass(frozen=True, slots=True)
class SignedHealth:
    """What the model made of the fixed text where it was built: the mean NLL over ``tokens`` tokens of it.

    In millionths of a nat per token. ``text_sha256`` says which text, see :mod:`plugsky.engine.serving.measure`.
    """

    text_sha256: str
    tokens: int
    nll_micronats: int


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model; ``size`` in bytes."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model. ``size`` in bytes, ``context`` in tokens as trained; ``origin`` says where its bytes come from.

    ``path`` is the file that llama.cpp is given: of a split model the first of its ``files``, beside which the others
    lie. ``sha256`` is the model's digest as :mod:`plugsky_bundles.split_model` defines it.
    """

    id: str
    title: str
    path: Path
    sha256: str
    size: int
    mode: Mode
    context: int
    licence: str
    languages: tuple[str, ...]
    homepage: str
    origin: str
    architecture: str
    quantisation: str
    parameters: int
    health: SignedHealth | None = None
    """What its builder measured; None where nobody did."""
    parts: tuple[ModelFile, ...] = ()
    dimensions: tuple[int, ...] = ()
    """The lengths that its vectors were trained to be cut to; none of a model whose vectors have one length."""

    @property
    def local(self) -> bool:
        """Whether it was made in this facility (:mod:`plugsky.models.local`)."""
        return self.origin == LOCAL

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """Every file of the model, in order."""
        return self.parts or (ModelFile(self.path, self.sha256, self.size),)


_TEXTS: Final = ("id", "title", "sha256", "mode", "licence", "homepage", "origin", "architecture", "quantisation")
_COUNTS: Final = ("size", "context", "parameters")


def models(paths: SitePaths, generation: int | None = None) -> tuple[ModelEntry, ...]:
    """Every model of that generation by id, of the current one unless it is given. Raises PlugskyError.

    Empty before the first activation.
    """
    try:
        folder = paths.generations / str(generation) if generation else paths.root / paths.current.readlink()
    except FileNotFoundError:
        return ()
    except OSError:  # no link: the namespace of an engine's unit holds what it may see of the current generation
        folder = paths.current
    return tuple(_read(path) for path in sorted(folder.glob(f"models/*/{ENTRY}")))


def find(paths: SitePaths, model_id: str) -> ModelEntry:
    """The model of that id. Raises PlugskyError MODEL_NOT_FOUND, which names the ones there are."""
    found = models(paths)
    for entry in found:
        if entry.id == model_id:
            return entry
    raise PlugskyError(
        ErrorKind.MODEL_NOT_FOUND,
        f"The model {model_id!r} is not on this site",
        why=f"its models are {', '.join(entry.id for entry in found)}" if found else "no model is installed",
        next="plugsky model list",
        param="model",
    )


def _read(path: Path) -> ModelEntry:
    with path.open("rb") as file:
        return parse(file.read(MAX_ENTRY + 1), path)


def parse(content: bytes, path: Path) -> ModelEntry:
    """The entry with this content, that lies or will lie at ``path``: ``…/<id>/model.json``.

    Raises PlugskyError, or MalformedMetadata for what is no JSON.
    """
    values = strict_json.parse_object(content, str(path), limit=MAX_ENTRY)
    if values.pop("schema", None) != SCHEMA:
        raise _damaged(path, f"its schema is not {SCHEMA}")
    name = values.pop("file", None)
    health = _health(values.pop("health"), path) if "health" in values else None
    listed = values.pop("files", None)
    dimensions = values.pop("dimensions", [])
    expected = {field.name for field in fields(ModelEntry)} - {"path", "health", "parts", "dimensions"}
    if values.keys() != expected:
        raise _damaged(path, f"its fields are not those of {SCHEMA}: {', '.join(sorted(values.keys() ^ expected))}")
    languages = values.pop("languages")
    if (
        not all(isinstance(values[key], str) for key in _TEXTS)
        or not all(type(values[key]) is int for key in _COUNTS)
        or not isinstance(languages, list)
        or not all(isinstance(language, str) for language in languages)
        or not isinstance(dimensions, list)
        or not all(type(length) is int and length > 0 for length in dimensions)
        or values["mode"] not in MODES
        or values["id"] != path.parent.name
        or not isinstance(name, str)
        or Path(name).name != name
    ):
        raise _damaged(path, "a field has a wrong type or value")
    parts = _parts(path, listed) if listed is not None else ()
    if parts:
        sizes, digests = sum(part.size for part in parts), [part.sha256 for part in parts]
        if (name, values["size"], values["sha256"]) != (parts[0].path.name, sizes, split_model.digest_of(digests)):
            raise _damaged(path, "its files are not those of the model")
    return ModelEntry(
        path=path.parent / name,
        languages=tuple(languages),
        health=health,
        parts=parts,
        dimensions=tuple(dimensions),
        **values,
    )


def _parts(path: Path, listed: Any) -> tuple[ModelFile, ...]:
    """The files of a split model: all of one set, under the names by which llama.cpp finds them."""
    parts: list[ModelFile] = []
    names: list[str] = []
    for item in listed if isinstance(listed, list) else ():
        match item:
            case {"name": str(name), "sha256": digest, "size": int(size), **others} if is_sha256(digest) and not others:
                names.append(name)
                parts.append(ModelFile(path.parent / name, digest, size))
    try:
        whole = len(parts) > 1 and len(parts) == len(listed) and tuple(names) == split_model.part_names(names[0])
    except GgufError as error:
        raise _damaged(path, error.why) from error
    if not whole:
        raise _damaged(path, "its files are not all the parts of one model")
    return tuple(parts)


def _health(values: Any, path: Path) -> SignedHealth:
    match values:
        case {"text_sha256": text, "tokens": int(tokens), "nll_micronats": int(nll), **others}:
            if is_sha256(text) and tokens > 0 and nll >= 0 and not others:
                return SignedHealth(text, tokens, nll)
    raise _damaged(path, "its health is no measurement")


def _damaged(path: Path, why: str) -> PlugskyError:
    return PlugskyError(
        ErrorKind.TAMPERED, f"{path} is damaged", why=why, next="plugsky bundle install, from the bundle it came with"
    )
