"""The rules of a tool's arguments, from its JSON Schema, for a grammar that holds several tools."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from plugsky.engine.errors import EngineError
from plugsky.engine.grammars.json_schema.compiler import compiled

_NAMES: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\{[^}]*\}|([A-Za-z][A-Za-z0-9-]*)')
"""Strings, classes and repetitions, in which nothing is a name, and names."""


def argument_rules(name: str, schema: Mapping[str, Any]) -> str:
    """Rules of GBNF, the first named ``name``, the others after it. Raises ``schema_refused``, of ``tools``."""
    try:
        return renamed(compiled(json.dumps(schema, ensure_ascii=False)), name)
    except EngineError as error:
        raise EngineError(error.kind, f"the parameters of a tool: {error.what}", param="tools") from error


def renamed(grammar: str, name: str) -> str:
    """``grammar`` with its root named ``name`` and its other rules after it."""
    return _NAMES.sub(lambda found: _name(found, name), grammar)


def _name(found: re.Match[str], name: str) -> str:
    own = found[1]
    if own is None:
        return found[0]
    return name if own == "root" else f"{name}-{own}"
