"""The software in a bundle as CycloneDX 1.6: `evidence/sbom.cdx.json`.

Every wheel, every Debian package, the appliance, the playbooks and what a bare host runs first, each with its SHA-256,
its package URL and its terms. A component's reference is its path in the bundle. What depends on what is said for
wheels, from their own metadata, as far as the target needs it; of Debian packages the repository's `Packages` says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component as CdxComponent
from cyclonedx.model.component import ComponentType

from plugsky_builder.evidence import components as parts
from plugsky_builder.evidence import cyclonedx_json
from plugsky_builder.evidence.components import Component
from plugsky_builder.fit import fit_of
from plugsky_builder.locks import normalised
from plugsky_builder.pack import Material

PATH: Final = "evidence/sbom.cdx.json"
BUNDLE: Final = "bundle"
_TYPES: Final = {
    parts.WHEEL: ComponentType.LIBRARY,
    parts.DEB: ComponentType.LIBRARY,
    parts.APPLIANCE_KIND: ComponentType.APPLICATION,
    parts.SCRIPT: ComponentType.FILE,
}


def material(components: Sequence[Component], channel: str, version: int, content_id: str) -> Material:
    """The list of the software among `components`."""
    software = [component for component in components if component.kind in _TYPES]
    bom = Bom(serial_number=cyclonedx_json.serial("sbom", content_id), version=version)
    root = subject(channel, version, content_id)
    bom.metadata.component = root
    made = {component.path: _made(component) for component in software}
    for one in made.values():
        bom.components.add(one)
    bom.register_dependency(root, made.values())
    markers = {target: {**fit_of(target).environment, "extra": ""} for target in {one.target for one in software}}
    for component in software:
        needed = _needs(component, software, markers[component.target])
        bom.register_dependency(made[component.path], (made[path] for path in needed))
    return Material.of_bytes(PATH, cyclonedx_json.to_bytes(bom))


def subject(channel: str, version: int, content_id: str) -> CdxComponent:
    """The bundle itself, which a list is about."""
    return CdxComponent(
        name=f"plugsky-{channel}",
        version=str(version),
        type=ComponentType.PLATFORM,
        bom_ref=BUNDLE,
        properties=[Property(name="plugsky:content-id", value=content_id)],
    )


def hashes(sha256: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]


def _made(component: Component) -> CdxComponent:
    return CdxComponent(
        name=component.name,
        version=component.version,
        type=_TYPES[component.kind],
        bom_ref=component.path,
        purl=component.purl,
        hashes=hashes(component.files[component.path]),
        licenses=cyclonedx_json.licences(component.terms),
    )


def _needs(component: Component, software: Iterable[Component], environment: Mapping[str, str]) -> list[str]:
    """The paths of the wheels beside this one that it needs on its target."""
    names = {
        normalised(needed.name)
        for needed in component.requires
        if needed.marker is None or needed.marker.evaluate(environment)
    }
    folder = component.path.rpartition("/")[0]
    return [one.path for one in software if one.name in names and one.path.rpartition("/")[0] == folder]
