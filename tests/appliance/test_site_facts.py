"""What a site says of itself and its host: read, never guessed."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plugsky.admin.facts import FilesOfSite, clock_duties, disk_duties, generation_duties
from plugsky.core.clock import SystemClock
from plugsky.core.paths import SitePaths
from plugsky.fleet.generations import Generation
from plugsky_bundles import ceremony
from plugsky_bundles.state import TrustState

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def believed(tmp_path):
    ceremony.init(tmp_path / "trust", b"secret", now=NOW)
    return TrustState((tmp_path / "trust/metadata/1.root.json").read_bytes(), time=NOW)


def test_a_fresh_root_and_a_right_clock_ask_nothing_of_anyone(believed):
    assert clock_duties(believed, NOW) == []


@pytest.mark.parametrize(
    ("days", "severity"),
    [pytest.param(5 * 365 - 30, "warning", id="soon"), pytest.param(5 * 365 + 1, "alarm", id="over")],
)
def test_a_root_near_its_end_is_a_duty(believed, days, severity):
    (duty,) = clock_duties(believed, NOW + timedelta(days=days))
    assert (duty.id, duty.severity) == ("root-expiry", severity)


def test_a_clock_behind_an_accepted_bundle_is_an_alarm(believed):
    (duty,) = clock_duties(believed, NOW - timedelta(hours=1))
    assert (duty.id, duty.severity) == ("clock-behind", "alarm")


@pytest.mark.parametrize(
    ("free", "severities"),
    [
        pytest.param(50, [], id="half free"),
        pytest.param(9, ["warning"], id="nine per cent"),
        pytest.param(2, ["alarm"], id="two per cent"),
        pytest.param(None, [], id="unknown"),
    ],
)
def test_a_full_disk_is_a_duty(free, severities):
    assert [duty.severity for duty in disk_duties(free, 100, "/site")] == severities


def test_a_site_without_an_installation_has_an_identity_and_no_models(tmp_path):
    facts = FilesOfSite(SitePaths.at(tmp_path), SystemClock())
    assert facts.identity().generation == 0
    assert facts.models() == ()
    assert facts.duties() == () or {duty.id for duty in facts.duties()} == {"disk-full"}


def test_a_damaged_trust_state_is_a_duty_and_hides_no_other(tmp_path):
    paths = SitePaths.at(tmp_path)
    paths.trust.mkdir()
    paths.trust_state.write_bytes(b"{")
    damage, *others = FilesOfSite(paths, SystemClock()).duties()
    assert (damage.id, damage.severity) == ("damaged-trust", "alarm")
    assert {duty.id for duty in others} <= {"disk-full"}


def test_the_hosts_memory_and_disk_are_read():
    host = FilesOfSite(SitePaths.at("/"), SystemClock()).host()
    assert host.memory_total
    assert host.memory_used
    assert host.disk_total
    assert 0 < host.memory_used < host.memory_total


def test_a_busy_processor_shows_between_two_readings():
    facts = FilesOfSite(SitePaths.at("/"), SystemClock())
    facts.host()
    facts.duties()  # asks for the disk only, and takes no reading of the processor away
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    busy = facts.host().cpu_fraction
    assert busy is not None
    assert 0 < busy <= 1


def generation(number):
    return Generation(number, Path("/g"), "demo", number, "b", "c", "r", "", {})


@pytest.mark.parametrize(
    ("running", "current", "duties"),
    [
        pytest.param(1, 2, ["restart"], id="another was installed"),
        pytest.param(2, 2, [], id="the same"),
        pytest.param(None, 1, [], id="nothing ran before"),
    ],
)
def test_a_newly_installed_generation_asks_for_a_restart(running, current, duties):
    found = generation_duties(running and generation(running), generation(current))
    assert [duty.id for duty in found] == duties
