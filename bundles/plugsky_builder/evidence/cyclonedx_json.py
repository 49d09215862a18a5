"""CycloneDX 1.6 as bytes: made by the reference library, the same for the same content, and valid by the schema.

What the library puts in of itself is taken out again: the moment and the random serial number. The serial number is
derived from the content id, so it names the content and nothing else. What it cannot model yet (model cards) is added
to the value before it is validated strictly against the official schema.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, Final

from cyclonedx.model.bom import Bom
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.spdx import is_supported_id
from cyclonedx.validation.json import JsonStrictValidator

from plugsky_builder.evidence.licence_terms import Terms
from plugsky_bundles.errors import SourceError
from plugsky_bundles.strict_json import encode

NAMESPACE: Final = uuid.UUID("7d0f4e5e-3f0c-5b86-9c57-6a1c2f6d9a10")


def serial(kind: str, content_id: str) -> uuid.UUID:
    """The serial number of the list of that kind for content with that id (RFC 9562, version 5)."""
    return uuid.uuid5(NAMESPACE, f"{kind}:{content_id}")


def licences(terms: Terms) -> list[License]:
    """Terms as CycloneDX has them."""
    if not terms.expression:
        return [DisjunctiveLicense(name=name) for name in terms.names]
    if is_supported_id(terms.expression):
        return [DisjunctiveLicense(id=terms.expression)]
    return [LicenseExpression(terms.expression)]


def to_bytes(bom: Bom, cards: Mapping[str, Mapping[str, Any]] | None = None) -> bytes:
    """`bom` in the one way to write it; `cards` are model cards by the reference of their component.

    Raises SourceError for a list that the schema does not allow.
    """
    value = json.loads(JsonV1Dot6(bom).output_as_string())
    value["metadata"].pop("timestamp", None)
    for component in value.get("components", []):
        if (card := (cards or {}).get(component["bom-ref"])) is not None:
            component["modelCard"] = card
    data = encode(value)
    if (fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode("ascii"))) is not None:
        why = str(fault).splitlines()[0]
        raise SourceError("A list of components would not be valid CycloneDX 1.6", why, "Check homepages and licences")
    return data
