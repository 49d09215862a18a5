"""What an engine gives up before it reads a model file: the network.

Called while the process has one thread: a network namespace belongs to a thread and is inherited by those it starts,
and the kernel refuses a user namespace to a process with several (unshare(2)). An engine needs no network at all, its
Unix socket is already open. Without root a user namespace of its own gives the right to leave the network. An engine's
systemd unit begins in an empty network namespace, and may not make others. Where there is neither, the engine runs on
and its ``hello`` does not claim ``netns``.
"""

import ctypes
import os
from pathlib import Path
from typing import Final

NETNS: Final = "netns"
"""The capability an engine claims in its ``hello`` once its network namespace is empty."""

_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000


def leave_network(proc: Path = Path("/proc")) -> bool:
    """Be in an empty network namespace from now on. Whether that is so."""
    if _is_alone(proc) or _unshare(_CLONE_NEWNET):
        return True
    uid, gid = os.getuid(), os.getgid()
    if not _unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        return False
    # Without these maps the process would see itself as the overflow user (user_namespaces(7)).
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path("/proc/self", name).write_text(text)
    return True


def _is_alone(proc: Path) -> bool:
    """Whether this process's network has no link but the loopback one (proc_pid_net(5))."""
    rows = (proc / "self/net/dev").read_text().splitlines()[2:]
    return [row.partition(":")[0].strip() for row in rows] == ["lo"]


def _unshare(flags: int) -> bool:
    return int(ctypes.CDLL(None, use_errno=True).unshare(flags)) == 0
