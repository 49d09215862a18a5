"""The engine's end of the template child: it asks, waits a bounded time, and kills a child that overstays.

Used from one thread. A killed or crashed child costs one request its answer; the next request starts a new child.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from plugsky.core import env
from plugsky.core.errors import ErrorKind
from plugsky.engine import templates
from plugsky.engine.errors import EngineError, bad_request

RENDER_S: Final = 5.0
"""Seconds one render may take."""
_START_S: Final = 30.0
_REASON: Final = 200
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class Renderer:
    """One killable child for one template."""

    def __init__(
        self,
        template: str,
        *,
        bos: str,
        eos: str,
        timeout_s: float = RENDER_S,
        child: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """``child`` is one that :func:`spawn` gave and nobody has used."""
        self.template: Final = template
        self._setup = templates.Setup(template=template, bos=bos, eos=eos, cpu_s=timeout_s)
        self._timeout_s = timeout_s
        self._fresh = child
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the child now, so that the first request need not wait for it. Raises as :meth:`render` does."""
        if self._child is None or self._child.poll() is not None:
            fresh, self._fresh = self._fresh, None
            self.close()
            self._child = fresh or spawn()
            self._ask(self._setup, _START_S)

    def render(self, messages: Sequence[dict[str, Any]], variables: Mapping[str, Any] = _NONE) -> str:
        """The prompt's text. Raises ``bad_request`` when the template refuses, ``timeout`` when it takes too long."""
        self.start()
        reply = self._ask(templates.Render(tuple(messages), dict(variables)), self._timeout_s)
        if reply.problem:
            reason = "".join(char for char in reply.problem[:_REASON] if char.isprintable())
            raise bad_request(f"the model's chat template refuses these messages: {reason}", "messages")
        return reply.text

    def _ask(self, question: templates.Setup | templates.Render, limit_s: float) -> templates.Rendered:
        child = self._child
        if child is None:
            raise RuntimeError("the child is started before it is asked")
        deadline = time.monotonic() + limit_s
        try:
            _write(child, msgspec.msgpack.encode(question), deadline)
            return msgspec.msgpack.decode(_read(child, deadline), type=templates.Rendered)
        except TimeoutError:
            self.close()
            raise _too_long(limit_s) from None
        except (OSError, EOFError, msgspec.DecodeError) as error:
            self.close()
            if child.returncode == -signal.SIGXCPU:
                raise _too_long(self._timeout_s) from None
            raise EngineError(
                ErrorKind.INTERNAL, "the model's chat template ended its process", param="messages"
            ) from error

    def close(self) -> None:
        """Kill the child, if there is one."""
        for child in (self._child, self._fresh):
            if child is not None:
                end(child)
        self._child = self._fresh = None


def _too_long(limit_s: float) -> EngineError:
    return EngineError(
        ErrorKind.TIMEOUT,
        f"the model's chat template took longer than {limit_s:g} seconds and was stopped",
        param="messages",
    )


def spawn() -> subprocess.Popen[bytes]:
    """A child for any template; it waits to be told which."""
    # What a template raises may hold a prompt, so the child has no stderr.
    child = subprocess.Popen(
        [sys.executable, "-m", "plugsky.engine.templates"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=env.for_child(),
    )
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            os.set_blocking(pipe.fileno(), False)
    return child


def end(child: subprocess.Popen[bytes]) -> None:
    """Kill a child, whatever it does."""
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _left_ms(deadline: float) -> int:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return int(left * 1000) + 1


def _write(child: subprocess.Popen[bytes], body: bytes, deadline: float) -> None:
    """All of one message, or TimeoutError, or OSError when the child is gone."""
    if child.stdin is None:
        raise BrokenPipeError
    descriptor = child.stdin.fileno()
    data = memoryview(templates.LENGTH.pack(len(body)) + body)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while data:
        if poll.poll(_left_ms(deadline)):
            data = data[os.write(descriptor, data[: 1 << 16]) :]


def _read(child: subprocess.Popen[bytes], deadline: float) -> bytes:
    """One message, or TimeoutError, or EOFError when the child is gone."""
    if child.stdout is None:
        raise EOFError
    descriptor = child.stdout.fileno()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    data = bytearray()
    wanted = templates.LENGTH.size
    while len(data) < wanted:
        if not poll.poll(_left_ms(deadline)):
            continue
        part = os.read(descriptor, 1 << 16)
        if not part:
            raise EOFError
        data += part
        if wanted == templates.LENGTH.size and len(data) >= wanted:
            wanted += templates.LENGTH.unpack_from(data)[0]
    return bytes(data[templates.LENGTH.size :])
