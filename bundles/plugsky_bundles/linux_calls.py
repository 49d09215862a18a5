"""Two calls of Linux that Python's `os` lacks: fallocate(2) and syncfs(2).

`os.posix_fallocate` is no substitute: where a file system cannot reserve space, the C library writes a byte into every
block instead, which would write the whole file a second time.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_LIBC.syncfs.argtypes = (ctypes.c_int,)
_CANNOT: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def reserve(descriptor: int, length: int) -> bool:
    """Reserve `length` bytes for a file, from its start; False where the file system cannot. Raises OSError (ENOSPC).

    The file has at least that length afterwards; what was not written reads as zeros.
    """
    if _LIBC.fallocate(descriptor, 0, 0, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number))


def sync_file_system(descriptor: int) -> None:
    """Put on disk all that was written to the file system of `descriptor`, names included. Raises OSError.

    From Linux 5.8 on it also reports what could not be written since `descriptor` was opened: open it first.
    """
    if _LIBC.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
