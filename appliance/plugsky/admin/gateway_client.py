"""The gateway's control socket, seen from the Admin service: live requests, traffic, cancel."""

from pathlib import Path
from typing import Any

import msgspec

from plugsky.admin.api import RequestView, Traffic
from plugsky.admin.call_client import CallClient
from plugsky.core import host_users
from plugsky.core.errors import ErrorKind, PlugskyError


class GatewayClient:
    """A :class:`~plugsky.admin.ports.GatewayControl` over the gateway's control socket."""

    def __init__(self, socket: Path) -> None:
        self._calls = CallClient(socket, _unreachable, host_users.uids(host_users.GATEWAY))

    async def requests(self) -> tuple[RequestView, ...]:
        value: Any = await self._calls.call("requests", {})
        return msgspec.convert(value, tuple[RequestView, ...])

    async def traffic(self) -> Traffic:
        value: Any = await self._calls.call("traffic", {})
        return msgspec.convert(value, Traffic)

    async def cancel(self, job: str) -> None:
        await self._calls.call("cancel", {"job": job})

    async def close(self) -> None:
        """Ends the connection."""
        await self._calls.close()


def _unreachable(why: str) -> PlugskyError:
    return PlugskyError(ErrorKind.UNREACHABLE, "the gateway does not answer", why=why, next="plugsky doctor")
