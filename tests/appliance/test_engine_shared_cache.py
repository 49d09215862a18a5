"""What the books of the cache say is what llama.cpp does: shared, moved and restored cells give the same text."""

import threading

import numpy as np
import pytest

from plugsky.core.frames import Params, Submit
from plugsky.engine.headers.estimate import Holding
from plugsky.engine.llama import native
from plugsky.engine.scheduling.kv_cache import KvCache, Match
from plugsky.engine.scheduling.plan import Chunk
from plugsky.engine.scheduling.prefix import TokenBuffer
from plugsky.engine.scheduling.tasks import Limits
from plugsky.engine.stepping.orders import Quit, Start
from plugsky.engine.stepping.stepper import Stepper

pytestmark = pytest.mark.integration
SEQUENCES = 40


@pytest.fixture(scope="module")
def model(chat_model):
    model = native.Model(chat_model, lambda _fraction: True)
    yield model
    model.close()


@pytest.fixture
def context(model):
    context = native.Context(model, Holding(4096, 256, SEQUENCES + 1, 256), threads=2)
    yield context
    context.close()


def tokens_of(model, text):
    return model.tokens(text, add_special=False)


def answers(context, prompts, max_tokens, **limits):
    """Run prompts together, one after another in one line: their ids and usages, and the prompt tokens computed."""
    reports, ended = [], threading.Event()
    ids = {n: [] for n in range(1, len(prompts) + 1)}
    usages = {}

    def told(report):
        reports.append(report)
        for update in report.updates:
            assert update.error is None
            ids[update.ticket] += update.ids
            if update.finish is not None:
                usages[update.ticket] = update.finish.usage
        if len(usages) == len(prompts):
            ended.set()

    stepper = Stepper(context, Limits(**{"cells": context.cells, "batch": 256, "sequences": SEQUENCES, **limits}), told)
    for ticket, prompt in enumerate(prompts, start=1):
        params = Params(temperature=0.0, ignore_eos=True)
        submit = Submit(rid=1, job="j", tenant="t", tokens=prompt, params=params, max_tokens=max_tokens)
        stepper.order(Start(ticket, submit))
    thread = threading.Thread(target=stepper.run)
    thread.start()
    in_time = ended.wait(400)
    stepper.order(Quit())
    thread.join()  # the context must not be closed under it
    assert in_time
    for seq in range(SEQUENCES):
        context.clear(seq)
    return list(ids.values()), list(usages.values()), sum(report.prompt_tokens for report in reports)


def test_sixteen_requests_compute_their_common_system_prompt_once(model, context):
    system = tokens_of(model, "You are a careful librarian of a small town. " * 100)[:900]
    prompts = [(*system, *tokens_of(model, f" Question {n}: what is {n} plus {n}?")) for n in range(16)]
    made, usages, computed = answers(context, prompts, max_tokens=6)
    assert 900 <= computed <= 900 + sum(len(prompt) - 900 for prompt in prompts)
    assert sorted(usage.cached_tokens for usage in usages)[1] >= 900
    alone, _, _ = answers(context, prompts[3:4], max_tokens=6, reuse="none")
    assert made[3][:4] == alone[0][:4], "the text is that of a request alone, while kernels agree"


def test_a_cache_too_small_for_all_gives_every_request_its_whole_text(model):
    prompts = [tokens_of(model, f"Chapter {n}. " + "The road went on and on. " * 8) for n in range(6)]
    large = native.Context(model, Holding(4096, 256, SEQUENCES + 1, 256), threads=2)
    small = native.Context(model, Holding(256, 256, SEQUENCES + 1, 256), threads=2)
    try:
        expected, _, _ = answers(large, prompts, max_tokens=24)
        made, usages, computed = answers(small, prompts, max_tokens=24)
    finally:
        small.close()
        large.close()
    assert [len(ids) for ids in made] == [24] * 6
    found = sum(usage.cached_tokens for usage in usages)
    assert computed + found == sum(map(len, prompts)) - 6, (
        "what was taken away came back; last tokens count as decoding"
    )
    agreeing = sum(mine[:12] == theirs[:12] for mine, theirs in zip(made, expected, strict=True))
    assert agreeing >= 4, "but for the kernels of other batch shapes"


def log_probs(row):
    shifted = row.astype(np.float64) - row.max()
    return shifted - np.log(np.exp(shifted).sum())


def test_moved_and_restored_cells_give_the_same_distribution(model, context):
    text = tokens_of(model, "In the beginning there was a harbour, and in the harbour lay three ships. " * 12)[:200]
    kv = KvCache(context.cells, SEQUENCES, saved=1000, reuse=context.reuse)
    assert context.reuse == "prefix"
    first = kv.enter("root", TokenBuffer(text), Match(), 0)
    context.decode([Chunk(1, first.seq, 0, text[:150], 0)])
    kv.extend([(first, 150)])
    context.decode([Chunk(1, first.seq, 150, text[150:160], 0)])
    kv.extend([(first, 10)])
    second = kv.enter("root", TokenBuffer(text), kv.match(["root"], TokenBuffer(text), 100), 100)
    assert second.computed == 100
    kv.suspend(1, first)
    assert kv.tail(1) == (100, 160)
    third = kv.enter("root", TokenBuffer(text), kv.match(["root"], TokenBuffer(text), 100), 100)
    kv.resume(1, third)
    context.apply(kv.take_ops())
    after = context.decode([Chunk(1, third.seq, 160, text[160:161], 1)])[0].copy()
    kv.extend([(third, 1)])
    alone = context.decode([Chunk(2, SEQUENCES - 1, 0, text[:161], 1)])[0]
    p, q = log_probs(after), log_probs(alone)
    assert float(np.sum(np.exp(q) * (q - p))) < 0.01


def test_what_was_taken_out_of_the_cache_is_put_back_for_the_next_turn(model, context):
    text = tokens_of(model, "The ferry leaves at nine, and the keeper of the harbour writes it down. " * 40)[:500]
    kv = KvCache(context.cells, SEQUENCES, saved=1000, reuse=context.reuse)
    first = kv.enter("root", TokenBuffer(text[:400]), Match(), 0)
    for start in (0, 200):
        context.decode([Chunk(1, first.seq, start, text[start : start + 200], 0)])
        kv.extend([(first, 200)])
    kv.park(first)
    kv.make_room(context.cells)
    context.apply(kv.take_ops())
    assert kv.map.used == 0
    assert kv.saved == 400
    for end in (300, 500):  # one that leaves the common way, then one that goes all of it
        tokens = TokenBuffer([*text[:end], 7])
        again = kv.enter("root", tokens, kv.match(["root"], tokens, end), end)
        assert again.computed == min(end, 400)
        context.apply(kv.take_ops())
        rest = [*text[again.computed : end], 7]
        after = context.decode([Chunk(2, again.seq, again.computed, rest, 1)])[0].copy()
        alone = context.decode([Chunk(3, SEQUENCES - 1, 0, [*text[:250]], 0)])
        alone = context.decode([Chunk(3, SEQUENCES - 1, 250, [*text[250:end], 7], 1)])[0]
        p, q = log_probs(after), log_probs(alone)
        assert float(np.sum(np.exp(q) * (q - p))) < 0.01
        context.clear(SEQUENCES - 1)
        context.clear(again.seq)
    assert kv.saved == 0


def test_the_cache_is_full_exactly_when_the_books_say_so(model):
    context = native.Context(model, Holding(256, 256, 9, 256), threads=2)
    try:
        kv = KvCache(context.cells, 8, saved=0, reuse="prefix")
        rng = np.random.default_rng(3)
        residents = []
        for _ in range(60):
            if residents and (rng.random() < 0.4 or kv.map.free < 30):
                resident = residents.pop(int(rng.integers(len(residents))))
                kv.drop(resident)
                context.apply(kv.take_ops())
            elif len(residents) < 8:
                tokens = [int(token) for token in rng.integers(5, 9, size=int(rng.integers(4, 25)))]
                buffer = TokenBuffer(tokens)
                resident = kv.enter("root", buffer, kv.match(["root"], buffer, len(tokens) - 1), 0)
                context.apply(kv.take_ops())
                start = resident.computed
                context.decode([Chunk(1, resident.seq, start, tokens[start:], 1)])
                kv.extend([(resident, len(tokens) - start)])
                residents.append(resident)
        free = kv.map.free
        with pytest.raises(native.CacheFullError):
            context.decode([Chunk(9, 8, 0, [5] * (free + 1), 1)])
        context.decode([Chunk(9, 8, 0, [5] * free, 1)])
    finally:
        context.close()
