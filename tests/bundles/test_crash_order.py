"""Power cuts: an installation's writes, syncs and renames are recorded and lost in every legal order.

Whatever is lost, the site is the old one or the new one: `current` leads to a whole generation, the store holds no file
with other bytes than its name says, a generation that says it is complete is, the site believes what it believed or
what it accepted, and nothing becomes current before it is accepted and on record. A sample of the states is put on a
real disk, where installing again must come to its end.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from bundles.crash_states import Crashes, Cut, Leads, State, operations_of
from bundles.forge import NOW, sha256
from bundles.syscalls import Call, drive, library
from plugsky.audit import AuditLog
from plugsky.core.clock import SystemClock
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, installation
from plugsky_bundles import transfer

LATER = NOW + timedelta(hours=1)
ON_DISK = 30


class Recorded:
    """A recorded installation on a site with one generation: what was there, what was done, and how to do it again."""

    def __init__(self, folder: Path) -> None:
        (told,) = drive("bundles.install_faults", library(folder), folder, "record")
        self.bundle, self.pin = Path(told["bundle"]), told["pin"]
        pattern, names, content = Path(told["pattern"]), dict[str, Leads](), dict[int, bytes]()
        self.numbers = numbers = {
            inode: number for number, inode in enumerate(sorted(set(told["inodes"].values())), start=1)
        }
        for name, inode in told["inodes"].items():
            place = pattern / name
            if place.is_symlink():
                names[name] = str(place.readlink())
            elif place.is_dir():
                names[name] = None
            else:
                names[name] = numbers[inode]
                content[numbers[inode]] = place.read_bytes()
        calls = [Call.parse(line) for line in Path(told["log"]).read_text().splitlines()]
        self.calls = [_relative(call, told["site"]) for call in calls if call.path.startswith(told["site"])]
        self.crashes = Crashes(names, content, operations_of(self.calls, numbers))
        self.before, self.content = State(names, {}), content
        self.beliefs = [self.digest(state, "trust/state.json") for state in (self.before, self.crashes.final())]

    def digest(self, state: State, path: str) -> str:
        return self.crashes.digest_of(*self._file(state, path))

    def data(self, state: State, path: str) -> bytes:
        return self.crashes.bytes_of(*self._file(state, path))

    def _file(self, state: State, path: str) -> tuple[int, int, bool]:
        leads = state.names.get(path)
        if not isinstance(leads, int):
            return 0, 0, False
        cut: Cut = state.cuts.get(leads, (0, False))
        return leads, *cut

    def problems(self, state: State) -> list[str]:
        """What is wrong with a site that is left like this."""
        tree = self.crashes.tree(state)
        state = State(tree, state.cuts)
        found = []
        current = str(tree.get("current")).removeprefix("generations/")
        if current not in ("1", "2"):
            found.append(f"current leads to {current}")
        for number in {"1", current} | {path.split("/")[1] for path in tree if path.endswith("/.complete")}:
            found += self._generation(state, number)
        for path in tree:
            folder, _, name = path.rpartition("/")
            if folder == "store" and len(name) == 71 and f"sha256-{self.digest(state, path)}" != name:
                found.append(f"{path} has other bytes")
        belief = self.digest(state, "trust/state.json")
        if belief not in self.beliefs:
            found.append("the site believes something else")
        if current == "2" and belief != self.beliefs[1]:
            found.append("generation 2 is current and not accepted")
        if current == "2" and not self._recorded(state):
            found.append("generation 2 is current and not on record")
        return found

    def _generation(self, state: State, number: str) -> list[str]:
        folder = f"generations/{number}"
        if f"{folder}/.complete" not in state.names:
            return [f"generation {number} is not complete"]
        try:
            files = json.loads(self.data(state, f"{folder}/bundle.json"))["files"]
        except ValueError:
            return [f"generation {number} has no provenance"]
        return [
            f"{file['path']} of generation {number}"
            for file in files
            if self.digest(state, f"{folder}/{file['path']}") != file["sha256"]
        ]

    def _recorded(self, state: State) -> bool:
        lines = b"".join(self.data(state, path) for path in state.names if path.endswith("/chain.jsonl")).splitlines()
        return any(b'"bundle.install"' in line and b'"generation":2' in line for line in lines)

    def put_on_disk(self, state: State, root: Path) -> SitePaths:
        """Make `state` a site at `root`."""
        first: dict[int, Path] = {}
        root.mkdir(mode=0o755)
        for path, leads in sorted(self.crashes.tree(state).items()):
            place = root / path
            if leads is None:
                place.mkdir(mode=0o700 if path == "trust" else 0o755)
            elif isinstance(leads, str):
                place.symlink_to(leads)
            elif leads in first:
                place.hardlink_to(first[leads])
            else:
                place.write_bytes(self.data(state, path))
                place.chmod(0o600)
                first[leads] = place
        return SitePaths.at(root, root.with_name("run"))

    def install_again(self, paths: SitePaths) -> None:
        verified = installation.verify_for(paths, self.bundle, self.pin, LATER)
        plan = installation.plan_for(verified, paths)
        installation.install(
            verified, plan, paths, lambda: AuditLog.open(paths, "cli", SystemClock(), spare=True), "user:test"
        )


def _relative(call: Call, site: str) -> Call:
    def below(path: str) -> str:
        return os.path.relpath(path, site) if path.startswith("/") else path

    return replace(call, path=below(call.path), other=below(call.other) if call.name == "rename" else call.other)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return Recorded(tmp_path_factory.mktemp("recorded"))


@pytest.mark.integration
def test_the_recorded_calls_lead_to_the_new_site(recorded):
    final = recorded.crashes.final()
    assert recorded.crashes.tree(final)["current"] == "generations/2"
    assert recorded.problems(final) == []
    assert recorded.problems(recorded.before) == []


@pytest.mark.integration
def test_a_power_cut_leaves_the_old_site_or_the_new_one(recorded, tmp_path):
    states = [state for _, state in recorded.crashes.states()]
    assert len(states) > 1000
    wrong = [(how, found) for how, state in recorded.crashes.states() if (found := recorded.problems(state))]
    assert not wrong, f"{len(wrong)} of {len(states)} states: {wrong[:3]}"
    for number, state in enumerate(states[:: -(-len(states) // ON_DISK)]):
        paths = recorded.put_on_disk(state, tmp_path / f"site-{number}")
        recorded.install_again(paths)
        assert generations.current_number(paths) in (2, 3)
        held = transfer.held(paths.store)
        assert transfer.whole(paths.store, held) == held


@pytest.mark.integration
@pytest.mark.parametrize("forgotten", ["fsync", "syncfs"])
def test_an_installation_that_forgot_to_sync_would_be_found_out(recorded, monkeypatch, forgotten):
    calls = [call for call in recorded.calls if call.name != forgotten]
    forgetful = Crashes(recorded.before.names, recorded.content, operations_of(calls, recorded.numbers))
    monkeypatch.setattr(recorded, "crashes", forgetful)
    assert any(recorded.problems(state) for _, state in forgetful.states())


def test_names_and_data_are_lost_apart():
    def call(name, path, other="", inode=7, data=b"", offset=0):
        return Call(name, path, other, inode, offset, len(data), 0, data)

    calls = [call("create", "new", "new"), call("write", "new", data=b"abcd"), call("rename", "old", "new")]

    def contents(calls):
        crashes = Crashes({"old": 1}, {1: b"before"}, operations_of(calls, {1: 1}))
        return {
            crashes.bytes_of(int(state.names["old"]), *state.cuts.get(int(state.names["old"]), (0, False)))
            for _, state in crashes.states()
            if "old" in state.names
        }

    assert contents(calls) == {b"before", b"", b"ab", b"abcd"}
    synced = [*calls[:2], call("fsync", "new"), calls[2]]
    assert contents(synced) == {b"before", b"abcd"}
    assert sha256(b"abcd") in {sha256(data) for data in contents([*calls, call("syncfs", ".")])}
