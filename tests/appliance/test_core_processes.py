"""A child that is asked to end: by its supervisor, and by the kernel when that is killed."""

import asyncio
import os
import signal
import subprocess
import sys
import time

from plugsky.core import processes

CHILD = """
import asyncio, sys
from plugsky.core.processes import die_with_parent, on_wish_to_end

async def main():
    on_wish_to_end(asyncio.get_running_loop(), lambda: print("asked", flush=True))
    assert die_with_parent(int(sys.argv[1]))
    print("ready", flush=True)
    await asyncio.sleep(0.4)
    while True:
        await asyncio.sleep(0.1)
        if parent_is_gone():
            await asyncio.sleep(0.3)
            return

def parent_is_gone():
    import os
    return os.getppid() != int(sys.argv[1])

asyncio.run(main())
"""

PARENT = """
import os, subprocess, sys, threading, time
for _ in range(16):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())])
time.sleep(60)
"""


def test_the_end_of_a_parent_of_many_threads_is_one_wish():
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "ready\n"
            parent.kill()
            assert parent.stdout.read() == "asked\n"


async def test_a_second_wish_is_heard_when_it_is_not_the_first_one_s_echo(monkeypatch):
    monkeypatch.setattr(processes, "ONE_WISH_S", 0.2)
    loop = asyncio.get_running_loop()
    wishes: list[float] = []
    processes.on_wish_to_end(loop, lambda: wishes.append(time.monotonic()))
    try:
        for pause, expected in ((0.01, 1), (0.01, 1), (0.25, 1), (0.01, 2)):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)
            assert len(wishes) == expected
            await asyncio.sleep(pause)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)


def test_a_server_may_open_as_many_descriptors_as_its_host_lets_it():
    code = (
        "import resource as r; from plugsky.core.processes import allow_descriptors as a;"
        "r.setrlimit(r.RLIMIT_NOFILE, (100, 300)); a(); print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told == "300 300\n"


def test_a_limit_that_is_high_enough_stays(monkeypatch):
    changed = []
    monkeypatch.setattr(processes.resource, "getrlimit", lambda _: (200_000, 500_000))
    monkeypatch.setattr(processes.resource, "setrlimit", lambda *given: changed.append(given))
    assert processes.allow_descriptors() == processes.DESCRIPTORS
    assert changed == []
