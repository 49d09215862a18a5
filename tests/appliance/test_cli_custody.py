"""The way of a bundle, recorded and shown from the command line."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from bundles.forge import PASSPHRASE, Forge
from plugsky.cli import app as cli
from plugsky.core.errors import ExitCode
from plugsky_bundles import key_cards, revoking
from plugsky_bundles.errors import CustodyDoubt
from plugsky_bundles.state import Revocations


@pytest.fixture
def people(tmp_path, monkeypatch):
    """A bundle sealed today, and two people with keys of their own, of whom the operator knows one."""
    now = datetime.now(UTC)
    forge = Forge(tmp_path)
    bundle = forge.sealed(now=now, expires=now + timedelta(days=30))
    for name in ("ben", "eve"):
        key_cards.make_key(name, tmp_path / name, PASSPHRASE)
    card = key_cards.read_card(tmp_path / "ben" / "ben.card.json")
    monkeypatch.setenv("PLUGSKY_PASSPHRASE", PASSPHRASE.decode())
    enrol = ("trust", "enrol", "--role", "courier", tmp_path / "ben" / "ben.card.json")
    assert run(*enrol, "--fingerprint", card.fingerprint, "--trust", forge.trust)[0] == 0
    return forge, bundle, tmp_path


def run(*words):
    done = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    return done.exit_code, done


def test_copying_and_verifying_with_a_key_leaves_a_way_that_reads_from_build_to_verification(people, tmp_path):
    forge, bundle, home = people
    trusting = ("--trust", forge.trust)
    (tmp_path / "stick").mkdir()
    assert run("bundle", "copy", bundle, tmp_path / "stick", "--keys", home / "ben", *trusting)[0] == 0
    copy = tmp_path / "stick" / bundle.name
    assert run("bundle", "verify", copy, "--keys", home / "ben", *trusting)[0] == 0
    code, done = run("custody", "record", copy, "hand-over", "--to", "Cleo", "--keys", home / "ben", *trusting)
    assert code == 0, done.output
    code, done = run("custody", "show", copy, "--json", *trusting)
    assert code == 0, done.output
    told = json.loads(done.stdout)
    assert [event["event"] for event in told["events"]][-4:] == [
        "bundle.seal",
        "bundle.write",
        "bundle.verify",
        "bundle.hand-over",
    ]
    assert told["doubts"] == []


def test_a_way_of_which_nothing_is_left_is_said_to_be_none(people):
    forge, bundle, home = people
    trusting = ("--trust", forge.trust)
    assert run("custody", "record", bundle, "write", "--keys", home / "ben", *trusting)[0] == 0
    code, done = run("custody", "show", bundle, *trusting)
    assert (code, "Nothing after the seal" in done.stderr) == (0, False)
    assert "courier ben" in done.stdout
    (log,) = (bundle.parent / "plugsky-returns" / "custody").iterdir()
    log.unlink()
    code, done = run("custody", "show", bundle, *trusting)
    assert (code, "Nothing after the seal" in done.stderr) == (0, True)
    assert json.loads(run("custody", "show", bundle, "--json", *trusting)[1].stdout)["recorded_after_seal"] is False


def test_a_log_by_a_key_that_the_operator_revoked_is_doubted(people):
    forge, bundle, home = people
    trusting = ("--trust", forge.trust)
    assert run("custody", "record", bundle, "write", "--keys", home / "ben", *trusting)[0] == 0
    keyid = key_cards.read_card(home / "ben" / "ben.card.json").keyid
    (forge.trust / revoking.REVOKED).write_bytes(Revocations(keys=frozenset({keyid})).to_json())
    with pytest.raises(CustodyDoubt, match="has been revoked"):
        run("custody", "show", bundle, *trusting)


def test_what_somebody_unknown_recorded_is_shown_as_that_and_is_no_fault(people):
    forge, bundle, home = people
    trusting = ("--trust", forge.trust)
    assert run("custody", "record", bundle, "note", "--text", "hi", "--keys", home / "eve", *trusting)[0] == 0
    code, done = run("custody", "show", bundle, *trusting)
    assert code == 0, done.output
    keyid = key_cards.read_card(home / "eve" / "eve.card.json").keyid
    assert "UNKNOWN, calls themselves eve" in done.stdout
    assert f"nobody enrolled its key {keyid} here" in done.stderr
    told = json.loads(run("custody", "show", bundle, "--json", *trusting)[1].stdout)
    assert (told["doubts"], [one["keyid"] for one in told["unknown"]]) == ([], [keyid])


def test_a_log_that_was_changed_ends_with_the_code_for_it(people):
    forge, bundle, home = people
    trusting = ("--trust", forge.trust)
    assert run("custody", "record", bundle, "note", "--text", "hi", "--keys", home / "eve", *trusting)[0] == 0
    (log,) = (bundle.parent / "plugsky-returns" / "custody").iterdir()
    log.write_bytes(log.read_bytes().replace(b'"hi"', b'"ho"', 1))
    with pytest.raises(CustodyDoubt) as caught:
        run("custody", "show", bundle, *trusting)
    assert caught.value.exit_code == ExitCode.VERIFICATION_FAILED


def test_who_signed_the_bundle_is_shown_by_name_and_key_beside_its_way(people):
    forge, bundle, _ = people
    trusting = ("--trust", forge.trust)
    told = json.loads(run("custody", "show", bundle, "--json", *trusting)[1].stdout)
    (signer,) = told["signers"]["targets"]
    shown = run("custody", "show", bundle, *trusting)[1].stdout
    assert signer["name"]
    assert f"by {signer['name']} {signer['keyid'][:16]}" in shown
