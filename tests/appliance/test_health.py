"""The check before a switch: what it finds out about real models, and that nothing runs from what fails it."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from appliance import small_bert
from appliance.working_site import working_site
from bundles.small_llama import small_llama
from plugsky.audit.trail import search
from plugsky.engine.loading import loading
from plugsky.engine.serving import measurer
from plugsky.fleet import health, switching
from plugsky.fleet.health import judge
from plugsky.fleet.survey import survey
from plugsky.models import catalogue, measuring
from plugsky.models.catalogue import ModelEntry, SignedHealth
from plugsky.models.measuring import DoesNotFit, Failed, Measured
from plugsky_builder import health as builders
from plugsky_builder.cache import Cache
from plugsky_bundles.errors import DigestMismatch, GgufError, HealthCheckFailed, Revoked
from plugsky_bundles.progress import silent
from plugsky_bundles.state import Revocations

__all__ = ["working_site"]
TEXT = "a" * 64
SIGNED = SignedHealth(TEXT, 127, 3_000_000)
ENTRY = ModelEntry(
    "m", "M", Path("m.gguf"), "d" * 64, 1, "generate", 256, "MIT", ("en",), "-", "-", "llama", "F32", 1, SIGNED
)
GOOD = Measured(TEXT, 127, 3_000_000, True, "build")
OUTCOMES = {
    "the signed value": (GOOD, "ok"),
    "2 % more": (replace(GOOD, nll_micronats=3_060_000), "ok"),
    "2 % less": (replace(GOOD, nll_micronats=2_940_000), "ok"),
    "a little over 2 % more": (replace(GOOD, nll_micronats=3_060_001), "failed"),
    "a little over 2 % less": (replace(GOOD, nll_micronats=2_939_999), "failed"),
    "no number": (replace(GOOD, nll_micronats=None), "failed"),
    "another number of tokens": (replace(GOOD, tokens=126), "failed"),
    "another text, by a newer engine": (replace(GOOD, text_sha256="b" * 64, nll_micronats=9), "ok"),
    "an empty answer": (replace(GOOD, answered=False), "failed"),
    "a crash": (Failed("its process was killed by SIGABRT"), "failed"),
    "too little memory now": (DoesNotFit(8 << 30, 1 << 30), "refused"),
}


@pytest.mark.parametrize(("outcome", "state"), OUTCOMES.values(), ids=OUTCOMES)
def test_a_model_is_judged_by_what_was_signed_with_it(outcome, state):
    assert judge(ENTRY, outcome).state == state


def test_a_model_that_nobody_measured_must_load_and_answer():
    unsigned = replace(ENTRY, health=None)
    assert judge(unsigned, GOOD).state == "ok"
    assert judge(unsigned, replace(GOOD, answered=False)).state == "failed"
    assert judge(unsigned, replace(GOOD, nll_micronats=None)).state == "failed"


def test_a_model_that_embeds_must_make_numbers_that_mean_something():
    embeds = replace(ENTRY, mode="embed", health=None)
    assert judge(embeds, Measured("", 0, None, True, "build")).state == "ok"
    broken = judge(embeds, Measured("", 0, None, False, "build"))
    assert broken.state == "failed"
    assert "no number" in broken.why


@pytest.mark.integration
def test_a_good_generation_passes_its_check_and_becomes_current(working_site):
    seen = []
    generation = working_site.install(working_site.brings(small_llama()), progress=seen.append)
    assert working_site.current == generation.number == 1
    verdict = health.kept(generation.path)
    assert verdict is not None
    assert not verdict.failed
    (entry,) = catalogue.models(working_site.paths)
    assert entry.health is not None
    assert verdict.models["small"].nll_micronats == entry.health.nll_micronats
    told = [event.done for event in seen if event.stage == "health"]
    assert told[-1] == 100
    assert told == sorted(told)
    (record,) = search(working_site.paths.audit, "", "bundle.install")
    assert (record.outcome, record.fields["health"]) == ("ok", "1 ok")


def crashes(python: Path) -> None:
    """An engine that dies while it loads."""
    python.write_text("#!/bin/sh\necho GGML_ASSERT >&2\nkill -ABRT $$\n")


BAD = {
    "a model with other weights than were measured": (small_llama(spread=0.5), None, "% apart"),
    "a model whose answer is empty": (small_llama(silent=True), None, "empty"),
    "an engine that crashes when it loads": (small_llama(seed=2), crashes, "killed by SIGABRT and said: GGML_ASSERT"),
}


@pytest.mark.integration
@pytest.mark.parametrize(("weights", "harm", "words"), BAD.values(), ids=BAD)
def test_a_generation_that_fails_stays_inactive_and_marked_and_the_trail_says_so(
    working_site, monkeypatch, weights, harm, words
):
    working_site.install(working_site.brings(small_llama()))
    bundle = working_site.brings(weights, signed=small_llama() if harm is None else None)
    if harm is not None:
        plain = switching.health.check

        def check(paths, generation, **options):
            harm(generation.path / "venv" / "bin" / "python")
            return plain(paths, generation, **options)

        monkeypatch.setattr(switching.health, "check", check)
    with pytest.raises(HealthCheckFailed, match="generation 1 stays current") as caught:
        working_site.install(bundle)
    assert words in caught.value.why
    assert "plugsky generation activate 2" in caught.value.next
    assert working_site.current == 1
    one, two = survey(working_site.paths)
    assert (one.state, two.state) == ("good", "failed")
    assert words in two.problem
    newest = search(working_site.paths.audit, "", "bundle.install")[0]
    assert (newest.outcome, newest.fields["generation"], newest.fields["health"]) == ("unhealthy", 2, "1 failed")
    with pytest.raises(HealthCheckFailed):
        working_site.install(bundle)
    with pytest.raises(HealthCheckFailed):
        switching.activate(working_site.paths, 2, working_site.trail, "user:test")
    assert working_site.current == 1


@pytest.mark.integration
def test_a_generation_that_failed_for_a_passing_reason_can_be_activated_later(working_site, monkeypatch):
    working_site.install(working_site.brings(small_llama()))
    bundle = working_site.brings(small_llama(seed=2))
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "patience_s", lambda _length: 0.0)
        with pytest.raises(HealthCheckFailed, match="failed its health check"):
            working_site.install(bundle)
    generation, verdict = switching.activate(working_site.paths, 2, working_site.trail, "user:test")
    assert generation.number == working_site.current == 2
    assert verdict is not None
    assert [one.state for one in survey(working_site.paths)] == ["good", "good"]
    (record,) = search(working_site.paths.audit, "", "generation.activate")
    assert (record.outcome, record.subject) == ("ok", "generation-2")
    _, again = switching.activate(working_site.paths, 2, working_site.trail, "user:test")
    assert again is None
    assert len(search(working_site.paths.audit, "", "generation.activate")) == 1


def test_what_was_revoked_is_not_activated_and_not_even_run(working_site, monkeypatch):
    monkeypatch.setattr(switching.health, "check", lambda *_, **__: health.Verdict("", {}))
    monkeypatch.setattr(health, "keep", lambda *_: None)
    first = working_site.install(working_site.bundle())
    revoked = Revocations(bundles=frozenset({first.bundle_id}))
    working_site.install(working_site.bundle(revoked, playbooks__new=b"- hosts: new\n"))
    monkeypatch.setattr(switching.health, "check", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(Revoked):
        switching.activate(working_site.paths, 1, working_site.trail, "user:test")
    assert working_site.current == 2


def test_a_verdict_that_cannot_be_read_is_none(tmp_path):
    assert health.kept(tmp_path) is None
    for content in (b"", b"{}", b"\xff", b'{"schema":"plugsky.health/1","at":1,"models":{}}'):
        (tmp_path / health.FILE).write_bytes(content)
        assert health.kept(tmp_path) is None
        (tmp_path / health.FILE).unlink()
    verdict = health.Verdict("2026-11-22T12:00:00.000000Z", {"m": health.ModelHealth("failed", "why", 3)})
    health.keep(tmp_path, verdict)
    assert health.kept(tmp_path) == verdict


@pytest.mark.integration
def test_a_measuring_process_that_overstays_is_ended(tmp_path):
    model = tmp_path / "small.gguf"
    model.write_bytes(small_llama())
    outcome = measuring.measure(Path(sys.executable), model, "generate", 1, lambda _: None, limit_s=0.0)
    assert outcome == Failed("it took longer than it may, and was ended")


SAID = {
    "nothing": "",
    "something that is no JSON": "hello",
    "a deep structure": "[" * 5000,
    "a measurement without its text": '{"measured": {"tokens": 3}}',
    "two results": '{"failed": {"what": "a", "why": ""}, "does_not_fit": {"need": 1, "have": 2}}',
}


@pytest.mark.integration
@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_nothing_is_believed_that_has_another_form(tmp_path, said):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{said}'\n")
    python.chmod(0o755)
    outcome = measuring.measure(python, python, "generate", 1, lambda _: None)
    assert outcome == Failed("its process said something else than was asked")


@pytest.mark.integration
def test_a_model_that_does_not_work_fails_in_the_build_room(tmp_path):
    for weights, words in ((small_llama(silent=True), "empty"), (small_llama()[:-32], "GGUF")):
        (tmp_path / "m.gguf").write_bytes(weights)
        digest = hashlib.sha256(weights).hexdigest()
        with pytest.raises(GgufError, match=words):
            builders.signed("m", "generate", {"m.gguf": tmp_path / "m.gguf"}, (digest,), Cache(tmp_path / "c"), silent)


@pytest.mark.integration
def test_a_model_is_measured_once_and_never_under_the_digest_of_another(tmp_path, monkeypatch):
    weights = small_llama()
    (tmp_path / "m.gguf").write_bytes(weights)
    ask = ("m", "generate", {"m.gguf": tmp_path / "m.gguf"})
    cache = Cache(tmp_path / "c")
    with pytest.raises(DigestMismatch):
        builders.signed(*ask, ("0" * 64,), cache, silent)
    digest = hashlib.sha256(weights).hexdigest()
    first = builders.signed(*ask, (digest,), cache, silent)
    monkeypatch.setattr(measuring, "measure", lambda *_: pytest.fail("it was measured twice"))
    assert builders.signed(*ask, (digest,), cache, silent) == first


@pytest.mark.integration
def test_the_real_model_passes_on_any_number_of_threads_and_fails_with_a_fraction_of_its_weights_lost(
    chat_model, tmp_path
):
    file = {chat_model.name: chat_model}
    digest = hashlib.sha256(chat_model.read_bytes()).hexdigest()
    signed = builders.signed("m", "generate", file, (digest,), Cache(tmp_path / "cache"), silent)
    assert signed is not None
    entry = replace(ENTRY, health=SignedHealth(**signed))
    for threads in (1, 2):
        measured = measuring.measure(Path(sys.executable), chat_model, "generate", threads, lambda _: None)
        assert judge(entry, measured).state == "ok", measured
    weights = bytearray(chat_model.read_bytes())
    middle = len(weights) // 2
    weights[middle : middle + len(weights) // 50] = bytes(len(weights) // 50)
    (tmp_path / "harmed.gguf").write_bytes(weights)
    harmed = measuring.measure(Path(sys.executable), tmp_path / "harmed.gguf", "generate", 1, lambda _: None)
    assert judge(entry, harmed).state == "failed", harmed


@pytest.mark.integration
@pytest.mark.parametrize(("mode", "pooling"), [("embed", small_bert.MEAN), ("rerank", small_bert.RANK)])
def test_a_model_that_embeds_or_reranks_does_so_once(tmp_path, mode, pooling):
    model = tmp_path / "small.gguf"
    model.write_bytes(small_bert.small_bert(pooling))
    outcome = measuring.measure(Path(sys.executable), model, mode, 1, lambda _: None)
    assert isinstance(outcome, Measured)
    assert (outcome.tokens, outcome.nll_micronats, outcome.answered) == (0, None, True)


@pytest.mark.integration
def test_a_model_that_cannot_do_what_its_mode_says_fails_its_check(tmp_path):
    model = tmp_path / "small.gguf"
    model.write_bytes(small_llama())
    outcome = measuring.measure(Path(sys.executable), model, "embed", 1, lambda _: None)
    assert isinstance(outcome, Failed)
    assert "makes no embeddings" in outcome.why


@pytest.mark.integration
def test_a_model_that_does_not_fit_into_memory_says_both_numbers(tmp_path, monkeypatch):
    (tmp_path / "small.gguf").write_bytes(small_llama())
    monkeypatch.setattr(loading, "free_memory", lambda: 1000)
    told = measurer.run(tmp_path / "small.gguf", "generate", 1)
    assert told["does_not_fit"]["have"] == 1000
    assert told["does_not_fit"]["need"] > 100_000


@pytest.mark.integration
def test_a_measuring_process_has_left_the_network_before_it_loads_anything(tmp_path):
    """A stand-in for numpy, the first thing that loading imports, says in which namespace it is."""
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy/__init__.py").write_text("import os, sys; sys.exit(os.readlink('/proc/self/ns/net'))")
    started = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from plugsky.engine.serving.measurer import main; main(sys.argv[2:])"
    )
    command = [sys.executable, "-c", started, tmp_path, "m.gguf", "generate", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("net:["), done.stderr
    if os.geteuid() == 0:
        assert done.stderr.strip() != os.readlink("/proc/self/ns/net")  # noqa: PTH115 - no path, a name


def test_a_model_that_does_not_fit_now_is_recorded_and_fails_nothing(working_site, monkeypatch):
    refused = health.ModelHealth("refused", "it needs 9 MB of memory and 1 MB are free, so it was not checked")
    verdict = health.Verdict("2026-11-22T12:00:00.000000Z", {"small": refused})
    monkeypatch.setattr(switching.health, "check", lambda *_, **__: verdict)
    working_site.install(working_site.brings(small_llama()))
    assert working_site.current == 1
    (record,) = search(working_site.paths.audit, "", "bundle.install")
    assert (record.outcome, record.fields["health"]) == ("ok", "1 refused")
    assert survey(working_site.paths)[0].state == "good"
