"""What is revoked in a trust directory: for ever, in the custody log, and in every bundle after."""

import pytest

from bundles.forge import NOW, PASSPHRASE, Forge
from plugsky_bundles import rotation
from plugsky_bundles.chain import verify_chain
from plugsky_bundles.errors import MalformedMetadata, NotFound
from plugsky_bundles.revoking import keyid_of, load, revoke
from plugsky_bundles.state import Revocations
from plugsky_bundles.trustdir import open_trust

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def forge(tmp_path) -> Forge:
    return Forge(tmp_path)


def add(forge: Forge, **ids):
    new = Revocations(**{kind: frozenset(words) for kind, words in ids.items()})
    return revoke(forge.trust, new, lambda: PASSPHRASE, NOW)


def test_a_list_that_is_not_there_is_empty_and_a_damaged_one_is_not(forge):
    assert load(forge.trust) == Revocations()
    (forge.trust / "revocations.json").write_bytes(b"{}")
    with pytest.raises(MalformedMetadata):
        load(forge.trust)
    with pytest.raises(MalformedMetadata):
        add(forge, bundles={ONE})


def test_the_list_only_grows_and_says_what_is_new(forge):
    whole, fresh = add(forge, bundles={ONE}, digests={TWO})
    assert whole == fresh == Revocations(frozenset({ONE}), frozenset({TWO}))
    whole, fresh = add(forge, bundles={ONE, TWO})
    assert whole == load(forge.trust) == Revocations(frozenset({ONE, TWO}), frozenset({TWO}))
    assert fresh == Revocations(frozenset({TWO}))


def test_a_revocation_is_in_the_custody_log_once(forge):
    add(forge, keys={ONE})
    add(forge, keys={ONE})
    events = []
    verify_chain(forge.trust / "custody.jsonl", on_record=lambda line: events.append(line.body))
    assert [event["event"] for event in events] == ["trust.init", "trust.revoke"]
    assert events[1]["keys"] == [ONE]


def test_a_list_that_no_bundle_could_carry_is_not_written(forge):
    add(forge, bundles={ONE})
    with pytest.raises(MalformedMetadata, match="limit"):
        add(forge, digests={f"{number:064x}" for number in range(20_000)})
    assert load(forge.trust).digests == frozenset()


def test_a_key_is_named_by_its_id_or_by_any_root_that_knew_it(forge):
    trust = open_trust(forge.trust)
    (keyid,) = trust.keyids("targets")
    assert keyid_of(trust, "targets-1") == keyid_of(trust, keyid) == keyid
    rotation.rotate(forge.trust, PASSPHRASE, rotation.RootChanges(renew=["timestamp"]), NOW)
    (former,) = trust.keyids("timestamp")
    assert keyid_of(open_trust(forge.trust), "timestamp") == former
    with pytest.raises(NotFound, match="nobody"):
        keyid_of(trust, "nobody")
