"""What is served, told by itself: an OpenAPI document, and a page of it that needs no script and no internet.

Both are made of the routes, the first line of each handler's docstring, and the types that bodies are read with; so
they cannot tell of what is not there. They hold nothing of the site and need no key.
"""

import html
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from importlib import metadata
from typing import Any, Final

import msgspec

from plugsky.core.errors import ErrorKind
from plugsky.server.exchange import JSON_HEADERS, Exchange, HeaderList

Handler = Callable[[Exchange], Awaitable[None]]
Row = tuple[str, str, Handler]
"""Method, path, and who answers there; one that has ``fields`` reads a body of that type."""

_PARAMETER: Final = re.compile(r"{(\w+)")
_OPEN: Final = ("/health", "/v1/health/live", "/v1/health/ready")
_PAGE_HEADERS: Final[HeaderList] = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
]
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "code{font-family:ui-monospace,monospace}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;vertical-align:top;padding:.2em .8em .2em 0;border-bottom:1px solid #ddd}"
)
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


class Description:
    """The description of ``rows``."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.document = _document(list(rows))
        self._json = msgspec.json.encode(self.document)
        self._page = _page(self.document).encode()

    async def json(self, exchange: Exchange) -> None:
        """The OpenAPI document."""
        await exchange.reply(200, self._json, JSON_HEADERS)

    async def page(self, exchange: Exchange) -> None:
        """The page for people."""
        await exchange.reply(200, self._page, _PAGE_HEADERS)


def _document(rows: list[Row]) -> dict[str, Any]:
    bodies = [handler.fields for _, _, handler in rows if hasattr(handler, "fields")]
    schemas, components = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(bodies, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for method, path, handler in rows:
        paths.setdefault(path.replace(":path}", "}"), {})[method.lower()] = _operation(path, handler, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Plugsky", "version": metadata.version("plugsky")},
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(path: str, handler: Handler, schema_of: dict[Any, Any]) -> dict[str, Any]:
    told = inspect.getdoc(handler if inspect.isroutine(handler) else type(handler)) or ""
    operation: dict[str, Any] = {
        "summary": told.split("\n\n")[0].replace("\n", " "),
        "responses": {"200": {"description": "the answer"}, "default": _failure()},
    }
    if path not in _OPEN:
        operation["security"] = [{"key": []}]
    named = [match[1] for match in _PARAMETER.finditer(path)]
    if named:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in named
        ]
    if hasattr(handler, "fields"):
        content = {"application/json": {"schema": schema_of[handler.fields]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _failure() -> dict[str, Any]:
    codes = sorted({str(kind.value.status) for kind in ErrorKind})
    schema = {"schema": {"$ref": "#/components/schemas/Error"}}
    return {"description": f"a failure: {', '.join(codes)}", "content": {"application/json": schema}}


def _page(document: dict[str, Any]) -> str:
    parts = [f"<h1>{document['info']['title']} {html.escape(document['info']['version'])}</h1>"]
    parts.append(
        "<p>An API key goes in <code>Authorization: Bearer …</code>. Machines read <code>/openapi.json</code>."
    )
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(operation['summary'])}")
            body = operation.get("requestBody")
            if body is not None:
                parts.append(_fields(document, body["content"]["application/json"]["schema"]))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Plugsky API</title><style>{_STYLE}</style>'
        f"<body>{''.join(parts)}</body></html>"
    )


def _fields(document: dict[str, Any], reference: dict[str, Any]) -> str:
    schema = document["components"]["schemas"][reference["$ref"].rsplit("/", 1)[1]]
    required = schema.get("required", [])
    rows = [
        f"<tr><td><code>{html.escape(name)}</code>{' (required)' if name in required else ''}"
        f"<td><code>{html.escape(_kind(field))}</code>"
        for name, field in schema["properties"].items()
    ]
    return f"<table><tr><th>parameter<th>what it may be{''.join(rows)}</table>"


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(each) for each in schema["anyOf"] if each.get("type") != "null"))
    if "enum" in schema:
        return " or ".join(msgspec.json.encode(value).decode() for value in schema["enum"] if value is not None)
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS.items() if key in schema]
    return " ".join([str(schema.get("type", "any")), *bounds])


_BOUNDS: Final = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "minLength": "of length from",
    "maxLength": "of length to",
}
