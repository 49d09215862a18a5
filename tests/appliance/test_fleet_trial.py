"""A switch on trial, as a file that a shell and Python read alike; and what a host does around the step."""

import subprocess
from pathlib import Path

import pytest

from plugsky.core.paths import SitePaths
from plugsky.fleet import trial
from plugsky.fleet.host_switch import HostSwitch, is_provisioned
from plugsky.fleet.trial import Trial
from plugsky_bundles.errors import HealthCheckFailed, InstallError

GUARD = Path(__file__).parents[2] / "playbooks/roles/appliance/files/guard.sh"


@pytest.fixture
def paths(tmp_path):
    return SitePaths.at(tmp_path)


def test_a_trial_is_read_as_it_was_written(paths):
    assert trial.read(paths) is None
    trial.begin(paths, 1, 2)
    found = trial.read(paths)
    assert (found.state, found.came_from, found.to, found.boots) == ("switching", 1, 2, 0)
    assert found.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    trial.settle(paths, 1, 2)
    assert trial.read(paths).state == "probation"
    trial.end(paths)
    assert trial.read(paths) is None


@pytest.mark.parametrize(
    "text", ["", "state=switching\n", "no line", "state=x\nfrom=1\nto=2\nboot=b\nuntil=3\nboots=0\n"]
)
def test_what_is_no_trial_is_refused(text):
    with pytest.raises(ValueError):
        Trial.parse(text)


def test_every_line_is_one_that_the_guard_knows(paths):
    trial.begin(paths, 1, 2)
    names = {line.partition("=")[0] for line in (paths.root / trial.FILE).read_text().splitlines()}
    script = GUARD.read_text()
    assert all(f"      {name}) {name}=$value ;;" in script for name in names)


def test_the_guard_is_posix_shell():
    subprocess.run(["dash" if Path("/bin/dash").exists() else "sh", "-n", str(GUARD)], check=True)


def test_only_a_site_that_root_was_told_to_serve_is_provisioned(paths, tmp_path):
    assert not is_provisioned(paths, tmp_path)
    assert not is_provisioned(SitePaths.at(Path("/var/lib/plugsky")), tmp_path / "missing")


class Generation:
    """As much of a generation as the steps look at."""

    def __init__(self, number):
        self.number = number


@pytest.fixture
def host(paths, tmp_path):
    """A site on generation 1 whose guard notes that it was run, and what its answers are."""
    (tmp_path / "generations/1").mkdir(parents=True)
    (tmp_path / "current").symlink_to("generations/1")
    guard = tmp_path / "guard"

    def make(answer="", script="exit 0"):
        guard.write_text(f"#!/bin/sh\necho ran >>{tmp_path}/runs\n{script}\n")
        guard.chmod(0o755)
        return HostSwitch(paths, lambda _: answer, guard=guard)

    return make


def test_the_trial_is_there_before_the_step_and_a_probation_after_the_answer(host, paths, tmp_path):
    switch = host()
    switch.before(Generation(2))
    assert trial.read(paths).state == "switching"
    switch.after(Generation(2), None)
    assert trial.read(paths).state == "probation"
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_the_current_generation_again_is_no_trial(host, paths):
    switch = host()
    switch.before(Generation(1))
    switch.after(Generation(1), None)
    assert trial.read(paths) is None


@pytest.mark.parametrize("script", ["exit 0", "echo no such unit >&2; exit 1"])
def test_what_does_not_answer_goes_back_or_leaves_the_trial_to_the_guard(host, paths, monkeypatch, script):
    back = []
    monkeypatch.setattr("plugsky.fleet.generations.activate", lambda _, number, **__: back.append(number))
    switch = host("the gateway is silent", script)
    switch.before(Generation(2))
    with pytest.raises(HealthCheckFailed if script == "exit 0" else InstallError) as refused:
        switch.after(Generation(2), None)
    assert back == [1]
    assert ("the gateway is silent" if script == "exit 0" else "no such unit") in refused.value.why
    assert (trial.read(paths) is None) == (script == "exit 0")
