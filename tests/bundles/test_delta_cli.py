"""A delta from command to command: build, install, receipt, delta, verify, diff, install."""

import hashlib
import json
from pathlib import Path

import pytest

from appliance.desk import BuildersDesk
from bundles.gguf_forge import STRING, Forge
from plugsky.core.errors import ExitCode


def model(template: str) -> bytes:
    return Forge().with_key("tokenizer.chat_template", STRING, template).build()


class Lab(BuildersDesk):
    """An operator with a trust directory, and a site that installed version 1 of channel lab."""

    def __init__(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(place, capsys)
        self.root = place / "site"
        self.write_recipe(model("one"))
        self.run("trust", "init", "--out", place / "trust")
        self.first = self.sealed()
        self.run("bundle", "install", self.first, "--root", self.root, "--pin", self.pin, "--yes")

    def enrol(self) -> None:
        """Believe the site's receipts from now on: its card and the fingerprint of that, each by its own way."""
        card = self.json("trust", "card", "--root", self.root, "--name", "lab", "--out", self.place)
        words = ("--role", "site", "--fingerprint", card["fingerprint"], "--trust", self.place / "trust")
        self.run("trust", "enrol", card["path"], *words)

    @property
    def receipt(self) -> Path:
        (found,) = (self.place / "media" / "plugsky-returns").glob("*.receipt.json")
        return found

    def delta(self) -> Path:
        self.enrol()
        self.write_recipe(model("two"))
        return self.sealed("--since", self.receipt)


def lab_at(tmp_path, capsys, monkeypatch) -> Lab:
    monkeypatch.setenv("PLUGSKY_TRUST", str(tmp_path / "trust"))
    monkeypatch.setenv("PLUGSKY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PLUGSKY_PASSPHRASE", "correct horse battery")
    return Lab(tmp_path, capsys)


@pytest.fixture
def lab(tmp_path, capsys, monkeypatch):
    return lab_at(tmp_path, capsys, monkeypatch)


def test_a_site_leaves_a_receipt_where_it_installed_from_and_one_with_itself(lab):
    (kept,) = (lab.root / "returns").glob("*.receipt.json")
    assert kept.read_bytes() == lab.receipt.read_bytes()


def test_the_receipt_command_gives_the_same_on_standard_output_and_in_a_directory(lab):
    told = lab.run("bundle", "receipt", "--root", lab.root)
    assert json.loads(told.out)["payloadType"] == "application/vnd.plugsky.receipt+json"
    said = lab.json("bundle", "receipt", "--root", lab.root, "--out", lab.place)
    assert (said["channel"], said["version"], said["generation"]) == ("lab", 1, 1)
    assert Path(said["path"]).name == lab.receipt.name


def test_a_receipt_of_a_channel_that_the_site_has_not_is_not_found(lab):
    told = lab.run("bundle", "receipt", "--root", lab.root, "--channel", "other", expect=ExitCode.NOT_FOUND)
    assert "it has accepted lab" in told.err


def test_a_delta_is_refused_until_the_site_is_enrolled(lab):
    words = ("bundle", "build", lab.place / "lab.toml", "--out", lab.place / "media", "--since", lab.receipt)
    told = lab.run(*words, expect=ExitCode.VERIFICATION_FAILED)
    assert "not enrolled" in told.err
    assert "plugsky trust enrol" in told.err


def test_a_delta_is_built_looked_at_and_installed(lab, monkeypatch):
    delta, pin = lab.delta(), lab.pin
    monkeypatch.delenv("PLUGSKY_TRUST")
    by_paper = lab.run("bundle", "verify", delta, "--pin", pin, expect=ExitCode.VERIFICATION_FAILED)
    assert "this is a delta for sites that have bundle" in by_paper.err
    for judge in (("--root", lab.root), ("--pin", pin, "--base", lab.first), ("--trust", lab.place / "trust")):
        checks = lab.json("bundle", "verify", delta, *judge)["checks"]
        assert any("builds on bundle" in check for check in checks)
        assert any("the site's to compare" in check for check in checks)
    seen = lab.json("bundle", "inspect", delta, "--root", lab.root)
    assert [one["id"] for one in seen["models"]] == ["tiny"]
    assert seen["since"]["roles"] == ["debs", "playbooks", "policy", "python"]
    lab.run("bundle", "install", delta, "--root", lab.root, "--yes")
    installed = lab.root / "current/models/tiny/tiny.gguf"
    assert hashlib.sha256(installed.read_bytes()).hexdigest() == hashlib.sha256(model("two")).hexdigest()
    assert (lab.root / "current/models/tiny/LICENSE").read_bytes() == b"MIT\n"


def test_a_site_that_lost_what_it_said_it_holds_is_told_so_before_the_first_write(lab):
    delta = lab.delta()
    lost = lab.root / "store" / f"sha256-{hashlib.sha256(b'MIT' + bytes([10])).hexdigest()}"
    lost.unlink()
    before = sorted(str(path) for path in lab.root.rglob("*"))
    told = lab.run("bundle", "install", delta, "--root", lab.root, "--yes", expect=ExitCode.VERIFICATION_FAILED)
    assert json.loads((lab.root / "trust/state.json").read_text())["floors"]["lab"]["bundle_id"] in told.err
    assert sorted(str(path) for path in lab.root.rglob("*")) == before
    lab.run("bundle", "install", lab.sealed(), "--root", lab.root, "--yes")
    assert lost.is_file()


def test_inspect_without_the_site_says_which_models_it_cannot_show(lab):
    lab.enrol()
    delta = lab.sealed("--since", lab.receipt)
    told = lab.run("bundle", "inspect", delta, "--trust", lab.place / "trust")
    assert "models/tiny/model.json is the site's" in told.out


def test_the_difference_is_shown_between_bundles_and_against_the_site(lab):
    delta = lab.delta()
    against_site = lab.run("bundle", "diff", delta, "--root", lab.root).out
    assert "model tiny: changed" in against_site
    assert "    -one" in against_site
    assert "    +two" in against_site
    found = lab.json("bundle", "diff", lab.first, delta, "--pin", lab.pin)
    (changed,) = found["models"]
    assert changed["templates"][0]["diff"][-1] == "+two"
    assert (found["same"], found["old"]["version"], found["new"]["version"]) == (False, 1, 2)
    lab.run("bundle", "install", delta, "--root", lab.root, "--yes")
    older = lab.json("bundle", "diff", lab.first, delta, "--root", lab.root)
    assert older["models"] == found["models"]
    assert lab.json("bundle", "diff", delta, "--root", lab.root)["same"]


def test_the_exit_code_tells_of_a_difference_only_when_asked(lab):
    lab.write_recipe(model("two"))
    second = lab.sealed()
    lab.run("bundle", "diff", lab.first, second, "--pin", lab.pin)
    lab.run("bundle", "diff", lab.first, second, "--pin", lab.pin, "--exit-code", expect=ExitCode.FAILED)
    lab.run("bundle", "diff", second, second, "--pin", lab.pin, "--exit-code")


def test_revocations_alone_are_built_and_installed(lab):
    bad = hashlib.sha256(b"bad").hexdigest()
    words = ("bundle", "build", lab.place / "lab.toml", "--out", lab.place / "media", "--revocations-only")
    told = lab.run(*words, expect=ExitCode.FAILED)
    assert "Nothing was revoked" in told.err
    lab.run("trust", "revoke", "--digest", bad)
    bundle = lab.sealed("--revocations-only")
    assert sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) < 100_000
    lab.run("bundle", "install", bundle, "--root", lab.root, "--yes")
    assert bad in json.loads((lab.root / "trust/state.json").read_text())["revocations"]["digests"]
    lab.run(*words, "--since", lab.place / "lab.toml", expect=ExitCode.USAGE)


def test_a_delta_travels_like_every_other_bundle(lab):
    delta = lab.delta()
    copied = lab.place / "stick" / delta.name
    copied.parent.mkdir()
    lab.run("bundle", "copy", delta, copied.parent, "--root", lab.root)
    lab.run("bundle", "verify", copied, "--root", lab.root)
    stream = lab.place / "delta.tar"
    lab.run("bundle", "stream", delta, "--out", stream, "--root", lab.root)
    lab.run("bundle", "verify", stream, "--root", lab.root)
    lab.run("bundle", "install", stream, "--root", lab.root, "--yes")
    assert (lab.root / "current/models/tiny/tiny.gguf").read_bytes() == model("two")
