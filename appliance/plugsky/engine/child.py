"""A child process that works on bytes nobody has vouched for: asked over pipes, given bounded time, killed.

On the pipes each message is a u32 length, big-endian, then that many bytes. Used from one thread.
"""

import contextlib
import os
import select
import struct
import subprocess
import sys
import time
from typing import BinaryIO, Final

from plugsky.core import env

LENGTH: Final = struct.Struct(">I")


class ChildDiedError(Exception):
    """The child ended instead of answering; ``returncode`` is as :class:`subprocess.Popen` has it."""

    def __init__(self, returncode: int | None) -> None:
        super().__init__(f"the child ended with {returncode}")
        self.returncode = returncode


class Child:
    """One process that runs ``module`` and answers there with :func:`reply`."""

    def __init__(self, module: str) -> None:
        # What the work raises may hold a prompt, so the child has no stderr.
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=env.for_child(),
        )
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)

    @property
    def lives(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, question: bytes, limit_s: float) -> bytes:
        """The answer. After TimeoutError or :class:`ChildDiedError` the child is gone."""
        deadline = time.monotonic() + limit_s
        try:
            self._write(question, deadline)
            return self._read(deadline)
        except TimeoutError:
            self.close()
            raise
        except (OSError, EOFError) as error:
            self.close()
            raise ChildDiedError(self._process.returncode) from error

    def close(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _write(self, body: bytes, deadline: float) -> None:
        if self._process.stdin is None:
            raise BrokenPipeError
        descriptor = self._process.stdin.fileno()
        data = memoryview(LENGTH.pack(len(body)) + body)
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        while data:
            if poll.poll(_left_ms(deadline)):
                data = data[os.write(descriptor, data[: 1 << 16]) :]

    def _read(self, deadline: float) -> bytes:
        if self._process.stdout is None:
            raise EOFError
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        data = bytearray()
        wanted = LENGTH.size
        while len(data) < wanted:
            if not poll.poll(_left_ms(deadline)):
                continue
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise EOFError
            data += part
            if wanted == LENGTH.size and len(data) >= wanted:
                wanted += LENGTH.unpack_from(data)[0]
        return bytes(data[LENGTH.size :])


def _left_ms(deadline: float) -> int:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return int(left * 1000) + 1


# -- in the child ----------------------------------------------------------------------------------------------------


def next_question(pipe: BinaryIO) -> bytes | None:
    """The next message; None when the pipe is closed."""
    head = pipe.read(LENGTH.size)
    return pipe.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


def reply(*parts: bytes) -> None:
    """Answer a message."""
    for part in (LENGTH.pack(sum(map(len, parts))), *parts):
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
