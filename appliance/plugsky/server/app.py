"""The front door: routes, and one edge around them that no failure passes without its proper reply.

Guarantees: every reply carries ``x-request-id`` (made here, never the client's word); every status, that of an unknown
route and a wrong method included, has the OpenAI error body; an unforeseen failure is a 500 that says nothing of the
inside, and its log line names the exception's type and place, never its text, which may hold a prompt. No redirects,
no CORS.
"""

import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.ids import new_id
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.health import Ready, live
from plugsky.server.openai import errors
from plugsky.server.openai.chat import ChatCompletions
from plugsky.server.openai.models import ModelList, ModelOne

_log: Final = logging.getLogger(__name__)
Handler = Callable[[Exchange], Awaitable[None]]


def build_app(gateway: Gateway) -> Starlette:
    """The ASGI application of one gateway process."""
    ready = Ready(gateway)
    table: list[tuple[str, str, Handler]] = [
        ("GET", "/v1/health/live", live),
        ("GET", "/v1/health/ready", ready),
        ("GET", "/health", ready),
    ]
    for prefix in ("", "/v1"):
        table += [
            ("POST", f"{prefix}/chat/completions", ChatCompletions(gateway)),
            ("GET", f"{prefix}/models", ModelList(gateway)),
            ("GET", f"{prefix}/models/{{model:path}}", ModelOne(gateway)),
        ]
    routes = [Route(path, Endpoint(handler), methods=[method]) for method, path, handler in table]
    app = Starlette(routes=routes, middleware=[Middleware(Edge)], exception_handlers={HTTPException: _unrouted})
    app.router.redirect_slashes = False
    return app


class Endpoint:
    """A handler of exchanges as the ASGI application that the router wants."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        await self._handler(Exchange.in_scope(scope))


class Edge:
    """Makes the exchange, runs the application, and answers for whatever it raises."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange.of(scope, receive, send, new_id())
        try:
            await self._app(scope, receive, send)
        except PlugskyError as error:
            await _answer(exchange, error)
        except Exception as error:  # noqa: BLE001 - the edge: an unforeseen failure still gets the contract's reply
            _log.error("request %s failed: %s", exchange.request_id, _place(error))
            await _answer(exchange, PlugskyError(ErrorKind.INTERNAL, "The gateway failed on this request"))


async def _answer(exchange: Exchange, error: PlugskyError) -> None:
    if exchange.streaming:
        await exchange.end_stream(errors.event(error))
    elif not exchange.started and not exchange.gone:
        await exchange.reply(error.kind.value.status, errors.body(error), errors.headers(error))


def _place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {frame.filename}:{frame.lineno}"


async def _unrouted(request: Request, error: Exception) -> NoReturn:
    """The router's refusals in our words; the edge makes the reply."""
    if isinstance(error, HTTPException) and error.status_code == ErrorKind.METHOD_NOT_ALLOWED.value.status:
        allowed = (error.headers or {}).get("Allow", "")
        Exchange.in_scope(request.scope).reply_headers.append((b"allow", allowed.encode()))
        raise PlugskyError(ErrorKind.METHOD_NOT_ALLOWED, "This method is not allowed here", why=f"allowed: {allowed}")
    raise PlugskyError(ErrorKind.NOT_FOUND, "There is no such endpoint", next="GET /v1/models is one that is there")
