"""Reading the bodies of ``/tokenize``, ``/detokenize``, ``/apply-template``: in llama-server's and in vLLM's words."""

from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from plugsky.core.policy import Limits
from plugsky.server.failures import bad
from plugsky.server.openai.fields import ChatFields, prompt_of
from plugsky.server.prompt import Prompt
from plugsky.server.request_json import decode
from plugsky.server.tables import Tables

_TEMPLATE: Final = frozenset(
    {"messages", "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort", "chat_template_kwargs"}
)
_NEVER: Final = "what a client writes never becomes a control token"
TOKENIZE: Final = Tables(
    honoured=frozenset({"model", "content", "add_special", "with_pieces"}),
    ignored={"parse_special": _NEVER},
    refused={},
    extensions=_TEMPLATE | {"prompt", "add_special_tokens", "return_token_strs"},
)
DETOKENIZE: Final = Tables(frozenset({"model", "tokens"}), {}, {})
APPLY_TEMPLATE: Final = Tables(
    _TEMPLATE | {"model"}, {"add_generation_prompt": "the answer's beginning is always written"}, {}
)
_Name = Annotated[str, Meta(min_length=1, max_length=256)]


class TokenizeFields(Struct, frozen=True):
    """The honoured parameters with their types; those of a chat are read again as a chat's are."""

    model: _Name
    content: str | None = None
    prompt: str | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    with_pieces: bool | None = None
    return_token_strs: bool | None = None
    messages: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    reasoning_effort: Any = None
    chat_template_kwargs: Any = None


class DetokenizeFields(Struct, frozen=True):
    """The honoured parameters with their types and bounds."""

    model: _Name
    tokens: Annotated[list[Annotated[int, Meta(ge=0, le=2**31 - 1)]], Meta(min_length=1)]


@dataclass(frozen=True)
class TokensRequest:
    """A body that was read. ``pieces`` and ``names`` say how the tokens are told: with their texts, or beside them."""

    model: str
    prompt: Prompt
    ignored: tuple[str, ...]
    pieces: bool = False
    names: bool = False


def parse_tokenize(body: bytes, limits: Limits) -> TokensRequest:
    """Read a text, or a chat, that is to be tokens. Raises ``bad_request`` or ``unsupported_field`` with the place.

    A ``content`` is tokenised alone and a ``prompt`` as a model reads it, as the two servers do that named them.
    """
    names = decode(body, dict[str, Raw])
    ignored = TOKENIZE.sort(names)
    fields = decode(body, TokenizeFields)
    given = [name for name in ("content", "prompt", "messages") if getattr(fields, name) is not None]
    if len(given) != 1:
        raise bad(given[1] if given else "content", "give exactly one of content, prompt and messages")
    pieces, strings = bool(fields.with_pieces), bool(fields.return_token_strs)
    if fields.messages is not None:
        chat = {name: raw for name, raw in names.items() if name in _TEMPLATE or name == "model"}
        prompt = _chat(msgspec.json.encode(chat), limits, ignored)
    else:
        for name in _TEMPLATE:
            if getattr(fields, name) is not None:
                raise bad(name, "it goes with messages")
        framed = fields.add_special_tokens if fields.add_special is None else fields.add_special
        text = fields.content if fields.content is not None else fields.prompt
        if not text:
            raise bad(given[0], "it is empty")
        by_default = fields.content is None
        prompt = Prompt(text=text, framed=by_default if framed is None else framed, shown=pieces or strings)
    return TokensRequest(fields.model, prompt, tuple(sorted(ignored)), pieces, strings)


def parse_detokenize(body: bytes, _limits: Limits) -> TokensRequest:
    """Read token ids that are to be a text. Raises ``bad_request`` or ``unsupported_field`` with the place."""
    DETOKENIZE.sort(decode(body, dict[str, Raw]))
    fields = decode(body, DetokenizeFields)
    return TokensRequest(fields.model, Prompt(tokens=tuple(fields.tokens), shown=True), ())


def parse_template(body: bytes, limits: Limits) -> TokensRequest:
    """Read a chat that is to be the text its model reads. Raises ``bad_request`` or ``unsupported_field``."""
    ignored = APPLY_TEMPLATE.sort(decode(body, dict[str, Raw]))
    known: dict[str, Any] = {name: raw for name, raw in decode(body, dict[str, Raw]).items() if name not in ignored}
    prompt = _chat(msgspec.json.encode(known), limits, ignored)
    return TokensRequest(decode(body, ChatFields).model, prompt, tuple(sorted(ignored)))


def _chat(body: bytes, limits: Limits, ignored: set[str]) -> Prompt:
    fields = decode(body, ChatFields)
    if len(fields.messages) > limits.max_messages:
        raise bad("messages", f"there are {len(fields.messages)}; the limit is {limits.max_messages}")
    prompt = prompt_of(fields, ignored)
    if prompt.images:
        raise bad("messages", "an image is no text")
    return msgspec.structs.replace(prompt, shown=True)
