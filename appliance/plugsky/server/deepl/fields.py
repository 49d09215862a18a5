"""Reading what is asked of ``/v2/translate``, as JSON or as a form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct
from starlette.datastructures import QueryParams

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.deepl.languages import SOURCES, TARGETS
from plugsky.server.failures import bad
from plugsky.server.request_json import decode
from plugsky.server.tables import Refused, Tables

MAX_TEXTS: Final = 50
MAX_CHARACTERS: Final = 128 << 10
_WHOLE: Final = "a text is translated as a whole"
_KEPT: Final = "the tags of a text are kept where they stand"
TRANSLATE: Final = Tables(
    honoured=frozenset(
        {
            "text", "source_lang", "target_lang", "context", "formality", "glossary_id", "tag_handling", "ignore_tags",
            "show_billed_characters", "custom_instructions",
        }
    ),
    ignored={
        "split_sentences": _WHOLE,
        "preserve_formatting": "the model is told to keep it",
        "outline_detection": _KEPT,
        "splitting_tags": _KEPT,
        "non_splitting_tags": _KEPT,
        "tag_handling_version": _KEPT,
        "model_type": "the site's alias deepl names the model",
        "enable_beta_languages": "every language of the list is there",
    },
    refused={
        "glossary_ids": Refused("one glossary_id is taken", ([],)),
        "style_id": Refused("there are no style rules"),
        "translation_memory_id": Refused("there are no translation memories"),
        "translation_memory_threshold": Refused("there are no translation memories"),
    },
)  # fmt: skip
_Formality = Literal["default", "more", "less", "prefer_more", "prefer_less"]
_LISTS: Final = frozenset({"text", "ignore_tags", "splitting_tags", "non_splitting_tags", "custom_instructions"})
_BOOLEANS: Final = frozenset({"show_billed_characters", "preserve_formatting", "outline_detection"})
_Tag = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z_][\w:.-]*\Z")]


class TranslateFields(Struct, frozen=True):
    """The honoured parameters with their types and bounds."""

    text: Annotated[list[str], Meta(min_length=1, max_length=MAX_TEXTS)]
    target_lang: str
    source_lang: str | None = None
    context: Annotated[str, Meta(max_length=16_384)] | None = None
    formality: _Formality | None = None
    glossary_id: Annotated[str, Meta(max_length=64)] | None = None
    tag_handling: Literal["xml", "html"] | None = None
    ignore_tags: Annotated[list[_Tag], Meta(max_length=128)] | None = None
    show_billed_characters: bool | None = None
    custom_instructions: Annotated[list[Annotated[str, Meta(max_length=300)]], Meta(max_length=10)] | None = None


@dataclass(frozen=True)
class TranslateRequest:
    """A body that was read: its languages are of the list, in upper case."""

    fields: TranslateFields
    source: str | None
    target: str
    ignored: tuple[str, ...]


def parse(body: bytes, content_type: str) -> TranslateRequest:
    """Read a body. Raises ``bad_request`` or ``unsupported_field`` with the place, ``too_large`` for too much text."""
    if content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
        body = msgspec.json.encode(_of_form(body))
    ignored = TRANSLATE.sort(decode(body, dict[str, Raw]))
    fields = decode(body, TranslateFields)
    target = _language("target_lang", fields.target_lang, TARGETS)
    source = None if fields.source_lang is None else _language("source_lang", fields.source_lang, SOURCES)
    if fields.glossary_id is not None and source is None:
        raise bad("source_lang", "a glossary needs it")
    if sum(map(len, fields.text)) > MAX_CHARACTERS:
        raise PlugskyError(ErrorKind.TOO_LARGE, f"The texts have more than {MAX_CHARACTERS} characters", param="text")
    if fields.ignore_tags and fields.tag_handling is None:
        raise bad("ignore_tags", "it goes with tag_handling")
    return TranslateRequest(fields, source, target, tuple(sorted(ignored)))


def _language(name: str, code: str, known: Mapping[str, str]) -> str:
    if code.upper() not in known:
        raise bad(name, f"it is one of {', '.join(known)}")
    return code.upper()


def _of_form(body: bytes) -> dict[str, Any]:
    """A form as the JSON it stands for: names that come again are lists, some names always."""
    try:
        pairs = QueryParams(body.decode()).multi_items()
    except UnicodeDecodeError:
        raise PlugskyError(ErrorKind.BAD_REQUEST, "The body is no form that can be read") from None
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in _LISTS:
            found.setdefault(name, []).append(value)
        elif name in _BOOLEANS:
            found[name] = value in ("1", "true")
        else:
            found[name] = value
    return found
