"""Grammars that make a family's answer be calls of the offered tools, in GBNF.

A family says how it writes calls (:class:`CallShape`, in fragments of GBNF); the arguments' rules come from each tool's
schema through a compiler that is passed in, and so do its refusals. Reasoning may come first where the family reasons.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plugsky.core.request import Tool
from plugsky.engine.grammars.json_schema.gbnf_text import char_class, literal
from plugsky.engine.prompting.families.tagged import Reasoning

SchemaToRule = Callable[[str, Mapping[str, Any]], str]
"""Rules for a JSON schema, as GBNF text; the first is named as asked, the names of the others begin with that name."""


@dataclass(frozen=True, slots=True)
class CallShape:
    """How calls are written: ``opener call (separator call)* closer``, a call as ``before name between args after``."""

    before: str
    between: str
    after: str
    opener: str = ""
    separator: str = ""
    closer: str = ""
    arguments: str = ""
    """Rules of the arguments, the first named ``args``, where they are not JSON: schemas then cannot be kept."""


@dataclass(frozen=True, slots=True)
class CallConstraint:
    """A grammar for :class:`~plugsky.core.frames.Params`: it holds from a trigger on, or from the start if none."""

    grammar: str = ""
    triggers: tuple[str, ...] = ()


def json_shape(name: str, arguments: str, opener: str, separator: str, closer: str) -> CallShape:
    """Calls as JSON objects with these keys: each between ``opener`` and ``closer`` if nothing separates them."""
    before, between = f'{{"{name}": "', f'", "{arguments}": '
    if separator:
        return CallShape(
            literal(before), literal(between), literal("}"), literal(opener), literal(separator), literal(closer)
        )
    return CallShape(literal(opener + before), literal(between), literal("}" + closer), separator=literal("\n"))


def calls_grammar(shape: CallShape, tools: Sequence[Tool], schema_to_rule: SchemaToRule, *, parallel: bool) -> str:
    """Rules with a root ``calls`` for one call of ``tools``, or several if ``parallel``."""
    rules = []
    for number, tool in enumerate(tools):
        if shape.arguments:
            arguments = "args"
        else:
            arguments = f"args-{number}"
            rules.append(schema_to_rule(arguments, tool.parameters or {"type": "object"}))
        rules.append(f"call-{number} ::= {shape.before} {literal(tool.name)} {shape.between} {arguments} {shape.after}")
    if shape.arguments:
        rules.append(shape.arguments)
    rules.append("call ::= " + " | ".join(f"call-{number}" for number in range(len(tools))))
    more = f"({shape.separator} call)*" if parallel else ""
    rules.append(f"calls ::= {shape.opener} call {more} {shape.closer}")
    return "\n".join(rules)


def with_reasoning(grammar: str, reasoning: Reasoning | None, *, thinking: bool) -> str:
    """``grammar``'s rule ``reply`` under a root that lets the model think first, or go on thinking."""
    if reasoning is None:
        return f"{grammar}\nroot ::= reply"
    closes = reasoning.closes[0]
    thought = f"thought {literal(closes)} space"
    first = thought if thinking else f"space ({literal(reasoning.opens[0])} {thought})?"
    return "\n".join((grammar, f"root ::= {first} reply", r"space ::= [ \n]{0,8}", text_without("thought", closes)))


def text_without(rule: str, marker: str) -> str:
    """Rules, the first named ``rule``, for any text in which ``marker`` does not occur."""
    lines = []
    alphabet = sorted(set(marker))
    others = "[^" + char_class((ord(char), ord(char)) for char in alphabet)[1:]
    for matched in range(len(marker)):
        # Having read this much of the marker, each character leads to the longest beginning that the text now ends in.
        ways = ["", f"{others} {_state(rule, 0)}"]
        for char in alphabet:
            text = marker[:matched] + char
            at = next(length for length in range(len(text), -1, -1) if text.endswith(marker[:length]))
            if at < len(marker):
                ways.append(f"{literal(char)} {_state(rule, at)}")
        lines.append(f"{_state(rule, matched)} ::= " + " | ".join(ways))
    return "\n".join(lines)


def _state(rule: str, matched: int) -> str:
    return f"{rule}-{matched}" if matched else rule
