"""``GET /v1/models`` and ``GET /v1/models/{id}``: the models a key may use, with what agents look for in them.

``max_model_len`` and ``context_length`` (top level and under ``meta``) are where known clients read the context size.
"""

from typing import Any

import msgspec

from plugsky.server.admission import authenticate, resolve
from plugsky.server.deps import Gateway, ServedModel
from plugsky.server.exchange import Exchange


def shape(model: ServedModel, context: int) -> dict[str, Any]:
    """A model as the OpenAI dialect lists it, with the context it is served with in tokens."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "plugsky",
        "max_model_len": context,
        "context_length": context,
        "meta": {"context_length": context, "n_ctx": context},
        "capabilities": [model.mode],
        "licence": model.licence,
        "languages": model.languages,
        "digest": f"sha256:{model.digest}",
    }


class ModelList:
    """The models of the site and their aliases, as far as the key's scope reaches."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        principal = await authenticate(self._gateway, exchange)
        models, context_of = self._gateway.models, self._gateway.engines.context_of
        found = [shape(model, context_of(model)) for model in models.values() if principal.may_use(model.id)]
        aliases = await self._gateway.accounts.aliases(principal.tenant)
        for name, alias in sorted(aliases.items()):
            model = models.get(alias.model)
            if model is not None and name not in models and principal.may_use(model.id):
                found.append({**shape(model, context_of(model)), "id": name, "alias_of": model.id})
        await exchange.reply(200, msgspec.json.encode({"object": "list", "data": found}))


class ModelOne:
    """One model by its id."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        principal = await authenticate(self._gateway, exchange)
        model = (await resolve(self._gateway, principal, exchange.path_params["model"])).model
        await exchange.reply(200, msgspec.json.encode(shape(model, self._gateway.engines.context_of(model))))
