"""``POST /v1/rerank``: documents in the order of their relevance to a query, as Jina, Cohere and llama-server word it.

Guarantees: the scores are the model's own, unscaled; equal ones keep the order of their documents; ``top_n`` shortens
the answer, and every document is computed and counted.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.policy import Limits
from plugsky.server.answering import received
from plugsky.server.computing import Inputs, compute
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.prompt import Prompt
from plugsky.server.request_json import decode
from plugsky.server.tables import Refused, Tables

_WHOLE: Final = "no document is cut: one that is too long is refused"
RERANK: Final = Tables(
    honoured=frozenset({"model", "query", "documents", "top_n", "return_documents"}),
    ignored={"priority": "the site has one tier"},
    refused={
        "max_chunks_per_doc": Refused(_WHOLE),
        "max_tokens_per_doc": Refused(_WHOLE),
        "rank_fields": Refused("a document has one field, its text", (["text"],)),
        "truncation": Refused(_WHOLE, (False,)),
    },
    extensions=frozenset({"user"}),
)
MAX_DOCUMENTS: Final = 2048
_Text = Annotated[str, Meta(min_length=1)]


class DocumentFields(Struct, frozen=True, forbid_unknown_fields=True):
    """A document with a name for its text."""

    text: _Text


class RerankFields(Struct, frozen=True):
    """The honoured parameters with their types and bounds."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    query: _Text
    documents: Annotated[list[_Text | DocumentFields], Meta(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    return_documents: bool | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None


@dataclass(frozen=True)
class RerankRequest:
    """A body that was read."""

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int | None
    return_documents: bool
    end_user: str
    ignored: tuple[str, ...]


def parse(body: bytes, _limits: Limits) -> RerankRequest:
    """Read a body by the tables. Raises ``bad_request`` or ``unsupported_field`` with the place at fault."""
    ignored = RERANK.sort(decode(body, dict[str, Raw]))
    fields = decode(body, RerankFields)
    return RerankRequest(
        model=fields.model,
        query=fields.query,
        documents=tuple(each if isinstance(each, str) else each.text for each in fields.documents),
        top_n=fields.top_n,
        return_documents=bool(fields.return_documents),
        end_user=fields.user or "",
        ignored=tuple(sorted(ignored)),
    )


class Rerank:
    """Orders documents by their relevance to a query, up to 2048 in one request."""

    fields = RerankFields
    tables = RERANK

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        async with received(self._gateway, exchange, "rerank", parse) as taken:
            request = taken.request
            prompts = [Prompt(pair=(request.query, document)) for document in request.documents]
            places = [f"documents[{number}]" for number in range(len(prompts))]
            inputs = Inputs("rerank", "rerank", prompts, places, request.end_user)
            computed = await compute(self._gateway, taken, inputs)
            scores = [finish.score for finish in computed.finishes]
            results = [_result(request, number, score) for number, score in enumerate(scores)]
            results.sort(key=lambda result: -result["relevance_score"])
            tokens = computed.usage.prompt_tokens
            body = {
                "id": f"rerank-{taken.flight.job}",
                "object": "list",
                "model": request.model,
                "results": results[: request.top_n],
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
            await exchange.reply(200, msgspec.json.encode(body))


def _result(request: RerankRequest, number: int, score: float | None) -> dict[str, Any]:
    if score is None:
        raise PlugskyError(ErrorKind.INTERNAL, "The engine gave a document no score")
    result: dict[str, Any] = {"index": number, "relevance_score": score}
    if request.return_documents:
        result["document"] = {"text": request.documents[number]}
    return result
