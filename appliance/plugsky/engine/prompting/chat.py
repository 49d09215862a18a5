"""Chats with one model: from messages and tools to the text of a prompt, and to the grammar that its answer follows.

What a client wrote is disarmed first (:mod:`plugsky.engine.tokens.markers`); only then does the family arrange it
for the template, so that the texts a family adds may hold markers, and a client's never do.
"""

from dataclasses import dataclass
from typing import Any

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Prepare
from plugsky.core.request import Tool
from plugsky.engine.errors import EngineError, bad_request
from plugsky.engine.grammars.tool_rules import argument_rules, renamed
from plugsky.engine.prompting import conversation
from plugsky.engine.prompting.families.catalogue import detect
from plugsky.engine.prompting.families.constraint import CallConstraint
from plugsky.engine.prompting.families.family import Arranged, Asked
from plugsky.engine.prompting.renderer import Renderer
from plugsky.engine.prompting.stand_ins import StandIns
from plugsky.engine.tokens.markers import Markers, Part


@dataclass(frozen=True)
class ChatPrompt:
    """A rendered prompt; a number among its ``parts`` is an image of the request.

    ``reasons`` says that the answer may think first, ``thinking`` that it begins with that.
    """

    text: str
    parts: list[Part | int]
    tools: tuple[Tool, ...]
    reasons: bool
    thinking: bool

    @property
    def plain(self) -> str:
        """The text as a model reads it, without its images."""
        return "".join(part.text for part in self.parts if isinstance(part, Part))


class Chats:
    """Makes the prompts of one model's chats. Used from one thread: the renderer's."""

    def __init__(self, renderer: Renderer, markers: Markers) -> None:
        self._renderer = renderer
        self._markers = markers
        self.family = detect(renderer.template)

    def prompt(self, frame: Prepare) -> ChatPrompt:
        """The prompt of ``frame``'s messages. Raises :class:`EngineError` for what cannot be rendered or honoured."""
        template, family = self._renderer.template, self.family
        tools = conversation.offered(frame)
        opens = family.reasoning.opens if family.reasoning else ()
        variables = conversation.reasoning_variables(frame, template, opens)
        images = StandIns(len(frame.images))
        asked = {
            "messages": conversation.turns(frame.messages or (), images.text),
            "tools": conversation.described(tools),
        }
        disarmed = self._markers.disarm(asked)
        arranged = family.arrange(Asked(**disarmed.value), template)
        rendered = self._render(arranged, variables)
        thinking = family.opens_reasoning(rendered)
        return ChatPrompt(
            text=rendered,
            parts=images.cut(self._markers.parts(rendered, disarmed.originals)),
            tools=tools,
            reasons=thinking or (family.reasons(template) and not family.closes_reasoning(rendered)),
            thinking=thinking,
        )

    def constraint(self, frame: Prepare, prompt: ChatPrompt, grammar: str) -> CallConstraint:
        """What the answer follows, with ``grammar`` for one that calls nothing; an empty one if it is free.

        Raises ``schema_refused`` for a tool whose schema cannot be kept though it must be.
        """
        tools = prompt.tools
        if tools and frame.grammar:
            raise bad_request("an answer under a grammar of yours calls no tools: give one or the other", "grammar")
        must_call = bool(frame.tool_name) or frame.tool_choice == "required"
        strict = [tool for tool in tools if tool.strict]
        if strict and self.family.shape.arguments:
            raise EngineError(
                ErrorKind.UNSUPPORTED_FIELD, "this model writes arguments that no schema can be kept for", param="tools"
            )
        if must_call:
            tools = tuple(tool for tool in tools if not frame.tool_name or tool.name == frame.tool_name)
            return self.family.constraint(
                tools,
                argument_rules,
                parallel=frame.parallel_tool_calls,
                reasons=prompt.reasons,
                thinking=prompt.thinking,
            )
        if frame.json_schema and (tools or prompt.reasons):
            return self.family.constraint(
                _loose(tools),
                argument_rules,
                parallel=frame.parallel_tool_calls,
                answer=renamed(grammar, "answer"),
                reasons=prompt.reasons,
                thinking=prompt.thinking,
            )
        if strict or (tools and not frame.parallel_tool_calls):
            return self.family.lazy_constraint(_loose(tools), argument_rules, parallel=frame.parallel_tool_calls)
        return CallConstraint(grammar)

    def _render(self, arranged: Arranged, variables: dict[str, Any]) -> str:
        variables = {**arranged.variables, **variables}
        try:
            return self._renderer.render(arranged.messages, variables)
        except EngineError as error:
            # Some templates write arguments out member by member and stop at those of the past that are no object.
            messages = conversation.with_objects(arranged.messages)
            if messages is None or error.kind is not ErrorKind.BAD_REQUEST:
                raise
        return self._renderer.render(messages, variables)


def _loose(tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """``tools`` with any object for arguments where the schema need not be kept."""
    return tuple(tool if tool.strict else Tool(name=tool.name) for tool in tools)
