"""What people read before and after they sign, replace a key or carry something on: the printed lines."""

import re
import shutil
from pathlib import Path

import pytest

from appliance.desk import BuildersDesk, Desk
from appliance.test_trust_site import OMAR, PETRA, Approved, card
from bundles.forge import NOW, PASSPHRASE, Forge, sha256
from bundles.gguf_forge import Forge as ModelForge
from plugsky.core.errors import ExitCode
from plugsky_bundles import keys, reset, rotation
from plugsky_bundles.enrolment import APPROVER
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
