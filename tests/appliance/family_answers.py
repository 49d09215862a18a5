"""Answers as models of each family write them, and what is in them: (thinking, text, reasoning, content, calls)."""


def mark(words):
    """A mark of DeepSeek's."""
    return f"<\uff5c{words}\uff5c>"


F, G = ("f", '{"a": 1}'), ("g", "{}")
_ALL, _END_ALL = mark("tool▁calls▁begin"), mark("tool▁calls▁end")
_ONE, _SEP, _END = mark("tool▁call▁begin"), mark("tool▁sep"), mark("tool▁call▁end")
_HERMES_F = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
_HERMES_G = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
_FENCED = "\n```json\n{}\n```"

ANSWERS = {
    "hermes": {
        "words": (False, " Hello, world \n", "", " Hello, world \n", []),
        "a call": (False, _HERMES_F, "", "", [F]),
        "two calls": (False, f"{_HERMES_F}\n{_HERMES_G}", "", "", [F, G]),
        "words and a call": (False, f"Let me look.\n\n{_HERMES_F}", "", "Let me look.", [F]),
        "reasoning and words": (False, "<think>\nHm.\n</think>\n\nHello", "Hm.", "Hello", []),
        "reasoning and a call": (False, f"<think>\nHm.\n</think>\n\n{_HERMES_F}", "Hm.", "", [F]),
        "reasoning that the prompt began": (True, f"\nHm.\n</think>\n{_HERMES_G}", "Hm.", "", [G]),
        "reasoning of nothing": (False, "<think>\n\n</think>\n\nHello", "", "Hello", []),
        "reasoning without an end": (True, "Hm. So", "Hm. So", "", []),
        "a tag that is text": (False, "write <think> first", "", "write <think> first", []),
        "arguments before the name": (
            False,
            '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>',
            "",
            "",
            [F],
        ),
        "arguments in a string": (
            False,
            '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
            "",
            "",
            [F],
        ),
        "no arguments": (False, '<tool_call>{"name": "g"}</tool_call>', "", "", [G]),
        "null arguments": (False, '<tool_call>{"name": "g", "arguments": null}</tool_call>', "", "", [G]),
        "the API's own form": (
            False,
            '<tool_call>{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}</tool_call>',
            "",
            "",
            [F],
        ),
        "the end of a call inside its arguments": (
            False,
            '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>',
            "",
            "",
            [("f", '{"a": "</tool_call>"}')],
        ),
        "a call without its closing tag": (False, '<tool_call>{"name": "g", "arguments": {}}', "", "", [G]),
        "words behind a call": (False, f"{_HERMES_G}\nDone.", "", "Done.", [G]),
        "a tool nobody offered": (
            False,
            '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
            "",
            '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
            [],
        ),
        "no JSON": (False, "<tool_call>f(1)</tool_call> ok", "", "<tool_call>f(1)</tool_call> ok", []),
        "half a marker": (False, "a <tool_", "", "a <tool_", []),
    },
    "llama3": {
        "a call": (False, '{"name": "f", "parameters": {"a": 1}}', "", "", [F]),
        "a call with its kind": (False, '{"type": "function", "name": "f", "parameters": {"a": 1}}', "", "", [F]),
        "a call behind the tag": (False, '<|python_tag|>{"name": "f", "parameters": {"a": 1}}', "", "", [F]),
        "two calls": (
            False,
            '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}',
            "",
            "",
            [F, G],
        ),
        "code": (False, "<|python_tag|>print(1)", "", "<|python_tag|>print(1)", []),
        "JSON that is an answer": (False, '{"name": "Bob", "age": 7}', "", '{"name": "Bob", "age": 7}', []),
        "other JSON": (False, '{"city": "Paris"}', "", '{"city": "Paris"}', []),
        "words": (False, "Hello", "", "Hello", []),
    },
    "mistral": {
        "a call": (False, '[TOOL_CALLS]f[ARGS]{"a": 1}', "", "", [F]),
        "calls with ids": (False, '[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}', "", "", [F, G]),
        "a call with nothing between": (False, '[TOOL_CALLS]f{"a": 1}', "", "", [F]),
        "the older form": (False, '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]', "", "", [F]),
        "reasoning and words": (False, "[THINK]Hm.[/THINK]Hello", "Hm.", "Hello", []),
        "words and a call": (False, "Wait. [TOOL_CALLS]g[ARGS]{}", "", "Wait.", [G]),
        "a tool nobody offered": (False, "[TOOL_CALLS]rm[ARGS]{}", "", "[TOOL_CALLS]rm[ARGS]{}", []),
        "no end of the name": (False, "[TOOL_CALLS]" + "x" * 600, "", "[TOOL_CALLS]" + "x" * 600, []),
    },
    "mistral-list": {
        "two calls": (
            False,
            '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "123456789"}, {"name": "g", "arguments": {}}]',
            "",
            "",
            [F, G],
        ),
        "words": (False, "[TOOL] Hello", "", "[TOOL] Hello", []),
    },
    "gemma4": {
        "a call": (False, "<|tool_call>call:f{a:1}<tool_call|>", "", "", [("f", '{"a":1}')]),
        "every kind of value": (
            False,
            '<|tool_call>call:f{t:<|"|>x "y"\n\\<|"|>,l:[1.5,true, false,null,[]],o:{n:-2e3}}<tool_call|>',
            "",
            "",
            [("f", '{"t":"x \\"y\\"\\n\\\\","l":[1.5,true,false,null,[]],"o":{"n":-2e3}}')],
        ),
        "two calls": (
            False,
            "<|tool_call>call:g{}<tool_call|><|tool_call>call:g{}<tool_call|>",
            "",
            "",
            [G, G],
        ),
        "reasoning and words": (False, "<|channel>thought\nHm.\n<channel|>Hello", "Hm.", "Hello", []),
        "reasoning of nothing": (True, "<channel|>Hello", "", "Hello", []),
        "no call": (False, "<|tool_call>f()<tool_call|>", "", "<|tool_call>f()<tool_call|>", []),
    },
    "function-gemma": {
        "a call": (
            False,
            "<start_function_call>call:f{a:<escape>x<escape>}<end_function_call>",
            "",
            "",
            [("f", '{"a":"x"}')],
        ),
    },
    "smollm2": {
        "a list of calls": (
            False,
            '<tool_call>[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]</tool_call>',
            "",
            "",
            [F, G],
        ),
        "one call": (False, _HERMES_F, "", "", [F]),
        "an empty list": (False, "<tool_call>[]</tool_call>", "", "<tool_call>[]</tool_call>", []),
    },
    "smollm3": {"reasoning and a call": (False, f"<think>\nHm.\n</think>\n{_HERMES_F}", "Hm.", "", [F])},
    "deepseek-r1": {
        "two calls": (
            True,
            f"Hm.\n</think>\n\n{_ALL}{_ONE}function{_SEP}g{_FENCED}{_END}\n{_ONE}function{_SEP}g{_FENCED}{_END}{_END_ALL}",
            "Hm.",
            "",
            [G, G],
        ),
        "a distilled model's own spelling": (
            False,
            f"{mark('tool calls begin')}{_ONE}function{_SEP}g{_FENCED}{_END}{_END_ALL}",
            "",
            "",
            [G],
        ),
        "words": (False, f"Hello {mark('User')}", "", f"Hello {mark('User')}", []),
    },
    "deepseek-v3.1": {
        "two calls": (
            False,
            f'Wait.{_ALL}{_ONE}f{_SEP}{{"a": 1}}{_END}{_ONE}g{_SEP}{{}}{_END}{_END_ALL}',
            "",
            "Wait.",
            [F, G],
        ),
        "reasoning and words": (True, "Hm.</think>Hello", "Hm.", "Hello", []),
    },
    "harmony": {
        "words": (False, "<|channel|>final<|message|>Hello", "", "Hello", []),
        "a preamble": (False, "<|channel|>commentary<|message|>Wait.", "", "Wait.", []),
        "reasoning and words": (
            False,
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello",
            "Hm.",
            "Hello",
            [],
        ),
        "a call, addressed before the channel": (
            False,
            ' to=functions.f<|channel|>commentary <|constrain|>json<|message|>{"a": 1}',
            "",
            "",
            [F],
        ),
        "a call, addressed behind the channel": (
            False,
            (
                "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
                '<|constrain|>json<|message|>{"a": 1}<|call|>'
            ),
            "Hm.",
            "",
            [F],
        ),
        "an answer in JSON": (False, '<|channel|>final <|constrain|>json<|message|>{"a": 1}', "", '{"a": 1}', []),
        "a tool nobody offered": (False, " to=functions.rm<|channel|>commentary<|message|>{}", "", "{}", []),
        "no message at all": (False, "Hello", "", "Hello", []),
        "a header without end": (False, "<|channel|>" + "x" * 600, "", "<|channel|>" + "x" * 600, []),
        "reasoning that the prompt began": (True, "Hm.<|end|>", "Hm.", "", []),
    },
    "command": {
        "reasoning and calls": (
            False,
            (
                '<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "f", '
                '"parameters": {"a": 1}},\n    {"tool_call_id": "1", "tool_name": "g", "parameters": {}}\n]'
                "<|END_ACTION|>"
            ),
            "Hm.",
            "",
            [F, G],
        ),
        "words": (False, "<|START_RESPONSE|>Hello<|END_RESPONSE|>", "", "Hello", []),
        "words of newer ones": (True, "<|END_THINKING|><|START_TEXT|>Hello<|END_TEXT|>", "", "Hello", []),
    },
    "command-r": {
        "a call": (False, 'Action:\n```json\n[\n  {"tool_name": "g", "parameters": {}}\n]\n```\n', "", "", [G]),
        "words": (False, "Action: none", "", "Action: none", []),
    },
    "granite3": {
        "two calls": (
            False,
            '<|tool_call|>[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
            "",
            "",
            [F, G],
        ),
        "reasoning and words": (False, "<think>Hm.</think>\n<response>Hello</response>", "Hm.", "Hello", []),
    },
    "granite4": {"a call": (False, _HERMES_F, "", "", [F])},
    "generic": {
        "a list of calls": (
            False,
            '[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]',
            "",
            "",
            [F, G],
        ),
        "one call": (False, '{"name": "f", "arguments": {"a": 1}}', "", "", [F]),
        "a fenced call": (False, '```json\n[{"name": "g", "arguments": {}}]\n```', "", "", [G]),
        "a tagged call": (False, _HERMES_F, "", "", [F]),
        "a list of numbers": (False, "[1, 2]", "", "[1, 2]", []),
        "fenced JSON": (False, '```json\n{"a": 1}\n```\nThere.', "", '```json\n{"a": 1}\n```\nThere.', []),
        "words": (False, "\n Hello \n", "", "\n Hello \n", []),
        "nothing": (False, "", "", "", []),
    },
}

BROKEN = {
    "hermes": '<tool_call>{"name": "f", "arguments": {"a": 1, }}</tool_call>',
    "llama3": '{"name": "f", "parameters": {"a": tru}}',
    "mistral": "[TOOL_CALLS]f[ARGS]{'a': 1}",
    "gemma4": "<|tool_call>call:f{a:1;b:2}<tool_call|>",
    "deepseek-v3.1": f'{_ALL}{_ONE}f{_SEP}{{"a": NaN}}{_END}{_END_ALL}',
    "harmony": " to=functions.f<|channel|>commentary<|message|>{1}<|call|>",
    "command": '<|START_ACTION|>[{"tool_name": "f", "parameters": {"a": 01}}]<|END_ACTION|>',
    "granite3": '<|tool_call|>[{"name": "f", "arguments": {"a": "\n"}}]',
    "generic": '[{"name": "f", "arguments": {"a": [1, 2}}]',
}
"""Calls that begin well and cannot be used."""
