"""Quarantined prompts: for a while, a bounded number, and known by a keyed hash of tenant and prompt only."""

import pytest

from plugsky.engine.clients import quarantine
from plugsky.engine.clients.quarantine import QUARANTINE_S, Quarantine


@pytest.fixture
def ward():
    return Quarantine(bytes(32))


def test_a_prompt_is_refused_until_its_time_is_over(ward):
    digest = ward.digest("acme", b"prompt")
    assert ward.left_s(digest, 0.0) is None
    ward.add(digest, 10.0)
    assert ward.left_s(digest, 20.0) == QUARANTINE_S - 10
    assert ward.left_s(digest, 10.0 + QUARANTINE_S) is None
    assert len(ward) == 0


DIFFERENT = {
    "another prompt": (bytes(32), "acme", b"prompt!"),
    "another tenant": (bytes(32), "acme2", b"prompt"),
    "another key": (b"k" * 32, "acme", b"prompt"),
    "the same bytes cut elsewhere": (bytes(32), "acmep", b"rompt"),
}


@pytest.mark.parametrize(("key", "tenant", "prompt"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_it_stands_for_this_prompt_of_this_tenant_alone(ward, key, tenant, prompt):
    assert Quarantine(key).digest(tenant, prompt) != ward.digest("acme", b"prompt")


def test_at_most_so_many_are_kept_and_the_first_to_end_goes_first(ward, monkeypatch):
    monkeypatch.setattr(quarantine, "MAX_PROMPTS", 2)
    digests = [ward.digest("acme", bytes([number])) for number in range(3)]
    for number, digest in enumerate(digests):
        ward.add(digest, float(number))
    assert [ward.left_s(digest, 3.0) is None for digest in digests] == [True, False, False]
