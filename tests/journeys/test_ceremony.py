"""The ceremony as its runbook tells it: every command of the page, in order, on machines that share only a stick."""

import hashlib
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bundles.gguf_forge import Forge
from bundles.recipe_text import local, one_model
from plugsky_bundles.media import open_bundle
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.verify import verify_metadata

pytestmark = pytest.mark.journey
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/runbooks/ceremony.md"
STICK = "/media/usb"
LICENCE = b"MIT\n"


def commands() -> list[tuple[str, str]]:
    """Machine and command of each line of the page's console blocks, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [(machine, command) for machine, _, command in (line.partition("$ ") for line in lines)]


class Room:
    """Machines as directories: a home and a passphrase each, a stick for all, and what people tell each other."""

    def __init__(self, place: Path):
        self.place = place
        self.stick = place / "stick"
        self.told: dict[str, str] = {}
        self.cards: dict[str, list[str]] = {}
        (place / "bin").mkdir()
        (place / "bin/plugsky").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m plugsky "$@"\n')
        (place / "bin/plugsky").chmod(0o755)
        self.stick.mkdir()

    def home(self, machine: str) -> Path:
        home = self.place / machine
        home.mkdir(exist_ok=True)
        return home

    def run(self, machine: str, command: str) -> subprocess.CompletedProcess[str]:
        home = self.home(machine)
        environment = {
            "PATH": f"{self.place / 'bin'}:{os.environ['PATH']}",
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "PLUGSKY_PASSPHRASE": f"the passphrase of {machine}",
            **self.told,
        }
        return subprocess.run(
            ["bash", "-c", command.replace(STICK, str(self.stick))],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def hear(self, machine: str, command: str, output: str) -> None:
        """Note what people write on paper or tell each other: the last lines are fingerprints, as digits and words."""
        lines = output.splitlines()
        if command.startswith("plugsky trust key"):
            self.cards.setdefault(machine, []).append(lines[-1])
            if machine == "omar":
                self.told["OMAR" if "keys-2" not in command else "OMAR2"] = lines[-1]
        elif command.startswith("plugsky trust card"):
            holder = Path(command.split()[-1]).name.removesuffix(".card.json")
            assert lines[-1] == self.cards[holder][-1], "the card that arrived is the one that was made"
        elif command.startswith("plugsky trust merge ~/trust"):
            assert re.fullmatch(r"[0-9a-f]{64}", lines[-2])
            self.told["PAPER"] = lines[-1]
        elif command.startswith("plugsky bundle seal"):
            self.told["BUNDLE"] = lines[-1].split()[-1]


def test_the_ceremony_of_the_runbook_ends_with_a_site_that_runs_what_two_of_three_signed(tmp_path):
    room = Room(tmp_path)
    model = Forge().build()
    build = room.home("build")
    (build / "tiny.gguf").write_bytes(model)
    (build / "LICENSE").write_bytes(LICENCE)
    weights = f"file = {local('tiny.gguf', hashlib.sha256(model).hexdigest())}"
    licence = local("LICENSE", hashlib.sha256(LICENCE).hexdigest())
    (build / "office.toml").write_text(one_model(weights, licence, channel="office"))
    steps = commands()
    assert len(steps) > 70
    for machine, command in steps:
        done = room.run(machine, command)
        assert done.returncode == 0, f"{machine}$ {command}\n{done.stdout}{done.stderr}"
        room.hear(machine, command, done.stdout)

    trust = open_trust(build / "trust")
    assert [trust.root.roles[role].threshold for role in ("root", "targets")] == [2, 2]
    assert trust.root.version == 2
    assert sorted(path.name for path in (build / "trust/keys").iterdir()) == ["snapshot.pem", "timestamp.pem"]
    verified = verify_metadata(
        open_bundle(room.stick / "plugsky-office-2"), hashlib.sha256(trust.roots[0]).hexdigest(), now=datetime.now(UTC)
    )
    assert [signer.name for signer in verified.signers["policy"]] == ["dana", "farah"]
    assert room.told["BUNDLE"] in {verified.bundle_id} | verified.state.revocations.bundles
    assert len(verified.state.revocations.bundles) == len(verified.state.revocations.keys) == 1
    assert (room.place / "site/site/current/models/tiny/tiny.gguf").read_bytes() == model
    refused = room.run("site", f"plugsky bundle install {STICK}/plugsky-office-1 --root ~/site --yes")
    assert refused.returncode == 5, "what was revoked is refused, approved or not"
