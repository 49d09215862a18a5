"""A request's messages and tools in the form that chat templates take, checked and bounded.

That form is the OpenAI API's, except that a call's arguments are an object: templates write them out again. Arguments
of the past that are no JSON object stay the text they are, whoever wrote them.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Prepare
from plugsky.core.request import Message, Tool
from plugsky.engine.errors import EngineError, bad_request
from plugsky.engine.prompting.families.family import Turn
from plugsky.engine.prompting.families.json_scan import is_object
from plugsky.engine.prompting.stand_ins import NONE

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool"})
"""Roles a message may have: templates build control tokens from them, so a free text here could name any of those."""
MAX_TOOLS: Final = 128
MAX_DEPTH: Final = 64
"""Objects inside objects in a tool's parameters."""
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_SWITCHES: Final = {
    "enable_thinking": ("enable_thinking",),
    "thinking": ("if thinking", "not thinking", "thinking is defined"),
    "reasoning": ("if reasoning %", "if reasoning -%", "not reasoning %"),
}
"""Variables by which templates turn reasoning on and off, and how to see that one asks for them."""


def turns(messages: tuple[Message, ...], image: Callable[[int], str] = NONE.text) -> list[Turn]:
    """``messages`` for a template, with the text of each ``image``. Raises ``bad_request`` for none or a wrong role."""
    if not messages:
        raise bad_request("messages must hold at least one message", "messages")
    if any(message.role not in ROLES for message in messages):
        raise bad_request(f"the role of a message is one of {', '.join(sorted(ROLES))}", "messages")
    return [_turn(message, image) for message in messages]


def _turn(message: Message, image: Callable[[int], str]) -> Turn:
    parts = (message.content,) if isinstance(message.content, str) else message.content
    content = "\n".join(part if isinstance(part, str) else image(part.image) for part in parts)
    turn: Turn = {"role": message.role, "content": content}
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _object(call.arguments)}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.name:
        turn["name"] = message.name
    return turn


def _object(arguments: str) -> dict[str, Any] | str:
    return msgspec.json.decode(arguments.encode("utf-8", "replace"), type=dict) if is_object(arguments) else arguments


def with_objects(messages: list[Turn]) -> list[Turn] | None:
    """``messages`` with an object around arguments that are none; None if there are no such."""
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    if not any(isinstance(call["function"]["arguments"], str) for call in calls):
        return None
    return [
        {**message, "tool_calls": [_with_object(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _with_object(call: Turn) -> Turn:
    arguments = call["function"]["arguments"]
    if not isinstance(arguments, str):
        return call
    return {**call, "function": {**call["function"], "arguments": {"arguments": arguments}}}


def offered(frame: Prepare) -> tuple[Tool, ...]:
    """The tools the model may call. Raises ``bad_request`` for tools, or a choice among them, that cannot be."""
    if len(frame.tools) > MAX_TOOLS:
        raise bad_request(f"tools holds {len(frame.tools)} tools; at most {MAX_TOOLS} are allowed", "tools")
    names = {tool.name for tool in frame.tools}
    if not all(map(_NAME.fullmatch, names)):
        raise bad_request("a tool's name has 1 to 128 letters, digits, underscores, dots and hyphens", "tools")
    if len(names) < len(frame.tools):
        raise bad_request("two tools have the same name", "tools")
    if any(_too_deep(tool.parameters) for tool in frame.tools):
        raise bad_request(f"a tool's parameters nest deeper than {MAX_DEPTH}", "tools")
    if frame.tool_name and frame.tool_name not in names:
        raise bad_request("tool_choice names a function that is not among the tools", "tool_choice")
    if frame.tool_choice == "required" and not frame.tools:
        raise bad_request("tool_choice is required, but there are no tools", "tool_choice")
    if frame.tool_choice == "none" and not frame.tool_name:
        return ()
    return frame.tools


def described(tools: Iterable[Tool]) -> list[Turn]:
    """``tools`` for a template."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters or {"type": "object", "properties": {}},
            },
        }
        for tool in tools
    ]


def _too_deep(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            member
            for part in level
            if isinstance(part, dict | list)
            for member in (part.values() if isinstance(part, dict) else part)
        ]
        if not level:
            return False
    return True


def reasoning_variables(frame: Prepare, template: str, opens: tuple[str, ...]) -> dict[str, Any]:
    """Template variables for how much to think. ``opens`` are the texts that begin reasoning, if the model does.

    Raises ``unsupported_field`` where the template takes no word on it and what is asked for is not what it does.
    """
    variables: dict[str, Any] = {}
    effort = frame.reasoning_effort
    if effort not in ("", "none") and "reasoning_effort" in template:
        variables["reasoning_effort"] = effort
        effort = ""
    thinking = effort != "none" if effort else frame.thinking
    if thinking is None:
        return variables
    switches = [name for name, signs in _SWITCHES.items() if any(sign in template for sign in signs)]
    if not switches and (thinking or any(text in template for text in opens)):
        raise EngineError(
            ErrorKind.UNSUPPORTED_FIELD,
            "this model's chat template cannot be told how much to think",
            param="reasoning_effort" if effort else "thinking",
        )
    return {**variables, **dict.fromkeys(switches, thinking)}
