"""What systemd says of engines, read; and nobody started by looking."""

import asyncio
import stat

import pytest

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.engine.life.units import UnitsOfHost, UnitView, read_units


def block(model, **values):
    told = {"LoadState": "loaded", "SubState": "", "MainPID": "0", "NRestarts": "0", "Result": "success"}
    told |= {"StatusText": "", **values}
    return "\n".join([f"Id=plugsky-engine@{model}.service", *(f"{name}={value}" for name, value in told.items())])


@pytest.mark.parametrize(
    ("values", "view"),
    [
        ({"ActiveState": "inactive"}, UnitView("absent")),
        ({"ActiveState": "activating", "MainPID": "7"}, UnitView("loading", 7)),
        ({"ActiveState": "active", "MainPID": "7", "StatusText": "serving"}, UnitView("ready", 7)),
        ({"ActiveState": "active", "StatusText": "refusing: no memory"}, UnitView("absent", problem="no memory")),
        ({"ActiveState": "deactivating", "MainPID": "7"}, UnitView("retiring", 7)),
        ({"ActiveState": "failed", "Result": "signal"}, UnitView("crashed", problem="its process ended: signal")),
        (
            {"ActiveState": "activating", "SubState": "auto-restart", "Result": "core-dump", "NRestarts": "3"},
            UnitView("crashed", restarts=3, problem="its process ended: core-dump"),
        ),
        ({"ActiveState": "something new"}, UnitView("absent")),
    ],
    ids=lambda value: value.get("ActiveState") if isinstance(value, dict) else "",
)
def test_a_unit_says_how_its_engine_stands(values, view):
    assert read_units(block("m", **values)) == {"plugsky-engine@m.service": view}


def test_several_units_are_told_apart():
    found = read_units(block("a", ActiveState="active", MainPID="3") + "\n\n" + block("b", ActiveState="inactive"))
    assert [view.state for view in found.values()] == ["ready", "absent"]


def systemctl(tmp_path, script):
    path = tmp_path / "systemctl"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def table(tmp_path, script, models=("m",)):
    units = UnitsOfHost(models, lambda model: tmp_path / f"{model}.sock", systemctl(tmp_path, script))
    return asyncio.run(units.engines())


def test_an_engine_that_is_not_running_is_not_asked_and_so_not_started(tmp_path):
    engines = table(tmp_path, f"cat <<'END'\n{block('m', ActiveState='inactive')}\nEND")
    assert engines["m"].state == "absent"


def test_a_model_that_systemd_does_not_know_is_absent(tmp_path):
    assert table(tmp_path, "true")["m"].state == "absent"


def test_without_models_nobody_is_asked(tmp_path):
    assert table(tmp_path, "exit 1", ()) == {}


@pytest.mark.parametrize("script", ["exit 1", "exec /nowhere"])
def test_a_systemd_that_does_not_answer_is_named(tmp_path, script):
    with pytest.raises(PlugskyError) as refused:
        table(tmp_path, script)
    assert refused.value.kind is ErrorKind.UNREACHABLE
    assert "systemctl status" in refused.value.next
