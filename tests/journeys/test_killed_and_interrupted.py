"""A demo that is killed at any arrow, or interrupted with Ctrl-C, is finished by running it again, at once.

Nothing here waits for what a killed demo left behind: the next demo meets it, as it would where a person presses the
arrow key and Enter.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.journey
ROOT = Path(__file__).parents[2]
STEPS = 12
ALONE, WITH_ALL_IT_STARTED = "alone", "with all it started"
KILLS = [  # step, seconds into it, who is killed
    (1, 0.1, WITH_ALL_IT_STARTED),
    (2, 0.5, ALONE),
    (2, 0.9, WITH_ALL_IT_STARTED),
    (6, 2.0, WITH_ALL_IT_STARTED),
    (6, 1.5, ALONE),
    (7, 0.0, ALONE),
    (8, 0.7, WITH_ALL_IT_STARTED),
    (8, 0.9, ALONE),
    (10, 0.2, ALONE),
]


class Demo:
    """One run in a session of its own; what it says goes to a file, so that no orphan of it keeps anyone waiting."""

    def __init__(self, place, *options):
        self.told = place.parent / "told"
        with self.told.open("w") as talk, (place.parent / "answer").open("w") as answer:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "plugsky", "demo", "--dir", str(place), "--json", *options],
                stdout=answer,
                stderr=talk,
                start_new_session=True,
                cwd=ROOT,
            )

    def until_step(self, number):
        while f"\n[{number}] " not in self.told.read_text():
            assert self.process.poll() is None, self.told.read_text()
            time.sleep(0.02)

    def kill(self, whom):
        if whom == ALONE:
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self):
        """Its exit code, once it has ended."""
        return self.process.wait(timeout=300)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One directory for all demos of this module: what a killed one left is what the next one finds."""
    return tmp_path_factory.mktemp("desk") / "demo"


def left_over(place):
    """Processes of the demo's site that still run."""
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if str(place) in line and "plugsky" in line]


def test_a_demo_killed_again_and_again_ends_with_the_answer_when_it_is_run_again_at_once(place):
    waited = []
    for step, moment, whom in KILLS:
        demo = Demo(place)
        demo.until_step(step)
        waited.append("Waiting for the last command" in demo.told.read_text())
        time.sleep(moment)
        demo.kill(whom)
    demo = Demo(place)
    assert demo.end() == 0, demo.told.read_text()
    told = json.loads((place.parent / "answer").read_text().splitlines()[-1])
    assert told["answer"]
    assert told["completion_tokens"] > 0
    assert len(told["steps"]) == STEPS
    assert left_over(place) == []
    assert waited[KILLS.index((7, 0.0, ALONE))], "the installation that the demo before left running was not waited for"


def test_a_demo_interrupted_with_ctrl_c_ends_with_130_and_says_so(place):
    demo = Demo(place)
    demo.until_step(8)
    time.sleep(0.25)  # the interpreter of the step's first command is up: before that, Python shows its own traceback
    os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.end() == 130, demo.told.read_text()
    assert "Traceback" not in demo.told.read_text()
    assert left_over(place) == []


def test_a_question_that_cannot_be_answered_ends_the_demo_and_its_key(place):
    keys = [sys.executable, "-m", "plugsky", "key", "list", "--json", "--root", str(place / "site")]
    before = json.loads(subprocess.run(keys, capture_output=True, text=True, check=True).stdout)["keys"]
    demo = Demo(place, "--question", "word " * 8000)
    assert demo.end() == 1, demo.told.read_text()
    after = json.loads(subprocess.run(keys, capture_output=True, text=True, check=True).stdout)["keys"]
    new = [key for key in after if key["id"] not in {key["id"] for key in before}]
    assert [bool(key["revoked"]) for key in new] == [True]
