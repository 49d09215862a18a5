"""Admission: the arrows auth, prepare and reserve of one request, the same for every dialect.

Guarantees, in order:

1. Whatever can be wrong with a request is found before anything is set aside for it: the model, the key's scope, the
   context (``prepare``). Such a refusal is recorded, costs nothing, and has an HTTP status of its own.
2. ``prompt + min(max_tokens, step)`` tokens are reserved before the engine sees the request.
3. What the record of a refusal repeats of a request looks like the name of a model or a field. Anything else may be
   the prompt in the wrong place, and is left out.
4. From the reservation on, however the request ends, it is settled once: :mod:`plugsky.server.settlement`.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Principal
from plugsky.server.deps import AuditFields, Engine, Entry, Gateway, Outcome, ServedModel
from plugsky.server.exchange import Exchange
from plugsky.server.failures import bad, too_late
from plugsky.server.flights import Flight, is_failure
from plugsky.server.prompt import Prompt
from plugsky.server.settlement import NOTHING, Answer, Ask, Extent

_MODEL: Final = re.compile(r"(?:[A-Za-z0-9._:/@-]{1,128})?\Z")
_CAN: Final = {"generate": "chat", "embed": "embed texts", "rerank": "rerank documents"}
_FIELD: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}\Z")


async def authenticate(gateway: Gateway, exchange: Exchange) -> Principal:
    """Whose request this is. One way for every endpoint, dialect and form of header, and for the lines of batches."""
    try:
        if exchange.vouched_for:
            principal = await gateway.accounts.vouch(exchange.vouched_for)
        else:
            principal = await gateway.accounts.authenticate(exchange.raw_headers)
    except PlugskyError as error:
        gateway.flights.turned_away(error)
        gateway.metrics.refused(error.kind)
        raise
    exchange.key_id = principal.key_id
    return principal


@asynccontextmanager
async def in_flight(gateway: Gateway, exchange: Exchange, principal: Principal) -> AsyncIterator[Flight]:
    """Keep a request on the list of those in flight, and record it when it is refused before it was booked.

    Its reply says what is left of the limits of its key. Raises ``rate_limited``. The limits of a minute do not
    hold for batches, which wait for everybody else anyway.
    """
    job = exchange.request_id
    flight = gateway.flights.begin(job, principal)
    flight.service_class = exchange.service_class
    entered = False
    try:
        try:
            if flight.service_class != "batch":
                gateway.rates.enter(principal)
                entered = True
        finally:
            exchange.reply_headers += gateway.rates.headers(principal)
        yield flight
    except PlugskyError as error:
        flight.failed = is_failure(error)
        if not flight.booked:
            fields: AuditFields = {"param": _if_name(_FIELD, error.param, "field")} if error.param else {}
            outcome = Outcome(error.kind.wire, NOTHING, fields)
            asked = _if_name(_MODEL, flight.requested_model, "model")
            gateway.metrics.refused(error.kind)
            await gateway.accounts.refused(job, principal, asked, outcome)
        raise
    except BaseException:
        flight.failed = True
        raise
    finally:
        if entered:
            gateway.rates.leave(principal)
        gateway.flights.end(flight)


@dataclass(frozen=True)
class Resolved:
    """The model that a name stands for, and the parameters that an alias brings."""

    model: ServedModel
    defaults: Mapping[str, float] = field(default_factory=dict)


async def resolve(gateway: Gateway, principal: Principal, name: str) -> Resolved:
    """The model a request names, by its id or an alias, when the key may use it. What is decided is so by its id."""
    model, defaults = gateway.models.get(name), dict[str, float]()
    why = ""
    if model is None:
        alias = (await gateway.accounts.aliases(principal.tenant)).get(name)
        if alias is not None:
            model, defaults = gateway.models.get(alias.model), dict(alias.defaults)
            why = f"it is an alias of {shown(alias.model)}, which is not installed"
    if model is None:
        raise PlugskyError(
            ErrorKind.MODEL_NOT_FOUND,
            f"The model {shown(name)} does not exist here",
            why=why,
            next="GET /v1/models lists what this key may use",
            param="model",
        )
    if not principal.may_use(model.id):
        raise PlugskyError(
            ErrorKind.FORBIDDEN,
            f"This key may not use the model {shown(model.id)}",
            next="ask the site's administrator for a key with that scope",
            param="model",
        )
    return Resolved(model, defaults)


def shown(name: str) -> str:
    """A name from a request as it may appear in a message: quoted, escaped, at most 80 characters."""
    return ascii(name if len(name) <= 80 else f"{name[:77]}...")


def _if_name(form: re.Pattern[str], text: str, kind: str) -> str:
    return text if form.match(text) else f"(not a {kind} name)"


async def engine_for(gateway: Gateway, flight: Flight, model: ServedModel, mode: str) -> Engine:
    """The engine of a model that can do what ``mode`` says, while the site may serve at all."""
    if gateway.draining:
        raise PlugskyError(ErrorKind.OVERLOADED, "The gateway is shutting down", retry_after=1.0)
    if model.mode != mode:
        raise PlugskyError(
            ErrorKind.NOT_SUPPORTED,
            f"The model {shown(model.id)} cannot {_CAN.get(mode, mode)}",
            why=f"it can {_CAN.get(model.mode, model.mode)}",
            param="model",
        )
    gateway.accounts.check()
    flight.model = model.id
    return await gateway.engines.engine(model)


async def begin(
    gateway: Gateway, flight: Flight, model: ServedModel, ask: Ask
) -> tuple[Answer, tuple[frames.Prepared, ...]]:
    """Walk a request up to the engine's acceptance. What was prepared, of each prompt, says how to read its answers.

    Raises :class:`PlugskyError` with a status of its own.
    """
    limits = gateway.policy.limits
    deadline = asyncio.get_running_loop().time() + limits.request_timeout_s
    engine = await engine_for(gateway, flight, model, "generate")
    prepared = tuple([await _prepare(engine, flight, prompt, ask.max_tokens, deadline) for prompt in ask.prompts])
    flight.prompt_tokens = sum(len(each.tokens) for each in prepared)
    wanted = ask.default_max_tokens if ask.max_tokens is None else ask.max_tokens
    max_tokens = [min(wanted, each.room) for each in prepared]
    booked = sum(min(each, limits.reserve_step) for each in max_tokens) * ask.n
    entry = Entry(
        job=flight.job,
        principal=flight.principal,
        requested_model=ask.requested_model,
        model=model,
        tokens=flight.prompt_tokens + booked,
        end_user=ask.end_user,
        service_class=flight.service_class,
    )
    await book(gateway, flight, entry)
    answer = Answer(gateway, flight, ask, entry, Extent(max_tokens, booked, deadline))
    await answer.submit(engine, prepared)
    return answer, prepared


async def book(gateway: Gateway, flight: Flight, entry: Entry) -> None:
    """Set a request's tokens aside. Raises ``rate_limited``, ``quota_exhausted`` and ``bad_request``, and sets nothing
    aside then.
    """
    if "\x00" in entry.end_user:
        raise bad("user", "it holds a NUL, which no database keeps")
    if flight.service_class != "batch":
        gateway.rates.weigh(flight.principal, entry.tokens)
        flight.weighed = entry.tokens
    try:
        await gateway.accounts.reserve(entry)
    except BaseException:
        if flight.weighed:
            gateway.rates.correct(flight.principal, flight.weighed, 0)
        raise
    flight.booked = True


async def weigh(gateway: Gateway, flight: Flight, model: ServedModel, mode: str, prompt: Prompt) -> frames.Prepared:
    """Prepare a prompt that is not run: nothing is set aside or billed for it. Raises like :func:`begin`."""
    deadline = asyncio.get_running_loop().time() + gateway.policy.limits.request_timeout_s
    return await _prepare(await engine_for(gateway, flight, model, mode), flight, prompt, None, deadline)


async def _prepare(
    engine: Engine, flight: Flight, prompt: Prompt, max_tokens: int | None, deadline: float
) -> frames.Prepared:
    try:
        async with asyncio.timeout_at(deadline):
            prepared = await engine.prepare(tenant=flight.principal.tenant, max_tokens=max_tokens, **prompt.given())
    except TimeoutError:
        raise too_late() from None
    flight.still_wanted()
    return prepared
