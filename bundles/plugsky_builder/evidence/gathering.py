"""All evidence of a bundle, from its files: the one way in for a build.

A delta leaves out what its sites have on earlier media: the documentation, and the licence texts of what they hold.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from plugsky_builder.cache import Cache
from plugsky_builder.debs import releases
from plugsky_builder.debs.parts import DebParts
from plugsky_builder.evidence import components as parts
from plugsky_builder.evidence import (
    debian_tracker,
    licences,
    ml_bom,
    offline_docs,
    provenance,
    sbom,
    vulnerabilities,
)
from plugsky_builder.evidence.components import Component
from plugsky_builder.evidence.debian_tracker import Source
from plugsky_builder.pack import Material
from plugsky_builder.recipe import Recipe
from plugsky_bundles.drafting import Base
from plugsky_bundles.errors import VulnerabilitiesUnchecked
from plugsky_bundles.progress import Progress, ProgressEvent
from plugsky_bundles.strict_json import encode

VULNERABILITIES: Final = "evidence/vulnerabilities.json"
VULNERABILITIES_SCHEMA: Final = "plugsky.vulnerabilities/1"
STEPS: Final = 5
SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """What the operator wants of the vulnerability check: the tracker's data, and that it must have been made."""

    tracker: Path | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """The files of the evidence, and what people should hear about them."""

    materials: tuple[Material, ...]
    warnings: tuple[str, ...] = field(default=())


def gather(
    recipe: Recipe,
    materials: Sequence[Material],
    top: Sequence[Material],
    debs: DebParts | None,
    *,
    version: int,
    content_id: str,
    base: Base | None,
    cache: Cache,
    asked: Asked,
    now: datetime,
    progress: Progress,
) -> Evidence:
    """The evidence for a bundle of these `materials` with these files at its `top`.

    Raises VulnerabilitiesUnchecked where a check was required and could not be made; WheelError, SourceError, NotFound,
    DigestMismatch or NoSpace for parts that cannot be read.
    """

    def step(number: int, item: str) -> None:
        progress(ProgressEvent("evidence", number, STEPS, item))

    step(0, "components")
    found = parts.find(materials, top, recipe.targets, cache)
    with ThreadPoolExecutor(max_workers=1) as aside:  # another process asks a service meanwhile
        asking = aside.submit(_vulnerabilities, found, debs, cache, asked, now)
        step(1, "licences")
        made = licences.materials(found, lambda one: _travels(one, base))
        step(2, "software and models")
        made.append(sbom.material(found, recipe.channel, version, content_id))
        made += ml_bom.materials(found, recipe.channel, version, content_id)
        step(3, "provenance and documentation")
        made.append(provenance.material(recipe, materials, found, version, content_id))
        made += offline_docs.materials() if base is None else []
        step(4, "known vulnerabilities")
        known = asking.result()
    if asked.required or recipe.require_vulnerability_check:
        _demand(known)
    made.append(Material.of_bytes(VULNERABILITIES, encode({"schema": VULNERABILITIES_SCHEMA, **known})))
    step(5, "")
    return Evidence(tuple(made), (*_without_text(found), *_said(known)))


def _travels(component: Component, base: Base | None) -> bool:
    """Whether the media bring any file of a component that the sites do not hold."""
    return base is None or any(digest not in base.held for digest in component.files.values())


def _vulnerabilities(
    found: Sequence[Component], debs: DebParts | None, cache: Cache, asked: Asked, now: datetime
) -> dict[str, dict[str, Any]]:
    """The records of each kind of package that there is."""
    known: dict[str, dict[str, Any]] = {}
    if (python := vulnerabilities.python(found, cache, now)) is not None:
        known["python"] = python
    if debs is not None:
        if asked.tracker is None:
            known["debian"] = vulnerabilities.unchecked("no data of Debian's security tracker was given", now)
        else:
            known["debian"] = debian_tracker.look_up(asked.tracker, _sources(debs), now)
    return known


def _sources(debs: DebParts) -> list[Source]:
    """The source packages of all targets, as the packages themselves name them."""
    found = []
    for target in debs.targets:
        release = releases.release_of(target.target.os).codename
        report = next(one for one in target.evidence if one.path.endswith("/packages.json"))
        with report.open() as file:
            packages = json.loads(file.read())["packages"]
        for package in packages:
            name, _, version = package["source"].partition(" ")
            found.append(Source(release, name, version.strip("()") or package["version"]))
    return found


def _demand(known: dict[str, dict[str, Any]]) -> None:
    for kind, record in known.items():
        if not record["checked"]:
            raise VulnerabilitiesUnchecked(
                f"Known vulnerabilities of the {kind.title()} packages were not checked, and a check is required",
                record["why"],
                "Make the service reachable (or bring the tracker's data), or leave the requirement out",
            )


def _without_text(found: Sequence[Component]) -> list[str]:
    missing = licences.missing(found)
    if not missing:
        return []
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    return [f"{len(missing)} components carry no licence text: {', '.join(missing[:SHOWN])}{more}"]


def _said(known: dict[str, dict[str, Any]]) -> list[str]:
    said = []
    for kind, record in sorted(known.items()):
        if not record["checked"]:
            said.append(f"known vulnerabilities of the {kind.title()} packages were not checked: {record['why']}")
        elif record["found"]:
            packages = len({(one["name"], one["version"]) for one in record["found"]})
            said.append(
                f"{len(record['found'])} known vulnerabilities in {packages} {kind.title()} packages: "
                f"see {VULNERABILITIES}"
            )
    return said
