"""A request that no client sent: a line of a batch, or one of several answers that an endpoint makes one of its own of.

The same handlers answer it as those that come over HTTP.
"""

import asyncio
from typing import Any

from starlette.types import Message

from plugsky.core.frames import ServiceClass
from plugsky.server.exchange import Exchange


class LocalExchange(Exchange):
    """An exchange in memory: ``status`` and ``answer`` are what was replied."""

    def __init__(self, request_id: str, body: bytes, key_id: str, service_class: ServiceClass = "batch") -> None:
        scope: dict[str, Any] = {"type": "http", "headers": [], "path_params": {}}
        super().__init__(scope, self._give, self._take, request_id)
        self.vouched_for = key_id
        self.service_class = service_class
        self._given = body
        self._sent = False
        self._parts: list[bytes] = []

    @property
    def answer(self) -> bytes:
        """The body of the reply."""
        return b"".join(self._parts)

    async def _give(self) -> Message:
        if self._sent:
            await asyncio.Event().wait()  # nobody hangs up
        self._sent = True
        return {"type": "http.request", "body": self._given, "more_body": False}

    async def _take(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self._parts.append(message.get("body", b""))
