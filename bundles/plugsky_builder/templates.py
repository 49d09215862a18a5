"""Checks a model's chat template before it travels, without ever running it.

A chat template is code from a stranger: it is parsed and its tree compared with what templates need. Refused are names
and items that begin with `_`, functions, filters and tests that no chat template needs, imports and inheritance,
powers, and ranges with a large constant. Rendering on site is sandboxed and limited as well; this finds the fault in
the build room instead of behind the gap.
Source: the chat templates of published models and the functions that transformers and llama.cpp offer them;
CVE-2024-34359 for what happens without.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from plugsky_bundles.errors import GgufError

MAX_TEMPLATE: Final = 256 * 1024
MAX_RANGE: Final = 10_000
FUNCTIONS: Final = frozenset({"raise_exception", "strftime_now", "namespace", "range", "dict", "caller"})
FILTERS_REFUSED: Final = frozenset({"attr", "pprint", "random", "xmlattr", "urlize"})
NODES_REFUSED: Final = (nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends, nodes.Block, nodes.Pow)


def check(template: str, what: str) -> None:
    """Raise GgufError unless `template`, called `what` in the error, is of the kind described above."""
    fault = _too_long(template) or next(_faults(template), None)
    if fault is not None:
        raise GgufError(
            f"{what} cannot be trusted", fault, "Ask the model's publisher, or pick a model with a plain template"
        )


def _too_long(template: str) -> str | None:
    if len(template) > MAX_TEMPLATE:
        return f"it has {len(template)} characters, the limit is {MAX_TEMPLATE}"
    return None


def _faults(template: str) -> Iterator[str]:
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(template)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        yield f"it does not parse: {error}"
        return
    functions = FUNCTIONS | {macro.name for macro in tree.find_all(nodes.Macro)}
    known_filters = environment.filters.keys() - FILTERS_REFUSED
    for node in tree.find_all(nodes.Node):
        match node:
            case nodes.Getattr(attr=name) | nodes.Getitem(arg=nodes.Const(value=str(name))) if name.startswith("_"):
                yield f"line {node.lineno} reaches for {name!r}"
            case nodes.Keyword(key="attribute", value=nodes.Const(value=str(name))) if "_" in name[:1] or "._" in name:
                yield f"line {node.lineno} reaches for {name!r}"
            case nodes.Filter(name=name) if name not in known_filters:
                yield f"line {node.lineno} uses the filter {name!r}"
            case nodes.Test(name=name) if name not in environment.tests:
                yield f"line {node.lineno} uses the test {name!r}"
            case nodes.Call(node=nodes.Name(name=name)) if name not in functions:
                yield f"line {node.lineno} calls {name!r}"
            case nodes.Call(node=nodes.Name(name="range"), args=arguments):
                numbers = [a.value for a in arguments if isinstance(a, nodes.Const) and isinstance(a.value, int)]
                if max(numbers, default=0) > MAX_RANGE:
                    yield f"line {node.lineno} counts to {max(numbers)}"
            case _ if isinstance(node, NODES_REFUSED):
                yield f"line {node.lineno} uses {type(node).__name__.lower()}"
