"""The keywords of JSON Schema (2020-12) by what becomes of them: compiled, without effect on what is valid, or refused.

A keyword in none of the lists is refused by its name: it might change what is valid.
"""

from typing import Any, Final

from plugsky.engine.errors import EngineError
from plugsky.engine.grammars.grammar import refused

Schema = dict[str, Any]

BY_TYPE: Final[dict[str, frozenset[str]]] = {
    "object": frozenset({"properties", "required", "additionalProperties", "minProperties", "maxProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
}
TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
ANNOTATIONS: Final = frozenset(
    {"title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
    | {"$schema", "$defs", "definitions", "contentMediaType", "contentEncoding"}
)
STRUCTURE: Final = frozenset({"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"})
_COMPILED: Final = frozenset().union(STRUCTURE, *BY_TYPE.values())
_COUNTS: Final = ("minProperties", "maxProperties", "minItems", "maxItems", "minLength", "maxLength")
_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_LISTS: Final = ("enum", "anyOf", "oneOf", "allOf", "prefixItems", "required")
_MAX_COUNT: Final = 1_000_000


def wrong(why: str) -> EngineError:
    """A schema that cannot be enforced."""
    return refused(f"the schema {why}", "json_schema")


def effective(schema: Any) -> Schema:
    """What of ``schema`` has an effect, checked for its form. ``True`` is the empty schema."""
    if schema is True:
        return {}
    if schema is False:
        raise wrong("has a part that nothing can satisfy (false)")
    if not isinstance(schema, dict):
        raise wrong("has a part that is neither an object nor true")
    found = {key: value for key, value in schema.items() if key not in ANNOTATIONS and not key.startswith("x-")}
    for key, value in found.items():
        if key not in _COMPILED:
            raise wrong(f"uses {key[:40]!r}, which is not supported")
        _check_form(key, value)
    return found


def kinds(schema: Schema) -> tuple[str, ...]:
    """The types that ``schema`` names, or else those that its keywords are about; none when it has no such keyword."""
    named = schema.get("type")
    if named is None:
        return tuple(kind for kind, keys in BY_TYPE.items() if not keys.isdisjoint(schema))
    found = (named,) if isinstance(named, str) else tuple(named)
    if not found or not all(kind in TYPES for kind in found):
        raise wrong(f"has a type that is none of {', '.join(TYPES)}")
    return tuple(dict.fromkeys(found))


def _check_form(key: str, value: Any) -> None:
    if key in _COUNTS and not (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_COUNT):
        raise wrong(f"has a {key} that is no number from 0 to {_MAX_COUNT}")
    if key in _BOUNDS and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise wrong(f"has a {key} that is no number")
    if key in _LISTS and not isinstance(value, list):
        raise wrong(f"has a {key} that is no list")
    if key in ("enum", "anyOf", "oneOf", "allOf") and not value:
        raise wrong(f"has an empty {key}")
    if key == "required" and not all(isinstance(name, str) for name in value):
        raise wrong("requires something that is no name")
    if key == "properties" and not isinstance(value, dict):
        raise wrong("has properties that are no object")
    if key in ("pattern", "format", "$ref") and not isinstance(value, str):
        raise wrong(f"has a {key} that is no text")
    if key == "type" and not (
        isinstance(value, str) or (isinstance(value, list) and all(isinstance(kind, str) for kind in value))
    ):
        raise wrong("has a type that is neither a name nor a list of names")
    if key == "uniqueItems" and value is not False:
        raise wrong("uses 'uniqueItems', which is not supported")
    if key == "items" and isinstance(value, list):
        raise wrong("has items as a list: say prefixItems")
