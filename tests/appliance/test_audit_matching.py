"""Ledger and trail are compared in constant memory, and what differs is found all the same."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.proven_site import ProvenSite
from plugsky.admin.provenance import verify_trail
from plugsky.audit import matching
from plugsky.audit.events import DETAILS, request_done
from plugsky.audit.matching import GROUPS, Compared, Matching
from plugsky.audit.trail import Record

BEFORE = 1_000_000


@dataclass(frozen=True)
class Entry:
    job: str
    tenant: str = "treasury"
    key_id: str = "k1"
    requested_model: str = "gpt-4o"
    model: str = "smol"
    digest: str = "d" * 64
    prompt_tokens: int = 10
    cached_tokens: int = 0
    completion_tokens: int = 20
    reasoning_tokens: int = 0
    image_tokens: int = 0
    engine_us: int = 5
    service_class: str = "interactive"
    state: str = "settled"
    outcome: str = "stop"
    month: str = "1970-01"
    created_us: int = 1
    settled_us: int = 2


def record(entry: Entry) -> Record:
    _, actor, subject, outcome, fields = request_done(entry)
    return Record("host.gateway", 1, "1970-01-01T00:00:00Z", actor, "request.done", subject, outcome, dict(fields), "")


def counted(records: list[Record], entries: list[Entry]) -> Matching:
    found = Matching(BEFORE)
    for each in records:
        found.record(each)
    for entry in entries:
        found.entry(entry)
    return found


def group(job: str) -> int:
    return hash(job) % GROUPS


@given(st.permutations([Entry(f"job-{number}", tenant=f"t{number % 3}") for number in range(12)]))
def test_the_same_requests_match_in_any_order(entries: list[Entry]):
    assert counted([record(entry) for entry in sorted(entries, key=lambda e: e.job)], entries).differing() == (
        frozenset(),
        0,
    )


@pytest.mark.parametrize("detail", DETAILS)
def test_a_record_says_how_much_was_reasoning_or_images_where_something_was(detail: str):
    entry = replace(Entry("b"), **{detail: 9})
    quiet, detailed = record(Entry("a")), record(entry)
    assert (detail in quiet.fields, detailed.fields[detail]) == (False, 9)
    assert counted([quiet, detailed], [Entry("a"), entry]).differing() == (frozenset(), 0)
    assert counted([detailed], [Entry("b")]).differing() == (frozenset({group("b")}), 0)


CHANGES = {
    "tokens": {"completion_tokens": 21},
    "reasoning": {"reasoning_tokens": 7},
    "images": {"image_tokens": 7},
    "the tenant": {"tenant": "other"},
    "the outcome": {"outcome": "length"},
    "the model's digest": {"digest": "e" * 64},
    "a time": {"settled_us": 3},
    "a text that looks like the next fact": {"tenant": "treasury', 'k1"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_differs_in_one_request_is_found_in_its_group(change: dict[str, object]):
    entries = [Entry(f"job-{number}") for number in range(50)]
    told = [record(entry) for entry in entries]
    entries[7] = replace(entries[7], **change)
    assert counted(told, entries).differing() == ({group("job-7")}, 0)


def test_a_request_that_is_missing_or_told_twice_is_found():
    entries = [Entry(f"job-{number}") for number in range(50)]
    told = [record(entry) for entry in entries]
    assert counted(told[1:], entries).differing()[0] == {group("job-0")}
    assert counted(told, entries[:-1]).differing()[0] == {group("job-49")}
    assert counted([*told, told[3]], entries).differing()[0] == {group("job-3")}


def test_a_request_settled_a_moment_ago_is_compared_and_never_summed():
    late = Entry("job-1", settled_us=BEFORE)
    found = counted([], [late])
    assert found.differing() == (frozenset(), 0)
    assert found.recent == Compared([], {"job-1": late})


def test_of_very_many_that_differ_some_are_compared_and_the_rest_is_said(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "MAX_COMPARED", 1)
    site = ProvenSite(tmp_path)
    for number in range(3, 9):
        site.record_request(f"job-{number}", audited=False)
    site.clock.pass_(minutes=1)
    found = verify_trail(site.paths, site.ledger, site.keys, site.clock)
    site.close()
    assert any("has no audit record" in problem for problem in found.problems)
    beyond = len({group(f"job-{number}") for number in range(3, 9)}) - 1
    assert any(f"in {beyond} beyond those named here" in problem for problem in found.problems)
    assert not any("each has the other" in link for link in found.links)
