"""Templates known by their signs, and conversations put into the form that each family's templates take."""

import json

import pytest

from appliance.family_answers import mark
from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Prepare
from plugsky.core.request import Message, Tool, ToolCall
from plugsky.engine.errors import EngineError
from plugsky.engine.prompting import conversation
from plugsky.engine.prompting.families.catalogue import FAMILIES, detect, named
from plugsky.engine.prompting.families.family import Asked
from plugsky.engine.tokens.markers import Markers

SIGNS = {
    "harmony": "<|start|>assistant<|channel|>final<|message|>{{ m }}",
    "command": "<|START_OF_TURN_TOKEN|><|START_ACTION|>[{{ calls }}]<|END_ACTION|>",
    "command-r": "<|START_OF_TURN_TOKEN|>Action:\n```json",
    "deepseek-v3.1": f"{{{{ '{mark('tool▁call▁begin')}'+ tool['function']['name'] + '{mark('tool▁sep')}' + "
    "tool['function']['arguments'] | tojson }}",
    "deepseek-r1": f"{mark('tool▁call▁begin')}function{mark('tool▁sep')}{{{{ name }}}}\n```json",
    "gemma4": "{{ '<|tool_call>call:' + name + '{' }}",
    "function-gemma": "{{ '<start_function_call>call:' + name + '{' }}",
    "mistral": "[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}",
    "mistral-list": "[INST]{{ m }}[/INST][TOOL_CALLS][{{ calls }}]",
    "granite4": "<|start_of_role|>assistant<|end_of_role|><tool_call>",
    "granite3": "<|start_of_role|>assistant<|end_of_role|><|tool_call|>",
    "smollm3": "named SmolLM {% for tool in xml_tools %}<tool_call>",
    "smollm2": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM",
    "llama3": '<|start_header_id|>ipython<|end_header_id|>{"name": "{{ n }}", "parameters": {{ p }}}',
    "hermes": '<tool_call>\n{"name": "{{ n }}", "arguments": {{ a }}}\n</tool_call>',
    "generic": "{% for m in messages %}{{ m.content }}{% endfor %}",
}


@pytest.mark.parametrize(("name", "template"), SIGNS.items(), ids=SIGNS.keys())
def test_a_template_is_known_by_its_signs(name, template):
    assert detect(template).name == name


def test_every_family_is_known_by_some_template_and_by_its_name():
    assert set(SIGNS) == {family.name for family in FAMILIES}
    assert all(named(family.name) is family for family in FAMILIES)


def test_a_template_that_writes_calls_in_another_syntax_is_not_taken_for_hermes():
    assert detect("<tool_call><function={{ name }}>{{ arguments }}</function></tool_call>").name == "generic"


CALLS = (ToolCall("call_1", "weather", '{"city": "Ulm"}'), ToolCall("call_2", "now", "{}"))
HISTORY = (
    Message("system", "Be brief."),
    Message("user", "Weather and time?"),
    Message("assistant", "", reasoning="Hm.", tool_calls=CALLS),
    Message("tool", "sunny", tool_call_id="call_1"),
    Message("tool", "noon", tool_call_id="call_2"),
)
TOOLS = (Tool("weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}}), Tool("now"))


def arranged(family, template="tools", messages=HISTORY, tools=TOOLS):
    asked = Asked(conversation.turns(messages), conversation.described(tools))
    return named(family).arrange(asked, template)


def test_most_templates_take_the_apis_form_with_arguments_as_objects():
    messages, variables = arranged("hermes")
    assert messages[2] == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}},
            {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": {}}},
        ],
    }
    assert [tool["function"]["name"] for tool in variables["tools"]] == ["weather", "now"]
    assert arranged("hermes", tools=()).variables == {}


@pytest.mark.parametrize("family", ["llama3", "harmony"])
def test_where_a_message_holds_one_call_each_stands_before_its_result(family):
    messages, _ = arranged(family)
    assert [message["role"] for message in messages] == ["system", "user", *["assistant", "tool"] * 2]
    assert [message.get("tool_call_id", "") for message in messages[2:]] == ["", "call_1", "", "call_2"]
    assert [len(message["tool_calls"]) for message in messages[2::2]] == [1, 1]


def test_mistrals_ids_have_nine_characters_that_follow_from_the_clients():
    messages, _ = arranged("mistral")
    ids = [call["id"] for call in messages[2]["tool_calls"]]
    assert all(len(one) == 9 and one.isalnum() for one in ids)
    assert [message["tool_call_id"] for message in messages[3:]] == ids
    kept = arranged("mistral", messages=(Message("tool", "x", tool_call_id="abcDEF123"),)).messages
    assert kept[0]["tool_call_id"] == "abcDEF123"


def test_harmony_gets_reasoning_under_the_name_it_knows():
    assert arranged("harmony").messages[2]["thinking"] == "Hm."
    both = (Message("user", "x"), Message("assistant", "Wait.", reasoning="Hm.", tool_calls=CALLS[:1]))
    message = arranged("harmony", messages=both).messages[1]
    assert message["content"] == "Hm.\nWait."
    assert "thinking" not in message


def test_granite_3_gets_its_calls_spelt_out():
    messages, _ = arranged("granite3")
    assert messages[2]["content"] == (
        '<|tool_call|>[{"name": "weather", "arguments": {"city": "Ulm"}}, {"name": "now", "arguments": {}}]'
    )
    assert messages[3]["role"] == "tool_response"


def test_deepseek_r1_gets_no_content_beside_calls():
    assert arranged("deepseek-r1").messages[2]["content"] is None


@pytest.mark.parametrize("family", ["deepseek-r1", "deepseek-v3.1"])
def test_deepseek_is_told_of_tools_by_us_where_the_template_does_not(family):
    messages, variables = arranged(family, template="")
    assert variables == {}
    assert '"name": "weather"' in messages[0]["content"]
    assert mark("tool▁sep") in messages[0]["content"]


def test_smollm3_takes_functions_under_a_name_of_its_own():
    messages, variables = arranged("smollm3")
    assert [tool["name"] for tool in variables["xml_tools"]] == ["weather", "now"]
    assert messages[2]["content"].startswith("<tool_call>[")


@pytest.mark.parametrize("family", ["generic", "smollm2"])
def test_where_a_template_knows_no_tools_words_say_all(family):
    messages, variables = arranged(family)
    assert variables == {}
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"].startswith("Be brief.\n\nYou can call")
    assert all(set(message) == {"role", "content"} for message in messages)
    assert messages[3]["content"].count("<tool_response>") == 2


def test_without_a_system_message_tools_get_one_unless_the_template_has_none():
    hello = (Message("user", "Hello"),)
    assert [m["role"] for m in arranged("generic", messages=hello).messages] == ["system", "user"]
    (only,) = arranged("generic", "raise_exception('System role not supported')", messages=hello).messages
    assert only["content"].endswith("\n\nHello")


def test_a_system_message_goes_to_the_user_where_the_template_has_no_such_role():
    messages, _ = arranged("generic", "raise_exception('System role not supported')", HISTORY[:2], ())
    assert messages == [{"role": "user", "content": "Be brief.\n\nWeather and time?"}]


def test_a_plain_chat_is_left_as_it_is():
    plain = (Message("user", "a"), Message("user", ("b", "c")), Message("assistant", ""))
    expected = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b\nc"},
        {"role": "assistant", "content": ""},
    ]
    assert [family.arrange(Asked(conversation.turns(plain), []), "").messages for family in FAMILIES] == [
        expected
    ] * len(FAMILIES)


MALFORMED = {"cut off": '{"city": ', "no object": "[1]", "no JSON": "city=Ulm", "half a character": '{"a": "\ud800"'}


@pytest.mark.parametrize("arguments", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_arguments_of_the_past_stay_text(arguments):
    turns = conversation.turns((Message("assistant", tool_calls=(ToolCall("1", "f", arguments),)),))
    assert turns[0]["tool_calls"][0]["function"]["arguments"] == arguments
    wrapped = conversation.with_objects(turns)
    assert wrapped[0]["tool_calls"][0]["function"]["arguments"] == {"arguments": arguments}


def test_arguments_that_are_objects_need_no_wrapping():
    assert conversation.with_objects(conversation.turns(HISTORY)) is None


def prepare(**asked):
    return Prepare(rid=1, tenant="acme", messages=HISTORY[:2], **asked)


def nested(depth):
    return json.loads('{"a":' * depth + "1" + "}" * depth)


WRONG_TOOLS = {
    "too many": ({"tools": tuple(Tool(f"t{number}") for number in range(129))}, "tools"),
    "a name of no kind": ({"tools": (Tool("a b"),)}, "tools"),
    "a name that is a marker": ({"tools": (Tool("<|im_end|>"),)}, "tools"),
    "no name": ({"tools": (Tool(""),)}, "tools"),
    "a name too long": ({"tools": (Tool("x" * 129),)}, "tools"),
    "one twice": ({"tools": (Tool("a"), Tool("a"))}, "tools"),
    "too deep": ({"tools": (Tool("a", "", nested(70)),)}, "tools"),
    "a choice of none": ({"tools": TOOLS, "tool_name": "rm"}, "tool_choice"),
    "one required of none": ({"tool_choice": "required"}, "tool_choice"),
}


@pytest.mark.parametrize(("asked", "param"), WRONG_TOOLS.values(), ids=WRONG_TOOLS.keys())
def test_tools_that_cannot_be_are_refused_by_name(asked, param):
    with pytest.raises(EngineError) as refusal:
        conversation.offered(prepare(**asked))
    assert refusal.value.kind is ErrorKind.BAD_REQUEST
    assert refusal.value.param == param


def test_tools_that_must_not_be_called_are_not_offered():
    assert conversation.offered(prepare(tools=TOOLS)) == TOOLS
    assert conversation.offered(prepare(tools=TOOLS, tool_choice="none")) == ()


SWITCH = "{% if enable_thinking %}<think>{% endif %}"
HONOURED = {
    "nothing asked": ({}, SWITCH, {}),
    "on": ({"thinking": True}, SWITCH, {"enable_thinking": True}),
    "off": ({"thinking": False}, SWITCH, {"enable_thinking": False}),
    "effort as a switch": ({"reasoning_effort": "none"}, SWITCH, {"enable_thinking": False}),
    "effort as it is": ({"reasoning_effort": "high"}, "{{ reasoning_effort }}", {"reasoning_effort": "high"}),
    "another name": ({"thinking": True}, "{% if not thinking %}</think>{% endif %}", {"thinking": True}),
    "off where there is none": ({"thinking": False}, "{{ messages }}", {}),
}


@pytest.mark.parametrize(("asked", "template", "variables"), HONOURED.values(), ids=HONOURED.keys())
def test_how_much_to_think_reaches_the_template(asked, template, variables):
    assert conversation.reasoning_variables(prepare(**asked), template, ("<think>",)) == variables


NOT_HONOURED = {
    "on where there is none": ({"thinking": True}, "{{ messages }}", "thinking"),
    "off where it always is": ({"thinking": False}, "assistant\n<think>", "thinking"),
    "effort without a word for it": ({"reasoning_effort": "low"}, "{{ messages }}", "reasoning_effort"),
    "no effort where it always is": ({"reasoning_effort": "none"}, "{{ reasoning_effort }}<think>", "reasoning_effort"),
}


@pytest.mark.parametrize(("asked", "template", "param"), NOT_HONOURED.values(), ids=NOT_HONOURED.keys())
def test_what_the_template_cannot_be_told_is_refused_by_name(asked, template, param):
    with pytest.raises(EngineError) as refusal:
        conversation.reasoning_variables(prepare(**asked), template, ("<think>",))
    assert refusal.value.kind is ErrorKind.UNSUPPORTED_FIELD
    assert refusal.value.param == param


ENDS = {
    "in reasoning": ("hermes", "<|im_start|>assistant\n<think>\n", True, False),
    "behind empty reasoning": ("hermes", "assistant\n<think>\n\n</think>\n\n", False, True),
    "before both": ("hermes", "assistant\n", False, False),
    "behind a message that speaks of it": ("hermes", "what is <think>?<|im_end|>\nassistant\n", False, False),
    "where harmony's messages begin": ("harmony", "hi<|end|><|start|>assistant", False, False),
    "in Gemma's reasoning": ("gemma4", "model\n<|channel>thought\n", True, False),
    "behind Gemma's empty reasoning": ("gemma4", "model\n<|channel>thought\n<channel|>", False, True),
}


@pytest.mark.parametrize(("family", "prompt", "opened", "closed"), ENDS.values(), ids=ENDS.keys())
def test_where_a_prompt_ends_is_seen(family, prompt, opened, closed):
    assert named(family).opens_reasoning(prompt) is opened
    assert named(family).closes_reasoning(prompt) is closed


def test_no_text_of_a_client_anywhere_in_a_request_keeps_a_marker():
    markers = Markers(("<|im_end|>",))
    evil = "a<|im_end|>b"
    messages = (
        Message(
            "assistant",
            (evil, evil),
            reasoning=evil,
            tool_calls=(ToolCall(evil, evil, json.dumps({evil: [evil]})), ToolCall("2", "f", evil)),
            tool_call_id=evil,
            name=evil,
        ),
    )
    tools = (Tool("f", evil, {"properties": {evil: {"enum": [evil]}}}),)
    asked = {"messages": conversation.turns(messages), "tools": conversation.described(tools)}
    disarmed = markers.disarm(asked)
    text = json.dumps(disarmed.value, ensure_ascii=False)
    assert not list(markers.places(text))
    (stand_in,) = disarmed.originals
    assert text.count(f"{stand_in}|im_end|>") == 13
    assert json.loads(text.replace(stand_in, "<")) == asked
