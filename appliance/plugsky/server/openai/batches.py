"""``/v1/batches``: many requests in one file, run when nobody else wants the engines, within a day."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from plugsky.batches.batches import BatchRecord
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.deps import Gateway
from plugsky.server.description import Handler
from plugsky.server.exchange import Exchange
from plugsky.server.failures import bad
from plugsky.server.openai.chat import ChatCompletions
from plugsky.server.openai.completions import Completions
from plugsky.server.openai.embeddings import Embeddings
from plugsky.server.openai.files import Stored, counted, listed, none_left
from plugsky.server.openai.responses import Responses
from plugsky.server.request_json import decode
from plugsky.server.tables import Refused, Tables

MOST: Final = 100
WINDOW: Final = "24h"
MAX_METADATA: Final = 16
BATCHES: Final = Tables(
    honoured=frozenset({"input_file_id", "endpoint", "completion_window", "metadata"}),
    ignored={},
    refused={"output_expires_after": Refused("the files of answers are kept as long as all files are")},
)
ANSWERING: Final[dict[str, Callable[[Gateway], Handler]]] = {
    "/v1/chat/completions": ChatCompletions,
    "/v1/completions": Completions,
    "/v1/embeddings": Embeddings,
    "/v1/responses": Responses,
}
"""Who answers the lines of a batch, by its endpoint."""


def answering(gateway: Gateway) -> Mapping[str, Handler]:
    """The handlers of the endpoints that a batch may have."""
    return {path: handler(gateway) for path, handler in ANSWERING.items()}


class BatchFields(Struct, frozen=True):
    """The honoured parameters with their types and bounds."""

    input_file_id: Annotated[str, Meta(min_length=1, max_length=64)]
    endpoint: str
    completion_window: str
    metadata: dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]] | None = None


class BatchCreate(Stored):
    """Begins a batch of the requests in a file. It is over within a day; what is not done then has expired."""

    endpoint = "batches"
    fields = BatchFields
    tables = BATCHES

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        body = await exchange.body(self._gateway.policy.limits.max_body_bytes)
        BATCHES.sort(decode(body, dict[str, Raw]))
        fields = decode(body, BatchFields)
        if fields.endpoint not in ANSWERING:
            raise bad("endpoint", f"it is one of {', '.join(ANSWERING)}")
        if fields.completion_window != WINDOW:
            raise bad("completion_window", f"it is {WINDOW}")
        metadata = fields.metadata or {}
        if len(metadata) > MAX_METADATA:
            raise bad("metadata", f"it has {MAX_METADATA} entries at most")
        batch = await self._storage.create(principal, fields.input_file_id, fields.endpoint, metadata)
        await exchange.reply(200, msgspec.json.encode(shape(batch)))


class BatchList(Stored):
    """The tenant's batches, the newest first. `after` and `limit` choose among them."""

    endpoint = "batches"

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        query = exchange.query
        limit = counted(query, 20, MOST)
        after = query.pop("after", None)
        none_left(query)
        found = await self._storage.ask(lambda: self._storage.batches.list(principal.tenant, after, limit + 1))
        await exchange.reply(200, msgspec.json.encode(listed([shape(batch) for batch in found], limit)))


class BatchOne(Stored):
    """One batch by its id, and how far it is."""

    endpoint = "batches"

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        batch_id = exchange.path_params["batch"]
        batch = await self._storage.ask(lambda: self._storage.batches.get(principal.tenant, batch_id))
        await exchange.reply(200, msgspec.json.encode(shape(batch)))


class BatchCancel(Stored):
    """Asks a batch to end: lines that run are finished, none is begun, and what was answered stays."""

    endpoint = "batches"

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        batch = await self._storage.cancel(principal, exchange.path_params["batch"])
        if batch.ended_us is not None:
            raise PlugskyError(ErrorKind.CONFLICT, f"The batch is over: {batch.status}")
        await exchange.reply(200, msgspec.json.encode(shape(batch)))


def shape(batch: BatchRecord) -> dict[str, Any]:
    """A batch as the OpenAI dialect shows it. Moments are Unix seconds."""

    def second(us: int | None, *states: str) -> int | None:
        return us // 1_000_000 if us is not None and (not states or batch.status in states) else None

    over = batch.ended_us is not None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": list(batch.problems)} if batch.problems else None,
        "input_file_id": batch.input,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": (batch.output or None) if over else None,
        "error_file_id": (batch.errors or None) if over else None,
        "created_at": second(batch.created_us),
        "in_progress_at": second(batch.started_us),
        "expires_at": second(batch.expires_us),
        "finalizing_at": second(batch.ended_us, "completed"),
        "completed_at": second(batch.ended_us, "completed"),
        "failed_at": second(batch.ended_us, "failed"),
        "expired_at": second(batch.ended_us, "expired"),
        "cancelling_at": second(batch.cancelling_us),
        "cancelled_at": second(batch.ended_us, "cancelled"),
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": dict(batch.metadata) or None,
    }
