"""The commands that carry a bundle, as people type them: what they print, refuse and leave behind."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.desk import Desk
from bundles import forge as forging
from bundles.carriage import flip, tree
from bundles.forge import Forge
from bundles.gguf_forge import Forge as GgufForge
from plugsky.core.errors import ExitCode
from plugsky_bundles.volume_sets import CLUSTER
from pseudo_terminal import Terminal

MODEL = GgufForge().build()
FILES = {
    "models/tiny/tiny.gguf": MODEL,
    "models/tiny/LICENSE": b"Apache-2.0\n",
    "models/twin/twin.gguf": MODEL,
    "playbooks/site.yml": b"- hosts: all\n",
    "policy/channel.json": b"{}",
}
CUT = {"models/tiny/tiny.gguf": (100, len(MODEL) - 100), "models/twin/twin.gguf": (100, len(MODEL) - 100)}
ENVIRONMENT = {"PLUGSKY_PASSPHRASE": forging.PASSPHRASE.decode(), "PYTHONPATH": os.pathsep.join(sys.path)}


class CarriersDesk(Desk):
    """A desk with a sealed bundle."""

    def __init__(self, place: Path, capsys) -> None:
        super().__init__(place, capsys)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(forging, "CUT", CUT)
            self.forge = Forge(place)
            self.bundle = self.forge.sealed(
                files=FILES, now=datetime.now(UTC), expires=datetime(2036, 1, 1, tzinfo=UTC)
            )
        self.site = place / "site"

    @property
    def trusting(self) -> list[str]:
        return ["--pin", self.forge.fingerprint]

    def shell(self, *words, stdin=None, expect=0):
        """A command as a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "plugsky", *map(str, words)],
            stdin=stdin, env={**os.environ, **ENVIRONMENT}, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == expect, done.stderr.decode()
        return done

    def installed(self) -> dict[str, bytes]:
        current = self.site / "current"
        return {path: (current / path).read_bytes() for path in FILES if (current / path).exists()}


@pytest.fixture
def desk(tmp_path, capsys, monkeypatch):
    for name in ("PLUGSKY_TRUST", "PLUGSKY_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PLUGSKY_PASSPHRASE", forging.PASSPHRASE.decode())
    return CarriersDesk(tmp_path, capsys)


@pytest.fixture
def install(desk):
    return ["bundle", "install", "--root", desk.site, *desk.trusting, "--yes", "--progress", "none"]


def test_a_copy_says_what_was_copied_and_how_it_was_read_back(desk):
    (desk.place / "usb").mkdir()
    told = desk.run("bundle", "copy", desk.bundle, desk.place / "usb", *desk.trusting)
    assert "copied" in told.out
    assert "read back" in told.err
    copy = desk.place / "usb" / "plugsky-demo-1"
    assert tree(copy) == tree(desk.bundle)
    again = desk.json("bundle", "copy", desk.bundle, desk.place / "usb", *desk.trusting)
    assert again["schema"] == "plugsky.bundle.copy/1"
    assert (again["written"], again["path"]) == (0, str(copy))
    assert desk.json("bundle", "verify", copy, *desk.trusting)["verified"] is True


def test_nothing_is_carried_without_saying_whom_to_trust(desk):
    for words in (
        ("copy", desk.bundle, desk.place),
        ("stream", desk.bundle, "--out", desk.place / "b.tar"),
        ("split", desk.bundle, "--size", "1G", "--out", desk.place),
        ("repair", desk.bundle, "--from", desk.bundle),
    ):
        desk.run("bundle", *words, expect=ExitCode.VERIFICATION_FAILED)
    assert sorted(path.name for path in desk.place.iterdir()) == ["plugsky-demo-1", "trust"]


def test_a_stream_in_a_file_is_verified_inspected_and_installed(desk, install):
    tar = desk.place / "bundle.tar"
    desk.run("bundle", "stream", desk.bundle, "--out", tar, *desk.trusting)
    assert desk.json("bundle", "verify", tar, *desk.trusting)["whole"] is True
    assert desk.json("bundle", "inspect", tar, *desk.trusting)["channel"] == "demo"
    desk.run(*install, tar)
    assert desk.installed() == {path: data for path, data in FILES.items() if path in desk.installed()}
    assert (desk.site / "current/models/twin/twin.gguf").read_bytes() == MODEL


@pytest.mark.integration
def test_a_stream_through_a_pipe_is_verified_and_installed(desk, install):
    stream = desk.shell("bundle", "stream", desk.bundle, *desk.trusting).stdout
    for words in (["bundle", "verify", "-", *desk.trusting], [*install, "-"]):
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pipe:
            process = subprocess.Popen(
                [sys.executable, "-m", "plugsky", *map(str, words)],
                stdin=pipe.stdout, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            pipe.stdin.write(stream)
            pipe.stdin.close()
            told, _ = process.communicate(timeout=120)
            assert process.returncode == 0, told.decode()
    assert (desk.site / "current/models/tiny/tiny.gguf").read_bytes() == MODEL


def staged(desk) -> dict[str, bytes]:
    return tree(desk.site / "staging")


def test_what_a_cut_stream_brought_is_kept_for_the_next_one(desk, install):
    tar, cut = desk.place / "bundle.tar", desk.place / "cut.tar"
    desk.run("bundle", "stream", desk.bundle, "--out", tar, *desk.trusting)
    data = tar.read_bytes()
    cut.write_bytes(data[: data.index(b"- hosts: all")])
    error = desk.error(*install, cut, expect=ExitCode.VERIFICATION_FAILED)
    assert error["code"] == "stream_cut"
    assert b"Apache-2.0\n" in b"".join(staged(desk).values())
    assert not (desk.site / "current").exists()
    desk.run(*install, tar)
    assert (desk.site / "current/models/tiny/tiny.gguf").read_bytes() == MODEL
    assert staged(desk) == {}


@pytest.mark.parametrize("cut", ["the end", "a byte in the middle", "something behind it"])
def test_a_damaged_stream_installs_nothing(desk, install, cut):
    tar = desk.place / "bundle.tar"
    desk.run("bundle", "stream", desk.bundle, "--out", tar, *desk.trusting)
    if cut == "the end":
        os.truncate(tar, tar.stat().st_size - 1)
    elif cut == "a byte in the middle":
        flip(tar, tar.read_bytes().index(MODEL[200:300]))
    else:
        with tar.open("ab") as file:
            file.write(b"x")
    desk.run("bundle", "verify", tar, *desk.trusting, expect=ExitCode.VERIFICATION_FAILED)
    desk.run(*install, tar, expect=ExitCode.VERIFICATION_FAILED)
    assert not (desk.site / "current").exists()
    assert list((desk.site / "store").iterdir()) == []


def test_a_terminal_gets_no_bundle_and_gives_none(desk, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    desk.run("bundle", "stream", desk.bundle, *desk.trusting, expect=ExitCode.USAGE)


def split(desk, size=15 * CLUSTER) -> list[Path]:
    (desk.place / "volumes").mkdir()
    done = desk.json("bundle", "split", desk.bundle, "--size", size, "--out", desk.place / "volumes", *desk.trusting)
    assert done["of"] == len(done["volumes"])
    return [Path(volume["path"]) for volume in done["volumes"]]


SMALL = 20 * CLUSTER


def test_volumes_beside_each_other_are_installed_from_any_of_them(desk, install):
    volumes = split(desk, SMALL)
    assert len(volumes) > 1
    assert desk.json("bundle", "verify", volumes[1], *desk.trusting)["whole"] is True
    desk.run(*install, volumes[-1])
    assert (desk.site / "current/models/tiny/tiny.gguf").read_bytes() == MODEL


def test_verifying_one_volume_says_of_every_other_that_it_was_judged_and_where_it_was_found(desk):
    volumes = split(desk, SMALL)
    elsewhere = desk.place / "another medium" / volumes[-1].name
    elsewhere.parent.mkdir()
    volumes[-1] = volumes[-1].rename(elsewhere)
    told = desk.run("bundle", "verify", volumes[0], *desk.trusting).out
    for number, place in enumerate(volumes, start=1):
        assert f"ok  volume {number} of {len(volumes)}, at {place}: exactly its part, every byte as signed" in told
    places = [{"number": number, "path": str(place)} for number, place in enumerate(volumes, start=1)]
    assert desk.json("bundle", "verify", volumes[0], *desk.trusting)["volumes"] == places
    alone = desk.json("bundle", "verify", volumes[0], "--this-volume", *desk.trusting)
    assert alone["volumes"] == places[:1]
    assert desk.json("bundle", "verify", desk.bundle, *desk.trusting)["volumes"] is None


def test_without_a_terminal_a_missing_volume_fails_with_the_command_to_run_again(desk, install):
    volumes = split(desk, SMALL)
    for number in range(2, len(volumes) + 1):
        shutil.rmtree(volumes[number - 1])
    error = desk.error(*install, volumes[0], expect=ExitCode.VERIFICATION_FAILED)
    assert (error["code"], error["what"]) == ("volume_missing", f"Volume 2 of {len(volumes)} is not here")
    assert error["why"].count(f"{volumes[0]},") == 1, error["why"]
    assert f"plugsky bundle install {volumes[0]} --root {desk.site}" in error["next"]
    assert not (desk.site / "current").exists()
    kept = staged(desk)
    assert kept
    for number in range(2, len(volumes) + 1):
        desk.run("bundle", "split", desk.bundle, "--size", SMALL, "--volume", number, "--out", volumes[0].parent,
                 *desk.trusting)  # fmt: skip
    desk.run(*install, volumes[0])
    assert (desk.site / "current/models/tiny/tiny.gguf").read_bytes() == MODEL


@pytest.mark.integration
def test_on_a_terminal_the_next_volume_is_asked_for_until_it_is_brought(desk, install):
    volumes = split(desk, SMALL)
    for number, volume in enumerate(volumes, start=1):
        (desk.place / f"drive{number}" / "deep").mkdir(parents=True)
        volume.rename(desk.place / f"drive{number}" / "deep" / volume.name)
    drives = [desk.place / f"drive{number}" / "deep" for number in range(1, len(volumes) + 1)]
    command = [sys.executable, "-m", "plugsky", *map(str, install), str(drives[0] / volumes[0].name)]
    terminal = Terminal(command, ENVIRONMENT | {"XDG_CONFIG_HOME": str(desk.place / "config")})
    terminal.until(f"insert volume 2 of {len(volumes)}")
    terminal.press(f"{drives[0]}\n".encode())
    terminal.until("is volume 1")
    for number, drive in enumerate(drives[1:], start=2):
        terminal.until(f"insert volume {number} of {len(volumes)}")
        terminal.press(f"{drive}\n".encode())
    assert terminal.exit_code() == 0, terminal.screen()
    assert (desk.site / "current/models/tiny/tiny.gguf").read_bytes() == MODEL


@pytest.mark.integration
def test_on_a_terminal_nobody_has_to_bring_it(desk, install):
    volumes = split(desk, SMALL)
    for volume in volumes[1:]:
        shutil.rmtree(volume)
    command = [sys.executable, "-m", "plugsky", *map(str, install), str(volumes[0])]
    terminal = Terminal(command, ENVIRONMENT | {"XDG_CONFIG_HOME": str(desk.place / "config")})
    terminal.until(f"insert volume 2 of {len(volumes)}")
    terminal.press(b"\n")
    assert terminal.exit_code() == ExitCode.VERIFICATION_FAILED
    assert not (desk.site / "current").exists()


def test_one_volume_is_judged_and_what_is_not_here_is_said(desk):
    volumes = split(desk, SMALL)
    shutil.rmtree(volumes[0])
    alone = desk.json("bundle", "verify", volumes[1], "--this-volume", *desk.trusting)
    assert (alone["verified"], alone["whole"]) == (True, False)
    error = desk.error("bundle", "verify", volumes[1], *desk.trusting, expect=ExitCode.VERIFICATION_FAILED)
    assert error["code"] == "volume_missing"
    assert "1 are not here" in error["what"]
    blob = max((volumes[1] / "blobs").rglob("sha256-*"), key=lambda path: path.stat().st_size)
    flip(blob)
    error = desk.error("bundle", "verify", volumes[1], *desk.trusting, expect=ExitCode.VERIFICATION_FAILED)
    assert error["code"] == "digest_mismatch"


def test_one_volume_alone_can_be_written_and_copied_to_its_stick(desk):
    volumes = split(desk, SMALL)
    for place in ("again", "stick"):
        (desk.place / place).mkdir()
    desk.run(
        "bundle", "split", desk.bundle, "--size", SMALL, "--volume", 2, "--out", desk.place / "again", *desk.trusting
    )
    desk.run("bundle", "copy", volumes[1], desk.place / "stick", *desk.trusting)
    for place in ("again", "stick"):
        assert tree(desk.place / place / volumes[1].name) == tree(volumes[1])
    desk.run("bundle", "split", desk.bundle, "--size", SMALL, "--volume", 99, "--out", desk.place, *desk.trusting,
             expect=ExitCode.USAGE)  # fmt: skip


@pytest.mark.parametrize("size", ["", "0", "many", "4,7G", "-5G", "1000"])
def test_a_size_that_cannot_be_is_a_usage_error(desk, size):
    desk.run("bundle", "split", desk.bundle, "--size", size, "--out", desk.place, *desk.trusting, expect=ExitCode.USAGE)


def test_a_damaged_copy_is_repaired_or_made_whole_elsewhere(desk):
    bad = Path(shutil.copytree(desk.bundle, desk.place / "bad"))
    blob = max((bad / "blobs").rglob("sha256-*"), key=lambda path: path.stat().st_size)
    flip(blob)
    (desk.place / "new").mkdir()
    desk.run("bundle", "repair", bad, "--from", desk.bundle, "--to", desk.place / "new", *desk.trusting)
    assert tree(desk.place / "new/plugsky-demo-1") == tree(desk.bundle)
    assert tree(bad) != tree(desk.bundle)
    done = desk.json("bundle", "repair", bad, "--from", desk.bundle, *desk.trusting)
    assert len(done["mended"]) == 1
    assert tree(bad) == tree(desk.bundle)
    (bad / "x").write_text("x")
    desk.run("bundle", "repair", bad, "--from", desk.bundle, *desk.trusting, expect=ExitCode.VERIFICATION_FAILED)
    desk.run("bundle", "repair", bad, "--from", desk.bundle, "--remove-unlisted", *desk.trusting)
    assert tree(bad) == tree(desk.bundle)


@pytest.fixture
def identity(tmp_path):
    if shutil.which("age") is None or shutil.which("age-keygen") is None:
        pytest.skip("age is not installed")
    made = subprocess.run(["age-keygen", "-o", tmp_path / "key.txt"], capture_output=True, text=True, check=True)
    return tmp_path / "key.txt", made.stderr.strip().rpartition(" ")[2]


@pytest.mark.integration
def test_an_encrypted_copy_is_opened_by_plain_age_and_installed_from_its_output(desk, install, identity):
    key, recipient = identity
    draft = desk.forge.draft(
        files={"models/tiny/model.gguf": MODEL},
        now=datetime.now(UTC),
        expires=datetime(2036, 1, 1, tzinfo=UTC),
        channel="secret",
    )
    desk.run("trust", "sign", draft, "--trust", desk.forge.trust)
    done = desk.json(
        "bundle", "seal", draft, "--trust", desk.forge.trust, "--encrypt-to", recipient, "--progress", "none"
    )
    encrypted = Path(done["encrypted"])
    assert encrypted == draft.with_name(f"{draft.name}.tar.age")
    raw = encrypted.read_bytes()
    assert raw.startswith(b"age-encryption.org/v1\n")
    for secret in (MODEL[200:260], b"models/tiny", b"metadata/", b"secret"):
        assert secret not in raw
    with subprocess.Popen(["age", "-d", "-i", key, encrypted], stdout=subprocess.PIPE) as age:
        desk.shell(*install, "-", stdin=age.stdout)
    assert age.returncode == 0
    assert (desk.site / "current/models/tiny/model.gguf").read_bytes() == MODEL
    plain = subprocess.run(["age", "-d", "-i", key, encrypted], capture_output=True, check=True).stdout
    assert plain == desk.shell("bundle", "stream", draft, "--trust", desk.forge.trust).stdout


@pytest.mark.integration
def test_an_encrypted_copy_that_was_changed_or_is_for_somebody_else_installs_nothing(desk, install, identity, tmp_path):
    key, recipient = identity
    encrypted = desk.place / "b.tar.age"
    desk.run("bundle", "stream", desk.bundle, "--out", encrypted, "--encrypt-to", recipient, *desk.trusting)
    subprocess.run(["age-keygen", "-o", tmp_path / "other.txt"], check=True, capture_output=True)
    for prepare, with_key in ((lambda: None, tmp_path / "other.txt"), (lambda: flip(encrypted, -2000), key)):
        prepare()
        with subprocess.Popen(
            ["age", "-d", "-i", with_key, encrypted], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as age:
            said = desk.shell(*install, "-", stdin=age.stdout, expect=5).stderr.decode()
        assert age.returncode != 0
        assert with_key == key or "Nothing arrived on standard input" in said
        assert not (desk.site / "current").exists()


@pytest.mark.integration
@pytest.mark.parametrize("armoured", [False, True], ids=["binary", "armoured"])
def test_what_is_still_encrypted_is_answered_with_the_command_that_decrypts_it(desk, identity, armoured):
    key, recipient = identity
    encrypted = desk.place / "a bundle.age"
    plain = desk.shell("bundle", "stream", desk.bundle, *desk.trusting).stdout
    armour = ["--armor"] if armoured else []
    subprocess.run(["age", *armour, "-r", recipient, "-o", encrypted], input=plain, check=True)
    install = ["bundle", "install", encrypted, "--root", desk.site, *desk.trusting]
    refused = desk.shell(*install, expect=5).stderr.decode()
    assert f"error: {encrypted} is encrypted with age" in refused
    said = refused.partition("  next: ")[2].strip()
    assert (
        said
        == f"age -d -i KEY '{encrypted}' | plugsky bundle install - --root {desk.site} {' '.join(desk.trusting)} --yes"
    )
    plugsky = f"{shlex.quote(sys.executable)} -m plugsky"
    typed = said.replace("-i KEY", f"-i {shlex.quote(str(key))}").replace("| plugsky", f"| {plugsky}")
    subprocess.run(["bash", "-c", typed], env={**os.environ, **ENVIRONMENT}, check=True, capture_output=True)
    assert desk.installed() == FILES
    with encrypted.open("rb") as sent:
        again = desk.shell("bundle", "verify", "-", *desk.trusting, stdin=sent, expect=5).stderr.decode()
    assert f"next: SENDER | age -d -i KEY | plugsky bundle verify - {' '.join(desk.trusting)}" in again


@pytest.mark.parametrize("recipient", ["", "age1nonsense", "bob@example.org", "AGE-SECRET-KEY-1QQ", "ssh-ed25519 AAAA"])
def test_what_is_no_recipient_of_age_is_refused_and_leaves_nothing(desk, recipient):
    pytest.importorskip("pyrage")
    desk.run("bundle", "stream", desk.bundle, "--out", desk.place / "b.age", "--encrypt-to", recipient, *desk.trusting,
             expect=ExitCode.USAGE)  # fmt: skip
    assert not list(desk.place.glob("*b.age*"))
    draft = desk.forge.draft(channel="other")
    desk.run("bundle", "seal", draft, "--trust", desk.forge.trust, "--encrypt-to", recipient, expect=ExitCode.USAGE)
    assert not (draft / "metadata/timestamp.json").exists()


def test_the_digest_of_a_stream_is_the_same_on_every_machine(desk):
    digests = set()
    for name in ("one.tar", "two.tar"):
        desk.run("bundle", "stream", desk.bundle, "--out", desk.place / name, *desk.trusting)
        digests.add(hashlib.sha256((desk.place / name).read_bytes()).hexdigest())
    assert len(digests) == 1
