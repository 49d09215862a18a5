"""``/v1/files``: what a tenant sent to be run as a batch, and what its batches answered."""

import asyncio
from collections.abc import Mapping
from email.utils import encode_rfc2231
from typing import Any, Final, NoReturn

import msgspec

from plugsky.batches.files import FileRecord
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Principal
from plugsky.server.admission import authenticate
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange, HeaderList
from plugsky.server.failures import bad
from plugsky.server.multipart import OVERHEAD, Form
from plugsky.server.storage import Storage
from plugsky.server.tables import unknown

PIECE: Final = 256 << 10
PURPOSES: Final = ("batch",)
MOST: Final = 10_000
"""Files that one list may have."""
SHORTEST_S: Final = 3600
_EXPIRES: Final = ("expires_after[anchor]", "expires_after[seconds]")


class Stored:
    """What the endpoints of files and batches share: who may call, and where things are kept."""

    endpoint: str

    def __init__(self, gateway: Gateway, storage: Storage) -> None:
        self._gateway = gateway
        self._storage = storage

    async def _caller(self, exchange: Exchange) -> Principal:
        principal = await authenticate(self._gateway, exchange)
        if not principal.may_call(self.endpoint):
            raise PlugskyError(
                ErrorKind.FORBIDDEN,
                f"This key may not call the endpoint {self.endpoint}",
                next="ask the site's administrator for a key with that scope",
            )
        return principal


class FileUpload(Stored):
    """Takes a file of requests, one JSON object a line, to be run as a batch.

    The fields are `file`, `purpose` (`batch`) and `expires_after`. A file that is sent is there whole or not at all.
    """

    endpoint = "files"

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        limits = self._gateway.policy.limits
        async with self._storage.uploading(principal.tenant) as upload:
            form = Form(exchange.raw_headers, upload.write)
            async for part in exchange.parts(limits.max_file_bytes + OVERHEAD):
                await self._storage.ask(lambda data=part: form.feed(data))  # type: ignore[misc]
            if not form.whole or form.filename is None:
                raise bad("file", "the body ends before its end" if not form.whole else "it is missing")
            lifetime_s = _lifetime(form.fields, limits.file_days)
            file = await self._storage.keep(upload, principal, form.filename, form.fields["purpose"], lifetime_s)
        await exchange.reply(200, msgspec.json.encode(shape(file)))


class FileList(Stored):
    """The tenant's files. `purpose`, `after`, `limit` and `order` (`asc`, `desc`) choose among them."""

    endpoint = "files"

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        query = exchange.query
        limit = counted(query, MOST, MOST)
        order = query.pop("order", "desc")
        if order not in ("asc", "desc"):
            raise bad("order", "it is asc or desc")
        purpose, after = query.pop("purpose", None), query.pop("after", None)
        none_left(query)
        found = await self._storage.ask(
            lambda: self._storage.files.list(principal.tenant, purpose, after, limit + 1, newest=order == "desc")
        )
        await exchange.reply(200, msgspec.json.encode(listed([shape(file) for file in found], limit)))


class FileOne(Stored):
    """One file by its id: its name and size."""

    endpoint = "files"

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        file_id = exchange.path_params["file"]
        file = await self._storage.ask(lambda: self._storage.files.get(principal.tenant, file_id))
        await exchange.reply(200, msgspec.json.encode(shape(file)))


class FileContent(Stored):
    """The bytes of a file."""

    endpoint = "files"

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        file_id = exchange.path_params["file"]
        file, content = await self._storage.ask(lambda: self._storage.files.open(principal.tenant, file_id))
        try:
            headers: HeaderList = [
                (b"content-type", b"application/octet-stream"),
                (b"content-disposition", f"attachment; filename*={encode_rfc2231(file.name, 'utf-8')}".encode()),
                (b"content-length", str(file.size).encode()),
                (b"cache-control", b"no-store"),
            ]
            await exchange.open_stream(headers, keep_alive=b"")
            left = file.size
            while left and (piece := await asyncio.to_thread(content.read, min(PIECE, left))) and not exchange.gone:
                await exchange.write(piece)
                left -= len(piece)
            await exchange.end_stream()
        finally:
            content.close()


class FileDelete(Stored):
    """Removes a file, unless a batch is reading it."""

    endpoint = "files"

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        file = await self._storage.delete(principal, exchange.path_params["file"])
        await exchange.reply(200, msgspec.json.encode({"id": file.id, "object": "file", "deleted": True}))


def shape(file: FileRecord) -> dict[str, Any]:
    """A file as the OpenAI dialect shows it. Moments are Unix seconds."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": file.created_us // 1_000_000,
        "expires_at": file.expires_us // 1_000_000,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


def listed(found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page of what was found, one more than ``limit`` of them where there are further pages."""
    page = found[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(found) > limit,
    }


def counted(query: dict[str, str], default: int, most: int) -> int:
    """Take the ``limit`` out of a query. Raises BAD_REQUEST for what is none."""
    text = query.pop("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise bad("limit", f"it is a number of 1 to {most}")
    return int(text)


def none_left(query: Mapping[str, str]) -> None:
    """Raise for parameters that nobody took."""
    for name in query:
        raise unknown(name)


def _lifetime(fields: dict[str, str], days: int) -> int | None:
    """How many seconds a file shall live; None: as long as policy has it. Raises BAD_REQUEST with the field."""
    for name in fields:
        if name not in ("purpose", *_EXPIRES):
            raise unknown(name)
    if fields.get("purpose") not in PURPOSES:
        _refuse_purpose(fields.get("purpose"))
    given = [fields.get(name) for name in _EXPIRES]
    if given == [None, None]:
        return None
    anchor, seconds = given
    if anchor != "created_at":
        raise bad(_EXPIRES[0], "it is created_at")
    text = seconds or ""
    most = days * 86_400
    if not (text.isascii() and text.isdigit() and len(text) < 9 and SHORTEST_S <= int(text) <= most):
        raise bad(_EXPIRES[1], f"it is a number of {SHORTEST_S} to {most}")
    return int(text)


def _refuse_purpose(purpose: str | None) -> NoReturn:
    if purpose is None:
        raise bad("purpose", "it is missing")
    raise PlugskyError(
        ErrorKind.UNSUPPORTED_FIELD,
        "purpose is not supported here with this value",
        why=f"files are kept for {' and '.join(PURPOSES)}",
        param="purpose",
    )
