"""Probes for load balancers and service managers. They need no key and tell nothing but yes or no."""

from typing import Final

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange

_OK: Final = b'{"status":"ok"}'


async def live(exchange: Exchange) -> None:
    """Whether the process answers at all."""
    await exchange.reply(200, _OK)


class Ready:
    """Whether new requests are taken: not while draining, nor while the audit trail cannot be written."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        if self._gateway.draining:
            raise PlugskyError(ErrorKind.OVERLOADED, "The gateway is shutting down", retry_after=1.0)
        self._gateway.accounts.check()
        await exchange.reply(200, _OK)
