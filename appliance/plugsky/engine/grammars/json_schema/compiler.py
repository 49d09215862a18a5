"""JSON Schema compiled to GBNF: what the grammar admits satisfies the schema, or the schema is refused by name.

Pure and bounded. The other way round it need not hold: properties come in the order of the schema, white space is
little, numbers have at most 15 digits before the point, and where a schema leaves open what else an object may hold,
nothing else comes. Only ``$ref`` inside the document is followed. A schema is refused where it cannot be kept exactly
or in bounded time: unknown keywords, ``oneOf`` of alternatives that are not plainly apart, patterns that are not
regular, depth, size.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, Final

import msgspec

from plugsky.engine.errors import EngineError
from plugsky.engine.grammars import gbnf
from plugsky.engine.grammars.grammar import refused
from plugsky.engine.grammars.json_schema import numbers, patterns
from plugsky.engine.grammars.json_schema.formats import FORMATS
from plugsky.engine.grammars.json_schema.gbnf_text import MAX_SUBSCHEMAS, Rules, counted, literal
from plugsky.engine.grammars.json_schema.keywords import BY_TYPE, TYPES, Schema, effective, kinds, wrong
from plugsky.engine.grammars.json_schema.merging import apart, both, flat, kind_of
from plugsky.engine.grammars.json_schema.objects import Property, members

MAX_CHARS: Final = 1 << 16
MAX_DEPTH: Final = 32
"""Schemas inside schemas, following references."""
MAX_ALTERNATIVES: Final = 64
MAX_VALUES: Final = 1024
MAX_NAME: Final = 256


def compiled(text: str) -> str:
    """The grammar of the JSON texts that satisfy the schema ``text``. Raises ``schema_refused``."""
    if len(text) > MAX_CHARS:
        raise wrong(f"has {len(text)} characters; at most {MAX_CHARS} are allowed")
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise wrong("is no JSON, or nested too deep") from error
    compiler = _Compiler(document)
    grammar = compiler.rules.text(compiler.rule(document, 0))
    try:
        gbnf.read(grammar)
    except EngineError as error:
        raise refused(f"the schema cannot be enforced: {error.what}", "json_schema") from error
    return grammar


class _Compiler:
    def __init__(self, document: Any) -> None:
        self._document = document
        self._known: dict[str, str] = {}
        self._count = 0
        self.rules = Rules()

    def rule(self, schema: Any, depth: int) -> str:
        """The name of the rule of ``schema``."""
        self._count += 1
        if self._count > MAX_SUBSCHEMAS:
            raise wrong(f"has more than {MAX_SUBSCHEMAS} parts, counting combinations")
        if depth > MAX_DEPTH:
            raise wrong(f"nests deeper than {MAX_DEPTH}")
        found = effective(schema)
        if set(found) != {"$ref"}:
            return self.rules.add(self._text(flat(found, self._resolved), depth))
        pointer = found["$ref"]
        if pointer not in self._known:
            self._known[pointer] = self.rules.reserve()
            target = self._resolved(pointer)
            self.rules.define(self._known[pointer], self._text_of(target, depth))
        return self._known[pointer]

    def _text_of(self, schema: Any, depth: int) -> str:
        """For the target of a reference: another reference stays one, so that a circle of them is seen as such."""
        found = effective(schema)
        return self.rule(found, depth + 1) if set(found) == {"$ref"} else self._text(flat(found, self._resolved), depth)

    def _text(self, schema: Schema, depth: int) -> str:
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._alternatives(schema, key, depth)
        if "const" in schema or "enum" in schema:
            return self._values(schema)
        found = kinds(schema)
        if not found:
            return "value"
        return " | ".join(self._of_kind(kind, schema, depth) for kind in found)

    def _alternatives(self, schema: Schema, key: str, depth: int) -> str:
        branches = schema[key]
        if len(branches) > MAX_ALTERNATIVES:
            raise wrong(f"has a {key} of more than {MAX_ALTERNATIVES}")
        beside = {name: value for name, value in schema.items() if name != key}
        if key == "oneOf":
            parts = [flat(branch, self._resolved) for branch in branches]
            pairs = ((one, other) for at, one in enumerate(parts) for other in parts[at + 1 :])
            if not all(apart(one, other, self._resolved) for one, other in pairs):
                raise wrong("has a oneOf whose alternatives are not plainly apart: say anyOf, or give each a const")
        if not beside:
            return " | ".join(self.rule(branch, depth + 1) for branch in branches)
        merged = [both(beside, flat(branch, self._resolved)) for branch in branches]
        return " | ".join(self.rule(branch, depth + 1) for branch in merged)

    def _values(self, schema: Schema) -> str:
        other = set(schema) - {"const", "enum", "type"}
        if other:
            raise wrong(f"has {min(other)!r} beside a list of values")
        values = schema.get("enum", [schema.get("const")])
        if len(values) > MAX_VALUES:
            raise wrong(f"lists more than {MAX_VALUES} values")
        if "const" in schema and "enum" in schema:
            raise wrong("has both const and enum")
        allowed = kinds(schema) or TYPES
        found = [literal(_json(value)) for value in values if _is_one_of(value, allowed)]
        if not found:
            raise wrong("lists no value of its own type")
        return " | ".join(found)

    def _of_kind(self, kind: str, schema: Schema, depth: int) -> str:
        if kind == "boolean":
            return '"true" | "false"'
        if kind == "null":
            return '"null"'
        if BY_TYPE["number" if kind == "integer" else kind].isdisjoint(schema):
            return kind
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        return _string(schema) if kind == "string" else _number(schema, kind)

    def _object(self, schema: Schema, depth: int) -> str:
        more = schema.get("additionalProperties")
        named: Schema = dict(schema.get("properties", {}))
        required = set(schema.get("required", ()))
        if any(len(name) > MAX_NAME for name in (*named, *required)):
            raise wrong(f"names a property with more than {MAX_NAME} characters")
        for name in schema.get("required", ()):
            if name not in named:
                if more is False:
                    raise wrong("requires a property that it forbids")
                named[name] = True if more is None else more
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        if more is None and not named and "properties" not in schema:
            more = True  # a plain map
        extra = None if more is None or more is False else self.rule(more, depth + 1)
        if named and (least > len(required) or (most is not None and (most < len(named) or extra is not None))):
            raise wrong("counts properties beside naming some")
        if not named and extra is None and least:
            raise wrong("wants properties and admits none")
        properties = [Property(name, self.rule(part, depth + 1), name in required) for name, part in named.items()]
        return members(self.rules, properties, extra, least, most)

    def _array(self, schema: Schema, depth: int) -> str:
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most is not None and most < least:
            raise wrong("has a maxItems below its minItems")
        first = first[:most]
        if rest is False or (first and "items" not in schema and least <= len(first)):
            if least > len(first):
                raise wrong("wants more items than it admits")
            most = len(first)
        heads = ' "," ws '.join(self.rule(part, depth + 1) for part in first)
        low, high = max(0, least - len(first)), None if most is None else most - len(first)
        if high == 0:
            return f'"[" ws {heads} ws "]"' if heads else '"[" ws "]"'
        item = self.rule(rest, depth + 1)
        if heads:
            return f'"[" ws {heads} ("," ws {item}){counted(low, high)} ws "]"'
        more = f'{item} ("," ws {item}){counted(max(0, low - 1), None if high is None else high - 1)} ws'
        return f'"[" ws {more} "]"' if low else f'"[" ws ({more})? "]"'

    def _resolved(self, pointer: str) -> Any:
        """What a ``$ref`` names: a JSON Pointer (RFC 6901) into the document, in a fragment."""
        if not pointer.startswith("#"):
            raise wrong("refers to another document, which is never fetched")
        if pointer != "#" and not pointer.startswith("#/"):
            raise wrong("refers to an anchor: only pointers like #/$defs/name are followed")
        node = self._document
        for step in pointer.split("/")[1:]:
            name = _unquoted(step).replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and name in node:
                node = node[name]
            elif isinstance(node, list) and re.fullmatch("0|[1-9][0-9]{0,5}", name) and int(name) < len(node):
                node = node[int(name)]
            else:
                raise wrong("refers to something that is not in it")
        return node


def _unquoted(step: str) -> str:
    """Percent-encoding undone (RFC 3986, section 2.1)."""
    data = re.sub(rb"%([0-9a-fA-F]{2})", lambda found: bytes.fromhex(found[1].decode()), step.encode())
    return data.decode("utf-8", "replace")


def _string(schema: Schema) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if most is not None and most < least:
        raise wrong("has a maxLength below its minLength")
    sources = [f"^(?:{FORMATS[schema['format']]})$"] if schema.get("format") in FORMATS else []
    if "format" in schema and not sources:
        raise wrong(f"uses the format {schema['format'][:40]!r}, which is not supported")
    sources += [schema["pattern"]] if "pattern" in schema else []
    if not sources:
        return rf'"\"" char{counted(least, most)} "\""'
    if len(sources) > 1:
        raise wrong("has both a format and a pattern")
    node = patterns.parsed(sources[0])
    fewest, longest = patterns.lengths(node)
    if fewest < least or (most is not None and (longest is None or longest > most)):
        raise wrong("has a length that its pattern or format does not keep by itself")
    return rf'"\"" ({patterns.written(node)}) "\""'


def _number(schema: Schema, kind: str) -> str:
    step = schema.get("multipleOf", 1)
    if isinstance(step, bool) or step != 1:
        raise wrong("uses a 'multipleOf' other than 1, which is not supported")
    whole = kind == "integer" or "multipleOf" in schema
    low, low_open = _nearer(schema, "minimum", "exclusiveMinimum", max)
    high, high_open = _nearer(schema, "maximum", "exclusiveMaximum", min)
    if any(bound is not None and not abs(bound) < numbers.MAX_BOUND for bound in (low, high)):
        raise wrong(f"has a bound of {numbers.MAX_BOUND} or more")
    if whole:
        low, low_open = _inwards(low, low_open, math.ceil)
        high, high_open = _inwards(high, high_open, math.floor)
    elif any(bound is not None and bound != int(bound) for bound in (low, high)):
        raise wrong("has a bound of numbers that is no integer, which is not supported")
    bounds = numbers.Bounds(_int(low), _int(high), low_open, high_open)
    found = numbers.integers(bounds) if whole else numbers.numbers(bounds)
    if found is None:
        raise wrong("has bounds between which there is no number")
    return found


def _nearer(schema: Schema, closed: str, opened: str, nearer: Any) -> tuple[float | None, bool]:
    """The bound that holds of two, and whether it is itself ruled out."""
    found = [(schema[key], key == opened) for key in (closed, opened) if key in schema]
    if not found:
        return None, False
    bound = nearer(value for value, _ in found)
    return bound, any(value == bound and is_open for value, is_open in found)


def _inwards(bound: float | None, is_open: bool, rounded: Callable[[float], int]) -> tuple[float | None, bool]:
    return (None, False) if bound is None else (rounded(bound), is_open and rounded(bound) == bound)


def _int(bound: float | None) -> int | None:
    return None if bound is None else int(bound)


def _is_one_of(value: Any, allowed: tuple[str, ...]) -> bool:
    kind = kind_of(value)
    return kind in allowed or ("integer" in allowed and kind == "number" and float(value).is_integer())


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise wrong("lists a number that JSON cannot write") from error
