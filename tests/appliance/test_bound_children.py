"""Children of an installation: they end with it, and who comes next waits for them."""

import os
import select
import signal
import subprocess
import sys
import threading

import pytest

from plugsky.core import bound_child
from plugsky.fleet import lock, venv
from plugsky.fleet.interruption import sigterm_interrupts
from plugsky_bundles.errors import Busy
from plugsky_bundles.progress import silent

FAMILY = """
import os, sys, time
from multiprocessing import get_context
def idle(number):
    os.write(int(sys.argv[1]), b"%d\\n" % os.getpid())
    time.sleep(600)
if __name__ == "__main__":
    worker = get_context("fork").Process(target=idle, args=(1,))
    worker.start()
    idle(0)
"""
PARENT = """
import subprocess, sys
from plugsky.core import bound_child
folder, out = sys.argv[1:]
subprocess.run(bound_child.command(sys.executable, "family", out, path=folder), pass_fds=(int(out),))
"""
PATIENCE_S = 30


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_and_its_forks_end_with_a_parent_that_is_killed(tmp_path, number):
    (tmp_path / "family.py").write_text(FAMILY)
    read, write = os.pipe()
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), str(write)], pass_fds=(write,))
    os.close(write)
    with os.fdopen(read) as said:
        family = [os.pidfd_open(int(said.readline())) for _ in range(2)]
        parent.send_signal(number)
        parent.wait()
        for member in family:
            assert select.select([member], [], [], PATIENCE_S)[0], "it runs on"
            os.close(member)


def test_a_child_whose_parent_is_gone_already_does_nothing(tmp_path):
    (tmp_path / "loud.py").write_text("print('here')")
    command = bound_child.command(sys.executable, "loud", path=str(tmp_path))
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"here\n"
    command[command.index(str(os.getpid()))] = "1"
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.integration
def test_an_interrupt_ends_the_whole_group_of_a_child_before_it_goes_on(tmp_path):
    (tmp_path / "family.py").write_text(FAMILY)
    read, write = os.pipe()
    family = []

    class Interrupted(venv._Meter):
        def report(self) -> None:
            if family:
                raise KeyboardInterrupt
            if select.select([read], [], [], 0)[0]:
                family.extend(os.read(read, 100).split())

    meter = Interrupted("compile", tmp_path, "x", 0, silent)
    command = bound_child.command(sys.executable, "family", str(write), path=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        venv._run(command, tmp_path, meter, write)
    os.close(write)
    assert select.select([read], [], [], PATIENCE_S)[0]
    while os.read(read, 100):
        pass  # ends when the last member of the family has closed its end
    os.close(read)


def test_who_inherits_the_lock_of_the_writers_holds_it_and_is_waited_for(tmp_path, monkeypatch):
    with lock.writers_lock(tmp_path) as held:
        heir = os.dup(held)
    monkeypatch.setattr(lock, "CHILDREN_END_S", 0.0)
    with pytest.raises(Busy, match="still written to"), lock.writers_lock(tmp_path):
        pass
    monkeypatch.setattr(lock, "CHILDREN_END_S", 20.0)
    ends = threading.Timer(0.1, os.close, [heir])
    ends.start()
    with lock.writers_lock(tmp_path):
        assert ends.finished.is_set()
    ends.join()


def test_sigterm_is_an_interrupt_while_an_installation_runs_and_nowhere_else():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a measurement of coverage sets a handler of its own
    try:
        with pytest.raises(KeyboardInterrupt), sigterm_interrupts():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_that_somebody_set_stays(monkeypatch):
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    try:
        with sigterm_interrupts():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
