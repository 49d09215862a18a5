"""Child processes of a supervisor: started with a listening socket, watched without a thread, restarted with patience.

The socket is descriptor 3, by systemd's protocol (sd_listen_fds(3)), so that a child cannot tell who started it. A
child is in a process group of its own: Ctrl-C reaches the supervisor only, which then ends its children in order. Linux
only: the exit is seen through a pidfd (pidfd_open(2)), and a child that asked for it ends with its parent (prctl(2)).
"""

import asyncio
import ctypes
import os
import resource
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from plugsky.core import env
from plugsky.core.listeners import FIRST

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
ONE_WISH_S: Final = 1.0
"""Seconds in which signals are one wish to end."""
DESCRIPTORS: Final = 1 << 16
_PR_SET_PDEATHSIG: Final = 1


def pause_s(crashes: int) -> float:
    """Seconds before the restart that follows the ``crashes``-th crash in a row: they double, up to half a minute."""
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(crashes - 1, 16)))


def die_with_parent(parent: int) -> bool:
    """Have the kernel send SIGTERM when the parent ends. False when the parent is not, or no longer, ``parent``.

    ``parent`` is the pid as the parent told it: one that was asked for here could be that of the reaper already.
    Call it after the last change of credentials, which takes the wish back (prctl(2)).
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return os.getppid() == parent


def allow_descriptors() -> int:
    """Let this process open as many descriptors as it may, up to :data:`DESCRIPTORS`; how many that are.

    Many hosts give a process a thousand (``RLIMIT_NOFILE``, getrlimit(2)) for the sake of programs that use select(2),
    and let those that do not help themselves. A server has one for each client.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def on_wish_to_end(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    """Call ``act`` on SIGTERM and SIGINT: once for those that come within :data:`ONE_WISH_S` of the first.

    A parent that is killed is not one signal: while its threads end, the kernel hands its children from one to the
    next and sends what :func:`die_with_parent` asked for each time. Taken for a second wish, which is a less patient
    one, that would cut the answers which the first lets finish.
    """
    heard_at = -ONE_WISH_S

    def hear() -> None:
        nonlocal heard_at
        if loop.time() - heard_at >= ONE_WISH_S:
            heard_at = loop.time()
            act()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, hear)


class Child:
    """One running process. Made by :meth:`spawn`, inside an event loop."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._loop = asyncio.get_running_loop()
        self._status: asyncio.Future[int] = self._loop.create_future()
        self._descriptor = os.pidfd_open(pid)
        self._loop.add_reader(self._descriptor, self._ended)

    @classmethod
    def spawn(cls, command: Sequence[str], listener: socket.socket, log: Path | None = None) -> "Child":
        """Start ``command`` with ``listener`` as descriptor 3. Its output goes to the end of ``log``, or to ours.

        Raises :class:`OSError` when it cannot be started or watched; it does not run then.
        """
        actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_DUP2, listener.fileno(), FIRST)
        ]
        if log is not None:
            actions.append((os.POSIX_SPAWN_OPEN, 2, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            actions.append((os.POSIX_SPAWN_DUP2, 2, 1))
        pid = os.posix_spawn(
            command[0],
            list(command),
            env.for_child(listeners=1),
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
        )
        try:
            return cls(pid)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    async def wait(self) -> int:
        """Its wait status, once it has ended."""
        return await asyncio.shield(self._status)

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def reload(self) -> None:
        """SIGHUP: read again what may have changed."""
        self._signal(signal.SIGHUP)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if not self._status.done():
            signal.pidfd_send_signal(self._descriptor, number)

    def _ended(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._status.set_result(status)


def how_it_ended(status: int) -> str:
    """A wait status in words, for example ``was killed by SIGSEGV``."""
    code = os.waitstatus_to_exitcode(status)
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
