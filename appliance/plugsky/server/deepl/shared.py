"""What the endpoints of DeepL's dialect share: its wording, who may call, and where glossaries are."""

from plugsky.core.principal import Principal
from plugsky.server.deepl.wording import WORDING
from plugsky.server.exchange import Exchange
from plugsky.server.openai.files import Stored


class DeepL(Stored):
    """An endpoint of DeepL's dialect."""

    endpoint = "deepl"

    async def _caller(self, exchange: Exchange) -> Principal:
        exchange.wording = WORDING
        return await super()._caller(exchange)
