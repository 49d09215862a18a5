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
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Principal
from plugsky.server.deps import AuditFields, Engine, Entry, Gateway, Outcome, RawHeaders, ServedModel
from plugsky.server.failures import too_late
from plugsky.server.flights import Flight, is_failure
from plugsky.server.settlement import NOTHING, Answer, Ask

_MODEL: Final = re.compile(r"(?:[A-Za-z0-9._:/@-]{1,128})?\Z")
_FIELD: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}\Z")


async def authenticate(gateway: Gateway, headers: RawHeaders) -> Principal:
    """Whose request this is. One way for every endpoint, dialect and form of header."""
    try:
        return await gateway.accounts.authenticate(headers)
    except PlugskyError as error:
        gateway.flights.turned_away(error)
        raise


@asynccontextmanager
async def in_flight(gateway: Gateway, job: str, principal: Principal) -> AsyncIterator[Flight]:
    """Keep a request on the list of those in flight, and record it when it is refused before it was booked."""
    flight = gateway.flights.begin(job, principal)
    try:
        yield flight
    except PlugskyError as error:
        flight.failed = is_failure(error)
        if not flight.booked:
            fields: AuditFields = {"param": _if_name(_FIELD, error.param, "field")} if error.param else {}
            outcome = Outcome(error.kind.wire, NOTHING, fields)
            asked = _if_name(_MODEL, flight.requested_model, "model")
            await gateway.accounts.refused(job, principal, asked, outcome)
        raise
    except BaseException:
        flight.failed = True
        raise
    finally:
        gateway.flights.end(flight)


def resolve(gateway: Gateway, principal: Principal, name: str) -> ServedModel:
    """The model a request names, when the key may use it."""
    model = gateway.models.get(name)
    if model is None:
        raise PlugskyError(
            ErrorKind.MODEL_NOT_FOUND,
            f"The model {shown(name)} does not exist here",
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
    return model


def shown(name: str) -> str:
    """A name from a request as it may appear in a message: quoted, escaped, at most 80 characters."""
    return ascii(name if len(name) <= 80 else f"{name[:77]}...")


def _if_name(form: re.Pattern[str], text: str, kind: str) -> str:
    return text if form.match(text) else f"(not a {kind} name)"


async def begin(gateway: Gateway, flight: Flight, model: ServedModel, ask: Ask) -> Answer:
    """Walk a request up to the engine's acceptance. Raises :class:`PlugskyError` with a status of its own."""
    limits = gateway.policy.limits
    deadline = asyncio.get_running_loop().time() + limits.request_timeout_s
    if gateway.draining:
        raise PlugskyError(ErrorKind.OVERLOADED, "The gateway is shutting down", retry_after=1.0)
    if model.mode != "generate":
        raise PlugskyError(
            ErrorKind.NOT_SUPPORTED,
            f"The model {shown(model.id)} cannot chat",
            why=f"it can {model.mode}",
            param="model",
        )
    gateway.accounts.check()
    flight.model = model.id
    engine = await gateway.engines.engine(model)
    prepared = await _prepare(engine, flight, ask, deadline)
    flight.prompt_tokens = len(prepared.tokens)
    max_tokens = min(ask.max_tokens or limits.default_max_tokens, prepared.room)
    booked = min(max_tokens, limits.reserve_step)
    entry = Entry(flight.job, flight.principal, ask.requested_model, model, len(prepared.tokens) + booked, ask.end_user)
    await gateway.accounts.reserve(entry)
    flight.booked = True
    answer = Answer(gateway, flight, ask, entry, max_tokens=max_tokens, booked=booked, deadline=deadline)
    await answer.submit(engine, prepared.tokens)
    return answer


async def _prepare(engine: Engine, flight: Flight, ask: Ask, deadline: float) -> frames.Prepared:
    try:
        async with asyncio.timeout_at(deadline):
            prepared = await engine.prepare(
                tenant=flight.principal.tenant, messages=ask.messages, max_tokens=ask.max_tokens
            )
    except TimeoutError:
        raise too_late() from None
    flight.still_wanted()
    return prepared
