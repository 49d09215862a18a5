"""A demo that is killed at any arrow, or interrupted with Ctrl-C, is finished by running it again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.journey
ROOT = Path(__file__).parents[2]
STEPS = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One directory for all demos of this module: what a killed one left is what the next one finds."""
    return tmp_path_factory.mktemp("demo")


def start(place):
    return subprocess.Popen(
        [sys.executable, "-m", "plugsky", "demo", "--dir", str(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
    )


def wait_for_step(process, number):
    """Read the demo's talk until it begins that step."""
    for line in process.stderr:
        if line.startswith(f"[{number}]"):
            return
    pytest.fail(f"the demo ended before step {number}")


def left_over(place):
    """Processes of the demo's site that still run."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if str(place) in line and "plugsky" in line]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_demo_killed_in_any_step_leaves_no_process_behind(place, step):
    process = start(place)
    wait_for_step(process, step)
    time.sleep(0.1 * step)  # another moment of each step
    process.kill()  # only the demo itself: what it started must notice by itself
    process.communicate()
    deadline = time.monotonic() + 60
    while left_over(place) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_over(place) == []


def test_a_demo_interrupted_with_ctrl_c_ends_with_130_and_says_so(place):
    process = start(place)
    wait_for_step(process, 8)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert left_over(place) == []


def test_after_all_that_it_ends_with_the_answer(place):
    done = subprocess.run(
        [sys.executable, "-m", "plugsky", "demo", "--dir", str(place), "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["answer"]
    assert told["completion_tokens"] > 0
    assert len(told["steps"]) == STEPS
    assert re.search(r"\[12\] doctor", done.stderr)
