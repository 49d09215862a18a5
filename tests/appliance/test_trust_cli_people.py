"""What people read before and after they sign, replace a key or carry something on: the printed lines."""

import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from appliance.desk import BuildersDesk, Desk
from appliance.test_trust_site import OMAR, PETRA, Approved, card
from bundles.forge import NOW, PASSPHRASE, Forge, sha256
from bundles.gguf_forge import Forge as ModelForge
from plugsky.core.errors import ExitCode
from plugsky_bundles import keys, receipt, reset, rotation
from plugsky_bundles.enrolment import APPROVER
from plugsky_bundles.errors import SignatureUnknown
from plugsky_bundles.key_cards import KeyCard, write_card
from plugsky_bundles.trustdir import open_trust


@pytest.fixture(autouse=True)
def _nothing_is_preset(tmp_path, monkeypatch):
    for name in ("PLUGSKY_TRUST", "PLUGSKY_ROOT", "PLUGSKY_HSM", "PLUGSKY_HSM_PIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PLUGSKY_PASSPHRASE", PASSPHRASE.decode())


@pytest.fixture
def site(tmp_path) -> Approved:
    """A site that asks for one approval: omar's."""
    made = Approved(tmp_path / "there")
    made.install(made.bundle())
    made.enrol(card("omar", OMAR), 1)
    return made


@pytest.fixture
def desk(tmp_path, capsys) -> Desk:
    return Desk(tmp_path, capsys)


def asking(desk, site, name, newcomer, *options) -> tuple[object, ...]:
    write_card(desk.place, newcomer)
    out = desk.place / f"{name}.json"
    given = ("--card", desk.place / f"{newcomer.name}.card.json", "--fingerprint", newcomer.fingerprint)
    return ("trust", "reset", "request", "--name", name, *given, "--out", out, "--root", site.paths.root, *options)


def test_a_request_names_who_comes_who_goes_and_who_may_sign(desk, site):
    told = desk.run(*asking(desk, site, "omar", card("omar", PETRA))).err
    old, new = OMAR.public_key.keyid[:16], PETRA.public_key.keyid[:16]
    assert f"as approver, omar (key {new}) in place of key {old}. It can be applied until" in told
    assert "carry copies to 1 of root-1, the people of root 1, which this site trusts" in told


def test_a_mistyped_name_makes_no_request(desk, site):
    error = desk.error(*asking(desk, site, "omer", card("omer", PETRA)), expect=ExitCode.NOT_FOUND)
    assert (error["what"], error["why"]) == ("There is no approver omer", "enrolled as approver here: omar")
    desk.error(*asking(desk, site, "omar", card("hana", PETRA)), expect=ExitCode.USAGE)
    desk.error(*asking(desk, site, "o mar", card("omar", PETRA)), expect=ExitCode.USAGE)
    assert not list(desk.place.glob("*o*mar.json"))
    assert "is added as approver" in desk.run(*asking(desk, site, "hana", card("hana", PETRA), "--add")).err
    remove = ("trust", "reset", "request", "--name", "omar", "--out", desk.place / "r", "--root", site.paths.root)
    desk.error(*remove, "--add", expect=ExitCode.USAGE)


def test_whoever_signs_a_statement_reads_it_first_and_the_site_says_what_it_did(desk, site):
    desk.run(*asking(desk, site, "omar", card("omar", PETRA)))
    request = desk.place / "omar.json"
    change = str(reset.read(request).change)
    read = desk.run("trust", "sign", request, "--trust", site.forge.trust)
    assert f"statement 1 of site {reset.read(request).change.site[:16]}: {change};" in read.err
    assert "1 of 1 signatures" in read.out
    done = desk.run("trust", "reset", "apply", request, "--root", site.paths.root)
    assert done.out == f"statement 1 was applied: {change}\n"
    assert list(site.roles.values()) == [APPROVER]


def test_whose_root_key_the_site_does_not_know_reads_whose_it_knows(desk, site):
    desk.run(*asking(desk, site, "omar", card("omar", PETRA)))
    desk.run("trust", "key", "hana", "--out", desk.place / "keys")
    words = ("trust", "sign", desk.place / "omar.json", "--keys", desk.place / "keys")
    error = desk.error(*words, expect=ExitCode.NOT_AUTHORISED)
    keyid = site.forge.signers("root")[0].public_key.keyid
    assert keyid[:16] in error["why"]
    assert "the root that the site trusts" in desk.run(*words, expect=ExitCode.NOT_AUTHORISED).err


def test_a_statement_takes_no_signature_of_a_root_that_the_site_does_not_trust(desk, site):
    desk.run(*asking(desk, site, "omar", card("omar", PETRA)))
    request = desk.place / "omar.json"
    hana = keys.generate()
    changes = rotation.RootChanges(add={"root": [KeyCard("hana", hana.public_key)]}, remove=["root-1"])
    keys.save(site.forge.trust / "keys/hana.pem", hana, PASSPHRASE)
    rotation.rotate(site.forge.trust, PASSPHRASE, changes, NOW)
    desk.error("trust", "sign", request, "--trust", site.forge.trust, expect=ExitCode.NOT_AUTHORISED)
    assert not reset.read(request).joint.signatures


class Release(BuildersDesk):
    """A trust directory whose releases are signed elsewhere, two of dana, emil and farah, and a recipe to build."""

    PEOPLE = ("dana", "emil", "farah")

    def __init__(self, place: Path, capsys) -> None:
        super().__init__(place, capsys)
        self.trust = place / "trust"
        cards = []
        for name in self.PEOPLE:
            self.run("trust", "key", name, "--out", place / name)
            cards += ["--targets-key", place / name / f"{name}.card.json"]
        self.run("trust", "init", "--out", self.trust, *cards, "--targets-threshold", 2)

    def draft(self) -> Path:
        forge = Forge.__new__(Forge)
        forge.base, forge.trust, forge._signers = self.place, self.trust, {}
        return forge.draft(beside={"install.sh": b"#!/bin/sh\n"})

    def copy(self, draft: Path, name: str) -> Path:
        return Path(shutil.copytree(draft, self.place / f"for-{name}"))

    def signed(self, copy: Path, name: str):
        return self.run("trust", "sign", copy, "--keys", self.place / name)


@pytest.fixture
def release(tmp_path, capsys) -> Release:
    return Release(tmp_path, capsys)


INSTALLER = sha256(b"#!/bin/sh\n")


def test_signers_read_two_numbers_and_with_what_to_compare_them(release):
    draft = release.draft()
    first = release.signed(release.copy(draft, "dana"), "dana").err
    assert "This signs demo 1. Read both numbers to whoever else signs it, and wait for theirs:" in first
    assert "sealing must print the same for the paper" in first
    content = re.search(r"^  content    ([0-9a-f]{64})$", first, re.MULTILINE)[1]
    assert f"  install.sh {INSTALLER}\n" in first
    assert "1 more must sign before sealing; emil, farah may.\nnext: carry it to one of them, or back" in first
    second = release.signed(release.copy(draft, "emil"), "emil").err
    assert f"  content    {content}\n  install.sh {INSTALLER}\n" in second
    copies = [release.place / f"for-{name}" for name in ("dana", "emil")]
    merged = release.run("trust", "merge", draft, *copies, "--trust", release.trust)
    assert merged.out == f"{draft}: signed by dana, emil\n"
    assert f"next: plugsky bundle seal {draft} --trust {release.trust}\n" in merged.err
    sealed = release.run("bundle", "seal", draft, "--trust", release.trust)
    assert (
        f"have one of its signers compare it with what they read on their own machine:\n  content    {content}\n"
        in (sealed.err)
    )
    assert sealed.out.startswith(f"install.sh {INSTALLER}\nroot ")


def test_whoever_signed_everything_alone_is_told_to_carry_it_back(release):
    draft = release.draft()
    release.signed(draft, "dana")
    last = release.signed(draft, "emil")
    assert last.out == f"{draft}: signed by dana, emil\n"
    assert "next: carry it back to where it is sealed; there: plugsky trust merge BUNDLE COPY\n" in last.err
    assert release.signed(draft, "emil").out == f"{draft}: signed by dana, emil before; nothing to add\n"


def test_a_build_says_whose_signatures_to_fetch_and_what_they_read(release):
    release.write_recipe(ModelForge().build())
    words = ("bundle", "build", release.place / "lab.toml", "--out", release.place / "media")
    built = release.run(*words, "--trust", release.trust, "--cache", release.place / "cache")
    draft = release.place / "media/plugsky-lab-1"
    assert "next: copy it to dana, emil, farah, who run: plugsky trust sign COPY --keys DIR --pin PAPER\n" in built.err
    assert f"then: plugsky trust merge {draft} COPY... --trust {release.trust}\n" in built.err
    said = [line for line in built.err.splitlines() if line.startswith(("  content", "  install.sh"))]
    signed = release.signed(draft, "dana").err.splitlines()
    assert len(said) == 2
    assert set(said) <= set(signed)


def test_sealing_below_the_threshold_says_who_else_signs_on_a_machine_of_their_own(release):
    draft = release.draft()
    release.signed(draft, "dana")
    error = release.error("bundle", "seal", draft, "--trust", release.trust, expect=ExitCode.VERIFICATION_FAILED)
    assert error["code"] == "threshold_not_met"
    assert error["next"].startswith("Copy it to emil, farah, who run `plugsky trust sign COPY --keys DIR`")


def test_where_the_keys_lie_the_next_step_is_to_sign_there(desk, tmp_path):
    forge = Forge(tmp_path / "own")
    draft = forge.draft()
    error = desk.error("bundle", "seal", draft, "--trust", forge.trust, expect=ExitCode.VERIFICATION_FAILED)
    assert error["next"] == f"plugsky trust sign {draft} --trust {forge.trust}"
    assert open_trust(forge.trust).elsewhere() == ()


def cards(desk, *names) -> list[Path]:
    for name in names:
        desk.run("trust", "key", name, "--out", desk.place / name)
    return [desk.place / name / f"{name}.card.json" for name in names]


def test_one_card_twice_is_a_mistake_of_the_command(desk):
    (amal,) = cards(desk, "amal")
    error = desk.error(
        "trust", "init", "--out", desk.place / "trust", "--root-key", amal, "--root-key", amal, expect=ExitCode.USAGE
    )
    assert error["code"] == "ambiguous_keys"


def test_a_key_that_stands_for_somebody_is_refused_by_policy(desk):
    trust = Forge(desk.place / "operator").trust
    (riyadh,) = cards(desk, "riyadh")
    told = desk.json("trust", "card", riyadh)
    enrol = ("trust", "enrol", riyadh, "--trust", trust, "--role")
    error = desk.error(*enrol, "site", "--fingerprint", told["keyid"], expect=ExitCode.VERIFICATION_FAILED)
    assert "the id of riyadh's key" in error["what"]
    desk.run(*enrol, "site", "--fingerprint", told["fingerprint"])
    error = desk.error(*enrol, "courier", "--fingerprint", told["words"], expect=ExitCode.REFUSED_BY_POLICY)
    assert error["code"] == "enrolment_refused"


BAD_WORDS = {
    "a name of a key": ("trust", "key", "no name", "--out", "x"),
    "a name of a site": ("trust", "card", "--name", "no name"),
    "an id of a model": ("model", "import", "x", "--id", "Tuned", "--approval", "x"),
    "an id of a model to approve": (
        *("model", "approve", "x", "--id", "Tuned", "--context", 1, "--licence", "MIT", "--keys", "x"),
    ),
    "a name of a channel": ("bundle", "receipt", "--channel", "No Channel", "--root", "x"),
    "a hand-over to nobody": ("custody", "record", "x", "hand-over", "--keys", "x"),
    "a remark of two lines": ("custody", "record", "x", "note", "--keys", "x", "--text", "a\nb"),
    "a root that changes nothing": ("trust", "rotate", "--trust", "x"),
}


@pytest.mark.parametrize("words", BAD_WORDS.values(), ids=BAD_WORDS)
def test_a_word_that_cannot_be_is_a_mistake_of_the_command(desk, words):
    assert desk.error(*words, expect=ExitCode.USAGE)["code"] == "usage"


@pytest.mark.parametrize("command", ["sign", "merge"])
def test_a_path_that_is_not_there_is_said_to_be_none(release, command):
    nowhere = release.place / "root-9"
    error = release.error("trust", command, nowhere, expect=ExitCode.NOT_FOUND)
    assert error["what"] == f"{nowhere} is not there."
    trust = Forge(release.place / "operator").trust
    assert release.error("trust", "merge", trust, nowhere, expect=ExitCode.NOT_FOUND)["what"] == error["what"]


def test_what_is_advised_about_a_root_that_does_not_wait_can_be_typed(desk):
    trust = Forge(desk.place / "operator").trust
    empty = desk.place / "empty dir"
    (empty / "metadata").mkdir(parents=True)
    (empty / "waiting").mkdir()
    rotated = ("trust", "rotate", "--trust", trust, "--root-key", *cards(desk, "amal"), "--root-threshold", 2)
    desk.run(*rotated)
    error = desk.error("trust", "merge", trust, empty, expect=ExitCode.NOT_FOUND)
    assert error["next"] == f"plugsky trust show '{empty}'"


def test_a_trust_directory_is_joined_into_and_not_joined(desk):
    operator = Forge(desk.place / "operator").trust
    (amal,) = cards(desk, "amal")
    desk.run("trust", "rotate", "--trust", operator, "--root-key", amal, "--root-threshold", 2)
    copy = Path(shutil.copytree(operator / "waiting", desk.place / "copy"))
    desk.run("trust", "sign", copy, "--keys", desk.place / "amal")
    error = desk.error("trust", "merge", copy, operator, expect=ExitCode.USAGE)
    assert error["next"] == f"plugsky trust merge {operator} {copy}"
    assert "Root 2" in desk.run("trust", "merge", operator, copy).err


def test_a_directory_that_is_not_there_is_named_and_not_a_part_of_a_file(desk, site):
    nowhere = desk.place / "nowhere"
    words = ("bundle", "receipt", "--out", nowhere, "--root", site.paths.root)
    assert desk.error(*words, expect=ExitCode.NOT_FOUND)["what"] == f"{nowhere}: No such file or directory."


def test_a_receipt_of_a_site_that_nobody_enrolled_says_how_its_key_is_enrolled(desk, site):
    desk.run("bundle", "receipt", "--out", desk.place, "--root", site.paths.root)
    (receipt_file,) = desk.place.glob("*.receipt.json")
    with pytest.raises(SignatureUnknown, match="the key with id") as refused:
        receipt.read(receipt_file.read_bytes(), {})
    assert "plugsky trust card" in refused.value.next
    assert "trust enrol CARD --role site" in refused.value.next


@pytest.mark.integration
def test_sigterm_ends_an_installation_as_ctrl_c_does_from_its_first_second(tmp_path):
    words = ("bundle", "install", "-", "--root", tmp_path / "new", "--yes", "--pin", "0" * 64, "--json")
    reading, writing = os.pipe()
    os.write(writing, b"\0")
    # A process whose coverage is measured handles SIGTERM already.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    with subprocess.Popen(
        [sys.executable, "-m", "plugsky", *map(str, words)],
        env=plain | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=reading,
        stderr=subprocess.PIPE,
    ) as process:
        while process.poll() is None and struct.unpack("i", fcntl.ioctl(reading, termios.FIONREAD, bytes(4)))[0]:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        told = process.stderr.read()
        assert process.wait(30) == ExitCode.INTERRUPTED, told
    os.close(reading)
    os.close(writing)
    assert json.loads(told)["error"]["code"] == "interrupted"
    assert not (tmp_path / "new").exists()
