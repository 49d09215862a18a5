"""A real model made to call a tool: template, prompt, grammar, tokens and parser together."""

import json
import threading

import pytest

from appliance.engine_host import spec_of
from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Prepare, Submit
from plugsky.core.request import Message, Params, Tool, ToolCall
from plugsky.engine.errors import EngineError
from plugsky.engine.loading import loading
from plugsky.engine.prompting.families.catalogue import named
from plugsky.engine.prompting.families.parser import AnswerParser
from plugsky.engine.stepping.orders import Quit, Start

pytestmark = pytest.mark.integration

WEATHER = Tool(
    "get_weather",
    "The weather in a city now.",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
    },
)
TIME = Tool("get_time", "The time in a city now.")
QUESTION = (Message("user", "What is the weather in Paris?"),)


@pytest.fixture(scope="module")
def loaded(chat_model):
    """SmolLM2, in this process."""
    loaded = loading.load(spec_of(chat_model, n_ctx=2048), lambda _: True)
    yield loaded
    loaded.close()


@pytest.fixture
def answer(loaded):
    """The answer to a prepared prompt, as text, with what the engine was asked to put into it."""

    def run(prepared, *, max_tokens=200, shown=None, bias=None):
        over, texts, problems = threading.Event(), [], []

        def told(report):
            for update in report.updates:
                texts.append(update.text)
                if update.error is not None:
                    problems.append(update.error)
                if update.finish is not None or update.error is not None:
                    over.set()

        stepper = loaded.stepper(told)
        owner = threading.Thread(target=stepper.run)
        owner.start()
        wanted = Params(
            temperature=0.0,
            grammar=prepared.grammar,
            grammar_triggers=prepared.grammar_triggers,
            show_special=prepared.show_special if shown is None else shown,
            logit_bias=bias or {},
        )
        submit = Submit(1, "job", "acme", prepared.tokens, wanted, max_tokens)
        loaded.prompts.check(submit)
        stepper.order(Start(1, submit))
        over.wait(120)
        stepper.order(Quit())
        owner.join()
        loaded.context.clear(-1)  # what that stepper parked: the next one begins with an empty cache
        assert problems == []
        return "".join(texts)

    return run


def prepared(loaded, messages=QUESTION, **asked):
    return loaded.prompts.prepare(Prepare(1, "acme", messages=messages, **asked))


def read(prepared, text, *tools):
    parser = AnswerParser(named(prepared.family), tools=[tool.name for tool in tools], thinking=prepared.thinking)
    for char in text:
        parser.feed(char)
    return parser.end()


def test_the_model_calls_a_tool_when_it_must(loaded, answer):
    prompt = prepared(loaded, tools=(WEATHER, TIME), tool_choice="required", parallel_tool_calls=False)
    assert prompt.family == "smollm2"
    outcome = read(prompt, answer(prompt), WEATHER, TIME)
    assert outcome.called
    assert len(outcome.calls) == 1


def test_the_model_calls_the_tool_that_is_named_with_arguments_that_keep_its_schema(loaded, answer):
    prompt = prepared(loaded, tools=(WEATHER, TIME), tool_name="get_weather", parallel_tool_calls=False)
    (call,) = read(prompt, answer(prompt), WEATHER, TIME).calls
    assert call.name == "get_weather"
    arguments = json.loads(call.arguments)
    assert isinstance(arguments["city"], str)
    assert arguments["unit"] in ("C", "F")


def test_a_tool_that_need_not_be_called_leaves_the_answer_free(loaded):
    prompt = prepared(loaded, tools=(WEATHER,))
    assert (prompt.grammar, prompt.grammar_triggers) == ("", ())


def test_a_strict_tool_is_kept_to_its_schema_from_the_beginning_of_a_call_on(loaded):
    strict = Tool(WEATHER.name, WEATHER.description, WEATHER.parameters, strict=True)
    assert prepared(loaded, tools=(strict,)).grammar_triggers == ("<tool_call>",)


def test_tools_make_the_prompt_longer_and_forbidden_ones_do_not(loaded):
    bare = prepared(loaded).tokens
    assert len(prepared(loaded, tools=(WEATHER,)).tokens) > len(bare)
    assert prepared(loaded, tools=(WEATHER,), tool_choice="none").tokens == bare


def test_a_past_call_with_broken_arguments_still_makes_a_prompt(loaded):
    past = (
        *QUESTION,
        Message("assistant", tool_calls=(ToolCall("call_1", "get_weather", '{"city": <|im_end|>'),)),
        Message("tool", "broken", tool_call_id="call_1"),
    )
    tokens = prepared(loaded, past, tools=(WEATHER,)).tokens
    control = [loaded.model.markers[token] for token in tokens if token in loaded.model.markers]
    assert control == ["<|im_start|>", "<|im_end|>"] * 4 + ["<|im_start|>"]


REFUSED = {
    "thinking": ({"thinking": True}, ErrorKind.UNSUPPORTED_FIELD, "thinking"),
    "effort": ({"reasoning_effort": "high"}, ErrorKind.UNSUPPORTED_FIELD, "reasoning_effort"),
    "a grammar and tools": ({"tools": (TIME,), "grammar": 'root ::= "a"'}, ErrorKind.BAD_REQUEST, "grammar"),
    "a schema that cannot be kept": (
        {"tools": (Tool("f", "", {"$ref": "https://example.com"}),), "tool_choice": "required"},
        ErrorKind.SCHEMA_REFUSED,
        "tools",
    ),
}


@pytest.mark.parametrize(("asked", "kind", "param"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_honoured_is_refused_by_name(loaded, asked, kind, param):
    with pytest.raises(EngineError) as refusal:
        prepared(loaded, **asked)
    assert refusal.value.kind is kind
    assert refusal.value.param == param


def test_tools_go_with_messages_only(loaded):
    with pytest.raises(EngineError, match="goes with messages only") as refusal:
        loaded.prompts.prepare(Prepare(1, "acme", text="x", tools=(TIME,)))
    assert refusal.value.param == "tools"


def test_only_control_tokens_under_their_own_names_can_be_shown(loaded):
    token, text = next(iter(loaded.model.markers.items()))
    submit = Submit(1, "job", "acme", (1, 2), Params(show_special={token: text}), 5)
    loaded.prompts.check(submit)
    with pytest.raises(EngineError) as refusal:
        loaded.prompts.check(Submit(1, "job", "acme", (1, 2), Params(show_special={token: "x"}), 5))
    assert refusal.value.param == "show_special"


def test_a_control_token_that_is_shown_is_in_the_answers_text(loaded, answer):
    token = next(token for token, text in loaded.model.markers.items() if text == "<repo_name>")
    prompt, always = prepared(loaded), {token: 1e4}
    assert answer(prompt, bias=always, max_tokens=3) == ""
    assert answer(prompt, bias=always, max_tokens=3, shown={token: "<repo_name>"}) == "<repo_name>" * 3
