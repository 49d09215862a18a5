"""The front door: routes, and one edge around them that no failure passes without its proper reply.

Guarantees: every reply carries ``x-request-id`` (made here, never the client's word); every status, that of an unknown
route and a wrong method included, has the OpenAI error body; an unforeseen failure is a 500 that says nothing of the
inside, and its log line names the exception's type and place, never its text, which may hold a prompt. No redirects,
no CORS.
"""

import logging
import time
from collections.abc import Iterator
from typing import Final, NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.ids import new_id
from plugsky.server.aleph_alpha import facts as aleph_alpha
from plugsky.server.aleph_alpha import scoring, vectors
from plugsky.server.aleph_alpha.complete import Complete
from plugsky.server.anthropic.errors import AnthropicWording
from plugsky.server.anthropic.messages import CountTokens, Messages
from plugsky.server.deepl import facts, glossaries
from plugsky.server.deepl.translate import Translate
from plugsky.server.deps import Gateway
from plugsky.server.description import Description, Handler, Row
from plugsky.server.exchange import Exchange
from plugsky.server.failures import place_of
from plugsky.server.health import Ready, live
from plugsky.server.mistral import endpoints as mistral
from plugsky.server.monitoring import Scrape
from plugsky.server.ollama import endpoints as ollama
from plugsky.server.ollama.embedding import Embed, OneEmbedding
from plugsky.server.openai import batches, files
from plugsky.server.openai.chat import ChatCompletions
from plugsky.server.openai.completions import Completions
from plugsky.server.openai.embeddings import Embeddings
from plugsky.server.openai.errors import OPENAI
from plugsky.server.openai.models import ModelList, ModelOne
from plugsky.server.openai.rerank import Rerank
from plugsky.server.openai.responses import Responses
from plugsky.server.openai.tokens import ApplyTemplate, Detokenize, Tokenize

_log: Final = logging.getLogger(__name__)


def routes(gateway: Gateway) -> tuple[Row, ...]:
    """All that is served: method, path, and who answers."""
    ready = Ready(gateway)
    rows: list[Row] = [
        ("GET", "/v1/health/live", live),
        ("GET", "/v1/health/ready", ready),
        ("GET", "/health", ready),
    ]
    rows.append(("POST", "/azure/openai/deployments/{deployment}/completions", Completions(gateway)))
    rows.append(("POST", "/azure/openai/deployments/{deployment}/chat/completions", ChatCompletions(gateway)))
    rows.append(("POST", "/azure/openai/deployments/{deployment}/embeddings", Embeddings(gateway)))
    for prefix in ("", "/v1", "/azure/openai", "/azure/openai/v1"):
        rows += [
            ("POST", f"{prefix}/chat/completions", ChatCompletions(gateway)),
            ("POST", f"{prefix}/completions", Completions(gateway)),
            ("POST", f"{prefix}/responses", Responses(gateway)),
            ("POST", f"{prefix}/embeddings", Embeddings(gateway)),
            ("GET", f"{prefix}/models", ModelList(gateway)),
            ("GET", f"{prefix}/models/{{model:path}}", ModelOne(gateway)),
        ]
    for prefix in ("/api", "/ollama/api"):
        rows += [
            ("POST", f"{prefix}/chat", ollama.Chat(gateway)),
            ("POST", f"{prefix}/generate", ollama.Generate(gateway)),
            ("POST", f"{prefix}/embed", Embed(gateway)),
            ("POST", f"{prefix}/embeddings", OneEmbedding(gateway)),
            ("GET", f"{prefix}/tags", ollama.Tags(gateway)),
            ("POST", f"{prefix}/show", ollama.Show(gateway)),
            ("GET", f"{prefix}/ps", ollama.Running(gateway)),
            ("GET", f"{prefix}/version", ollama.Version(gateway)),
        ]
    rows += [
        ("POST", "/mistral/v1/chat/completions", mistral.Chat(gateway)),
        ("POST", "/mistral/v1/fim/completions", mistral.Fim(gateway)),
        ("POST", "/v1/fim/completions", mistral.Fim(gateway)),
        ("POST", "/mistral/v1/embeddings", mistral.Embeddings(gateway)),
        ("GET", "/mistral/v1/models", mistral.Models(gateway)),
        ("GET", "/mistral/v1/models/{model:path}", mistral.Model(gateway)),
    ]
    for prefix in ("", "/aleph-alpha"):
        rows += [
            ("POST", f"{prefix}/complete", Complete(gateway)),
            ("POST", f"{prefix}/evaluate", scoring.Evaluate(gateway)),
            ("POST", f"{prefix}/explain", scoring.Explain(gateway)),
            ("POST", f"{prefix}/embed", vectors.Embed(gateway)),
            ("POST", f"{prefix}/semantic_embed", vectors.SemanticEmbed(gateway)),
            ("POST", f"{prefix}/batch_semantic_embed", vectors.BatchSemanticEmbed(gateway)),
            ("GET", f"{prefix}/models_available", aleph_alpha.Models(gateway)),
        ]
    rows += [
        ("GET", "/aleph-alpha/version", aleph_alpha.Version(gateway)),
        ("POST", "/aleph-alpha/tokenize", aleph_alpha.Tokenize(gateway)),
        ("POST", "/aleph-alpha/detokenize", aleph_alpha.Detokenize(gateway)),
        ("POST", "/aleph-alpha/chat/completions", ChatCompletions(gateway)),
        ("POST", "/aleph-alpha/embeddings", Embeddings(gateway)),
        ("POST", "/aleph-alpha/rerank", Rerank(gateway)),
    ]
    for prefix in ("", "/anthropic"):
        rows += [
            ("POST", f"{prefix}/v1/messages", Messages(gateway)),
            ("POST", f"{prefix}/v1/messages/count_tokens", CountTokens(gateway)),
        ]
    for prefix in ("", "/v1"):
        rows += [
            ("POST", f"{prefix}/rerank", Rerank(gateway)),
            ("POST", f"{prefix}/tokenize", Tokenize(gateway)),
            ("POST", f"{prefix}/detokenize", Detokenize(gateway)),
            ("POST", f"{prefix}/apply-template", ApplyTemplate(gateway)),
        ]
    rows += _stored(gateway)
    rows.append(("GET", "/metrics", Scrape(gateway)))
    described = Description(rows)
    return (*rows, ("GET", "/openapi.json", described.json), ("GET", "/docs", described.page))


def _stored(gateway: Gateway) -> Iterator[Row]:
    """What keeps something, where there is a place for it."""
    storage = gateway.storage
    if storage is None:
        return
    for prefix in ("", "/v1", "/azure/openai", "/azure/openai/v1"):
        yield "POST", f"{prefix}/files", files.FileUpload(gateway, storage)
        yield "GET", f"{prefix}/files", files.FileList(gateway, storage)
        yield "GET", f"{prefix}/files/{{file}}", files.FileOne(gateway, storage)
        yield "DELETE", f"{prefix}/files/{{file}}", files.FileDelete(gateway, storage)
        yield "GET", f"{prefix}/files/{{file}}/content", files.FileContent(gateway, storage)
        yield "POST", f"{prefix}/batches", batches.BatchCreate(gateway, storage)
        yield "GET", f"{prefix}/batches", batches.BatchList(gateway, storage)
        yield "GET", f"{prefix}/batches/{{batch}}", batches.BatchOne(gateway, storage)
        yield "POST", f"{prefix}/batches/{{batch}}/cancel", batches.BatchCancel(gateway, storage)
    for prefix in ("", "/deepl"):
        yield "POST", f"{prefix}/v2/translate", Translate(gateway, storage)
        for method in ("GET", "POST"):
            yield method, f"{prefix}/v2/languages", facts.Languages(gateway, storage)
            yield method, f"{prefix}/v2/usage", facts.Usage(gateway, storage)
        yield "GET", f"{prefix}/v2/glossary-language-pairs", facts.LanguagePairs(gateway, storage)
        yield "POST", f"{prefix}/v2/glossaries", glossaries.Create2(gateway, storage)
        yield "GET", f"{prefix}/v2/glossaries", glossaries.List2(gateway, storage)
        yield "GET", f"{prefix}/v2/glossaries/{{glossary}}", glossaries.Get2(gateway, storage)
        yield "GET", f"{prefix}/v2/glossaries/{{glossary}}/entries", glossaries.Entries2(gateway, storage)
        yield "DELETE", f"{prefix}/v2/glossaries/{{glossary}}", glossaries.Delete(gateway, storage)
        yield "POST", f"{prefix}/v3/glossaries", glossaries.Create3(gateway, storage)
        yield "GET", f"{prefix}/v3/glossaries", glossaries.List3(gateway, storage)
        yield "GET", f"{prefix}/v3/glossaries/{{glossary}}", glossaries.Get3(gateway, storage)
        yield "PATCH", f"{prefix}/v3/glossaries/{{glossary}}", glossaries.Change3(gateway, storage)
        yield "DELETE", f"{prefix}/v3/glossaries/{{glossary}}", glossaries.Delete(gateway, storage)
        yield "GET", f"{prefix}/v3/glossaries/{{glossary}}/entries", glossaries.Entries3(gateway, storage)
        dictionaries = f"{prefix}/v3/glossaries/{{glossary}}/dictionaries"
        yield "PUT", dictionaries, glossaries.Replace3(gateway, storage)
        yield "DELETE", dictionaries, glossaries.DeleteDictionary3(gateway, storage)


def build_app(gateway: Gateway) -> Starlette:
    """The ASGI application of one gateway process."""
    paths = [Route(path, Endpoint(path, handler), methods=[method]) for method, path, handler in routes(gateway)]
    app = Starlette(routes=paths, middleware=[Middleware(Edge)], exception_handlers={HTTPException: _unrouted})
    app.router.redirect_slashes = False
    return app


class Endpoint:
    """A handler of exchanges as the ASGI application that the router wants."""

    def __init__(self, path: str, handler: Handler) -> None:
        self.path = path
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
        began = time.monotonic()
        try:
            await self._app(scope, receive, send)
        except PlugskyError as error:
            await _answer(exchange, error)
        except Exception as error:  # noqa: BLE001 - the edge: an unforeseen failure still gets the contract's reply
            _log.error("request %s failed: %s", exchange.request_id, place_of(error))
            await _answer(exchange, PlugskyError(ErrorKind.INTERNAL, "The gateway failed on this request"))
        finally:
            _log.info("request", extra={"facts": _facts(exchange, scope, time.monotonic() - began)})


def _facts(exchange: Exchange, scope: Scope, seconds: float) -> dict[str, str | int | float]:
    """What the log has of a request: its id, the route as it is served, its end; never what a client wrote."""
    endpoint = scope.get("endpoint")
    return {
        "request_id": exchange.request_id,
        "key_id": exchange.key_id or "-",
        "method": scope["method"] if endpoint is not None else "-",
        "route": getattr(endpoint, "path", "-"),
        "status": exchange.status or ErrorKind.CANCELLED.value.status,
        "seconds": round(seconds, 3),
    }


async def _answer(exchange: Exchange, error: PlugskyError) -> None:
    words = exchange.wording or OPENAI
    if exchange.streaming:
        await exchange.end_stream(words.event(error))
    elif not exchange.started and not exchange.gone:
        await exchange.reply(words.status(error), words.body(error), words.headers(error))


async def _unrouted(request: Request, error: Exception) -> NoReturn:
    """The router's refusals in our words; the edge makes the reply."""
    exchange = Exchange.in_scope(request.scope)
    if request.url.path.startswith("/anthropic/"):
        exchange.wording = AnthropicWording(exchange.request_id)
    if isinstance(error, HTTPException) and error.status_code == ErrorKind.METHOD_NOT_ALLOWED.value.status:
        allowed = (error.headers or {}).get("Allow", "")
        exchange.reply_headers.append((b"allow", allowed.encode()))
        raise PlugskyError(ErrorKind.METHOD_NOT_ALLOWED, "This method is not allowed here", why=f"allowed: {allowed}")
    raise PlugskyError(ErrorKind.NOT_FOUND, "There is no such endpoint", next="GET /v1/models is one that is there")
