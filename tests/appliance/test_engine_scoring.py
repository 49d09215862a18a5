"""The likelihood of a given text: what may be asked, how it goes on after a loss, that no neighbour changes it."""

import threading

import pytest

from plugsky.core import frames
from plugsky.core.frames import Params, Submit
from plugsky.engine.clients.running import Running
from plugsky.engine.errors import EngineError
from plugsky.engine.headers.estimate import Holding
from plugsky.engine.known_text import TEXT
from plugsky.engine.llama import native
from plugsky.engine.scheduling.tasks import Limits
from plugsky.engine.serving.measure import nll
from plugsky.engine.stepping.orders import Quit, Start
from plugsky.engine.stepping.stepper import Stepper
from plugsky.engine.tokens.sampling import check

SCORE = Params(prompt_logprobs=1, temperature=0.0)


def submit(tokens, max_tokens=0, **options):
    return Submit(rid=1, job="j", tenant="t", tokens=tokens, max_tokens=max_tokens, **{"params": SCORE, **options})


@pytest.mark.parametrize("count", [-1, 21])
def test_rivals_are_bounded(count):
    with pytest.raises(EngineError, match="prompt_logprobs must be between 0 and 20"):
        check(Params(prompt_logprobs=count), 100)


async def test_a_request_that_is_carried_on_asks_for_what_it_lacks_only():
    running = Running(submit((1, 2, 3, 4, 5), 2))
    sent = running.carried_by(lambda _frame: None, 7)
    assert (sent.rid, sent.scored, sent.resume_tokens) == (7, 0, ())
    known = frames.TokenLogprob(-1.0)
    running.put(frames.StepItem(rid=7, prompt_logprobs=(known, known)))
    assert running.carried_by(lambda _frame: None, 8).scored == 2
    running.put(frames.StepItem(rid=8, prompt_logprobs=(known, known)))
    running.put(frames.StepItem(rid=8, ids=(9,), text="a"))
    sent = running.carried_by(lambda _frame: None, 9)
    assert (sent.scored, sent.resume_tokens) == (4, (9,))


@pytest.mark.integration
def test_a_text_has_the_likelihood_among_neighbours_that_it_has_alone(chat_model):
    model = native.Model(chat_model, lambda _fraction: True)
    context = native.Context(model, Holding(1024, 256, 9, 80), threads=2)
    try:
        tokens = model.tokens(TEXT.read_text(encoding="utf-8"), add_special=True, parse_special=False)[:160]
        alone = nll(context, tokens, lambda _done: None)
        context.clear(0)
        told, ended = [], threading.Event()

        def report(report):
            told.extend(update for update in report.updates if update.ticket == 2)
            if any(update.finish for update in told):
                ended.set()

        stepper = Stepper(context, Limits(cells=1024, batch=256, sequences=8, outputs=16), report)
        others = Params(temperature=0.0, ignore_eos=True)
        for ticket in (1, 3):
            stepper.order(Start(ticket, submit(tokens[ticket : ticket + 40], 400, params=others)))
        stepper.order(Start(2, submit(tokens)))
        thread = threading.Thread(target=stepper.run)
        thread.start()
        assert ended.wait(120)
        stepper.order(Quit())
        thread.join(10)
    finally:
        context.close()
        model.close()
    known = [one.logprob for update in told for one in update.prompt_logprobs]
    assert len(known) == len(tokens) - 1
    assert -sum(known) / len(known) == pytest.approx(alone, abs=0.02)
