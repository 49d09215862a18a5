"""The engine's end of the template child: it asks, waits a bounded time, and kills a child that overstays.

Used from one thread. A killed or crashed child costs one request its answer; the next request starts a new child.
"""

import signal
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from plugsky.core.errors import ErrorKind
from plugsky.engine.child import Child, ChildDiedError
from plugsky.engine.errors import EngineError, bad_request
from plugsky.engine.prompting import templates

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
        child: Child | None = None,
    ) -> None:
        """``child`` is one that :func:`spawn` gave and nobody has used."""
        self.template: Final = template
        self._setup = templates.Setup(template=template, bos=bos, eos=eos, cpu_s=timeout_s)
        self._timeout_s = timeout_s
        self._fresh = child
        self._child: Child | None = None

    def start(self) -> None:
        """Start the child now, so that the first request need not wait for it. Raises as :meth:`render` does."""
        if self._child is None or not self._child.lives:
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
        try:
            return msgspec.msgpack.decode(child.ask(msgspec.msgpack.encode(question), limit_s), type=templates.Rendered)
        except TimeoutError:
            raise _too_long(limit_s) from None
        except ChildDiedError as error:
            if error.returncode == -signal.SIGXCPU:
                raise _too_long(self._timeout_s) from None
            raise _ended() from error
        except msgspec.DecodeError as error:
            self.close()
            raise _ended() from error

    def close(self) -> None:
        """Kill the child, if there is one."""
        for child in (self._child, self._fresh):
            if child is not None:
                child.close()
        self._child = self._fresh = None


def spawn() -> Child:
    """A child for any template; it waits to be told which."""
    return Child("plugsky.engine.prompting.templates")


def _ended() -> EngineError:
    return EngineError(ErrorKind.INTERNAL, "the model's chat template ended its process", param="messages")


def _too_long(limit_s: float) -> EngineError:
    return EngineError(
        ErrorKind.TIMEOUT,
        f"the model's chat template took longer than {limit_s:g} seconds and was stopped",
        param="messages",
    )
