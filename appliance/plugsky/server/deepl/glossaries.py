"""``/v2/glossaries``, of one pair of languages each, and ``/v3/glossaries``, of many. They are the same glossaries."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from plugsky.core.clock import rfc3339_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Principal
from plugsky.glossaries import entries as tsv
from plugsky.glossaries.glossaries import MAX_DICTIONARIES, GlossaryRecord, Pair
from plugsky.server.deepl.languages import SOURCES, base
from plugsky.server.deepl.shared import DeepL
from plugsky.server.exchange import Exchange
from plugsky.server.failures import bad
from plugsky.server.request_json import decode

CREATE: Final = "glossary.create"
CHANGE: Final = "glossary.change"
DELETE: Final = "glossary.delete"
_TSV: Final = [(b"content-type", b"text/tab-separated-values; charset=utf-8"), (b"cache-control", b"no-store")]
_Form = Literal["tsv", "csv"]


class Dictionary(Struct, frozen=True, forbid_unknown_fields=True):
    """The entries of one pair of languages, as lines of two columns."""

    source_lang: str
    target_lang: str
    entries: str
    entries_format: _Form = "tsv"

    def read(self) -> tuple[Pair, dict[str, str]]:
        """Its languages and entries. Raises BAD_REQUEST."""
        pair = pair_of(self.source_lang, self.target_lang)
        return pair, tsv.read(self.entries, self.entries_format, pair)


class OnePair(Struct, frozen=True, forbid_unknown_fields=True):
    """A glossary of the second version."""

    name: str
    source_lang: str
    target_lang: str
    entries: str
    entries_format: _Form = "tsv"


class ManyPairs(Struct, frozen=True, forbid_unknown_fields=True):
    """A glossary of the third version."""

    name: str
    dictionaries: Annotated[list[Dictionary], Meta(min_length=1, max_length=MAX_DICTIONARIES)]


class Changes(Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be changed of a glossary."""

    name: str | None = None
    dictionaries: Annotated[list[Dictionary], Meta(max_length=MAX_DICTIONARIES)] = []


class Glossary(DeepL):
    """What the endpoints of glossaries share."""

    endpoint = "deepl.glossaries"

    async def _read(self, exchange: Exchange, kind: type[Any]) -> Any:
        return decode(await exchange.body(self._gateway.policy.limits.max_body_bytes), kind)

    async def _found(self, exchange: Exchange, principal: Principal) -> GlossaryRecord:
        glossary_id = exchange.path_params["glossary"]
        return await self._storage.ask(lambda: self._storage.glossaries.get(principal.tenant, glossary_id))

    async def _made(
        self, principal: Principal, name: str, dictionaries: Mapping[Pair, Mapping[str, str]]
    ) -> GlossaryRecord:
        self._gateway.accounts.check()
        store = self._storage
        record = await store.ask(lambda: store.glossaries.create(principal.tenant, name, dictionaries))
        store.tell(CREATE, principal, record.id, {"entries": sum(record.counts.values())})
        return record

    async def _changed(
        self,
        exchange: Exchange,
        principal: Principal,
        name: str | None,
        dictionaries: Mapping[Pair, Mapping[str, str]],
        *,
        replace: bool = False,
    ) -> GlossaryRecord:
        self._gateway.accounts.check()
        store, glossary_id = self._storage, exchange.path_params["glossary"]
        record = await store.ask(
            lambda: store.glossaries.change(principal.tenant, glossary_id, name, dictionaries, replace=replace)
        )
        store.tell(CHANGE, principal, record.id, {"entries": sum(record.counts.values())})
        return record


class Create2(Glossary):
    """Makes a glossary of one pair of languages."""

    fields = OnePair

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        asked: OnePair = await self._read(exchange, OnePair)
        pair = pair_of(asked.source_lang, asked.target_lang)
        found = {pair: tsv.read(asked.entries, asked.entries_format, pair)}
        record = await self._made(principal, asked.name, found)
        await exchange.reply(201, msgspec.json.encode(shape2(record)))


class List2(Glossary):
    """The tenant's glossaries of one pair of languages."""

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        found = await self._storage.ask(lambda: self._storage.glossaries.list(principal.tenant))
        shapes = [shape2(record) for record in found if len(record.counts) == 1]
        await exchange.reply(200, msgspec.json.encode({"glossaries": shapes}))


class Get2(Glossary):
    """One glossary of one pair of languages."""

    async def __call__(self, exchange: Exchange) -> None:
        record = await self._found(exchange, await self._caller(exchange))
        await exchange.reply(200, msgspec.json.encode(shape2(record)))


class Entries2(Glossary):
    """The entries of a glossary of one pair of languages, as tab-separated lines."""

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        record = await self._found(exchange, principal)
        pair = only_pair(record)
        store = self._storage
        found = await store.ask(lambda: store.glossaries.entries(principal.tenant, record.id, pair))
        await exchange.reply(200, tsv.written(found).encode(), _TSV)


class Delete(Glossary):
    """Removes a glossary."""

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        self._gateway.accounts.check()
        store, glossary_id = self._storage, exchange.path_params["glossary"]
        await store.ask(lambda: store.glossaries.delete(principal.tenant, glossary_id))
        store.tell(DELETE, principal, glossary_id, {})
        await exchange.reply(204, b"", [])


class Create3(Glossary):
    """Makes a glossary of any number of pairs of languages."""

    fields = ManyPairs

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        asked: ManyPairs = await self._read(exchange, ManyPairs)
        record = await self._made(principal, asked.name, _read_all(asked.dictionaries))
        await exchange.reply(201, msgspec.json.encode(shape3(record)))


class List3(Glossary):
    """The tenant's glossaries."""

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        found = await self._storage.ask(lambda: self._storage.glossaries.list(principal.tenant))
        await exchange.reply(200, msgspec.json.encode({"glossaries": [shape3(record) for record in found]}))


class Get3(Glossary):
    """One glossary."""

    async def __call__(self, exchange: Exchange) -> None:
        record = await self._found(exchange, await self._caller(exchange))
        await exchange.reply(200, msgspec.json.encode(shape3(record)))


class Change3(Glossary):
    """Gives a glossary another name, or adds entries to its dictionaries."""

    fields = Changes

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        asked: Changes = await self._read(exchange, Changes)
        record = await self._changed(exchange, principal, asked.name, _read_all(asked.dictionaries))
        await exchange.reply(200, msgspec.json.encode(shape3(record)))


class Replace3(Glossary):
    """Puts a dictionary in the place of the one of its pair of languages."""

    fields = Dictionary

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        asked: Dictionary = await self._read(exchange, Dictionary)
        pair, found = asked.read()
        record = await self._changed(exchange, principal, None, {pair: found}, replace=True)
        await exchange.reply(200, msgspec.json.encode(_counted(pair, record.counts[pair])))


class Entries3(Glossary):
    """The entries of one pair of languages, named by `source_lang` and `target_lang`."""

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        pair = _asked_pair(exchange)
        store, glossary_id = self._storage, exchange.path_params["glossary"]
        found = await store.ask(lambda: store.glossaries.entries(principal.tenant, glossary_id, pair))
        shape = {
            "source_lang": pair[0].lower(),
            "target_lang": pair[1].lower(),
            "entries": tsv.written(found),
            "entries_format": "tsv",
        }
        await exchange.reply(200, msgspec.json.encode({"dictionaries": [shape]}))


class DeleteDictionary3(Glossary):
    """Removes one pair of languages from a glossary."""

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        pair = _asked_pair(exchange)
        self._gateway.accounts.check()
        store, glossary_id = self._storage, exchange.path_params["glossary"]
        await store.ask(lambda: store.glossaries.delete_dictionary(principal.tenant, glossary_id, pair))
        store.tell(CHANGE, principal, glossary_id, {})
        await exchange.reply(204, b"", [])


def pair_of(source: str, target: str) -> Pair:
    """Two languages without their regions. Raises BAD_REQUEST for one that is unknown, or the same twice."""
    pair = (base(source), base(target))
    for name, code in zip(("source_lang", "target_lang"), pair, strict=True):
        if code not in SOURCES:
            raise bad(name, f"it is one of {', '.join(SOURCES)}")
    if pair[0] == pair[1]:
        raise bad("target_lang", "it is the source's")
    return pair


def only_pair(record: GlossaryRecord) -> Pair:
    """The languages of a glossary that has one pair. Raises NOT_FOUND for another, which the third version has."""
    if len(record.counts) != 1:
        raise PlugskyError(
            ErrorKind.NOT_FOUND, "This glossary has not one pair of languages", next=f"GET /v3/glossaries/{record.id}"
        )
    (pair,) = record.counts
    return pair


def shape2(record: GlossaryRecord) -> dict[str, Any]:
    """A glossary as the second version shows it."""
    pair = only_pair(record)
    return {
        "glossary_id": record.id,
        "name": record.name,
        "ready": True,
        "source_lang": pair[0].lower(),
        "target_lang": pair[1].lower(),
        "creation_time": rfc3339_us(record.created_us),
        "entry_count": record.counts[pair],
    }


def shape3(record: GlossaryRecord) -> dict[str, Any]:
    """A glossary as the third version shows it."""
    return {
        "glossary_id": record.id,
        "name": record.name,
        "creation_time": rfc3339_us(record.created_us),
        "dictionaries": [_counted(pair, count) for pair, count in record.counts.items()],
    }


def _counted(pair: Pair, count: int) -> dict[str, Any]:
    return {"source_lang": pair[0].lower(), "target_lang": pair[1].lower(), "entry_count": count}


def _read_all(dictionaries: Sequence[Dictionary]) -> dict[Pair, dict[str, str]]:
    found: dict[Pair, dict[str, str]] = {}
    for each in dictionaries:
        pair, entries = each.read()
        if pair in found:
            raise bad("dictionaries", f"{pair[0]} to {pair[1]} is there twice")
        found[pair] = entries
    return found


def _asked_pair(exchange: Exchange) -> Pair:
    query = exchange.query
    for name in ("source_lang", "target_lang"):
        if name not in query:
            raise bad(name, "it is missing")
    return pair_of(query["source_lang"], query["target_lang"])
