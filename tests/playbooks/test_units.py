"""The units as files: what they promise is there, and each is exposed no more than it must be."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "playbooks/roles/appliance/files/units"
NAMES = {
    "engine.socket": "plugsky-engine@.socket",
    "engine.service": "plugsky-engine@.service",
    "gateway.service": "plugsky-gateway.service",
    "gateway-control.socket": "plugsky-gateway-control.socket",
    "admin.service": "plugsky-admin.service",
    "admin.socket": "plugsky-admin.socket",
    "guard.service": "plugsky-guard.service",
    "guard.path": "plugsky-guard.path",
}
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")


def directives(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_every_unit_is_put_in_place_under_its_name():
    tasks = (UNITS.parents[1] / "tasks/units.yml").read_text()
    assert sorted(path.name for path in UNITS.iterdir()) == sorted(NAMES)
    for source, name in NAMES.items():
        assert f"{{from: {source}, to: {name}}}" in tasks.replace('"', "")


@pytest.mark.parametrize("name", ["engine.service", "gateway.service", "admin.service"])
def test_a_process_runs_as_a_static_user_without_capabilities_and_comes_back_for_ever(name):
    unit = directives(name)
    assert unit["User"][0].startswith("plugsky-")
    assert "DynamicUser" not in unit
    assert unit["CapabilityBoundingSet"] == [""]
    assert (unit["Restart"], unit["RestartSec"], unit["StartLimitIntervalSec"]) == (["on-failure"], ["1"], ["0"])


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".socket")])
def test_no_number_of_crashes_closes_a_socket(name):
    assert directives(name)["TriggerLimitIntervalSec"] == ["0"]


def test_an_engine_has_no_network_and_of_devices_gpus_only():
    unit = directives("engine.service")
    assert unit["PrivateNetwork"] == ["yes"]
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert unit["DevicePolicy"] == ["closed"]
    assert all(device.startswith("char-") for device in unit["DeviceAllow"])


@needs_systemd
@pytest.mark.integration
@pytest.mark.parametrize(("name", "most"), [("engine.service", 1.0), ("gateway.service", 1.5), ("admin.service", 1.5)])
def test_the_exposure_that_systemd_computes_is_within_its_bound(tmp_path, name, most):
    unit = tmp_path / NAMES[name]
    shutil.copy(UNITS / name, unit)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(said.rpartition("Overall exposure level for ")[2].split(": ")[1].split()[0]) <= most
