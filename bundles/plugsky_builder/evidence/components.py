"""Materials -> components: every part of a bundle that is software or a model, with its terms and licence texts.

Lists, licences and provenance are made from these values alone, so they cannot disagree with each other. A component is
named by its path in the bundle, which is unique there. Locks, indexes and policy are not components.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from packageurl import PackageURL
from packaging.requirements import Requirement

from plugsky.core.paths import checkout
from plugsky_builder.bootstrap import APPLIANCE, INSTALLER, VERIFIER
from plugsky_builder.cache import Cache
from plugsky_builder.evidence import licence_terms, wheel_reading
from plugsky_builder.evidence.deb_reading import Copyrights
from plugsky_builder.evidence.licence_terms import Terms
from plugsky_builder.locks import normalised
from plugsky_builder.pack import Material
from plugsky_builder.targets import Target
from plugsky_bundles.errors import NotFound
from plugsky_bundles.gguf import GgufInfo
from plugsky_bundles.strict_json import parse_object

MAX_ENTRY: Final = 1024 * 1024
OWN: Final = Terms(expression="Apache-2.0")
WHEEL, DEB, APPLIANCE_KIND, SCRIPT, MODEL = "wheel", "deb", "appliance", "script", "model"


@dataclass(frozen=True, slots=True)
class Component:
    """One part; `files` are the SHA-256 of its files by path, `texts` its licence texts by their name in it.

    `target` is what a wheel was resolved for. Of a model, `entry` is what its catalogue entry says and `gguf` what its
    first file says.
    """

    path: str
    kind: str
    name: str
    version: str
    purl: PackageURL | None
    terms: Terms
    files: Mapping[str, str]
    texts: Mapping[str, bytes] = field(repr=False)
    requires: tuple[Requirement, ...] = ()
    target: Target | None = None
    entry: Mapping[str, object] = field(default_factory=dict)
    gguf: GgufInfo | None = None


def find(
    materials: Sequence[Material], top: Sequence[Material], targets: Sequence[Target], cache: Cache
) -> tuple[Component, ...]:
    """The components among `materials` and the files at the `top`, by path.

    Raises WheelError, SourceError, NotFound, DigestMismatch, NoSpace or MalformedMetadata.
    """
    folders = {target.folder: target for target in targets}
    own_text = {"LICENSE": _own_licence()}
    scripts = [material for material in top if material.path in (INSTALLER, VERIFIER)]
    scripts += [material for material in materials if material.path.startswith("playbooks/")]
    version = importlib.metadata.version(APPLIANCE)
    found = [
        Component(one.path, SCRIPT, one.path, version, None, OWN, {one.path: one.sha256}, own_text) for one in scripts
    ]
    found += [_wheel(one, folders) for one in materials if one.path.endswith(".whl")]
    found += _debs([one for one in materials if one.path.endswith(".deb")], cache)
    found += [_model(one, materials) for one in materials if one.path.endswith("/model.json")]
    return tuple(sorted(found, key=lambda component: component.path))


def _wheel(material: Material, folders: Mapping[str, Target]) -> Component:
    facts = wheel_reading.read(_path(material), material.path)
    name = normalised(facts.name)
    return Component(
        material.path,
        APPLIANCE_KIND if name == APPLIANCE else WHEEL,
        name,
        facts.version,
        PackageURL("pypi", None, name, facts.version),
        facts.terms,
        {material.path: material.sha256},
        facts.texts,
        facts.requires,
        folders.get(material.path.split("/")[1]),
    )


def _debs(materials: Iterable[Material], cache: Cache) -> list[Component]:
    """The packages of all targets; a copyright file may be that of another package of the same target."""
    by_folder: dict[str, list[Material]] = {}
    for material in materials:
        by_folder.setdefault(material.path.split("/")[1], []).append(material)
    found = []
    for folder, debs in by_folder.items():
        copyrights = Copyrights(cache)
        for deb in debs:
            copyrights.add(_path(deb), deb.sha256, deb.path)
        found += [_deb(deb, folder, copyrights) for deb in debs]
    return found


def _deb(material: Material, folder: str, copyrights: Copyrights) -> Component:
    name, version = str(material.custom["name"]), str(material.custom["version"])
    distro = folder.rpartition("-")[0]
    qualifiers = {"arch": str(material.custom["architecture"]), "distro": distro}
    texts = copyrights.of(name)
    return Component(
        material.path,
        DEB,
        name,
        version,
        PackageURL("deb", distro.partition("-")[0], name, version, qualifiers),
        licence_terms.of_debian_copyright(texts.values()),
        {material.path: material.sha256},
        texts,
    )


def _model(material: Material, materials: Sequence[Material]) -> Component:
    folder = material.path.removesuffix("/model.json")
    entry = parse_object(_bytes(material), material.path, limit=MAX_ENTRY)
    files = {one.path: one for one in materials if one.path.startswith(f"{folder}/") and one.gguf is not None}
    first = files[f"{folder}/{entry['file']}"].gguf
    texts = {one.path.rpartition("/")[2]: _bytes(one) for one in materials if one.path == f"{folder}/LICENSE"}
    return Component(
        folder,
        MODEL,
        str(entry["id"]),
        "",
        None,
        licence_terms.of_text(str(entry["licence"])),
        {path: one.sha256 for path, one in sorted(files.items())},
        texts,
        entry=entry,
        gguf=first,
    )


def _path(material: Material) -> Path:
    if isinstance(material.content, bytes):
        raise TypeError(f"{material.path} has no file")
    return material.content


def _bytes(material: Material) -> bytes:
    with material.open() as file:
        return file.read(MAX_ENTRY)


def _own_licence() -> bytes:
    """Plugsky's own licence: the file of the checkout, or the same one in the installed wheel."""
    tree = checkout()
    if tree is not None:
        return (tree / "LICENSE").read_bytes()
    text = importlib.metadata.distribution(APPLIANCE).read_text("licenses/LICENSE")
    if text is None:
        raise NotFound("Plugsky's own licence is missing", "the installed wheel has none", "Install Plugsky again")
    return text.encode()
