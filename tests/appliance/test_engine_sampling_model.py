"""Sampling with the real model: what was asked for shows in the text, and grammars hold whatever the model says."""

import asyncio
import json
import math
import re
import tempfile
from pathlib import Path

import jsonschema
import pytest
import pytest_asyncio

from appliance.engine_host import answer, running_engine, spec_of
from plugsky.core import ids
from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Message, Params
from plugsky.engine.clients.client import EngineClient, EngineError

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ASKED = (Message("user", "Describe a person as JSON."),)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "long tag"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(chat_model):
    """A peer of one engine for all tests here."""
    with tempfile.TemporaryDirectory(prefix="pse-") as name:
        path = Path(name) / "e.sock"
        async with running_engine(spec_of(chat_model), path):
            peer = EngineClient(path)
            await peer.connect(60)
            yield peer
            await peer.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story(client):
    """The tokens of a prompt that a model goes on with by repeating it."""
    return (await client.prepare(tenant="acme", text="one two three " * 12 + "one")).tokens


async def told(client, tokens, params, max_tokens):
    """The items of one answer."""
    generation = client.submit(job=ids.new_id(), tenant="acme", tokens=tokens, params=params, max_tokens=max_tokens)
    items = [item async for item in generation]
    generation.acknowledge()
    return items


async def test_answers_to_a_schema_satisfy_it_at_any_temperature(client):
    prepared = await client.prepare(tenant="acme", messages=ASKED, json_schema=json.dumps(PERSON))
    chains = [Params(temperature=1.5, seed=seed, grammar=prepared.grammar) for seed in range(20)]
    answers = await asyncio.gather(*(answer(client, prepared.tokens, 100, params=params) for params in chains))
    texts = [text for _, text, _ in answers]
    assert {final.reason for _, _, final in answers} == {"stop"}
    checker = jsonschema.Draft202012Validator(PERSON, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    assert [text for text in texts if not checker.is_valid(json.loads(text))] == []
    assert len(set(texts)) > 15


@pytest.mark.parametrize("chain", [{}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.5}, {"typical_p": 0.5}])
async def test_a_grammar_that_admits_one_string_yields_it(client, chain):
    prepared = await client.prepare(tenant="acme", messages=ASKED, grammar='root ::= "Grüße, 世界 👋!"')
    made, text, final = await answer(client, prepared.tokens, 40, params=Params(grammar=prepared.grammar, **chain))
    assert (text, final.reason, final.usage.completion_tokens) == ("Grüße, 世界 👋!", "stop", len(made))


async def test_a_lazy_grammar_holds_from_its_trigger_on(client):
    prepared = await client.prepare(tenant="acme", messages=(Message("user", "Say: The capital is"),))
    params = Params(temperature=0.0, grammar='root ::= " capital" "!"{3}', grammar_triggers=(" capital",))
    _, text, final = await answer(client, prepared.tokens, 40, params=params)
    assert text.endswith(" capital!!!")
    assert len(text) > len(" capital!!!")
    assert final.reason == "stop"


async def test_a_resumed_answer_under_a_grammar_goes_on_as_it_would_have(client):
    prepared = await client.prepare(tenant="acme", messages=ASKED, json_schema=json.dumps(PERSON))
    params = Params(seed=5, temperature=1.2, grammar=prepared.grammar)
    whole, _, _ = await answer(client, prepared.tokens, 12, params=params)
    rest, _, _ = await answer(client, prepared.tokens, 12, params=params, resume_tokens=tuple(whole[:9]))
    assert rest == whole[9:]


COLOURS = """root ::= "Colours: " word " " word " " word ". END OF ANSWER. Goodbye."
word ::= [a-z] [a-z] [a-z] [a-z]? [a-z]?"""


async def test_an_answer_cut_anywhere_and_resumed_is_whole_with_its_grammar_its_stop_string_and_penalties(client):
    prepared = await client.prepare(tenant="acme", text="Three colours, please.", grammar=COLOURS)
    params = Params(
        temperature=0.0,
        grammar=prepared.grammar,
        stop=("END OF ANSWER",),
        frequency_penalty=0.5,
        presence_penalty=0.5,
        top_logprobs=1,
    )
    items = await told(client, prepared.tokens, params, 60)
    made, whole = [token for item in items for token in item.ids], "".join(item.text for item in items)
    assert re.fullmatch(r"Colours: ([a-z]{3,5} ){2}[a-z]{3,5}\. ", whole)

    async def resumed(cut):
        generation = client.submit(
            job=ids.new_id(),
            tenant="acme",
            tokens=prepared.tokens,
            params=params,
            max_tokens=60,
            resume_tokens=tuple(made[:cut]),
        )
        rest = [item async for item in generation]
        generation.acknowledge()
        tokens = [token for item in rest for token in item.ids]
        assert rest[-1].final.usage.completion_tokens == cut + len(tokens)
        assert sum(len(item.logprobs) for item in rest) == len(tokens)
        assert rest[-1].final.reason == "stop"
        return "".join(item.text for item in (*items[:cut], *rest))

    assert all(len(item.ids) == 1 for item in items)
    texts = await asyncio.gather(*(resumed(cut) for cut in range(1, len(made))))
    assert all(re.fullmatch(r"Colours: ([a-z]{3,5} ){2}[a-z]{3,5}\. ", text) for text in texts)
    assert texts.count(whole) >= len(texts) * 3 // 4, "the rest may differ in rounding: kernels follow a batch's shape"
    within_stop = [cut for cut in range(1, len(made)) if "".join(item.text for item in items[:cut]) == whole]
    assert len(within_stop) >= 2, "some cuts fall into the stop string"
    assert {texts[cut - 1] for cut in within_stop} == {whole}


REFUSED = {
    "a schema with a remote reference": ({"json_schema": '{"$ref":"https://example.org/"}'}, "json_schema"),
    "a grammar that recurses": ({"grammar": "root ::= root"}, "grammar"),
    "both": ({"grammar": 'root ::= "a"', "json_schema": "{}"}, "json_schema"),
}


@pytest.mark.parametrize(("fields", "param"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_cannot_be_enforced_is_refused_when_it_is_prepared(client, fields, param):
    with pytest.raises(EngineError) as refusal:
        await client.prepare(tenant="acme", messages=ASKED, **fields)
    assert refusal.value.kind in (ErrorKind.SCHEMA_REFUSED, ErrorKind.BAD_REQUEST)
    assert refusal.value.param == param


UNPREPARED = {
    "a bomb of parentheses": Params(grammar="root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000),
    "a grammar that is empty": Params(grammar="#"),
    "a grammar that explodes": Params(grammar="root ::= [^] root [a] | [^] root [b] | [c]".replace("[^]", "[^\\x01]")),
}


@pytest.mark.parametrize("params", UNPREPARED.values(), ids=UNPREPARED.keys())
async def test_a_bad_grammar_that_nobody_prepared_harms_nobody(client, story, params):
    with pytest.raises(EngineError) as refusal:
        await answer(client, story, 60, params=params)
    assert refusal.value.kind is ErrorKind.SCHEMA_REFUSED
    assert (await answer(client, story, 2))[2].reason == "length"


async def test_log_probabilities_are_reported_as_often_as_asked(client, story):
    items = await told(client, story, Params(temperature=0.0, top_logprobs=20), 6)
    known = [logprob for item in items for logprob in item.logprobs]
    chosen = [token for item in items for token in item.ids]
    assert [logprob.top[0][0] for logprob in known] == chosen
    for logprob in known:
        values = [value for _, _, value in logprob.top]
        assert len(values) == 20
        assert values == sorted(values, reverse=True)
        assert values[0] == pytest.approx(logprob.logprob)
        assert 0.1 < sum(map(math.exp, values)) <= 1.0001
    assert b"".join(logprob.top[0][1] for logprob in known).decode() == "".join(item.text for item in items)


async def test_log_probabilities_do_not_depend_on_parameters(client, story):
    plain, changed = [
        (await told(client, story, params, 1))[0].logprobs[0].top
        for params in (Params(temperature=0.0, top_logprobs=5), Params(temperature=2.0, top_k=3, top_logprobs=5))
    ]
    assert [token for token, _, _ in plain] == [token for token, _, _ in changed]
    assert [value for _, _, value in plain] == pytest.approx([value for _, _, value in changed], abs=0.15)


def longest_repeat(tokens):
    """The length of the longest run that comes twice."""
    sizes = range(len(tokens) // 2, 0, -1)
    runs = ([tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)] for size in sizes)
    return next((len(found[0]) for found in runs if len(set(found)) < len(found)), 0)


async def test_penalties_and_dry_keep_an_answer_from_repeating_itself(client, story):
    chains = {
        "plain": {},
        "frequency": {"frequency_penalty": 2.0},
        "presence": {"presence_penalty": 2.0},
        "repeat": {"repeat_penalty": 1.5},
        "dry": {"dry_multiplier": 5.0, "dry_allowed_length": 1},
    }
    params = [Params(temperature=0.0, ignore_eos=True, **chain) for chain in chains.values()]
    answers = await asyncio.gather(*(answer(client, story, 24, params=asked) for asked in params))
    made = {name: tokens for name, (tokens, _, _) in zip(chains, answers, strict=True)}
    assert longest_repeat(made["plain"]) > 4
    for name in ("frequency", "repeat", "dry"):
        assert longest_repeat(made[name]) < longest_repeat(made["plain"]) / 2, name
    assert len(set(made["presence"])) > len(set(made["plain"]))


async def test_a_window_lets_old_tokens_come_again(client, story):
    chains = [Params(temperature=0.0, ignore_eos=True, repeat_penalty=1.8, repeat_last_n=n) for n in (2, -1)]
    answers = await asyncio.gather(*(answer(client, story, 24, params=params) for params in chains))
    window, whole = (tokens for tokens, _, _ in answers)
    assert len(set(whole)) > len(set(window))


async def test_a_bias_brings_a_token_or_bans_it(client, story):
    (word, *_) = (await client.prepare(tenant="acme", text=" blue")).tokens
    first = (await answer(client, story, 1))[0][0]
    brought = await answer(client, story, 3, params=Params(temperature=0.0, logit_bias={word: 100.0}))
    banned = await answer(client, story, 1, params=Params(temperature=0.0, logit_bias={first: -100.0}))
    assert set(brought[0]) == {word}
    assert banned[0][0] != first


async def test_the_same_seed_gives_the_same_text_beside_neighbours_too(client, story):
    params = Params(seed=11, temperature=0.7, top_k=20)
    alone = (await answer(client, story, 8, params=params))[0]
    again = (await answer(client, story, 8, params=params))[0]
    assert alone == again
