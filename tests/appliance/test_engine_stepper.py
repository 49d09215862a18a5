"""The owner of a context: faults of one sequence stay with it. The context here follows a script, to have faults."""

import random
import threading

import numpy as np
import pytest

from appliance.cell_context import CellContext
from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Params, Submit
from plugsky.engine.errors import EngineError
from plugsky.engine.llama import native
from plugsky.engine.scheduling import virtual
from plugsky.engine.scheduling.tasks import Limits
from plugsky.engine.stepping import orders
from plugsky.engine.stepping.orders import Quit, SetThreads, Start, Stop, Unpin
from plugsky.engine.stepping.stepper import Stepper

END = 99
SEQUENCES = 40
POISON = 66
UNCHOOSABLE = 77


class ScriptedSampler:
    """Takes the token that the scripted logits stand for."""

    done = False

    def __init__(self):
        self.accepted, self.closed = [], False

    def pick(self, logits):
        token = int(logits[0])
        if token == UNCHOOSABLE:
            raise EngineError(ErrorKind.INTERNAL, "the sampler left no token to choose")
        return token

    def accept(self, token):
        self.accepted.append(token)

    def close(self):
        assert not self.closed
        self.closed = True


class ScriptedContext(CellContext):
    """Each next token is the last one plus one. Follows real cells, refuses POISON, breaks on command."""

    def __init__(self, cells=1000):
        super().__init__(cells, SEQUENCES)
        self.batches, self.samplers = [], []
        self.threads, self.broken, self.wait = 0, False, None
        self.adapter, self.served = "", {}

    def decode(self, chunks):
        if self.wait is not None:
            self.wait()
        self.batches.append([(chunk.ticket, len(chunk.tokens)) for chunk in chunks])
        if self.broken:
            raise native.ContextBrokenError("llama_decode gave -3")
        if any(POISON in chunk.tokens for chunk in chunks):
            raise native.BatchRefusedError
        self.served |= {chunk.ticket: self.adapter for chunk in chunks}
        if not self.compute(chunks, self.adapter):
            raise native.CacheFullError
        return [np.array([chunk.tokens[-1] + 1], dtype=np.float32) for chunk in chunks if chunk.outputs]

    def sampler(self, _stages, _grammar):
        self.samplers.append(ScriptedSampler())
        return self.samplers[-1]

    def piece(self, token):
        return b"" if token == END else bytes([token % 256])

    def ends(self, token):
        return token == END

    def set_threads(self, n):
        self.threads = n

    def set_adapter(self, name):
        self.adapter = name


def submit(tokens, max_tokens=4, **rest):
    return Submit(
        rid=1, job="j", tenant="t", tokens=tokens, params=rest.pop("params", Params()), max_tokens=max_tokens, **rest
    )


class Runs:
    """A stepper on its thread, and what it told."""

    def __init__(self, context, **limits):
        self.context, self.reports = context, []
        self.stepper = Stepper(
            context, Limits(**{"cells": 1000, "batch": 64, "sequences": SEQUENCES, **limits}), self.reports.append
        )
        self.failure = None

    def all(self, *orders, also=()):
        """Carry out orders given before the first step, until every sequence, those of ``also`` too, has ended."""
        for order in orders:
            self.stepper.order(order)
        thread = threading.Thread(target=self._run)
        wanted = {order.ticket for order in orders if isinstance(order, Start)} | set(also)
        thread.start()
        while thread.is_alive() and self.ended() < wanted:
            thread.join(0.001)
        self.stepper.order(Quit())
        thread.join(10)
        assert not thread.is_alive()
        if self.failure is None:
            scheduler = self.stepper._scheduler
            self.context.apply(scheduler.take_ops())
            assert scheduler.kv.map.used == scheduler.kv.map.parked == self.context.used(), (
                "nothing is left but what is parked"
            )
            scheduler.kv.evict_all()
            self.context.apply(scheduler.take_ops())
            assert scheduler.kv.map.used == self.context.used() == 0
            assert not self.context.saved
        return self

    def _run(self):
        try:
            self.stepper.run()
        except native.ContextBrokenError as error:
            self.failure = error

    def updates(self, ticket):
        return [update for report in list(self.reports) for update in report.updates if update.ticket == ticket]

    def ended(self):
        updates = [update for report in list(self.reports) for update in report.updates]
        return {update.ticket for update in updates if update.finish or update.error}

    def ids(self, ticket):
        return [token for update in self.updates(ticket) for token in update.ids]

    def finish(self, ticket):
        return next((update.finish for update in self.updates(ticket) if update.finish), None)

    def error(self, ticket):
        return next((update.error for update in self.updates(ticket) if update.error), None)


@pytest.fixture(autouse=True)
def _samplers_are_all_closed(monkeypatch):
    made = []
    original = ScriptedContext.sampler
    monkeypatch.setattr(
        ScriptedContext, "sampler", lambda self, *given: made.append(original(self, *given)) or made[-1]
    )
    yield
    assert all(sampler.closed for sampler in made)


def test_several_sequences_are_computed_in_one_batch():
    runs = Runs(ScriptedContext()).all(*(Start(n, submit((n * 10, n * 10 + 1))) for n in (1, 2, 3)))
    assert runs.context.batches[:2] == [[(1, 2), (2, 2), (3, 2)], [(1, 1), (2, 1), (3, 1)]]
    assert [runs.ids(n) for n in (1, 2, 3)] == [[12, 13, 14, 15], [22, 23, 24, 25], [32, 33, 34, 35]]
    assert runs.finish(1).reason == "length"
    assert runs.finish(1).usage.completion_tokens == 4


def test_the_end_token_is_counted_and_gives_no_text():
    runs = Runs(ScriptedContext()).all(Start(1, submit((96,), max_tokens=50)))
    assert (runs.ids(1), runs.finish(1).reason) == ([97, 98, END], "stop")
    assert "".join(update.text for update in runs.updates(1)) == "ab"


def test_an_answer_that_can_only_end_ends_without_another_step(monkeypatch):
    monkeypatch.setattr(ScriptedSampler, "done", property(lambda self: len(self.accepted) == 2), raising=False)
    runs = Runs(ScriptedContext()).all(Start(1, submit((10, 11), max_tokens=9)))
    assert runs.ids(1) == [12, 13]
    assert runs.updates(1)[-1].finish.reason == "stop"


def test_log_probabilities_come_with_their_token_when_asked_for(monkeypatch):
    decode = ScriptedContext.decode
    monkeypatch.setattr(
        ScriptedContext, "decode", lambda self, chunks: [np.pad(row, (0, 99)) for row in decode(self, chunks)]
    )
    asked = submit((10,), max_tokens=2, params=Params(top_logprobs=1))
    runs = Runs(ScriptedContext()).all(Start(1, asked), Start(2, submit((20,), max_tokens=2)))
    told = [update.logprobs for update in runs.updates(1) if update.ids]
    assert [(len(known), known[0].top[0][0]) for known in told] == [(1, 0), (1, 0)]
    assert not any(update.logprobs for update in runs.updates(2))


def told_of_prompt(runs, ticket):
    """What was told of a prompt: for each token but the first, how probable; then how many tokens of an answer."""
    told = [known.logprob for update in runs.updates(ticket) for known in update.prompt_logprobs]
    return told, len(runs.ids(ticket))


@pytest.fixture
def scoring(monkeypatch):
    """The next token after n is n + 1, with certainty."""

    def decode(self, chunks):
        plain(self, chunks)
        rows = []
        for chunk in chunks:
            assert chunk.outputs <= 8
            for token in list(chunk.tokens)[len(chunk.tokens) - chunk.outputs :]:
                rows.append(np.zeros(100, dtype=np.float32))
                rows[-1][token + 1] = 1000.0
        return rows

    plain = ScriptedContext.decode
    monkeypatch.setattr(ScriptedContext, "decode", decode)
    monkeypatch.setattr(ScriptedSampler, "pick", lambda _self, logits: int(np.argmax(logits)))


PROMPT = (*range(10, 30), 40, *range(41, 50))
"""One of its tokens, that at 20, is not to be expected."""
SURPRISED = [0.0] * 19 + [-1000.0] + [0.0] * 9


@pytest.mark.usefixtures("scoring")
@pytest.mark.parametrize("answer", [0, 3])
def test_a_prompt_is_scored_token_by_token_before_its_answer(answer):
    asked = submit(PROMPT, answer, params=Params(prompt_logprobs=1))
    runs = Runs(ScriptedContext(), outputs=8).all(Start(1, asked), Start(2, submit((10, 11, 12), 3)))
    assert told_of_prompt(runs, 1) == (SURPRISED, answer)
    assert [bool(update.ids) for update in runs.updates(1) if update.ids or update.prompt_logprobs] == sorted(
        bool(update.ids) for update in runs.updates(1) if update.ids or update.prompt_logprobs
    )
    usage = runs.finish(1).usage
    assert (runs.finish(1).reason, usage.prompt_tokens, usage.completion_tokens) == ("length", 30, answer)
    assert told_of_prompt(runs, 2) == ([], 3)
    surprising = [known for update in runs.updates(1) for known in update.prompt_logprobs][19]
    assert surprising.top == ((30, bytes([30]), 0.0),)


@pytest.mark.usefixtures("scoring")
def test_a_scored_prompt_takes_nothing_from_the_cache_but_leaves_it_to_others():
    context = ScriptedContext()
    runs = Runs(context, outputs=8)
    again = iter([Start(2, submit(PROMPT, 0, params=Params(prompt_logprobs=0))), Start(3, submit((*PROMPT, 50), 1))])
    context.wait = lambda: runs.ended() >= {1} and [runs.stepper.order(order) for order in again]
    runs.all(Start(1, submit(PROMPT, 0, params=Params(prompt_logprobs=0))), Start(4, submit((1,), 40)), also=(2, 3))
    assert told_of_prompt(runs, 2) == (SURPRISED, 0)
    assert (runs.finish(2).usage.cached_tokens, runs.finish(3).usage.cached_tokens) == (0, 30)


@pytest.mark.usefixtures("scoring")
@pytest.mark.parametrize("scored", [0, 7, 28, 29])
def test_a_scored_prompt_goes_on_from_where_its_peer_is(scored):
    asked = submit(PROMPT, 2, params=Params(prompt_logprobs=0), scored=scored)
    assert told_of_prompt(Runs(ScriptedContext(), outputs=8).all(Start(1, asked)), 1) == (SURPRISED[scored:], 2)


@pytest.mark.usefixtures("scoring")
def test_a_prompt_that_loses_its_cells_while_it_is_scored_is_told_of_once():
    context = ScriptedContext(cells=64)
    asked = [submit(tuple(range(n, n + 40)), 2, params=Params(prompt_logprobs=0)) for n in (5, 10, 15)]
    runs = Runs(context, cells=200, outputs=8).all(*(Start(n, one) for n, one in enumerate(asked, 1)))
    assert [told_of_prompt(runs, n) for n in (1, 2, 3)] == [([0.0] * 39, 2)] * 3


def test_resumed_tokens_that_the_grammar_refuses_end_the_request_alone(monkeypatch):
    def accept(self, token):
        if token == 13:
            raise EngineError(ErrorKind.BAD_REQUEST, "these tokens do not follow the grammar")
        self.accepted.append(token)

    monkeypatch.setattr(ScriptedSampler, "accept", accept)
    runs = Runs(ScriptedContext()).all(
        Start(1, submit((11, 12), resume_tokens=(13,))), Start(2, submit((30,), max_tokens=1))
    )
    assert runs.updates(1)[-1].error.kind is ErrorKind.BAD_REQUEST
    assert runs.updates(2)[-1].finish.reason == "length"


def test_an_answer_that_no_stop_string_ended_names_none():
    runs = Runs(ScriptedContext()).all(Start(1, submit((97,), max_tokens=50, params=Params(stop=("z",)))))
    assert (runs.finish(1).reason, runs.finish(1).stop) == ("stop", "")


def test_the_end_token_can_be_ignored():
    runs = Runs(ScriptedContext()).all(Start(1, submit((97,), max_tokens=4, params=Params(ignore_eos=True))))
    assert (runs.ids(1), runs.finish(1).reason) == ([98, END, 100, 101], "length")


def test_a_stop_string_ends_the_answer_before_it():
    runs = Runs(ScriptedContext()).all(Start(1, submit((96,), max_tokens=50, params=Params(stop=("z", "b")))))
    assert (runs.finish(1).reason, runs.finish(1).stop) == ("stop", "b")
    assert "".join(update.text for update in runs.updates(1)) == "a"


def test_only_the_request_that_llama_cpp_refuses_fails():
    runs = Runs(ScriptedContext()).all(
        *(Start(n, submit((POISON, 1) if n == 3 else (n * 10, n * 10 + 1))) for n in range(1, 6))
    )
    assert runs.error(3).kind is ErrorKind.INTERNAL
    assert [runs.ids(n) for n in (1, 2, 4, 5)] == [[n * 10 + i for i in (2, 3, 4, 5)] for n in (1, 2, 4, 5)]


def test_only_the_request_whose_sampler_fails_fails():
    runs = Runs(ScriptedContext()).all(Start(1, submit((UNCHOOSABLE - 1,))), Start(2, submit((10,))))
    assert runs.error(1).kind is ErrorKind.INTERNAL
    assert runs.finish(2).reason == "length"


def test_a_cache_fuller_than_counted_sends_one_back_and_all_finish():
    context = ScriptedContext(cells=20)
    runs = Runs(context, cells=1000).all(*(Start(n, submit((n * 10, n * 10 + 1), max_tokens=12)) for n in (1, 2, 3)))
    assert [runs.ids(n) for n in (1, 2, 3)] == [[n * 10 + i for i in range(2, 14)] for n in (1, 2, 3)]


def test_a_request_that_never_fits_is_refused_alone():
    runs = Runs(ScriptedContext(cells=3), cells=1000).all(Start(1, submit((1, 2, 3, 4))), Start(2, submit((5, 6), 1)))
    assert runs.error(1).kind is ErrorKind.OVERLOADED
    assert runs.ids(2) == [7]


def test_a_cancelled_request_keeps_what_it_made():
    context, steps = ScriptedContext(), []
    runs = Runs(context)

    def cancel_after_three():
        steps.append(1)
        if len(steps) == 3:
            runs.stepper.order(Stop(1))

    context.wait = cancel_after_three
    runs.all(Start(1, submit((1,), max_tokens=50)))
    assert runs.finish(1).reason == "cancelled"
    assert runs.finish(1).usage.completion_tokens == len(runs.ids(1)) == 3


def test_a_report_tells_how_the_cache_and_the_line_stand():
    runs = Runs(ScriptedContext(), places=1)
    runs.all(*(Start(n, submit((n,), service_class="batch" if n == 3 else "standard")) for n in (1, 2, 3)))
    first, last = next(report for report in runs.reports if report.t_us), runs.reports[-1]
    assert (first.running, first.waiting, first.waiting_by_class) == (1, 2, (0, 1, 1))
    assert (last.kv_used, last.kv_parked, last.kv_highest) == (0, 12, 12)


def test_a_deadline_ends_a_request():
    runs = Runs(ScriptedContext()).all(Start(1, submit((1,), max_tokens=900, deadline_us=1)))
    assert runs.finish(1).reason == "deadline"


def test_resumed_tokens_are_not_told_again_and_count_towards_the_limit():
    runs = Runs(ScriptedContext()).all(Start(1, submit((96,), max_tokens=4, resume_tokens=(97, 98, 100))))
    assert runs.ids(1) == [101]
    assert runs.finish(1).usage.completion_tokens == 4
    assert runs.context.samplers[0].accepted == [97, 98, 100, 101]


def test_a_full_queue_refuses_with_its_bound():
    runs = Runs(ScriptedContext(), queue=2).all(*(Start(n, submit((n,), 1)) for n in (1, 2, 3)))
    assert "2 requests" in runs.error(3).what
    assert runs.finish(1)
    assert runs.finish(2)


def test_too_many_orders_within_one_step_are_refused(monkeypatch):
    monkeypatch.setattr(orders, "MAX_ORDERS", 3)
    made = Stepper(ScriptedContext(), Limits(cells=10), lambda _report: None)
    for n in range(3):
        made.order(Start(n, submit((1,))))
    with pytest.raises(EngineError) as refusal:
        made.order(Start(4, submit((1,))))
    assert refusal.value.kind is ErrorKind.OVERLOADED
    made.order(Stop(1))


def test_cores_are_given_between_steps():
    runs = Runs(ScriptedContext()).all(SetThreads(3), Start(1, submit((1,), 1)))
    assert runs.context.threads == 3


def test_a_context_that_broke_ends_the_thread():
    context = ScriptedContext()
    context.broken = True
    assert Runs(context).all(Start(1, submit((1,)))).failure is not None


def test_compute_time_is_shared_by_tokens():
    runs = Runs(ScriptedContext()).all(Start(1, submit((1,) * 30, 2)), Start(2, submit((1,), 2)))
    assert runs.finish(1).usage.engine_us >= runs.finish(2).usage.engine_us


def chat(start, *rest, **options):
    return submit((*range(100, 100 + start), *rest), **options)


def test_a_beginning_that_many_share_is_computed_once_and_told_as_cached():
    runs = Runs(ScriptedContext(cells=2000), cells=2000).all(*(Start(n, chat(200, n)) for n in range(1, 17)))
    assert sum(len(batch) and sum(count for _, count in batch) for batch in runs.context.batches) < 200 + 16 * 6
    assert sorted(runs.finish(n).usage.cached_tokens for n in range(1, 17)) == [0] + [200] * 15
    assert [runs.ids(n)[0] for n in range(1, 17)] == list(range(2, 18))


def test_accepted_tells_what_was_found_in_the_cache():
    context = ScriptedContext()
    runs = Runs(context)
    runs.stepper.order(Start(1, chat(50, 1, max_tokens=1)))
    waited = []

    def second_after_first():
        waited.append(1)
        if len(waited) == 2:
            runs.stepper.order(Start(3, chat(50, 7)))

    context.wait = second_after_first
    runs.all(Start(2, submit((1, 2), max_tokens=6)), also=(1, 3))
    (accepted,) = [update for update in runs.updates(3) if update.accepted]
    assert accepted.cached == 50


def test_other_tenants_are_told_nothing_of_what_is_cached():
    first = Submit(rid=1, job="j", tenant="t", tokens=tuple(range(100, 150)), params=Params(), max_tokens=1)
    other = Submit(rid=1, job="j", tenant="u", tokens=tuple(range(100, 150)), params=Params(), max_tokens=1)
    runs = Runs(ScriptedContext()).all(Start(1, first), Start(2, other))
    assert (runs.finish(1).usage.cached_tokens, runs.finish(2).usage.cached_tokens) == (0, 0)


RULES = tuple(range(100, 150))


def of_tenant(tenant, *tokens):
    return Submit(rid=1, job="j", tenant=tenant, tokens=tokens, params=Params(), max_tokens=2)


def cached_for_tenants_after(first):
    """What two tenants whose prompts begin with the rules find in the cache after ``first``; then all is given back."""
    context = ScriptedContext()
    runs = Runs(context)
    steps = []

    def later():
        steps.append(1)
        if len(steps) == 3:
            runs.stepper.order(Start(2, of_tenant("t", *RULES, 7)))
            runs.stepper.order(Start(3, of_tenant("u", *RULES, 8)))
        if runs.ended() >= {1, 2, 3}:
            runs.stepper.order(Unpin(1))

    context.wait = later
    runs.all(first, Start(4, of_tenant("v", *range(1, 60))), Start(5, submit((5,), 60)), also=(2, 3))
    assert runs.finish(1).usage.prompt_tokens == len(RULES)
    return runs, {runs.finish(n).usage.cached_tokens for n in (2, 3)}


def test_a_pinned_beginning_is_shared_by_all_tenants():
    runs, cached = cached_for_tenants_after(Start(1, of_tenant("admin", *RULES), pin=True))
    assert cached == {len(RULES)}
    assert runs.ids(1) == []


def test_what_is_not_pinned_is_shared_by_no_other_tenant():
    _, cached = cached_for_tenants_after(Start(1, of_tenant("admin", *RULES)))
    assert cached == {0}


def test_what_is_pinned_outlives_a_cache_that_is_full():
    context = ScriptedContext(cells=120)
    runs = Runs(context, cells=120)
    runs.stepper.order(Start(1, of_tenant("admin", *range(200, 220)), pin=True))
    orders = [Start(n, of_tenant("t", *range(n * 1000, n * 1000 + 50))) for n in (2, 3, 4)]
    last = iter([Start(5, of_tenant("u", *range(200, 220), 1))])

    def then():
        if runs.ended() >= {2, 3, 4}:
            for order in last:
                runs.stepper.order(order)
        if 5 in runs.ended():
            runs.stepper.order(Unpin(1))

    context.wait = then
    runs.all(*orders, Start(6, submit((5,), 40)), also=(1, 5))
    assert runs.finish(5).usage.cached_tokens == 20


def test_a_pin_that_llama_cpp_refuses_fails_alone_and_holds_nothing():
    runs = Runs(ScriptedContext()).all(Start(1, submit((1, POISON, 2)), pin=True), Start(2, submit((10,))))
    assert runs.error(1).kind is ErrorKind.INTERNAL
    assert runs.finish(2).reason == "length"


def test_what_a_refused_request_computed_is_not_kept():
    context = ScriptedContext()
    runs = Runs(context, batch=64).all(Start(1, submit((*range(100, 170), POISON, 1))), Start(2, submit((5,))))
    assert runs.error(1).kind is ErrorKind.INTERNAL
    assert runs.finish(2).reason == "length"


def test_a_thousand_cancels_at_once_end_all_before_the_next_step():
    context = ScriptedContext()
    runs = Runs(context, queue=2000, tenant_queue=2000)
    steps = []

    def cancel_all():
        steps.append(len(context.batches))
        if len(steps) == 2:
            for n in range(1, 1001):
                runs.stepper.order(Stop(n))

    context.wait = cancel_all
    runs.all(*(Start(n, submit((n % 50, 1), max_tokens=500)) for n in range(1, 1001)))
    assert all(runs.finish(n).reason == "cancelled" for n in range(1, 1001))
    assert len(context.batches) == 2


def test_a_full_cache_saves_and_restores_and_doubles_or_loses_no_token():
    context = ScriptedContext(cells=250)
    runs = Runs(context, cells=250)
    runs.all(*(Start(n, submit(tuple(range(100 * n, 100 * n + 40)), max_tokens=60)) for n in range(2, 7)))
    for n in range(2, 7):
        assert runs.ids(n) == list(range(100 * n + 40, 100 * n + 100))


def test_random_faults_end_no_request_but_the_guilty_ones():
    rng = random.Random(7)  # noqa: S311 - a schedule, not a secret
    context = ScriptedContext(cells=400)
    runs = Runs(context, cells=420)
    guilty = {n for n in range(1, 60) if n % 9 == 0}
    orders = []
    for n in range(1, 60):
        tokens = [200 + rng.randrange(2) for _ in range(rng.randrange(1, 30))]
        orders.append(Start(n, submit((*tokens, *([POISON] if n in guilty else [])), max_tokens=rng.randrange(1, 12))))
        if n % 7 == 0:
            orders.append(Stop(n))
    runs.all(*orders)
    assert {n for n in range(1, 60) if runs.error(n)} == {n for n in guilty if n % 7}


def test_each_request_is_computed_under_its_own_adapter():
    adapters = {1: "", 2: "x", 3: "", 4: "y", 5: "x"}
    runs = Runs(ScriptedContext())
    runs.all(*(Start(n, submit((1, 2, 3), adapter=name)) for n, name in adapters.items()))
    assert runs.context.served == adapters


class ScriptedImage:
    """An image of ``count`` tokens that is computed as the context says; llama.cpp refuses it if ``refused``."""

    def __init__(self, context, count, *, refused=False):
        self.context, self.count, self.refused = context, count, refused
        self.computed = 0

    def compute(self, chunk):
        assert list(chunk.tokens) == list(virtual.run(b"cat", self.count))
        if self.refused:
            raise native.BatchRefusedError
        if not self.context.compute([chunk]):
            raise native.CacheFullError
        self.computed += 1
        return [np.array([7], dtype=np.float32)] if chunk.outputs else []


def seeing(ticket, context, before=(1, 2), after=(3, 4), count=20, **options):
    """A start with an image in the middle, and the image."""
    image = ScriptedImage(context, count, **options)
    tokens = (*before, *virtual.run(b"cat", count), *after)
    return Start(ticket, submit(tokens), images={len(before): image}), image


def test_an_image_is_computed_by_itself_and_llama_cpp_sees_no_virtual_token():
    context = ScriptedContext()
    order, image = seeing(1, context)
    runs = Runs(context).all(order, Start(2, submit((50, 51, 52))))
    assert image.computed == 1
    assert runs.ids(1) == [5, 6, 7, 8]
    assert runs.finish(1).usage.prompt_tokens == 24
    assert sum(count for batch in context.batches for ticket, count in batch if ticket == 1) == 2 + 2 + 3


def test_an_image_longer_than_a_batch_is_computed_whole():
    order, image = seeing(1, context := ScriptedContext(), count=100)
    assert Runs(context).all(order).finish(1).reason == "length"
    assert image.computed == 1


def test_a_prompt_may_end_with_an_image():
    order, _ = seeing(1, context := ScriptedContext(), after=())
    assert Runs(context).all(order).ids(1) == [7, 8, 9, 10]


def test_the_same_image_behind_the_same_text_is_not_computed_again():
    context = ScriptedContext()
    (first, one), (second, two) = seeing(1, context), seeing(2, context, after=(9,))
    runs = Runs(context).all(first, second)
    assert one.computed + two.computed == 1
    assert sorted(runs.finish(ticket).usage.cached_tokens for ticket in (1, 2)) == [0, 22]


def test_only_the_request_whose_image_is_refused_fails():
    context = ScriptedContext()
    order, _ = seeing(1, context, refused=True)
    runs = Runs(context).all(order, Start(2, submit((50, 51, 52))))
    assert runs.error(1).kind is ErrorKind.INTERNAL
    assert runs.finish(2).reason == "length"


def test_an_image_for_which_the_cache_is_fuller_than_counted_waits_its_turn():
    context = ScriptedContext(cells=60)
    order, image = seeing(2, context, count=30)
    runs = Runs(context, cells=80).all(Start(1, submit(tuple(range(100, 125)))), order)
    assert image.computed >= 1
    assert {runs.finish(1).reason, runs.finish(2).reason} == {"length"}
