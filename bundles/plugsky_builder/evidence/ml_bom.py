"""The models in a bundle as CycloneDX 1.6 with model cards: `evidence/ml-bom.cdx.json`.

A card says what the signed catalogue entry says and what the model's own file says: architecture, quantisation, number
of parameters, context, languages, terms and origin; the SHA-256 of every chat template; and as a metric the figure that
was measured when it was built and that every site compares before it uses the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cyclonedx.model import ExternalReference, ExternalReferenceType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component as CdxComponent
from cyclonedx.model.component import ComponentType

from plugsky_builder.evidence import components as parts
from plugsky_builder.evidence import cyclonedx_json
from plugsky_builder.evidence.components import Component
from plugsky_builder.evidence.sbom import hashes, subject
from plugsky_builder.pack import Material

PATH: Final = "evidence/ml-bom.cdx.json"
TASKS: Final = {"generate": "text-generation", "embed": "sentence-similarity", "rerank": "text-ranking"}
_OUTPUT: Final = {"generate": "text", "embed": "vector", "rerank": "score"}


def materials(components: Sequence[Component], channel: str, version: int, content_id: str) -> list[Material]:
    """The list of the models among `components`; none where there are none."""
    models = [component for component in components if component.kind == parts.MODEL]
    if not models:
        return []
    bom = Bom(serial_number=cyclonedx_json.serial("ml-bom", content_id), version=version)
    root = subject(channel, version, content_id)
    bom.metadata.component = root
    for model in models:
        bom.components.add(_made(model))
    bom.register_dependency(root, list(bom.components))
    cards = {model.path: _card(model) for model in models}
    return [Material.of_bytes(PATH, cyclonedx_json.to_bytes(bom, cards))]


def _made(model: Component) -> CdxComponent:
    homepage = str(model.entry["homepage"])
    pages = []
    if homepage.startswith("https://"):
        pages = [ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(homepage))]
    return CdxComponent(
        name=model.name,
        description=str(model.entry["title"]),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=model.path,
        hashes=hashes(next(iter(model.files.values()))) if len(model.files) == 1 else [],
        licenses=cyclonedx_json.licences(model.terms),
        external_references=pages,
        components=[
            CdxComponent(name=path.rpartition("/")[2], type=ComponentType.FILE, bom_ref=path, hashes=hashes(sha256))
            for path, sha256 in model.files.items()
        ],
        properties=[Property(name="plugsky:origin", value=str(model.entry["origin"]))],
    )


def _card(model: Component) -> dict[str, Any]:
    entry = model.entry
    facts = {
        "context-tokens": entry["context"],
        "languages": ",".join(_texts(entry["languages"])),
        "parameters": entry["parameters"],
        "quantisation": entry["quantisation"],
    }
    templates = model.gguf.templates if model.gguf is not None else {}
    for name, text in templates.items():
        facts[f"chat-template-sha256:{name or 'default'}"] = hashlib.sha256(text.encode()).hexdigest()
    card: dict[str, Any] = {
        "modelParameters": {
            "task": TASKS[str(entry["mode"])],
            "modelArchitecture": str(entry["architecture"]),
            "inputs": [{"format": "text"}],
            "outputs": [{"format": _OUTPUT[str(entry["mode"])]}],
        },
        "properties": [{"name": f"plugsky:{name}", "value": str(value)} for name, value in sorted(facts.items())],
    }
    if isinstance(health := entry.get("health"), Mapping):
        card["quantitativeAnalysis"] = {
            "performanceMetrics": [
                {
                    "type": "mean negative log-likelihood (nats per token)",
                    "value": f"{health['nll_micronats'] / 1_000_000:.6f}",
                    "slice": f"{health['tokens']} tokens of the text with SHA-256 {health['text_sha256']}",
                }
            ]
        }
    return card


def _texts(values: object) -> list[str]:
    return [str(value) for value in values] if isinstance(values, list) else []
