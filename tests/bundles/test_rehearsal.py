"""Before anybody signs, the parts are installed once where there is no network; what fails there never travels."""

import hashlib
import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from bundles.wheel_forge import wheel_files, with_record, write_wheel, zipped
from plugsky_builder import build as building
from plugsky_builder import recipe as recipes
from plugsky_builder import rehearsal, rehearsal_host, system_tools, work
from plugsky_builder.pack import Material
from plugsky_builder.rehearsal import HERE, Outcome, Rehearsal
from plugsky_builder.targets import Target
from plugsky_bundles import ceremony
from plugsky_bundles.errors import RehearsalFailed, SourceError
from plugsky_bundles.progress import silent

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PASSPHRASE = b"correct horse"
TARGET = Target("debian-13", "amd64", "3.13")


def material(path: str, content: Path | bytes) -> Material:
    data = content if isinstance(content, bytes) else content.read_bytes()
    return Material(path, content, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A folder with pip's own wheel, and one that brings a command `plugsky`."""
    folder = tmp_path_factory.mktemp("wheels")
    pip_wheel(folder)
    command_wheel(folder, "print('plugsky 9.9')")
    return folder


def pip_wheel(folder: Path) -> Path:
    """The wheel of the pip that is installed here."""
    pip = metadata.distribution("pip")
    files = {
        str(name): Path(str(pip.locate_file(name))).read_bytes()
        for name in pip.files or ()
        if name.parts[0] == "pip" and name.suffix != ".pyc"
    }
    return write_wheel(folder, "pip", pip.version, files)


def command_wheel(folder: Path, does: str) -> Path:
    """A wheel whose command `plugsky` does that."""
    module = f"def main():\n    {does}\n".encode()
    points = b"[console_scripts]\nplugsky = tiny:main\n"
    members = with_record(wheel_files("plugsky", "9.9", {"tiny.py": module}, info={"entry_points.txt": points}))
    return zipped(folder / "plugsky-9.9-py3-none-any.whl", members)


def python_parts(wheels: Path, folder: str = "python") -> list[Material]:
    found = [material(f"{folder}/{path.name}", path) for path in sorted(wheels.glob("*.whl"))]
    lock = "".join(
        f"{path.name.split('-')[0]}=={path.name.split('-')[1]} --hash=sha256:{item.sha256}\n"
        for path, item in zip(sorted(wheels.glob("*.whl")), found, strict=True)
    )
    return [*found, material(f"{folder}/requirements.txt", lock.encode())]


def needs_a_namespace():
    if why := rehearsal_host.obstacle(root=False):
        pytest.skip(why)


def rehearse(parts, cache, **options):
    return rehearsal.rehearse(parts, (), None, cache, silent, **options)


def test_the_record_is_the_same_but_for_the_time_it_took():
    one, two = (Outcome("t", "h", ("python",), {"b": "2", "a": "1"}, seconds=s) for s in (1.0, 9.0))
    first, second = (json.loads(Rehearsal((outcome,)).evidence()[0].content) for outcome in (one, two))
    assert first.pop("seconds") == {"t": 1}
    assert second.pop("seconds") == {"t": 9}
    assert first == second
    assert first["targets"][0]["rehearsed"] is True


def test_a_bundle_with_nothing_to_install_has_nothing_to_rehearse(cache):
    found = rehearse([material("models/m/m.gguf", b"x")], cache, required=True)
    assert found.evidence() == []


def test_why_there_was_no_rehearsal_is_recorded(cache):
    found = rehearse([material("python/requirements.txt", b"")], cache, off="done elsewhere")
    (evidence,) = found.evidence()
    assert json.loads(evidence.content)["targets"] == [{"target": HERE, "rehearsed": False, "why": "done elsewhere"}]


def test_a_machine_without_namespaces_does_not_stop_a_build_unless_told_to(cache, monkeypatch):
    monkeypatch.setattr(rehearsal_host, "obstacle", lambda **_: "this machine allows none")
    parts = [material("python/requirements.txt", b"")]
    assert rehearse(parts, cache).missing[0].why.endswith("this machine allows none")
    with pytest.raises(RehearsalFailed, match=r"allows none.*--require-rehearsal"):
        rehearse(parts, cache, required=True)


def test_a_target_of_another_architecture_is_not_rehearsed(cache):
    target = Target("debian-13", "arm64", "3.13")
    parts = [material(f"python/{target.folder}/requirements.txt", b"")]
    found = rehearsal.rehearse(parts, [target], None, cache, silent)
    assert "the target is aarch64" in found.missing[0].why


def test_a_tool_that_is_missing_names_its_package():
    with pytest.raises(SourceError, match="apt-get install nowhere"):
        system_tools.find("no-such-tool", "nowhere")


def is_running(number):
    """Whether the process `number` lives: not gone, and not a dead one that nobody has waited for."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # ended before the look, or in the middle of it
        return False


@pytest.mark.integration
def test_a_tool_that_hangs_is_ended_with_its_children(tmp_path):
    started = tmp_path / "child"
    script = f"sleep 600 & echo $! > {started}; wait"
    with pytest.raises(SourceError, match="took too long"):
        system_tools.run(["/bin/sh", "-c", script], seconds=5)
    child = int(started.read_text())
    for _ in range(500):  # the signal has been sent; the kernel ends the child when it next gives it a turn
        if not is_running(child):
            break
        time.sleep(0.01)
    assert not is_running(child)


@pytest.mark.integration
def test_a_tool_hears_nothing_of_the_passphrase(monkeypatch):
    monkeypatch.setenv("PLUGSKY_PASSPHRASE", "correct horse")
    for inherited in (True, False):
        said = system_tools.run(["/usr/bin/env"], seconds=10, inherited=inherited)
        assert b"correct horse" not in said.out


@pytest.mark.integration
def test_the_parts_are_installed_and_their_command_runs_without_a_network(wheels, cache):
    needs_a_namespace()
    found = rehearse(python_parts(wheels), cache, required=True)
    (outcome,) = found.outcomes
    assert outcome.steps == ("network", "python", "plugsky")
    assert outcome.facts["plugsky"] == "plugsky 9.9"
    assert outcome.facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert not (cache.root / "work" / rehearsal.WORK).exists()


@pytest.mark.integration
def test_the_same_parts_are_not_installed_twice_and_other_ones_are(wheels, cache, monkeypatch):
    needs_a_namespace()
    parts = python_parts(wheels)
    first = rehearse(parts, cache)
    calls = []
    monkeypatch.setattr(rehearsal_host, "run_here", lambda *given: calls.append(given))
    assert rehearse(parts, cache).outcomes[0].to_json() == first.outcomes[0].to_json()
    assert calls == []
    with pytest.raises(AttributeError):
        rehearse([*parts, material("python/more.whl", b"more")], cache)
    assert len(calls) == 1


@pytest.mark.integration
def test_a_wheel_that_is_not_the_locked_one_stops_the_build(wheels, cache, tmp_path):
    needs_a_namespace()
    other = command_wheel(tmp_path, "print('other')")
    parts = [m for m in python_parts(wheels) if "plugsky" not in m.path] + [material(f"python/{other.name}", other)]
    with pytest.raises(RehearsalFailed, match="fails at the step 'python'") as failed:
        rehearse(parts, cache)
    log = Path(failed.value.next.split()[-7].rstrip(";"))
    assert "DO NOT MATCH THE HASHES" in log.read_text()


@pytest.mark.integration
def test_a_command_that_does_not_start_stops_the_build(wheels, cache, tmp_path):
    needs_a_namespace()
    for wheel in wheels.glob("pip-*.whl"):
        (tmp_path / wheel.name).write_bytes(wheel.read_bytes())
    command_wheel(tmp_path, "import socket; socket.create_connection(('192.0.2.1', 443), timeout=5)")
    with pytest.raises(RehearsalFailed, match=r"step 'plugsky'.*Network is unreachable"):
        rehearse(python_parts(tmp_path), cache)


@pytest.mark.integration
def test_where_there_is_a_network_nothing_is_rehearsed(tmp_path):
    others = [line for line in Path("/proc/net/dev").read_text().splitlines() if ":" in line and "lo:" not in line]
    if not others:
        pytest.skip("this machine has no network at all")
    said = subprocess.run(["/bin/sh", rehearsal_host.SCRIPT, tmp_path], capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert "There is a network here" in said.stderr


@pytest.mark.integration
def test_a_failed_rehearsal_leaves_no_bundle(wheels, tmp_path):
    needs_a_namespace()
    house = tmp_path / "wheelhouse"
    house.mkdir()
    for wheel in wheels.glob("pip-*.whl"):
        (house / wheel.name).write_bytes(wheel.read_bytes())
    command_wheel(house, "raise SystemExit(3)")
    version = metadata.version("pip")
    (tmp_path / "lock.txt").write_text(
        f"pip=={version} --hash=sha256:{'0' * 64}\nplugsky==9.9 --hash=sha256:{'0' * 64}\n"
    )
    (tmp_path / "lab.toml").write_text(
        'channel = "lab"\n[python]\nlock = "lock.txt"\ncompiled = ["pip", "plugsky"]\nappliance = false\n'
    )
    trust = tmp_path / "trust"
    ceremony.init(trust, PASSPHRASE, now=NOW)
    with pytest.raises(RehearsalFailed, match="step 'plugsky'"):
        building.build(
            recipes.load(tmp_path / "lab.toml"),
            tmp_path / "out",
            trust,
            cache=tmp_path / "cache",
            wheelhouse=house,
            now=NOW,
        )
    assert not list((tmp_path / "out").glob("*"))
    assert not list((tmp_path / "out").glob(".*.partial"))


@pytest.mark.parametrize(
    ("roles", "written"),
    [
        ((), ["evidence/debs/t/lock.txt", "evidence/rehearsal.json"]),
        (("debs", "models"), ["evidence/rehearsal.json"]),
        (("models",), ["evidence/debs/t/lock.txt", "evidence/rehearsal.json"]),
    ],
    ids=["a whole bundle", "a delta without Debian parts", "a delta with them"],
)
def test_a_delta_leaves_out_the_evidence_of_the_roles_that_it_leaves_out(tmp_path, roles, written):
    base = SimpleNamespace(roles=roles) if roles else None
    evidence = [material("evidence/debs/t/lock.txt", b"lock 1\n"), material("evidence/rehearsal.json", b"{}")]
    work._write_evidence(evidence, tmp_path, base)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == written


def test_what_the_rehearsal_asks_of_the_appliance_and_of_llama_cpp_is_there_to_be_asked():
    asked = re.findall(r"""-I -c '([^']+)'""", rehearsal_host.SCRIPT.read_text())
    assert any("load_kernels" in line for line in asked)
    for line in asked:
        subprocess.run([sys.executable, "-I", "-c", line], check=True, capture_output=True)
