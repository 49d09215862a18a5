"""What is known of one family of chat models: a value, made in that family's module."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from plugsky.core.request import Tool
from plugsky.engine.grammars.json_schema.gbnf_text import literal
from plugsky.engine.prompting.families.constraint import (
    CallConstraint,
    CallShape,
    SchemaToRule,
    calls_grammar,
    with_reasoning,
)
from plugsky.engine.prompting.families.tagged import Reasoning, Syntax

Turn = dict[str, Any]
"""A message or a tool as templates see it: the OpenAI API's form, a call's arguments as an object if they are one."""


class Asked(NamedTuple):
    """What a template gets: messages, and the tools on offer, with the names they have in the OpenAI API."""

    messages: list[Turn]
    tools: list[Turn]


class Arranged(NamedTuple):
    """The messages as this family's templates want them, and further variables."""

    messages: list[Turn]
    variables: dict[str, Any]


def as_is(asked: Asked, _template: str) -> Arranged:
    """For templates that take the OpenAI API's form: the variable ``tools``, missing when there are none."""
    return Arranged(asked.messages, {"tools": asked.tools} if asked.tools else {})


@dataclass(frozen=True)
class Family:
    """One family.

    ``signs`` are sets of texts: a template that holds all texts of one set is of this family, unless it holds one of
    ``counter_signs``. ``visible_tokens`` are
    the texts of markers whose tokens must appear in an answer's text, control tokens or not. ``triggers`` are the texts
    that begin calls in an answer that need not hold any, ``around_answer`` those around content that is no call.
    """

    name: str
    signs: tuple[tuple[str, ...], ...]
    syntax: Syntax
    shape: CallShape
    triggers: tuple[str, ...] = ()
    reasoning: Reasoning | None = None
    visible_tokens: tuple[str, ...] = ()
    counter_signs: tuple[str, ...] = ()
    parallel: bool = True
    around_answer: tuple[str, str] = ("", "")
    arrange: Callable[[Asked, str], Arranged] = as_is

    def fits(self, template: str) -> bool:
        """Whether ``template`` is one of this family's. Plain searches: linear in its length."""
        return any(all(sign in template for sign in signs) for signs in self.signs) and not any(
            sign in template for sign in self.counter_signs
        )

    def opens_reasoning(self, prompt: str) -> bool:
        """Whether ``prompt`` ends inside a reasoning block, so that the answer begins in it."""
        return self._opened(prompt.rstrip())

    def closes_reasoning(self, prompt: str) -> bool:
        """Whether ``prompt`` ends with a reasoning block of nothing: there is to be no thinking."""
        end = prompt.rstrip()
        closes = self.reasoning.closes if self.reasoning else ()
        return any(end.endswith(text) and self._opened(end.removesuffix(text).rstrip()) for text in closes)

    def _opened(self, prompt: str) -> bool:
        return self.reasoning is not None and any(prompt.endswith(text.rstrip()) for text in self.reasoning.opens)

    def reasons(self, template: str) -> bool:
        """Whether models with ``template`` are known to reason."""
        return self.reasoning is not None and any(text.strip() in template for text in self.reasoning.opens)

    def lazy_constraint(
        self, tools: Sequence[Tool], schema_to_rule: SchemaToRule, *, parallel: bool = True
    ) -> CallConstraint:
        """The grammar that holds from the beginning of a call of one of ``tools`` on. Raises as ``schema_to_rule``."""
        grammar = calls_grammar(self.shape, tools, schema_to_rule, parallel=parallel and self.parallel)
        return CallConstraint(f"{grammar}\nroot ::= calls", self.triggers)

    def constraint(
        self,
        tools: Sequence[Tool],
        schema_to_rule: SchemaToRule,
        *,
        parallel: bool = True,
        answer: str = "",
        reasons: bool = False,
        thinking: bool = False,
    ) -> CallConstraint:
        """The grammar of a whole answer that calls ``tools``, or is what the rule ``answer`` admits, if there is one.

        ``answer`` holds GBNF whose first rule has that name. With ``reasons`` the answer may think first, with
        ``thinking`` it does so already. Raises what ``schema_to_rule`` raises.
        """
        rules, ways = [], []
        if tools:
            rules.append(calls_grammar(self.shape, tools, schema_to_rule, parallel=parallel and self.parallel))
            ways.append("calls")
        if answer:
            before, behind = map(literal, self.around_answer)
            rules.append(answer)
            ways.append(f"{before} answer {behind}")
        rules.append("reply ::= " + " | ".join(ways))
        reasoning = self.reasoning if reasons or thinking else None
        return CallConstraint(with_reasoning("\n".join(rules), reasoning, thinking=thinking))
