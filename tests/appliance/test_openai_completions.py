"""Bare completions as the unmodified ``openai`` package sees them: prompts, echo, suffix, the best of several."""

import json
import tempfile
import typing
from pathlib import Path

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import completion_create_params as sdk

from appliance.api_site import MODEL, ApiSite
from plugsky.core import frames
from plugsky.core.errors import PlugskyError
from plugsky.core.policy import Limits
from plugsky.server.openai.completion_choice import Choice
from plugsky.server.openai.completion_fields import COMPLETIONS, MAX_ANSWERS, CompletionFields, parse
from plugsky.server.prompt import Prompt

SAID = "The sea is wide."
LIMITS = Limits()


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


async def write(site, prompt="how wide is", **options):
    """What the SDK makes of one completion."""
    return await site.client.completions.create(**{"model": MODEL, "prompt": prompt, **options})


async def streamed(site, prompt="how wide is", **options):
    """The chunks of one stream."""
    return [chunk async for chunk in await write(site, prompt, stream=True, **options)]


async def test_a_prompt_goes_to_the_model_as_it_is_and_is_one_line_in_the_books(site):
    answer = await write(site)
    assert (answer.object, answer.model, answer.id[:5]) == ("text_completion", MODEL, "cmpl-")
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, choice.logprobs) == (SAID, "stop", None)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)
    assert site.engine.prepares[0].text == "how wide is"
    await site.settled()
    (row,) = site.rows()
    assert (row.prompt_tokens, row.completion_tokens, row.outcome) == (3, 4, "stop")


async def test_without_a_limit_the_answer_has_openais_sixteen_tokens(site):
    await write(site)
    assert site.engine.submits[0].max_tokens == 16


async def test_a_stream_joined_is_the_whole(site):
    chunks = await streamed(site, stream_options={"include_usage": True})
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == SAID
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
    assert chunks[-1].usage.total_tokens == 7
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_several_prompts_answer_in_their_order_and_each_is_billed(site):
    answer = await write(site, ["one", "two words"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 16)
    assert [len(submit.tokens) for submit in site.engine.submits] == [1, 1, 2, 2]
    await site.settled()
    (row,) = site.rows()
    assert (row.prompt_tokens, row.completion_tokens) == (3, 16)
    assert site.ledger.report().open_reservations == 0


@pytest.mark.parametrize(
    ("given", "tokens"), [([5, 6, 7], [(5, 6, 7)]), ([[5, 6], [7]], [(5, 6), (7,)]), (["a", [9]], [(0,), (9,)])]
)
async def test_token_ids_are_taken_as_they_are(site, given, tokens):
    answer = await write(site, given)
    assert len(answer.choices) == len(tokens)
    assert [submit.tokens for submit in site.engine.submits] == tokens


async def test_a_suffix_reaches_the_model_with_its_prompt(site):
    await write(site, suffix=" end")
    assert (site.engine.prepares[0].text, site.engine.prepares[0].suffix) == ("how wide is", " end")


async def test_a_model_that_writes_nothing_between_says_501_and_not_something_else(site):
    site.engine.script.refuse_prepare = frames.Failed(0, "not_supported", "not trained to write between", "suffix")
    with pytest.raises(openai.InternalServerError) as refused:
        await write(site, suffix=" end")
    assert (refused.value.status_code, refused.value.param) == (501, "suffix")


async def test_an_echo_is_the_prompt_before_the_answer_whole_and_streamed(site):
    assert (await write(site, echo=True)).choices[0].text == "how wide is" + SAID
    chunks = await streamed(site, echo=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "how wide is" + SAID
    assert (await write(site, [5, 6], echo=True)).choices[0].text == "<5><6>" + SAID


async def test_log_probabilities_are_of_the_answer_and_with_an_echo_of_the_prompt_too(site):
    (choice,) = (await write(site, logprobs=1)).choices
    assert choice.logprobs.tokens == ["The ", "sea ", "is ", "wide."]
    assert choice.logprobs.text_offset == [0, 4, 8, 11]
    assert choice.logprobs.top_logprobs[0] == {"rival": -2.0, "The ": -0.5}
    (choice,) = (await write(site, logprobs=1, echo=True)).choices
    assert choice.logprobs.tokens == ["how", " wide", " is", "The ", "sea ", "is ", "wide."]
    assert choice.logprobs.token_logprobs == [None, -2.5, -3.5, -0.5, -0.5, -0.5, -0.5]
    assert choice.logprobs.top_logprobs[:2] == [None, {"rival": -1.0, " wide": -2.5}]
    assert choice.logprobs.text_offset == [0, 3, 8, 11, 15, 19, 22]
    assert site.engine.submits[-1].params.prompt_logprobs == 1


async def test_a_prompt_is_scored_without_an_answer(site):
    answer = await write(site, [5, 6, 7], echo=True, logprobs=1, max_tokens=0)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("<5><6><7>", "length")
    assert choice.logprobs.token_logprobs == [None, -7.5, -8.5]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 0)
    (plain,) = (await write(site, echo=True, max_tokens=0)).choices
    assert (plain.text, plain.logprobs) == ("how wide is", None)


async def test_the_log_probabilities_of_a_stream_joined_are_those_of_the_whole(site):
    whole = (await write(site, logprobs=2, echo=True)).choices[0].logprobs
    parts = [chunk.choices[0].logprobs for chunk in await streamed(site, logprobs=2, echo=True)]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [one for part in parts for one in getattr(part, name)] == getattr(whole, name)


async def test_the_surest_of_several_are_given_and_all_are_billed(site):
    site.with_engine(sureness=(-3.0, -1.0, -2.0))
    answer = await write(site, best_of=3, n=2, logprobs=0)
    assert [choice.logprobs.token_logprobs[0] for choice in answer.choices] == [-1.0, -2.0]
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.completion_tokens == 12
    assert (await write(site, best_of=2)).choices[0].logprobs is None


async def test_azures_path_names_the_model_of_a_completion(site):
    path = f"/azure/openai/deployments/{MODEL}/completions?api-version=2024-10-21"
    status, _, body = await site.post(b'{"prompt": "the sea"}', path)
    assert (status, json.loads(body)["choices"][0]["text"]) == (200, SAID)


async def test_a_prompt_that_is_too_long_costs_nothing(site):
    with pytest.raises(openai.BadRequestError) as refused:
        await write(site, ["a", "word " * 200])
    assert refused.value.code == "context_length_exceeded"
    assert not site.rows()


REFUSED = {
    "no prompt": ({"prompt": None}, "prompt"),
    "an empty prompt": ({"prompt": ""}, "prompt"),
    "an empty prompt among others": ({"prompt": ["a", ""]}, "prompt[1]"),
    "ids among texts": ({"prompt": ["a", 7]}, "prompt[1]"),
    "too many prompts": ({"prompt": ["a"] * 129}, "prompt"),
    "too many answers": ({"prompt": ["a"] * 33, "n": 8}, "n"),
    "too many tries": ({"prompt": ["a"] * 13, "best_of": 20}, "best_of"),
    "fewer tries than answers": ({"n": 3, "best_of": 2}, "best_of"),
    "the best of a stream": ({"best_of": 2, "stream": True}, "best_of"),
    "a suffix behind ids": ({"prompt": [1, 2], "suffix": "x"}, "suffix"),
    "no answer": ({"max_tokens": 0}, "max_tokens"),
    "a billion answers": ({"n": 10**9}, "n"),
    "too many rivals": ({"logprobs": 21}, "logprobs"),
    "log-probabilities by yes or no": ({"logprobs": True}, "logprobs"),
    "options of no stream": ({"stream_options": {}}, "stream_options"),
    "messages": ({"messages": []}, "messages"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_field_of_a_completion_that_cannot_be_honoured_is_refused_by_its_name(case):
    changes, param = REFUSED[case]
    with pytest.raises(PlugskyError) as refused:
        parse(json.dumps({"model": "m", "prompt": "a", **changes}).encode(), LIMITS)
    assert refused.value.kind.value.status == 400
    assert refused.value.param == param


def test_answers_are_bounded_and_the_bound_is_reached():
    assert (
        len(parse(json.dumps({"model": "m", "prompt": ["a"] * 32, "n": 8}).encode(), LIMITS).prompts) * 8 == MAX_ANSWERS
    )


def test_every_parameter_of_the_sdk_for_completions_is_in_exactly_one_table():
    assert COMPLETIONS.honoured == set(typing.get_type_hints(sdk.CompletionCreateParamsStreaming))
    assert not {*COMPLETIONS.ignored, *COMPLETIONS.refused}
    assert not COMPLETIONS.extensions & COMPLETIONS.honoured


def test_what_is_honoured_of_a_completion_is_what_is_read():
    fields = {field.name for field in msgspec.structs.fields(CompletionFields)}
    assert fields == COMPLETIONS.honoured | COMPLETIONS.extensions


@given(st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=5), st.text(min_size=1, max_size=9))
def test_offsets_end_where_the_text_ends_whatever_a_vocabulary_puts_before_it(pieces, text):
    head = [b"<s>"]
    letters = [letter.encode("utf-8", "surrogatepass") for letter in text]
    prepared = frames.Prepared(1, tuple(range(len(letters) + 1)), 9, pieces=tuple(head + letters))
    choice = Choice(Prompt(text=text), prepared, echo=True, logprobs=True)
    scores = tuple(frames.TokenLogprob(-1.0) for _ in letters)
    choice.feed(frames.StepItem(1, prompt_logprobs=scores))
    for piece in pieces:
        choice.feed(frames.StepItem(1, ids=(1,), logprobs=(frames.TokenLogprob(-1.0, (), piece),)))
    offsets = choice.whole.text_offset
    assert offsets[: len(letters) + 1] == [0, *range(len(letters))]
    assert offsets[len(letters) + 1] == len(text)
    assert offsets == sorted(offsets)
    assert choice.sureness == -1.0


def test_a_token_that_is_no_whole_character_is_called_by_its_bytes():
    choice = Choice(Prompt(text="x"), frames.Prepared(1, (1,), 9), echo=False, logprobs=True)
    choice.feed(frames.StepItem(1, ids=(1,), logprobs=(frames.TokenLogprob(-1.0, ((7, b"\x82", -2.0),), b"\xe2"),)))
    assert choice.whole.tokens == ["bytes:\\xe2"]
    assert choice.whole.top_logprobs == [{"bytes:\\x82": -2.0, "bytes:\\xe2": -1.0}]
