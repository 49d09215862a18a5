"""What an engine tells systemd, by its protocol (sd_notify(3)): lines of ``NAME=value`` in one datagram.

Without ``NOTIFY_SOCKET`` nothing is said. The socket is connected before the process leaves the network: an address in
the abstract namespace is one of the network namespace it is looked up in. Whoever does not read, or is gone, is not
waited for: a lost sign of life is followed by another.

The end is bounded by the unit's ``TimeoutStopSec``: systemd counts it from ``STOPPING=1`` on as if it had sent SIGTERM
itself, and kills the process that hangs at its exit. While requests run to their ends, more of it is asked for.
"""

import contextlib
import os
import socket

from plugsky.core import env

LOAD_S = 60
"""Seconds that systemd is asked to wait for each further sign of a model's loading."""


END_S = 30
"""Seconds that systemd is asked to wait for the end after each sign that requests still run."""


class Notifier:
    """The line to systemd, or to nobody."""

    def __init__(self, address: str | None) -> None:
        self._socket: socket.socket | None = None
        if not address:
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            self.close()

    @classmethod
    def of_this_process(cls) -> "Notifier":
        """The line that the environment names."""
        return cls(env.NOTIFY_SOCKET.read())

    def loading(self, fraction: float) -> None:
        """The model is being read; more time is asked for."""
        self._say(f"STATUS=loading, {fraction:.0%}", f"EXTEND_TIMEOUT_USEC={LOAD_S * 1_000_000}")

    def ready(self, status: str) -> None:
        """Every peer gets an answer from now on, if only a refusal."""
        self._say("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def alive(self) -> None:
        """No step hangs: the sign that ``WatchdogSec`` waits for."""
        self._say("WATCHDOG=1")

    def stopping(self) -> None:
        """Nothing more is accepted."""
        self._say("STOPPING=1")

    def finishing(self) -> None:
        """Nothing more is accepted, but what runs has not ended."""
        self._say(f"EXTEND_TIMEOUT_USEC={END_S * 1_000_000}")

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.send("\n".join(lines).encode())
