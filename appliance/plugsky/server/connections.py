"""One client's connection: uvicorn's, with a patience and with this site's words for what is no HTTP.

A client has :data:`HEAD_S` from its first byte, or from the connection's beginning, to have sent the head of a request;
then the connection is closed, since one that trickles it would be held for ever (slow loris). What is no HTTP is a 400
with the error body that every other status has.
"""

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.openai.errors import OPENAI

HEAD_S: Final = 20.0


class Connection(H11Protocol):
    """A connection of the gateway's listener."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE:
            self._wait_for_head()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._end_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait_for_head()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words
        self._end_waiting()
        failure = PlugskyError(ErrorKind.BAD_REQUEST, "This is no HTTP request that can be read")
        body = OPENAI.body(failure)
        headers = [
            *OPENAI.headers(failure),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        parts = (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=body))
        for event in (*parts, h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait_for_head(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(HEAD_S, self.transport.abort)

    def _end_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
