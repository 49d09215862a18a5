"""Schemas that hold together (``allOf``, keywords beside ``$ref``) merged, and schemas told apart (``oneOf``)."""

import json
from collections.abc import Callable
from typing import Any, Final

from plugsky.engine.grammars.json_schema.keywords import Schema, effective, kinds, wrong

MAX_DEPTH: Final = 64

Resolve = Callable[[str], Any]

_LARGER: Final = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_SMALLER: Final = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})


def flat(schema: Any, resolve: Resolve, depth: int = 0) -> Schema:
    """``schema`` without ``$ref`` and ``allOf`` at its top. Raises ``schema_refused`` for what does not merge."""
    if depth > MAX_DEPTH:
        raise wrong("refers to itself without end, or too deep")
    found = effective(schema)
    parts = [resolve(found["$ref"])] if "$ref" in found else []
    parts += found.get("allOf", [])
    merged = {key: value for key, value in found.items() if key not in ("$ref", "allOf")}
    for part in parts:
        merged = both(merged, flat(part, resolve, depth + 1))
    return merged


def both(one: Schema, other: Schema) -> Schema:
    """A schema that admits what both do. Raises ``schema_refused`` where that is not plain."""
    for first, second in ((one, other), (other, one)):
        closed = first.get("additionalProperties", True) is not True
        if closed and set(second.get("properties", ())) - set(first.get("properties", ())):
            raise wrong("combines additionalProperties with properties that stand elsewhere")
    merged = dict(one)
    for key, value in other.items():
        merged[key] = _merged(key, merged[key], value) if key in merged else value
    return merged


def _merged(key: str, one: Any, other: Any) -> Any:
    if key == "properties":
        return one | {name: {"allOf": [one[name], part]} if name in one else part for name, part in other.items()}
    if key == "required":
        return [*one, *(name for name in other if name not in one)]
    if key in _LARGER:
        return max(one, other)
    if key in _SMALLER:
        return min(one, other)
    if key == "type":
        return _common_types(kinds({"type": one}), kinds({"type": other}))
    if key == "enum":
        kept = {marked(value) for value in other}
        return [value for value in one if marked(value) in kept]
    if marked(one) == marked(other):
        return one
    raise wrong(f"combines two different {key!r}")


def _common_types(one: tuple[str, ...], other: tuple[str, ...]) -> list[str]:
    found = [kind for kind in one if kind in other or (kind == "integer" and "number" in other)]
    found += [kind for kind in other if kind == "integer" and "number" in one and kind not in found]
    if not found:
        raise wrong("combines types that have nothing in common")
    return found


def marked(value: Any) -> str:
    """A text that two JSON values share when JSON Schema calls them equal: 1 and 1.0 are, 1 and true are not."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def apart(one: Schema, other: Schema, resolve: Resolve, depth: int = 0) -> bool:
    """Whether it is plain that no value satisfies both."""
    if depth > MAX_DEPTH:
        return False
    if not {"anyOf", "oneOf"}.isdisjoint({*one, *other}):
        return False
    few, more = _values(one), _values(other)
    if few is not None and more is not None:
        return few.isdisjoint(more)
    first, second = _types(one), _types(other)
    if first and second and first.isdisjoint(second):
        return True
    if first != {"object"} or second != {"object"}:
        return False
    for here, there in ((one, other), (other, one)):
        required = set(here.get("required", ()))
        if there.get("additionalProperties") is False and required - set(there.get("properties", ())):
            return True
    shared = set(one.get("required", ())) & set(other.get("required", ()))
    return any(
        apart(flat(one["properties"][name], resolve), flat(other["properties"][name], resolve), resolve, depth + 1)
        for name in sorted(shared)
        if name in one.get("properties", ()) and name in other.get("properties", ())
    )


def _values(schema: Schema) -> frozenset[str] | None:
    if "const" in schema:
        return frozenset({marked(schema["const"])})
    return frozenset(map(marked, schema["enum"])) if "enum" in schema else None


def _types(schema: Schema) -> set[str]:
    """The types of all values that satisfy ``schema``; empty when that is not plain. Integers are numbers."""
    if "const" in schema or "enum" in schema:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return {kind_of(value) for value in values}
    named = kinds(schema) if "type" in schema else ()
    return {"number" if kind == "integer" else kind for kind in named}


def kind_of(value: Any) -> str:
    """The type of a JSON value."""
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    names = ((str, "string"), (int | float, "number"), (list, "array"))
    return next((name for kind, name in names if isinstance(value, kind)), "object")
