"""The licence texts of everything in a bundle: each text once, and one index of who uses which.

`evidence/licences.json` names for each component its terms and its texts by SHA-256; the texts are
`evidence/licences/<sha256>.txt`, byte for byte as the component carries them. A component without any text is named
under `missing`, and the build says so aloud: its terms may be clear, but the text that most licences demand to be
passed on is not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, Final

from plugsky_builder.evidence.components import Component
from plugsky_builder.pack import Material
from plugsky_bundles.strict_json import encode

SCHEMA: Final = "plugsky.licences/1"
PATH: Final = "evidence/licences.json"
FOLDER: Final = "evidence/licences"


def missing(components: Iterable[Component]) -> list[str]:
    """The paths of components without any licence text."""
    return [component.path for component in components if not component.texts]


def materials(components: Iterable[Component], with_texts: Callable[[Component], bool]) -> list[Material]:
    """The index, and the texts of the components for which `with_texts` holds."""
    components = list(components)
    texts = {
        _digest(text): text for component in components if with_texts(component) for text in component.texts.values()
    }
    index = {
        "schema": SCHEMA,
        "components": [_of(component) for component in components],
        "missing": missing(components),
    }
    return [
        Material.of_bytes(PATH, encode(index)),
        *(Material.of_bytes(f"{FOLDER}/{digest}.txt", text) for digest, text in sorted(texts.items())),
    ]


def _of(component: Component) -> dict[str, Any]:
    terms = component.terms
    return {
        "path": component.path,
        "name": component.name,
        "version": component.version,
        **({"expression": terms.expression} if terms.expression else {"names": list(terms.names)}),
        "texts": {name: _digest(text) for name, text in sorted(component.texts.items())},
    }


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
