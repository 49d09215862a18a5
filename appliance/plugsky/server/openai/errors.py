"""Failures as the OpenAI dialect shows them: the body, the headers, the event in a stream.

The body is ``{"error": {"message", "type", "param", "code"}}`` for every status. Its message never holds a stack trace,
a path of the host, a prompt or an answer. ``x-should-retry`` tells the SDK whether trying again makes sense, and
``retry-after`` when.
"""

import math
from typing import Final

import msgspec

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.engine.errors import EngineError
from plugsky.server.exchange import JSON_HEADERS, HeaderList

DEFAULT_RETRY_S: Final = 1.0
_HIDDEN: Final = frozenset({ErrorKind.INTERNAL, ErrorKind.TAMPERED, ErrorKind.UNREACHABLE, ErrorKind.ENGINE_LOST})
"""Kinds whose reasons are the administrator's business: they name paths and processes of the host."""


class ErrorBody(msgspec.Struct, frozen=True):
    """The inside of ``{"error": ...}``. The token counts are there when the context is exceeded."""

    message: str
    type: str
    param: str | None
    code: str | None
    n_prompt_tokens: int | msgspec.UnsetType = msgspec.UNSET
    n_ctx: int | msgspec.UnsetType = msgspec.UNSET


class OpenAIWording:
    """The wording of OpenAI's dialect."""

    def status(self, error: PlugskyError) -> int:
        """The HTTP status."""
        return error.kind.value.status

    def body(self, error: PlugskyError) -> bytes:
        """The JSON body of a failure."""
        columns = error.kind.value
        shown = ErrorBody(told(error), columns.openai_type, error.param, columns.openai_code)
        if isinstance(error, EngineError) and error.n_prompt is not None and error.n_ctx is not None:
            shown = msgspec.structs.replace(shown, n_prompt_tokens=error.n_prompt, n_ctx=error.n_ctx)
        return msgspec.json.encode({"error": shown})

    def headers(self, error: PlugskyError) -> HeaderList:
        """The headers of a failure."""
        found: HeaderList = [*JSON_HEADERS, (b"x-should-retry", b"true" if error.kind.value.retryable else b"false")]
        if error.kind is ErrorKind.UNAUTHENTICATED:
            found.append((b"www-authenticate", b"Bearer"))
        if error.kind.value.retryable:
            after = DEFAULT_RETRY_S if error.retry_after is None else error.retry_after
            found.append((b"retry-after", str(math.ceil(after)).encode()))
            found.append((b"retry-after-ms", str(math.ceil(after * 1000)).encode()))
        return found

    def event(self, error: PlugskyError) -> bytes:
        """A failure inside a stream, whose status has gone out already."""
        return b"data: " + self.body(error) + b"\n\n"


OPENAI: Final = OpenAIWording()


def told(error: PlugskyError) -> str:
    """What a client is told of a failure, in any dialect: nothing of the inside of the host."""
    parts = [error.what]
    if error.kind not in _HIDDEN:
        parts += [error.why, error.next]
    return ". ".join(part.rstrip(".") for part in parts if part) + "."
