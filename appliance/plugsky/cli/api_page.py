"""The page of the HTTP API, made from the tables that requests are read by; a test holds ``docs/api.md`` to it."""

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from plugsky.core.errors import ErrorKind, PlugskyError

if TYPE_CHECKING:
    from plugsky.server.exchange import Wording

ENDPOINTS: Final = {
    "/v1/chat/completions": ("plugsky.server.openai.chat", "ChatCompletions"),
    "/v1/completions": ("plugsky.server.openai.completions", "Completions"),
    "/v1/responses": ("plugsky.server.openai.responses", "Responses"),
    "/tokenize": ("plugsky.server.openai.tokens", "Tokenize"),
    "/detokenize": ("plugsky.server.openai.tokens", "Detokenize"),
    "/apply-template": ("plugsky.server.openai.tokens", "ApplyTemplate"),
    "/api/chat": ("plugsky.server.ollama.endpoints", "Chat"),
    "/api/generate": ("plugsky.server.ollama.endpoints", "Generate"),
    "/api/embed": ("plugsky.server.ollama.embedding", "Embed"),
    "/api/embeddings": ("plugsky.server.ollama.embedding", "OneEmbedding"),
    "/mistral/v1/chat/completions": ("plugsky.server.mistral.endpoints", "Chat"),
    "/mistral/v1/fim/completions": ("plugsky.server.mistral.endpoints", "Fim"),
    "/mistral/v1/embeddings": ("plugsky.server.mistral.endpoints", "Embeddings"),
    "/v1/messages": ("plugsky.server.anthropic.messages", "Messages"),
    "/v1/messages/count_tokens": ("plugsky.server.anthropic.messages", "CountTokens"),
    "/v2/translate": ("plugsky.server.deepl.translate", "Translate"),
    "/aleph-alpha/complete": ("plugsky.server.aleph_alpha.complete", "Complete"),
    "/aleph-alpha/evaluate": ("plugsky.server.aleph_alpha.scoring", "Evaluate"),
    "/aleph-alpha/explain": ("plugsky.server.aleph_alpha.scoring", "Explain"),
    "/aleph-alpha/embed": ("plugsky.server.aleph_alpha.vectors", "Embed"),
    "/aleph-alpha/semantic_embed": ("plugsky.server.aleph_alpha.vectors", "SemanticEmbed"),
    "/aleph-alpha/batch_semantic_embed": ("plugsky.server.aleph_alpha.vectors", "BatchSemanticEmbed"),
    "/aleph-alpha/tokenize": ("plugsky.server.aleph_alpha.facts", "Tokenize"),
    "/aleph-alpha/detokenize": ("plugsky.server.aleph_alpha.facts", "Detokenize"),
    "/v1/embeddings": ("plugsky.server.openai.embeddings", "Embeddings"),
    "/v1/rerank": ("plugsky.server.openai.rerank", "Rerank"),
    "/v1/batches": ("plugsky.server.openai.batches", "BatchCreate"),
}
"""What reads a body, by where it answers."""
DIALECTS: Final = {
    "OpenAI, Azure": ("plugsky.server.openai.errors", "OPENAI"),
    "Anthropic": ("plugsky.server.anthropic.errors", "AnthropicWording"),
    "Mistral": ("plugsky.server.mistral.wording", "WORDING"),
    "Ollama": ("plugsky.server.ollama.wording", "WORDING"),
    "DeepL": ("plugsky.server.deepl.wording", "WORDING"),
    "Aleph Alpha": ("plugsky.server.aleph_alpha.wording", "WORDING"),
}
"""How each dialect words its failures."""
_INTRODUCTION: Final = """\
# The HTTP API

Made by `plugsky help api`; do not edit.

A program written for OpenAI's API works here with another base URL and key. `GET /docs` of a running gateway shows the
same without the internet, and `GET /openapi.json` is for machines. A key goes in `Authorization: Bearer`, `x-api-key`
or `api-key`. The paths are there with and without `/v1`, and as Azure has them: below `/azure/openai`, with the model
in the path (`/azure/openai/deployments/MODEL/chat/completions`) or in the body.

Files are there as OpenAI has them (`/v1/files`), for batches.

One written for DeepL's takes the base URL with `/deepl/` behind it, or the site's own; `/v2/languages`, `/v2/usage`,
`/v2/glossaries` and `/v3/glossaries` are there too. Tags and the terms of a glossary travel as marks that the model
must keep: what it loses three times is an error that names it.

One written for Aleph Alpha's takes the base URL with `/aleph-alpha` behind it. What weighs in a prompt (`/explain`) is
found by leaving out one stretch after another; the words of the target itself are not weighed against each other.

One written for Anthropic's takes the base URL with `/anthropic` behind it; `/v1/messages` answers at the root too.

Nothing a client sends is dropped in silence. A parameter is either **honoured**, or **reported**: accepted, without
effect on the answer, and named in the header `x-plugsky-ignored`; or **refused** with a 400 that names it, unless its
value is one that asks for nothing. A parameter that no table knows is refused too: `unsupported_field` in the table of
errors below, which has the status and the name of it in each dialect. `x-plugsky-model` names the model
that answered and the SHA-256 of its file; `x-request-id` is the id of the request in the ledger and the audit trail."""


def markdown() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for path, (module, name) in ENDPOINTS.items():
        handler = getattr(importlib.import_module(module), name)
        parts += ["", f"## `POST {path}`", "", handler.__doc__, "", *_rows(handler)]
    return "\n".join([*parts, *_errors()])


def _errors() -> Iterator[str]:
    """What each dialect says of each failure, taken from what its wording says."""
    yield from ("", "## Errors", "", "The body of a failure, whatever its status:", "")
    yield from ("| dialect | body |", "|---|---|")
    wordings = {
        name: getattr(importlib.import_module(module), attribute) for name, (module, attribute) in DIALECTS.items()
    }
    sample = PlugskyError(ErrorKind.BAD_REQUEST, "…")
    for name, wording in wordings.items():
        shown = (wording("…") if isinstance(wording, type) else wording).body(sample).decode()
        yield f"| {name} | `{shown}` |"
    yield from (
        "",
        "A status, then what names the failure in the body, where something does. `x-should-retry` and `retry-after`",
        "say in every dialect whether and when it is worth trying again.",
        "",
        f"| failure | {' | '.join(wordings)} | worth trying again |",
        "|---" * (len(wordings) + 2) + "|",
    )
    for kind in ErrorKind:
        failure = PlugskyError(kind, "…")
        cells = [
            _cell(wording("…") if isinstance(wording, type) else wording, failure) for wording in wordings.values()
        ]
        again = "yes" if kind.value.retryable else "no"
        yield f"| `{kind.wire}` | {' | '.join(cells)} | {again} |"


def _cell(wording: "Wording", failure: PlugskyError) -> str:
    body = msgspec.json.decode(wording.body(failure))
    inner = body.get("error")
    named = inner if isinstance(inner, dict) else body
    name = named.get("code") or named.get("type") or ""
    return f"{wording.status(failure)} `{name}`" if name else str(wording.status(failure))


def _rows(handler: type) -> Iterator[str]:
    tables = handler.tables  # type: ignore[attr-defined]  # the handlers of ENDPOINTS have them
    yield from ("| parameter | | why |", "|---|---|---|")
    rows = [(name, "honoured", "") for name in tables.honoured]
    rows += [(name, "honoured", "not the vendor's own") for name in tables.extensions]
    rows += [(name, "reported", why) for name, why in tables.ignored.items()]
    for name, refused in tables.refused.items():
        harmless = ", ".join(f"`{msgspec.json.encode(value).decode()}`" for value in refused.harmless)
        rows.append((name, "refused", refused.why + (f"; {harmless} is taken" if harmless else "")))
    yield from (f"| `{name}` | {how} | {why} |" for name, how, why in sorted(rows))
