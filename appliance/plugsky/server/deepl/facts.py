"""What DeepL's clients ask about the service: its languages, and what the tenant has used of its budget."""

from typing import Any, Final

import msgspec
from starlette.datastructures import QueryParams

from plugsky.core.principal import Principal
from plugsky.server.deepl.languages import SOURCES, sources, targets
from plugsky.server.deepl.shared import DeepL
from plugsky.server.exchange import Exchange
from plugsky.server.failures import bad

UNLIMITED: Final = 1_000_000_000_000
"""What DeepL's own service tells as the limit of who has none."""
_FORM_BYTES: Final = 1024


class Languages(DeepL):
    """The languages of the models a key may use. `type` is `source` or `target`, in the query or a form."""

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        form = dict(QueryParams((await exchange.body(_FORM_BYTES)).decode(errors="replace")))
        kind = (exchange.query | form).get("type", "source")
        if kind not in ("source", "target"):
            raise bad("type", "it is source or target")
        spoken = self._spoken(principal)
        if kind == "source":
            found: list[dict[str, Any]] = [{"language": code, "name": name} for code, name in sources(spoken).items()]
        else:
            found = [
                {"language": code, "name": name, "supports_formality": True} for code, name in targets(spoken).items()
            ]
        await exchange.reply(200, msgspec.json.encode(found))

    def _spoken(self, principal: Principal) -> set[str]:
        """The languages that the models name; empty where one of them names none, and so excludes none."""
        models = self._gateway.models.values()
        named = [model.languages for model in models if model.mode == "generate" and principal.may_use(model.id)]
        return set() if () in named else {code for languages in named for code in languages}


class Usage(DeepL):
    """What the tenant has used this month and may use: in tokens, which is what a site counts."""

    async def __call__(self, exchange: Exchange) -> None:
        principal = await self._caller(exchange)
        used, budget = await self._gateway.accounts.month(principal.tenant)
        shape = {"character_count": used, "character_limit": UNLIMITED if budget is None else budget}
        await exchange.reply(200, msgspec.json.encode(shape))


class LanguagePairs(DeepL):
    """The pairs of languages that a glossary may have: any two."""

    async def __call__(self, exchange: Exchange) -> None:
        await self._caller(exchange)
        pairs = [
            {"source_lang": source.lower(), "target_lang": target.lower()}
            for source in SOURCES
            for target in SOURCES
            if source != target
        ]
        await exchange.reply(200, msgspec.json.encode({"supported_languages": pairs}))
