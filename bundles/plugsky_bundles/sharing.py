"""Whom a file of the site is for: its owner alone, or the processes of the site that share a group.

A site of one user keeps everything to that user. On a host the gateway and Admin are users of their own, and what both
need lies in set-group-ID directories (inode(7)): what is made there belongs to the directory's group. So a directory
says it all: a file in one with that bit gives the group what the directory gives it, any other file is its owner's. The
mode is set whatever the process's umask is, so that it does not matter who was first.
"""

import os
import stat
from pathlib import Path
from typing import Final

_GROUP: Final = 0o060
_OTHERS: Final = 0o007


def file_mode(folder: Path) -> int:
    """The mode of a file in ``folder``: 0600, and where the folder is shared also the group's rights."""
    mode = folder.stat().st_mode
    return 0o600 | (mode & _GROUP if mode & stat.S_ISGID else 0)


def is_open_to_others(status: os.stat_result, folder: os.stat_result) -> bool:
    """Whether more may touch a file than ``folder``, which it lies in, says."""
    shared = folder.st_mode & stat.S_ISGID and status.st_gid == folder.st_gid
    return bool(status.st_mode & (_OTHERS if shared else _OTHERS | 0o070))


def open_private(path: Path, flags: int) -> int:
    """A descriptor of ``path``, made where it is not there, with the mode that its folder gives. Raises OSError."""
    flags |= os.O_CLOEXEC
    mode = file_mode(path.parent)
    try:
        made = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        return os.open(path, flags)
    try:
        os.fchmod(made, mode)
    except BaseException:
        os.close(made)
        raise
    return made
