"""``GET /v1/models`` and ``GET /v1/models/{id}``: the models a key may use, with what agents look for in them.

``max_model_len`` and ``context_length`` (top level and under ``meta``) are where known clients read the context size.
"""

from typing import Any

import msgspec

from plugsky.server.deps import Gateway, ServedModel
from plugsky.server.exchange import Exchange
from plugsky.server.life import authenticate, resolve


def shape(model: ServedModel) -> dict[str, Any]:
    """A model as the OpenAI dialect lists it."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "plugsky",
        "max_model_len": model.context,
        "context_length": model.context,
        "meta": {"context_length": model.context, "n_ctx": model.context},
        "capabilities": [model.mode],
        "licence": model.licence,
        "languages": model.languages,
        "digest": f"sha256:{model.digest}",
    }


class ModelList:
    """The models of the site, as far as the key's scope reaches."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        principal = await authenticate(self._gateway, exchange.raw_headers)
        found = [shape(model) for model in self._gateway.models.values() if principal.may_use(model.id)]
        await exchange.reply(200, msgspec.json.encode({"object": "list", "data": found}))


class ModelOne:
    """One model by its id."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        principal = await authenticate(self._gateway, exchange.raw_headers)
        model = resolve(self._gateway, principal, exchange.path_params["model"])
        await exchange.reply(200, msgspec.json.encode(shape(model)))
