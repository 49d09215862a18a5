"""What changes from one bundle to another, in the words of those who must approve it.

Models with size, licence, quantisation and context; chat templates, playbooks and licence texts line by line (a chat
template decides what a model is told, so it is worth a look even when it is harmless to render); wheels and Debian
packages by name and version; revocations; and every other file whose digest changed. Equal digests are never read.

Text from bundles may hold anything: each line is escaped where a terminal or a log could be fooled, and cut; a diff
ends after `MAX_LINES` and says how much is missing.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from plugsky_bundles.format import REVOCATIONS, FileEntry
from plugsky_bundles.sides import Side
from plugsky_bundles.state import Revocations

MAX_LINES: Final = 400
MAX_LINE: Final = 400
MODEL_FACTS: Final = ("title", "mode", "quantisation", "context", "licence", "languages", "architecture", "parameters")
_MODEL = re.compile(r"models/([^/]+)/model\.json")
_WHEEL = re.compile(r"(?P<folder>python/(?:.*/)?)(?P<name>[^/-]+)-(?P<version>[^/-]+)-[^/]+\.whl")
_DEB = re.compile(r"(?P<folder>debs/(?:.*/)?)(?P<name>[^/_]+)_(?P<version>[^/_]+)_(?P<machine>[^/_]+)\.deb")


@dataclass(frozen=True, slots=True)
class Text:
    """A changed text: unified diff lines, escaped. None where one of its sides is not at hand or is no text."""

    path: str
    lines: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel or a Debian package that came, went or changed; `where` is its folder, versions are None where it is not.

    With equal versions its bytes changed.
    """

    where: str
    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class Model:
    """A model that came, went or changed: each fact as (old, new), and its chat templates by name."""

    id: str
    change: str
    facts: Mapping[str, tuple[Any, Any]]
    templates: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """`other`: paths that changed and are told of nowhere else, as (path, "added" | "removed" | "changed")."""

    same: bool
    models: tuple[Model, ...]
    licences: tuple[Text, ...]
    wheels: tuple[Package, ...]
    debs: tuple[Package, ...]
    playbooks: tuple[Text, ...]
    policy: tuple[Text, ...]
    revoked: Revocations
    unrevoked: Revocations
    other: tuple[tuple[str, str], ...]


def compare(old: Side, new: Side) -> Difference:
    """What is different in `new`. Raises VerificationError for a blob that is not as signed, GgufError included."""
    changed = {
        path: (old.entries.get(path), new.entries.get(path))
        for path in sorted(old.entries.keys() | new.entries.keys())
        if _digest(old.entries.get(path)) != _digest(new.entries.get(path))
    }
    ids = sorted({match[1] for side in (old, new) for path in side.entries if (match := _MODEL.fullmatch(path))})
    models = tuple(model for model_id in ids if (model := _model(model_id, old, new, changed)) is not None)
    licences = [path for path in changed if path.startswith("models/") and path.rsplit("/", 1)[-1].startswith("LICEN")]
    playbooks = [path for path in changed if path.startswith("playbooks/")]
    policy = [path for path in changed if path.startswith("policy/") and path != REVOCATIONS]
    before, after = _revocations(old), _revocations(new)
    weights = {path for path in changed if any(path.startswith(f"models/{model.id}/") for model in models)}
    told = {*weights, *licences, *playbooks, *policy, REVOCATIONS, *filter(_WHEEL.fullmatch, changed)}
    told |= set(filter(_DEB.fullmatch, changed))
    return Difference(
        same=not changed,
        models=models,
        licences=tuple(_text(path, old.small(path), new.small(path), changed[path]) for path in licences),
        wheels=_packages(_WHEEL, old.entries, new.entries),
        debs=_packages(_DEB, old.entries, new.entries),
        playbooks=tuple(_text(path, old.small(path), new.small(path), changed[path]) for path in playbooks),
        policy=tuple(_text(path, old.small(path), new.small(path), changed[path]) for path in policy),
        revoked=_without(after, before),
        unrevoked=_without(before, after),
        other=tuple((path, _change(*pair)) for path, pair in changed.items() if path not in told),
    )


def shown(line: str) -> str:
    """One line of foreign text, escaped and cut. A tab becomes four spaces: it harms nobody."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line.replace("\t", "    "))
    return text if len(text) <= MAX_LINE else f"{text[:MAX_LINE]}… ({len(text) - MAX_LINE} characters more)"


def text_diff(old: str, new: str) -> tuple[str, ...]:
    """The unified diff of two texts without its header, escaped and at most `MAX_LINES` long."""
    before, after = old.split("\n"), new.split("\n")
    if len(before) * len(after) > 4_000_000:
        lines = [*(f"-{line}" for line in before), *(f"+{line}" for line in after)]
    else:
        lines = list(difflib.unified_diff(before, after, lineterm=""))[2:]
    kept = tuple(line[:1] + shown(line[1:]) for line in lines[:MAX_LINES])
    return kept if len(lines) <= MAX_LINES else (*kept, f"… {len(lines) - MAX_LINES} lines more")


def _model(
    model_id: str, old: Side, new: Side, changed: Mapping[str, tuple[FileEntry | None, FileEntry | None]]
) -> Model | None:
    folder = f"models/{model_id}/"
    if not any(path.startswith(folder) for path in changed):
        return None
    before, after = _catalogue(old, folder), _catalogue(new, folder)
    there = [folder + "model.json" in side.entries for side in (old, new)]
    change = "changed" if all(there) else "added" if there[1] else "removed"
    facts = {name: (before.get(name), after.get(name)) for name in MODEL_FACTS}
    facts["size"] = (_size(old, folder), _size(new, folder))
    facts = {name: pair for name, pair in facts.items() if pair[0] != pair[1]}
    return Model(model_id, change, facts, _templates(folder, old, new, changed))


def _catalogue(side: Side, folder: str) -> dict[str, Any]:
    """The catalogue entry of a model, empty where there is none or it is not at hand; its values as text or numbers."""
    raw = side.small(folder + "model.json")
    try:
        members = {} if raw is None else json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(members, dict):
        return {}
    return {name: _plain(members[name]) for name in MODEL_FACTS if name in members}


def _plain(value: Any) -> Any:
    if isinstance(value, int):
        return value
    if isinstance(value, list):
        return shown(", ".join(str(item) for item in value))
    return shown(str(value))


def _size(side: Side, folder: str) -> int | None:
    lengths = [entry.length for path, entry in side.entries.items() if path.startswith(folder) and _is_weights(path)]
    return sum(lengths) if lengths else None


def _is_weights(path: str) -> bool:
    return path.endswith(".gguf")


def _templates(
    folder: str, old: Side, new: Side, changed: Mapping[str, tuple[FileEntry | None, FileEntry | None]]
) -> tuple[Text, ...]:
    """The templates of the first weights file that has any, where the files differ."""
    paths = [path for path in changed if path.startswith(folder) and _is_weights(path)]
    before = _all_templates(old, [path for path in paths if path in old.entries])
    after = _all_templates(new, [path for path in paths if path in new.entries])
    if before is None or after is None:
        return (Text(folder.rstrip("/"), None),) if paths else ()
    names = sorted(before.keys() | after.keys())
    return tuple(
        Text(shown(name or "chat_template"), text_diff(before.get(name, ""), after.get(name, "")))
        for name in names
        if before.get(name) != after.get(name)
    )


def _all_templates(side: Side, paths: Sequence[str]) -> dict[str, str] | None:
    """The templates of some weights files by name; None when a header is not at hand."""
    found: dict[str, str] = {}
    for path in paths:
        templates = side.templates(path)
        if templates is None:
            return None
        found.update(templates)
    return found


def _text(path: str, old: bytes | None, new: bytes | None, entries: tuple[FileEntry | None, FileEntry | None]) -> Text:
    sides = []
    for data, entry in zip((old, new), entries, strict=True):
        if entry is None:
            sides.append("")
            continue
        try:
            text = None if data is None else data.decode("utf-8")
        except UnicodeDecodeError:
            text = None
        if text is None:
            return Text(path, None)
        sides.append(text)
    return Text(path, text_diff(*sides))


def _packages(
    pattern: re.Pattern[str], old: Mapping[str, FileEntry], new: Mapping[str, FileEntry]
) -> tuple[Package, ...]:
    before, after = _versions(pattern, old), _versions(pattern, new)
    found = []
    for where, name in sorted(before.keys() | after.keys()):
        gone, come = before.get((where, name), {}), after.get((where, name), {})
        if gone != come:
            versions = [", ".join(sorted(side.keys())) or None for side in (gone, come)]
            found.append(Package(where.rstrip("/"), name, versions[0], versions[1]))
    return tuple(found)


def _versions(pattern: re.Pattern[str], entries: Mapping[str, FileEntry]) -> dict[tuple[str, str], dict[str, str]]:
    """Digests by version, by folder and name."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for path, entry in entries.items():
        if (match := pattern.fullmatch(path)) is not None:
            found.setdefault((match["folder"], match["name"]), {})[match["version"]] = entry.sha256
    return found


def _revocations(side: Side) -> Revocations:
    raw = side.small(REVOCATIONS)
    return Revocations() if raw is None else Revocations.from_json(raw)


def _without(whole: Revocations, part: Revocations) -> Revocations:
    return Revocations(whole.bundles - part.bundles, whole.digests - part.digests, whole.keys - part.keys)


def _digest(entry: FileEntry | None) -> str | None:
    return None if entry is None else entry.sha256


def _change(old: FileEntry | None, new: FileEntry | None) -> str:
    if old is None:
        return "added"
    return "removed" if new is None else "changed"
