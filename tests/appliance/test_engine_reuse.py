"""Models that cannot go back (recurrent, hybrid, a sliding window) say with a cache what they say without one."""

import threading

import pytest

from appliance.engine_host import spec_of
from appliance.gemma_model import gemma_model
from bundles.small_llama import small_llama
from bundles.small_memories import small_gemma, small_jamba, small_mamba
from plugsky.core.frames import Params, Submit
from plugsky.engine.headers.estimate import Holding
from plugsky.engine.known_text import TEXT
from plugsky.engine.llama import native
from plugsky.engine.loading import loading
from plugsky.engine.scheduling.tasks import Limits
from plugsky.engine.stepping.stepper import Quit, Start, Stepper

__all__ = ["gemma_model"]
pytestmark = pytest.mark.integration
ANSWER = 6
SMALL = {
    "recurrent": (small_mamba, "whole"),
    "hybrid": (small_jamba, "whole"),
    "windows": (small_gemma, "whole"),
    "attention": (small_llama, "prefix"),
}
PROMPT, MORE = b"The harbour lay still, and no ship had come for a week. ", b" What then?"


class Asked:
    """One line of requests to a model: each is answered before the next is asked."""

    def __init__(self, context, **limits):
        bounds = {"batch": 256, "sequences": loading.SEQUENCES} | limits
        self._stepper = Stepper(context, Limits(cells=context.cells, **bounds), self._told)
        self._thread = threading.Thread(target=self._stepper.run)
        self._answered = threading.Event()
        self._ids, self._usage, self._tickets = {}, {}, 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stepper.order(Quit())
        self._thread.join(10)

    def _told(self, report):
        for update in report.updates:
            assert update.error is None
            self._ids.setdefault(update.ticket, []).extend(update.ids)
            if update.finish is not None:
                self._usage[update.ticket] = update.finish.usage
        if len(self._usage) == self._tickets:
            self._answered.set()

    def __call__(self, *prompts):
        """For each of ``prompts``, asked together, the ids of its answer and how many of its tokens were cached."""
        self._answered.clear()
        first = self._tickets + 1
        self._tickets += len(prompts)
        for ticket, prompt in enumerate(prompts, start=first):
            params = Params(temperature=0.0, ignore_eos=True)
            submit = Submit(rid=1, job="j", tenant="t", tokens=tuple(prompt), params=params, max_tokens=ANSWER)
            self._stepper.order(Start(ticket, submit))
        assert self._answered.wait(120)
        tickets = range(first, self._tickets + 1)
        return [(tuple(self._ids[ticket]), self._usage[ticket].cached_tokens) for ticket in tickets]


@pytest.fixture
def held(tmp_path):
    """Loads models: ``held(bytes or path, n_ctx)``."""
    opened = []

    def load(file, n_ctx):
        if isinstance(file, bytes):
            path = tmp_path / "m.gguf"
            path.write_bytes(file)
            file = path
        opened.append(loading.load(spec_of(file, n_ctx=n_ctx), lambda _fraction: True))
        return opened[-1]

    yield load
    for loaded in opened:
        loaded.close()


def converses_as_without_a_cache(context, prompt, more, **limits):
    """Ask, ask the same again, go on with the conversation, and ask two at once: all as one after another uncached."""
    with Asked(context, reuse="none", **limits) as plain:
        ((said, none),) = plain(prompt)
        followed = (*prompt, *said, *more)
        ((then, _),) = plain(followed)
    assert none == 0
    for seq in range(limits.get("sequences", loading.SEQUENCES)):
        context.clear(seq)
    with Asked(context, reuse=context.reuse, **limits) as cached:
        ((first, _),) = cached(prompt)
        ((again, found),) = cached(prompt)
        ((later, continued),) = cached(followed)
        together = cached(followed, prompt)
    assert first == again == said
    assert later == then
    assert [ids for ids, _ in together] == [then, said]
    assert continued >= len(prompt) + len(said) - 1, "what was computed for the turn before is gone on with"
    assert (found > 0) == (context.reuse == "prefix")


@pytest.mark.parametrize(("make", "reuse"), SMALL.values(), ids=SMALL)
def test_a_conversation_goes_on_from_the_cache_as_if_computed_anew(held, make, reuse):
    loaded = held(make(), 256)
    assert loaded.context.reuse == reuse
    converses_as_without_a_cache(loaded.context, PROMPT, MORE)


def test_a_cache_of_no_more_than_the_windows_is_as_good(tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(small_gemma())
    model = native.Model(file, lambda _fraction: True)
    context = native.Context(model, Holding(1024, 64, 4, 64, whole_window=False), threads=1)
    converses_as_without_a_cache(context, PROMPT, MORE, sequences=3, batch=64)
    context.close()
    model.close()


@pytest.mark.parametrize(("make", "reuse"), SMALL.values(), ids=SMALL)
def test_the_canary_of_a_healthy_model_of_any_kind_is_silent(held, make, reuse):
    assert not held(make(), 256).read_canary().tripped


def test_a_real_conversation_longer_than_the_window_goes_on_from_the_cache(held, gemma_model):
    loaded = held(gemma_model, 1024)
    context, text = loaded.context, TEXT.read_text(encoding="utf-8") * 3
    prompt = loaded.model.tokens(text, add_special=True, parse_special=False)[:540]
    assert len(prompt) > 512, "longer than the window"
    with Asked(context, reuse=context.reuse) as cached:
        ((said, _),) = cached(prompt)
        followed = (*prompt, *said, *loaded.model.tokens(" And on the next day,", add_special=False))
        ((then, continued),) = cached(followed)
    for seq in range(loading.SEQUENCES):
        context.clear(seq)
    with Asked(context, reuse="none") as plain:
        assert plain(followed) == [(then, 0)]
    assert continued >= len(prompt) + len(said) - 1
    assert not loaded.read_canary().tripped
