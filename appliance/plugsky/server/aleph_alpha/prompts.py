"""A prompt in Aleph Alpha's words: a text, or items that are texts and runs of token ids, one behind the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta, Struct

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.admission import weigh
from plugsky.server.answering import NamedT, Received
from plugsky.server.deps import Gateway
from plugsky.server.failures import bad
from plugsky.server.prompt import Prompt

TokenIds = list[Annotated[int, Meta(ge=0, le=2**31 - 1)]]


class TextItem(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A stretch of text."""

    data: str
    controls: list[Any] = []


class TokensItem(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="token_ids"):
    """A run of token ids."""

    data: TokenIds
    controls: list[Any] = []


class ImageItem(Struct, frozen=True, tag_field="type", tag="image"):
    """An image, which these endpoints do not read."""

    data: str


Item = TextItem | TokensItem | ImageItem
Given = str | Annotated[list[Item], Meta(max_length=64)]


@dataclass(frozen=True)
class Stretch:
    """An item as its model reads it: token ids, what each says in bytes, and the text it was, if it was one."""

    tokens: tuple[int, ...]
    pieces: tuple[bytes, ...]
    text: str | None


def items_of(place: str, given: Given) -> tuple[TextItem | TokensItem, ...]:
    """The items of a prompt. Raises ``not_supported`` for images, ``bad_request`` for controls of attention."""
    found: list[TextItem | TokensItem] = []
    for number, item in enumerate([TextItem(given)] if isinstance(given, str) else given):
        if isinstance(item, ImageItem):
            raise PlugskyError(
                ErrorKind.NOT_SUPPORTED,
                "A prompt of this endpoint holds no images",
                next="send them to /v1/chat/completions, to a model that sees",
                param=f"{place}[{number}]",
            )
        if item.controls:
            raise bad(f"{place}[{number}].controls", "attention cannot be controlled here")
        found.append(item)
    return tuple(found)


def plain(items: Sequence[TextItem | TokensItem]) -> Prompt | None:
    """The prompt of items that are of one kind; None for those that have to be tokenised one by one."""
    texts = [item.data for item in items if isinstance(item, TextItem)]
    if len(texts) == len(items):
        return Prompt(text="".join(texts))
    runs = [item.data for item in items if isinstance(item, TokensItem)]
    return Prompt(tokens=tuple(token for run in runs for token in run)) if len(runs) == len(items) else None


async def stretches(
    gateway: Gateway, taken: Received[NamedT], items: Sequence[TextItem | TokensItem]
) -> tuple[Stretch, ...]:
    """Each item as tokens: the first as the beginning of a prompt, the others as they stand."""
    found = []
    for number, item in enumerate(items):
        if isinstance(item, TextItem):
            prepared = await read(gateway, taken, Prompt(text=item.data, framed=not number, shown=True))
            found.append(Stretch(prepared.tokens, prepared.pieces, item.data))
        elif item.data:
            prepared = await read(gateway, taken, Prompt(tokens=tuple(item.data), shown=True))
            found.append(Stretch(prepared.tokens, prepared.pieces, None))
        else:
            found.append(Stretch((), (), None))
    return tuple(found)


async def read(gateway: Gateway, taken: Received[NamedT], prompt: Prompt) -> frames.Prepared:
    """A prompt as the model reads it; it costs nothing."""
    if prompt.text == "" and not prompt.framed:
        return frames.Prepared(0, (), 0)
    return await weigh(gateway, taken.flight, taken.model, taken.model.mode, prompt)


async def whole(gateway: Gateway, taken: Received[NamedT], items: Sequence[TextItem | TokensItem]) -> Prompt:
    """The items as one prompt."""
    if (found := plain(items)) is not None:
        return found
    parts = await stretches(gateway, taken, items)
    return Prompt(tokens=tuple(token for part in parts for token in part.tokens))
