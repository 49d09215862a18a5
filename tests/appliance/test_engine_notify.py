"""What an engine tells systemd: the lines of sd_notify(3), to a path or an abstract address; nobody is waited for."""

import os
import socket

import pytest

from plugsky.engine.serving.notify import Notifier

ADDRESSES = {
    "a path": lambda folder: (str(folder / "n"), str(folder / "n")),
    "an abstract address": lambda _folder: (f"@plugsky-{os.getpid()}", f"\0plugsky-{os.getpid()}"),
}


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES.keys())
def test_each_state_is_one_datagram(tmp_path, monkeypatch, address):
    named, bound = address(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", named)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(bound)
        notifier = Notifier.of_this_process()
        notifier.loading(0.4)
        notifier.ready("serving")
        notifier.alive()
        notifier.stopping()
        notifier.finishing()
        said = [systemd.recv(4096).decode().split("\n") for _ in range(5)]
        notifier.close()
    assert said == [
        ["STATUS=loading, 40%", "EXTEND_TIMEOUT_USEC=60000000"],
        ["READY=1", "STATUS=serving", f"MAINPID={os.getpid()}"],
        ["WATCHDOG=1"],
        ["STOPPING=1"],
        ["EXTEND_TIMEOUT_USEC=30000000"],
    ]


def test_nobody_to_tell_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    for notifier in (Notifier.of_this_process(), Notifier(str(tmp_path / "missing"))):
        notifier.alive()
        notifier.close()


def test_a_listener_that_does_not_read_is_not_waited_for(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        notifier = Notifier(str(tmp_path / "n"))
        for _ in range(10_000):
            notifier.alive()
        notifier.close()
