"""Inputs that are texts or token ids, one or many: the ``input`` of embeddings, the ``prompt`` of completions."""

from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from plugsky.server.failures import bad
from plugsky.server.prompt import Prompt

_Token = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Inputs = str | Annotated[list[str | _Token | list[_Token]], Meta(min_length=1)]


class Placed(NamedTuple):
    """A prompt, and where in the body it stands."""

    prompt: Prompt
    place: str


def prompts_of(name: str, given: Inputs, most: int) -> tuple[Placed, ...]:
    """The prompts of the parameter ``name``. Raises ``bad_request`` with the place for an empty one, or too many."""
    single = isinstance(given, str) or all(isinstance(each, int) for each in given)
    inputs: list[Any] = [given] if single else list(given)
    if len(inputs) > most:
        raise bad(name, f"there are {len(inputs)}; the limit is {most}")
    places = (name,) if single else tuple(f"{name}[{number}]" for number in range(len(inputs)))
    return tuple(Placed(_prompt(each, place), place) for each, place in zip(inputs, places, strict=True))


def _prompt(given: str | int | list[int], place: str) -> Prompt:
    if isinstance(given, int):
        raise bad(place, "token ids are one list, or a list for each input")
    if not given:
        raise bad(place, "it is empty")
    return Prompt(text=given) if isinstance(given, str) else Prompt(tokens=tuple(given))
