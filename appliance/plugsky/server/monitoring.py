"""``GET /metrics``: the numbers of :mod:`plugsky.server.metrics`, for a key whose scope *names* this endpoint.

A key that may call everything may not: it belongs to a tenant, and these are the whole site's numbers.
"""

from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.admission import authenticate
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange

ENDPOINT: Final = "metrics"


class Scrape:
    """The gateway's numbers for a Prometheus server."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        principal = await authenticate(self._gateway, exchange)
        if principal.endpoints is None or ENDPOINT not in principal.endpoints:
            raise PlugskyError(
                ErrorKind.FORBIDDEN,
                "This key may not read the site's numbers",
                why="they are of all tenants, so a key must be made for them",
                next="plugsky key create --tenant NAME --endpoint metrics",
            )
        headers = [(b"content-type", CONTENT_TYPE_PLAIN_0_0_4.encode()), (b"cache-control", b"no-store")]
        await exchange.reply(200, self._gateway.metrics.page(), headers)
