"""The way of one request that generates, the same for every dialect: read, authorised, counted, answered, settled.

A dialect brings a reader of bodies and, inside the context, words the answer. Guarantees: the headers that tell which
model answered and what had no effect are set before anything is run; the client's hanging up ends the request; and
whatever leaves the context, the request is settled.
"""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.policy import Limits
from plugsky.server.admission import authenticate, begin, in_flight, resolve
from plugsky.server.deps import Gateway, ServedModel
from plugsky.server.exchange import Exchange
from plugsky.server.flights import Flight
from plugsky.server.prompt import Prompt
from plugsky.server.settlement import Answer, Ask


class Named(Protocol):
    """What every dialect makes of any body that asks a model for something."""

    @property
    def model(self) -> str: ...

    @property
    def ignored(self) -> tuple[str, ...]: ...


class Readable(Named, Protocol):
    """What every dialect makes of a body that asks for an answer."""

    @property
    def prompt(self) -> Prompt: ...

    @property
    def params(self) -> frames.Params: ...

    @property
    def n(self) -> int: ...

    @property
    def max_tokens(self) -> int | None: ...

    @property
    def end_user(self) -> str: ...


NamedT = TypeVar("NamedT", bound=Named)
RequestT = TypeVar("RequestT", bound=Readable)


@dataclass(frozen=True)
class Answering(Generic[RequestT]):
    """A request that the engine has accepted: its id, what was asked, how it was prepared, and its answer."""

    job: str
    request: RequestT
    prepared: frames.Prepared
    answer: Answer


@dataclass(frozen=True)
class Received(Generic[NamedT]):
    """A request that was read and may use its model, while its client is watched. The digest is over its body."""

    flight: Flight
    request: NamedT
    model: ServedModel
    sha256: bytes
    default_max_tokens: int


@asynccontextmanager
async def received(
    gateway: Gateway, exchange: Exchange, endpoint: str, read: Callable[[bytes, Limits], NamedT]
) -> AsyncIterator[Received[NamedT]]:
    """Take a request up to its model. Its client's hanging up cancels the flight.

    ``endpoint`` is the name that scopes of keys and the audit trail have for what is called.
    """
    limits = gateway.policy.limits
    principal = await authenticate(gateway, exchange)
    async with in_flight(gateway, exchange, principal) as flight:
        if not principal.may_call(endpoint):
            raise PlugskyError(
                ErrorKind.FORBIDDEN,
                f"This key may not call the endpoint {endpoint}",
                next="ask the site's administrator for a key with that scope",
            )
        body = await exchange.body(limits.max_body_bytes)
        request = read(body, limits)
        flight.requested_model = request.model
        found = await resolve(gateway, principal, request.model)
        model, defaults = found.model, dict(found.defaults)
        if defaults:
            limits = replace(limits, default_max_tokens=int(defaults.pop("max_tokens", limits.default_max_tokens)))
            limits = replace(limits, default_params={**limits.default_params, **defaults})
            request = read(body, limits)
        exchange.reply_headers.append((b"x-plugsky-model", f"{model.id}@sha256:{model.digest}".encode()))
        if request.ignored:
            exchange.reply_headers.append((b"x-plugsky-ignored", ", ".join(request.ignored).encode()))
        async with exchange.watch(limits.keepalive_s, lambda: flight.cancel("client")):
            yield Received(flight, request, model, hashlib.sha256(body).digest(), limits.default_max_tokens)


@asynccontextmanager
async def answering(
    gateway: Gateway, exchange: Exchange, endpoint: str, read: Callable[[bytes, Limits], RequestT]
) -> AsyncIterator[Answering[RequestT]]:
    """Take a request up to the engine's acceptance, and see it settled. Raises :class:`PlugskyError` before that."""
    async with received(gateway, exchange, endpoint, read) as taken:
        request = taken.request
        ask = Ask(
            endpoint=endpoint,
            requested_model=request.model,
            prompts=(request.prompt,),
            params=request.params,
            n=request.n,
            max_tokens=request.max_tokens,
            default_max_tokens=taken.default_max_tokens,
            end_user=request.end_user,
            request_sha256=taken.sha256,
        )
        async with answered(gateway, taken, ask) as (answer, (prepared,)):
            yield Answering(taken.flight.job, request, prepared, answer)


@asynccontextmanager
async def answered(
    gateway: Gateway, taken: Received[NamedT], ask: Ask
) -> AsyncIterator[tuple[Answer, tuple[frames.Prepared, ...]]]:
    """The answers to what a request asks, each prompt as it was prepared, and see them settled."""
    answer, prepared = await begin(gateway, taken.flight, taken.model, ask)
    try:
        yield answer, prepared
    finally:
        await answer.close()
