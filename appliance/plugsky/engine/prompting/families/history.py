"""Conversations put into the form that templates with narrower views than the OpenAI API can render.

Everything here works on copies; the texts it adds are ours, not a client's.
"""

import json
from collections.abc import Iterator
from typing import Any

from plugsky.engine.prompting.families.family import Arranged, Asked, Turn, as_is


def one_call_per_turn(asked: Asked, template: str) -> Arranged:
    """For templates that render one call per message: several become as many messages, each before its result."""
    messages = list(_one_call_each(asked.messages))
    return as_is(Asked(messages, asked.tools), template)


def _one_call_each(messages: list[Turn]) -> Iterator[Turn]:
    results = {message["tool_call_id"]: message for message in messages if "tool_call_id" in message}
    moved: set[str] = set()
    for message in messages:
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            if message.get("tool_call_id") not in moved:
                yield message
            continue
        for number, call in enumerate(calls):
            yield {**message, "tool_calls": [call], "content": "" if number else message["content"]}
            if call["id"] in results and call["id"] not in moved:
                moved.add(call["id"])
                yield results[call["id"]]


def arguments_text(arguments: Any) -> str:
    """The JSON text of a call's arguments; a text that is none stays as it is."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def call_text(call: Turn) -> str:
    """One call as a JSON object with a name and arguments."""
    function = call["function"]
    name = json.dumps(function["name"], ensure_ascii=False)
    return f'{{"name": {name}, "arguments": {arguments_text(function["arguments"])}}}'


def spelt_out(messages: list[Turn], opener: str, closer: str) -> list[Turn]:
    """``messages`` without calls and without the role ``tool``, for templates that know neither.

    Calls become text of the assistant, a list between ``opener`` and ``closer``; results become text of the user,
    joined with what stands beside them, because many such templates want roles to alternate.
    """
    spelt: list[Turn] = []
    result_before = False
    for message in messages:
        role, content = message["role"], message["content"] or ""
        if "tool_calls" in message:
            listed = f"{opener}[{', '.join(map(call_text, message['tool_calls']))}]{closer}"
            content = f"{content}\n{listed}" if content else listed
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        joins = result_before or message["role"] == "tool"
        result_before = message["role"] == "tool"
        if joins and spelt and spelt[-1]["role"] == role:
            spelt[-1] = {**spelt[-1], "content": f"{spelt[-1]['content']}\n{content}"}
        else:
            spelt.append({"role": role, "content": content})
    return spelt


def instructed(messages: list[Turn], text: str, *, system: bool) -> list[Turn]:
    """``messages`` with ``text`` at the end of the system message, or before the first of the user's without one."""
    first = messages[0]
    if first["role"] == "system":
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *messages[1:]]
    if system:
        return [{"role": "system", "content": text}, *messages]
    return [{**first, "content": f"{text}\n\n{first['content']}"}, *messages[1:]]


def described(tools: list[Turn]) -> str:
    """The tools' functions as JSON, one a line."""
    return "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
