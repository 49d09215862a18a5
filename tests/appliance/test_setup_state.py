"""Second runs and interrupted runs: what is recorded, what is trusted again, and who waits for whom."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from setup import flow, process
from setup.errors import SetupError
from setup.progress import Pacer, Reporter, clock
from setup.state import RECORD, Record, exclusive

ROOT = Path(__file__).resolve().parents[2]


def test_a_finished_step_is_not_done_again_until_its_input_changes(tmp_path):
    with Record(tmp_path).doing("packages", "one", wheel="a.whl"):
        pass
    record = Record(tmp_path)
    assert record.is_done("packages", "one")
    assert not record.is_done("packages", "two")
    assert record.get("wheel") == "a.whl"
    assert not record.in_progress


def test_a_step_that_was_cut_short_leaves_the_environment_marked(tmp_path):
    record = Record(tmp_path)
    with record.doing("packages", "one"):
        pass
    with pytest.raises(OSError, match="cut short"), record.doing("packages", "two"):
        raise OSError("cut short")
    after = Record(tmp_path)
    assert after.in_progress
    assert not after.is_done("packages", "one")
    assert not after.is_done("packages", "two")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"steps": 3, "in_progress": false}'])
def test_a_record_that_cannot_be_read_marks_the_environment(tmp_path, content):
    (tmp_path / RECORD).write_text(content)
    assert Record(tmp_path).in_progress


def test_two_set_ups_do_not_work_at_once(tmp_path):
    lock, waited, order = tmp_path / "lock", threading.Event(), []

    def second() -> None:
        with exclusive(lock, waited.set):
            order.append("second")

    with exclusive(lock, pytest.fail):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def run_shell(script: str, tmp_path: Path) -> list[str]:
    lines: list[str] = []
    process.run_logged(
        ["/bin/sh", "-c", script],
        log=tmp_path / "logs/a.log",
        env={"PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        failure=("It failed.", "do this"),
        on_line=lines.append,
    )
    return lines


def test_a_tool_that_fails_shows_the_end_of_its_log_and_where_the_whole_lies(tmp_path):
    with pytest.raises(SetupError) as caught:
        run_shell("seq 1 100; echo broken >&2; exit 3", tmp_path)
    assert "exited with 3" in caught.value.why
    assert str(tmp_path / "logs/a.log") in caught.value.why
    assert caught.value.detail.endswith("100\nbroken")
    assert len(caught.value.detail.splitlines()) == 25


def test_a_tool_that_is_killed_is_said_to_be(tmp_path):
    with pytest.raises(SetupError, match="SIGILL"):
        run_shell("kill -ILL $$", tmp_path)


def test_every_line_of_a_tool_is_seen_as_it_comes_and_kept(tmp_path):
    assert run_shell("echo one; echo two >&2", tmp_path) == ["one", "two"]
    assert (tmp_path / "logs/a.log").read_text().splitlines()[1:] == ["one", "two"]


def ended(state):
    """Whether the process of this /proc/PID/stat is gone, or waits only for its parent to notice."""
    try:
        return state.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_interrupted_tool_is_ended_with_its_children(tmp_path):
    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run_logged(
            ["/bin/sh", "-c", "sleep 600 & echo $! > child; echo ready; wait"],
            log=tmp_path / "a.log",
            env={"PATH": "/usr/bin:/bin"},
            cwd=tmp_path,
            failure=("It failed.", "do this"),
            on_line=interrupt,
        )
    state = Path(f"/proc/{int((tmp_path / 'child').read_text())}/stat")
    deadline = time.monotonic() + 10  # a killed process takes a moment to go
    while not ended(state):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_log_gets_a_line_per_tenth_and_at_least_one_each_half_minute():
    pacer = Pacer(0.0)
    spoken = [
        (fraction, now) for now, fraction in enumerate([0.01, 0.05, 0.11, 0.12, 0.19, 0.2]) if pacer.due(fraction, now)
    ]
    assert [fraction for fraction, _ in spoken] == [0.11, 0.2]
    assert not pacer.due(None, 34.9)
    assert pacer.due(None, 35.0)


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (67, "1:07"), (3600, "60:00")])
def test_durations_are_written_as_people_read_them(seconds, text):
    assert clock(seconds) == text


def test_a_step_is_reported_whatever_its_end_is(capsys):
    reporter = Reporter(sys.stderr, live=False)
    with reporter.step("Good"):
        pass
    with pytest.raises(OSError, match="x"), reporter.step("Bad"):
        raise OSError("x")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Good ..."
    assert lines[1].startswith("Good: done in")
    assert lines[3].startswith("Bad: stopped after")


def test_cleaning_takes_only_what_it_may(tmp_path):
    for name in (".venv", ".cache/wheels", ".cache/logs", ".mypy_cache", "tests"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".coverage.1").touch()
    assert set(flow.clean(tmp_path, everything=False)) == {".mypy_cache", ".cache/logs", ".coverage.1"}
    assert set(flow.clean(tmp_path, everything=True)) == {".cache", ".venv"}
    assert (tmp_path / "tests").is_dir()


@pytest.mark.integration
def test_it_runs_from_anywhere_and_wrong_usage_exits_with_2():
    done = subprocess.run(
        [sys.executable, str(ROOT / "appliance/setup"), "frobnicate"],
        cwd="/",
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "frobnicate" in done.stderr


@pytest.mark.integration
def test_a_set_up_without_compiler_and_wheel_fails_before_it_fetches_anything(tmp_path):
    checkout = tmp_path / "checkout"
    for name in ("appliance/setup", "bundles/locks"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(ROOT / name), str(checkout / name)], check=True)
    (checkout / "pyproject.toml").touch()
    done = subprocess.run(
        [sys.executable, str(checkout / "appliance/setup")],
        env={"PATH": str(tmp_path), "PIP_INDEX_URL": "http://127.0.0.1:9/simple"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "build-essential" in done.stderr
    assert not (checkout / ".venv").exists()


def test_the_names_of_signals_are_told_from_exit_codes():
    assert process.outcome(-signal.SIGILL) == "was ended by SIGILL"
    assert process.outcome(1) == "exited with 1"
