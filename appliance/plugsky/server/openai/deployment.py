"""Azure's paths: the model is named in the path, as a *deployment*, and the body need not name it again."""

from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import Raw

from plugsky.core.policy import Limits
from plugsky.server.exchange import Exchange
from plugsky.server.request_json import decode

RequestT = TypeVar("RequestT")
Read = Callable[[bytes, Limits], RequestT]


def reader(exchange: Exchange, read: Read[RequestT]) -> Read[RequestT]:
    """``read``, with the model that the path names in the place of the body's, where it names one."""
    deployment = exchange.path_params.get("deployment")
    if deployment is None:
        return read

    def with_its_model(body: bytes, limits: Limits) -> RequestT:
        fields = decode(body, dict[str, Raw])
        return read(msgspec.json.encode({**fields, "model": deployment}), limits)

    return with_its_model
