"""The parameters of ``/v1/chat/completions`` in three tables.

Every parameter of the API is in exactly one (a test compares them with the ``openai`` package's own types):

- :data:`HONOURED`: it does what it says;
- :data:`IGNORED`: accepted, has no effect on the answer here, and is named in ``x-plugsky-ignored``;
- :data:`REFUSED`: 400 ``unsupported_field``, unless its value is one that asks for nothing.

A name in none of them is 400 ``unsupported_field`` too. A value of null is the same as an absent name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import Raw

from plugsky.core.errors import ErrorKind, PlugskyError

_MAX_HARMLESS: Final = 64
HONOURED: Final = frozenset(
    {
        "model", "messages", "stream", "stream_options", "stop", "seed", "temperature", "top_p", "max_tokens",
        "max_completion_tokens", "presence_penalty", "frequency_penalty", "logit_bias", "user", "safety_identifier",
    }
)  # fmt: skip
EXTENSIONS: Final = frozenset({"top_k", "min_p", "repeat_penalty"})
"""Honoured too, though not OpenAI's: what the samplers of open models are usually tuned with."""

IGNORED: Final[dict[str, str]] = {
    "metadata": "only stored answers carry it, and none is stored",
    "parallel_tool_calls": "there are no tool calls to make",
    "prediction": "it would only change the speed",
    "prompt_cache_key": "the cache finds its prefixes by itself",
    "prompt_cache_options": "the cache finds its prefixes by itself",
    "prompt_cache_retention": "the cache finds its prefixes by itself",
    "service_tier": "the site has one tier",
}


@dataclass(frozen=True)
class Refused:
    """A parameter that is not served: why, and the values that ask for nothing."""

    why: str
    harmless: tuple[Any, ...] = ()


REFUSED: Final[dict[str, Refused]] = {
    "audio": Refused("models of this site answer in text"),
    "function_call": Refused("tools are not served", ("none", "auto")),
    "functions": Refused("tools are not served", ([],)),
    "logprobs": Refused("log-probabilities are not served", (False,)),
    "modalities": Refused("models of this site answer in text", (["text"],)),
    "moderation": Refused("there is no moderation model"),
    "n": Refused("one answer per request is served", (1,)),
    "reasoning_effort": Refused("reasoning is not served", ("none",)),
    "response_format": Refused("only plain text is served", ({"type": "text"},)),
    "store": Refused("answers are not stored", (False,)),
    "tool_choice": Refused("tools are not served", ("none", "auto")),
    "tools": Refused("tools are not served", ([],)),
    "top_logprobs": Refused("log-probabilities are not served", (0,)),
    "verbosity": Refused("the prompt alone decides the length", ("medium",)),
    "web_search_options": Refused("nothing here reaches the web"),
}


def sort_names(names: Mapping[str, Raw]) -> set[str]:
    """The names that are accepted without effect. Raises ``unsupported_field`` for one that cannot be accepted."""
    ignored = set()
    for name, raw in names.items():
        if name in HONOURED or name in EXTENSIONS:
            continue
        if name in IGNORED:
            if bytes(raw) != b"null":
                ignored.add(name)
        elif name in REFUSED:
            if not _asks_nothing(bytes(raw), REFUSED[name].harmless):
                raise PlugskyError(
                    ErrorKind.UNSUPPORTED_FIELD,
                    f"{name} is not supported here with this value",
                    why=REFUSED[name].why,
                    param=name,
                )
        else:
            raise unknown(name)
    return ignored


def unknown(place: str) -> PlugskyError:
    """The error for a parameter in none of the tables."""
    shown = ascii(place[:80])
    return PlugskyError(ErrorKind.UNSUPPORTED_FIELD, f"The parameter {shown} is not known here", param=place[:80])


def _asks_nothing(raw: bytes, harmless: tuple[Any, ...]) -> bool:
    if len(raw) > _MAX_HARMLESS:
        return False
    value = msgspec.json.decode(raw)
    return value is None or any(type(value) is type(other) and value == other for other in harmless)
