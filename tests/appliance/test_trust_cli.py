"""The commands of trust as they are typed: what they print, refuse, and never do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.desk import Desk
from bundles.forge import Forge, sha256
from plugsky.cli import app as cli
from plugsky.core.errors import ExitCode
from plugsky_bundles.fingerprint_words import to_words
from plugsky_bundles.revoking import load
from plugsky_bundles.trustdir import open_trust

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")


class TrustDesk(Desk):
    """A desk where several people sit down, each with a passphrase."""

    def __init__(self, place, capsys, monkeypatch):
        super().__init__(place, capsys)
        self._monkeypatch = monkeypatch
        self.trust = place / "trust"

    def run(self, *words, expect=ExitCode.OK, by="gita"):
        self._monkeypatch.setenv("PLUGSKY_PASSPHRASE", f"the passphrase of {by}")
        return super().run(*words, expect=expect)

    def key(self, name) -> Path:
        self.run("trust", "key", name, "--out", self.place / name, by=name)
        return self.place / name / f"{name}.card.json"

    def ceremony(self):
        cards = [word for name in ("amal", "boris", "chen") for word in ("--root-key", self.key(name))]
        self.run("trust", "init", "--out", self.trust, *cards, "--root-threshold", 2)

    def signed(self, name) -> Path:
        copy = Path(shutil.copytree(self.trust / "waiting", self.place / f"copy-{name}"))
        self.run("trust", "sign", copy, "--keys", self.place / name, by=name)
        return copy


@pytest.fixture
def desk(tmp_path, capsys, monkeypatch):
    for name in ("PLUGSKY_TRUST", "PLUGSKY_ROOT", "PLUGSKY_HSM", "PLUGSKY_HSM_PIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return TrustDesk(tmp_path, capsys, monkeypatch)


def test_a_fingerprint_is_told_only_when_it_is_final(desk):
    desk.ceremony()
    shown = desk.json("trust", "show", "--trust", desk.trust)
    assert (shown["root_fingerprint"], shown["waiting"]["root_fingerprint"]) == (None, None)
    assert shown["waiting"]["missing"] == ["amal", "boris", "chen"]
    told = desk.run("trust", "show", "--trust", desk.trust)
    amal, chen = desk.signed("amal"), desk.signed("chen")
    for place in (desk.trust / "waiting", amal):
        digest = sha256((place / "1.root.json").read_bytes())
        assert digest not in told.out + told.err
        assert digest not in desk.run("trust", "show", place).out
    finished = desk.run("trust", "merge", desk.trust, amal, chen).out.split("\n")
    pin = sha256((desk.trust / "metadata/1.root.json").read_bytes())
    assert finished[:2] == [pin, to_words(pin)]
    assert desk.json("trust", "show", "--trust", desk.trust)["words"] == to_words(pin)


def test_late_signatures_are_refused_and_known_ones_change_nothing(desk):
    desk.ceremony()
    amal, chen, boris = desk.signed("amal"), desk.signed("chen"), desk.signed("boris")
    desk.run("trust", "merge", desk.trust, amal, chen)
    before = (desk.trust / "metadata/1.root.json").read_bytes()
    assert desk.json("trust", "merge", desk.trust, amal)["root_fingerprint"] == sha256(before)
    assert desk.error("trust", "merge", desk.trust, boris, expect=ExitCode.FAILED)["code"] == "exists_error"
    assert (desk.trust / "metadata/1.root.json").read_bytes() == before


def test_a_root_that_waits_is_a_named_refusal_with_the_next_command(desk):
    desk.ceremony()
    bundle = Forge(desk.place / "other").draft()
    for words in (
        ("bundle", "seal", bundle, "--trust", desk.trust),
        ("trust", "rotate", "--trust", desk.trust, "--new-snapshot"),
        ("trust", "revoke", "--trust", desk.trust, "--key", "boris"),
    ):
        error = desk.error(*words, expect=ExitCode.NOT_AUTHORISED)
        assert error["code"] == "root_waiting"
        assert "plugsky trust sign" in error["next"]


def test_people_see_who_is_in_a_root_before_they_sign_it(desk):
    desk.ceremony()
    copy = Path(shutil.copytree(desk.trust / "waiting", desk.place / "copy"))
    told = desk.run("trust", "sign", copy, "--keys", desk.place / "boris", by="boris")
    for name in ("amal", "boris", "chen", "targets-1"):
        assert name in told.err
    assert "2 of" in told.err


def test_a_stranger_and_a_wrong_passphrase_sign_nothing(desk):
    desk.ceremony()
    desk.key("eve")
    copy = Path(shutil.copytree(desk.trust / "waiting", desk.place / "copy"))
    desk.error("trust", "sign", copy, "--keys", desk.place / "eve", expect=ExitCode.NOT_AUTHORISED, by="eve")
    desk.error("trust", "sign", copy, "--keys", desk.place / "amal", expect=ExitCode.NOT_AUTHORISED, by="eve")
    desk.error("trust", "sign", copy, "--keys", desk.place / "none", expect=ExitCode.NOT_FOUND)
    assert json.loads((copy / "1.root.json").read_bytes())["signatures"] == []


def test_keys_may_be_made_here_and_elsewhere(desk):
    made = desk.json(
        "trust", "init", "--out", desk.trust, "--root-key", desk.key("amal"), "--root-keys", 1, "--root-threshold", 1
    )
    assert made["waiting"] is False
    assert set(open_trust(desk.trust).names.values()) == {"amal", "root-1", "snapshot", "targets-1", "timestamp"}


@pytest.mark.parametrize("words", [("--root-threshold", 2), ("--root-keys", 0), ("--targets-keys", 0)])
def test_a_threshold_that_nobody_can_meet_is_a_mistake_of_the_command(desk, words):
    desk.run("trust", "init", "--out", desk.trust, *words, expect=ExitCode.USAGE)
    assert not desk.trust.exists()


def test_a_key_of_the_operator_is_replaced_in_one_command(desk):
    desk.run("trust", "init", "--out", desk.trust)
    desk.run("trust", "key", "root-2", "--out", desk.trust / "keys")
    card = desk.trust / "keys/root-2.card.json"
    done = desk.json("trust", "rotate", "--trust", desk.trust, "--root-key", card, "--remove", "root-1")
    assert done["finished"] is True
    trust = open_trust(desk.trust)
    assert (trust.root.version, trust.key_names(trust.root.roles["root"].keyids)) == (2, ("root-2",))
    assert desk.error("trust", "rotate", "--trust", desk.trust, "--cancel", expect=ExitCode.NOT_FOUND)


def test_a_root_that_waits_is_dropped_by_cancel(desk):
    desk.run("trust", "init", "--out", desk.trust)
    desk.run("trust", "rotate", "--trust", desk.trust, "--root-key", desk.key("amal"), "--remove", "root-1")
    assert desk.json("trust", "rotate", "--trust", desk.trust, "--cancel") == {
        "schema": "plugsky.trust.rotate/1",
        "cancelled": 2,
    }
    assert desk.json("trust", "show", "--trust", desk.trust)["waiting"] is None


def test_what_is_revoked_is_shown_and_stays(desk):
    desk.run("trust", "init", "--out", desk.trust)
    added = desk.json("trust", "revoke", "--trust", desk.trust, "--key", "targets-1", "--bundle", "A" * 64)["added"]
    assert added["bundles"] == ["a" * 64]
    assert desk.json("trust", "revoke", "--trust", desk.trust, "--bundle", "a" * 64)["added"]["bundles"] == []
    assert desk.json("trust", "show", "--trust", desk.trust)["revocations"] == load(desk.trust).to_dict()
    assert f"revoked bundles  {'a' * 64}" in desk.run("trust", "show", "--trust", desk.trust).out
    for words in ((), ("--digest", "x"), ("--bundle", "1" * 63)):
        desk.run("trust", "revoke", "--trust", desk.trust, *words, expect=ExitCode.USAGE)
    desk.error("trust", "revoke", "--trust", desk.trust, "--key", "nobody", expect=ExitCode.NOT_FOUND)


def test_a_site_is_enrolled_at_the_operators_by_the_fingerprint_that_was_told(desk):
    desk.run("trust", "init", "--out", desk.trust)
    card = desk.key("riyadh")
    told = desk.json("trust", "card", card)
    enrol = ("trust", "enrol", card, "--role", "site", "--trust", desk.trust, "--fingerprint")
    error = desk.error(*enrol, "0" * 64, expect=ExitCode.VERIFICATION_FAILED)
    assert error["code"] == "fingerprint_differs"
    desk.run(*enrol, told["words"])
    desk.run(*enrol, told["fingerprint"].upper())
    (enrolled,) = desk.json("trust", "show", "--trust", desk.trust)["enrolled"]
    assert (enrolled["name"], enrolled["role"], enrolled["keyid"]) == ("riyadh", "site", told["keyid"])
    desk.run(*enrol, told["words"], "--approvals-required", 1, expect=ExitCode.USAGE)
    wrong = told["words"].replace(told["words"][:5], "lusax", 1)
    assert "word 1, 'lusax'" in desk.run(*enrol, wrong, expect=ExitCode.USAGE).err


def test_a_draft_under_another_root_than_the_paper_is_not_signed(desk):
    desk.run("trust", "init", "--out", desk.trust, "--targets-key", desk.key("dana"))
    forge = Forge.__new__(Forge)
    forge.base, forge.trust, forge._signers = desk.place, desk.trust, {}
    draft = forge.draft()
    pin = to_words(sha256((desk.trust / "metadata/1.root.json").read_bytes()))
    sign = ("trust", "sign", draft, "--keys", desk.place / "dana", "--pin")
    error = desk.error(*sign, "0" * 64, expect=ExitCode.VERIFICATION_FAILED, by="dana")
    assert error["code"] == "fingerprint_differs"
    signed = desk.json(*sign, pin, by="dana")
    assert (signed["added"], signed["missing_signers"]) == (["dana"], [])


@pytest.mark.integration
@pytest.mark.skipif(shutil.which("softhsm2-util") is None or not SOFTHSM.is_file(), reason="softhsm2 is not installed")
def test_a_holder_signs_with_a_key_in_a_hardware_module(desk, monkeypatch):
    (desk.place / "tokens").mkdir()
    (desk.place / "softhsm2.conf").write_text(f"directories.tokendir = {desk.place / 'tokens'}\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(desk.place / "softhsm2.conf"))
    (desk.place / "pin").write_text("648219\n")
    (desk.place / "pin").chmod(0o600)
    plugsky = [sys.executable, "-m", "plugsky"]
    token = ["softhsm2-util", "--init-token", "--free", "--label", "chen", "--pin", "648219", "--so-pin", "12345678"]
    subprocess.run(token, check=True, capture_output=True)
    module = ["--hsm", str(SOFTHSM), "--hsm-pin-file", str(desk.place / "pin")]
    root = Path(cli.__file__).parents[3]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(root / name) for name in ("appliance", "bundles", "tui")),
        "PLUGSKY_PASSPHRASE": "the passphrase of gita",
    }

    def run(*words):
        """In a process of its own: a PKCS#11 library is initialised once per process."""
        done = subprocess.run(
            [*plugsky, *map(str, words)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("trust", "key", "chen", "--out", desk.place / "chen", "--token", "chen", *module)
    run("trust", "init", "--out", desk.trust, "--root-key", desk.place / "chen/chen.card.json")
    copy = Path(shutil.copytree(desk.trust / "waiting", desk.place / "copy"))
    assert "signed by chen" in run("trust", "sign", copy, "--keys", desk.place / "chen", *module)
    assert run("trust", "merge", desk.trust, copy).splitlines()[0] == sha256(
        (desk.trust / "metadata/1.root.json").read_bytes()
    )
    refused = desk.error(
        "trust", "sign", copy, "--keys", desk.place / "chen", "--key", "chen", expect=ExitCode.NOT_AUTHORISED
    )
    assert "no module was named" in refused["why"]
