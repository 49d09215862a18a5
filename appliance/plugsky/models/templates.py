"""Checks a model's chat template before it travels, without ever running it.

A chat template is code from a stranger: it is parsed and its tree compared with what templates need. Refused are,
wherever they are written out:
* items and attributes that begin with `_`, also as the attribute that a filter is told to read; names that begin with
  `__`, or with `_` and are not the template's own variables;
* functions, filters and tests that no chat template needs, by name or handed to `map`, `select` and their like;
* a filter's attribute or filter name that is computed and so cannot be read here;
* imports, inheritance, powers, and a range with a number above 10 000, also one worked out from numbers.
What a template works out while it runs cannot be seen here: rendering on site is sandboxed, and limited in time and
memory. This finds the fault in the build room instead of behind the gap.
Source: the chat templates of published models and the functions that transformers and llama.cpp offer them;
CVE-2024-34359 for what happens without.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from plugsky_bundles.errors import GgufError

MAX_TEMPLATE: Final = 256 * 1024
MAX_RANGE: Final = 10_000
FUNCTIONS: Final = frozenset({"raise_exception", "strftime_now", "namespace", "range", "dict", "caller"})
FILTERS_REFUSED: Final = frozenset({"attr", "pprint", "random", "xmlattr", "urlize"})
ATTRIBUTE_AT: Final = {
    "selectattr": (0,),
    "rejectattr": (0,),
    "groupby": (0,),
    "sum": (0,),
    "join": (1,),
    "min": (1,),
    "max": (1,),
    "unique": (1,),
    "sort": (2,),
}
"""Where a filter takes an attribute without its name (Jinja 3.1)."""
NODES_REFUSED: Final = (nodes.Import, nodes.FromImport, nodes.Include, nodes.Extends, nodes.Block, nodes.Pow)


def check(template: str, what: str) -> None:
    """Raise GgufError unless `template`, called `what` in the error, is of the kind described above."""
    try:
        fault = _too_long(template) or next(_faults(template), None)
    except RecursionError:
        fault = "it is nested too deep"
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
    except jinja2.TemplateSyntaxError as error:
        yield f"it does not parse: {error}"
        return
    functions = FUNCTIONS | {macro.name for macro in tree.find_all(nodes.Macro)}
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx in ("store", "param")}
    filters = environment.filters.keys() - FILTERS_REFUSED
    for node in tree.find_all(nodes.Node):
        match node:
            case nodes.Name(name=name) if name.startswith("__") or (name.startswith("_") and name not in own):
                yield f"line {node.lineno} reaches for {name!r}"
            case nodes.Getattr(attr=name) if name.startswith("_"):
                yield f"line {node.lineno} reaches for {name!r}"
            case nodes.Getitem(arg=nodes.Const(value=str(name))) if name.startswith("_"):
                yield f"line {node.lineno} reaches for {name!r}"
            case nodes.Filter(name=name) if name not in filters:
                yield f"line {node.lineno} uses the filter {name!r}"
            case nodes.Filter():
                yield from _filter_faults(node, filters, environment.tests.keys())
            case nodes.Test(name=name) if name not in environment.tests:
                yield f"line {node.lineno} uses the test {name!r}"
            case nodes.Call(node=nodes.Name(name=name)) if name not in functions:
                yield f"line {node.lineno} calls {name!r}"
            case nodes.Call(node=nodes.Name(name="range"), args=arguments):
                largest = max((abs(_number(part)) for argument in arguments for part in _parts(argument)), default=0)
                if largest > MAX_RANGE:
                    yield f"line {node.lineno} counts to {largest}"
            case _ if isinstance(node, NODES_REFUSED):
                yield f"line {node.lineno} uses {type(node).__name__.lower()}"


def _filter_faults(node: nodes.Filter, filters: AbstractSet[str], tests: AbstractSet[str]) -> Iterator[str]:
    """What a filter is told to read, to apply or to ask: an attribute, another filter, a test."""
    attributes = [argument.value for argument in node.kwargs if argument.key == "attribute"]
    attributes += [argument for place, argument in enumerate(node.args) if place in ATTRIBUTE_AT.get(node.name, ())]
    for attribute in attributes:
        match attribute:
            case nodes.Const(value=str(name)) if any(part.startswith("_") for part in name.split(".")):
                yield f"line {node.lineno} reaches for {name!r}"
            case nodes.Const():
                pass
            case _:
                yield f"line {node.lineno} computes an attribute for the filter {node.name!r}"
    known = {"map": filters, "select": tests, "reject": tests, "selectattr": tests, "rejectattr": tests}
    place = 1 if node.name in ("selectattr", "rejectattr") else 0
    if node.name in known and len(node.args) > place:
        match node.args[place]:
            case nodes.Const(value=name) if name in known[node.name]:
                pass
            case nodes.Const(value=name):
                yield f"line {node.lineno} hands {name!r} to the filter {node.name!r}"
            case _:
                yield f"line {node.lineno} computes what the filter {node.name!r} applies"


def _parts(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    yield from node.find_all(nodes.Expr)


def _number(node: nodes.Node) -> int:
    """The whole number that a constant expression stands for; 0 for anything else. Never works out powers or text."""
    match node:
        case nodes.Const(value=int(value)):
            return value
        case nodes.Neg(node=inner):
            return -_number(inner)
        case nodes.Add(left=left, right=right):
            return _number(left) + _number(right)
        case nodes.Sub(left=left, right=right):
            return _number(left) - _number(right)
        case nodes.Mul(left=left, right=right):
            return _number(left) * _number(right)
        case _:
            return 0
