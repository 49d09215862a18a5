"""A model asked by the gateway itself, for an endpoint that needs several answers to make one of its own.

Each is a request like any other: of the same key, within its scope and limits, by its own id in ledger and trail.
"""

from dataclasses import dataclass
from typing import Final

from plugsky.core import frames
from plugsky.core.ids import new_id
from plugsky.core.principal import Principal
from plugsky.engine.prompting.families.events import ContentDelta
from plugsky.server.answering import answering
from plugsky.server.deps import Gateway
from plugsky.server.local_exchange import LocalExchange
from plugsky.server.prompt import Prompt

SIDE_BY_SIDE: Final = 4
"""Answers that one request waits for at a time, where the limits of its key allow it."""


@dataclass(frozen=True)
class _Asked:
    model: str
    prompt: Prompt
    params: frames.Params
    max_tokens: int | None
    ignored: tuple[str, ...] = ()
    n: int = 1
    end_user: str = ""


@dataclass(frozen=True)
class Told:
    """What the model said, without its reasoning; ``cut`` where it reached its limit of tokens."""

    text: str
    cut: bool


async def ask(
    gateway: Gateway,
    principal: Principal,
    endpoint: str,
    model: str,
    prompt: Prompt,
    params: frames.Params,
    max_tokens: int | None = None,
) -> Told:
    """One answer of ``model``. Raises what any request may raise."""
    asked = _Asked(model, prompt, params, max_tokens)
    exchange = LocalExchange(new_id(), b"", principal.key_id, "standard")
    async with answering(gateway, exchange, endpoint, lambda _body, _limits: asked) as taken:
        (said,) = taken.answer.said
        parts = []
        async for news in taken.answer.news():
            parts += [event.text for event in news.events if isinstance(event, ContentDelta)]
    return Told("".join(parts), said.end == "length")


def at_a_time(principal: Principal) -> int:
    """How many answers a request of this key may wait for side by side."""
    limits = (principal.rate.concurrency, principal.tenant_rate.concurrency)
    return min(SIDE_BY_SIDE, *(limit for limit in limits if limit is not None)) if any(limits) else SIDE_BY_SIDE
