"""Failures as the Anthropic dialect shows them: status, body, and the event in a stream.

The body is ``{"type": "error", "error": {"type", "message"}, "request_id"}`` for every status. What may be well again
in a while is 529 ``overloaded_error``, or 504; the headers say when to try again, as in every dialect.
"""

from typing import Final

import msgspec

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.exchange import HeaderList
from plugsky.server.openai.errors import OPENAI, told

_BUSY: Final = (529, "overloaded_error")
_BROKEN: Final = (500, "api_error")
_INVALID: Final = (400, "invalid_request_error")
SHOWN: Final[dict[ErrorKind, tuple[int, str]]] = {
    ErrorKind.BAD_REQUEST: _INVALID,
    ErrorKind.UNSUPPORTED_FIELD: _INVALID,
    ErrorKind.CONTEXT_EXCEEDED: _INVALID,
    ErrorKind.SCHEMA_REFUSED: _INVALID,
    ErrorKind.UNAUTHENTICATED: (401, "authentication_error"),
    ErrorKind.FORBIDDEN: (403, "permission_error"),
    ErrorKind.POLICY_REFUSED: (403, "permission_error"),
    ErrorKind.NOT_FOUND: (404, "not_found_error"),
    ErrorKind.MODEL_NOT_FOUND: (404, "not_found_error"),
    ErrorKind.METHOD_NOT_ALLOWED: (405, "invalid_request_error"),
    ErrorKind.CONFLICT: (409, "conflict_error"),
    ErrorKind.TOO_LARGE: (413, "request_too_large"),
    ErrorKind.RATE_LIMITED: (429, "rate_limit_error"),
    ErrorKind.QUOTA_EXHAUSTED: (429, "rate_limit_error"),
    ErrorKind.CANCELLED: (499, "api_error"),
    ErrorKind.NOT_SUPPORTED: (501, "invalid_request_error"),
    ErrorKind.INTERNAL: _BROKEN,
    ErrorKind.TAMPERED: _BROKEN,
    ErrorKind.TIMEOUT: (504, "timeout_error"),
    ErrorKind.OVERLOADED: _BUSY,
    ErrorKind.LOADING: _BUSY,
    ErrorKind.ENGINE_LOST: _BUSY,
    ErrorKind.UNREACHABLE: _BUSY,
}
"""The status and the type of every kind."""


class AnthropicWording:
    """The wording of one exchange's failures."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id

    def status(self, error: PlugskyError) -> int:
        """The HTTP status."""
        return SHOWN[error.kind][0]

    def body(self, error: PlugskyError) -> bytes:
        """The JSON body of a failure."""
        inner = {"type": SHOWN[error.kind][1], "message": told(error)}
        return msgspec.json.encode({"type": "error", "error": inner, "request_id": self._request_id})

    def headers(self, error: PlugskyError) -> HeaderList:
        """The headers of a failure."""
        return OPENAI.headers(error)

    def event(self, error: PlugskyError) -> bytes:
        """A failure inside a stream, whose status has gone out already."""
        return b"event: error\ndata: " + self.body(error) + b"\n\n"
