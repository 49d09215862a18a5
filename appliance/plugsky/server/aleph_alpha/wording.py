"""Failures as Aleph Alpha's clients know them: the status says what to do, 402 that the quota is used up."""

from typing import Final

import msgspec

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.exchange import Exchange, HeaderList
from plugsky.server.openai.errors import OPENAI, told

_STATUS: Final = {ErrorKind.QUOTA_EXHAUSTED: 402}


class AlephAlphaWording:
    """``{"error": "…", "code": "…"}`` for every status."""

    def status(self, error: PlugskyError) -> int:
        """The HTTP status."""
        return _STATUS.get(error.kind, error.kind.value.status)

    def body(self, error: PlugskyError) -> bytes:
        """The JSON body of a failure."""
        return msgspec.json.encode({"error": told(error), "code": error.kind.wire.upper()})

    def headers(self, error: PlugskyError) -> HeaderList:
        """The headers of a failure."""
        return OPENAI.headers(error)

    def event(self, error: PlugskyError) -> bytes:
        """A failure inside a stream, whose status has gone out already."""
        return b"data: " + self.body(error) + b"\n\n"


WORDING: Final = AlephAlphaWording()


def spoken(exchange: Exchange) -> None:
    """Answer in this dialect. A wish to give way to others (``?nice=true``) has no effect: the scheduler is fair."""
    exchange.wording = WORDING
    if exchange.query.get("nice", "false") != "false":
        exchange.reply_headers.append((b"x-plugsky-ignored", b"nice"))
