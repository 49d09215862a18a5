"""Reading the body of ``/v1/embeddings``: texts or token ids, one or many."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from msgspec import Meta, Raw, Struct

from plugsky.core.policy import Limits
from plugsky.server.openai.inputs import Inputs, prompts_of
from plugsky.server.prompt import Prompt
from plugsky.server.request_json import decode
from plugsky.server.tables import Tables

EMBEDDINGS: Final = Tables(
    honoured=frozenset({"model", "input", "encoding_format", "dimensions", "user"}), ignored={}, refused={}
)
MAX_INPUTS: Final = 2048


class EmbeddingFields(Struct, frozen=True):
    """The honoured parameters with their types and bounds."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None


@dataclass(frozen=True)
class EmbeddingRequest:
    """A body that was read. ``dimensions`` is the length of the vectors that is wanted, None for the model's own."""

    model: str
    prompts: tuple[Prompt, ...]
    places: tuple[str, ...]
    base64: bool
    dimensions: int | None
    end_user: str
    ignored: tuple[str, ...]


def parse(body: bytes, _limits: Limits) -> EmbeddingRequest:
    """Read a body by the tables. Raises ``bad_request`` or ``unsupported_field`` with the place at fault."""
    ignored = EMBEDDINGS.sort(decode(body, dict[str, Raw]))
    fields = decode(body, EmbeddingFields)
    inputs = prompts_of("input", fields.input, MAX_INPUTS)
    return EmbeddingRequest(
        model=fields.model,
        prompts=tuple(each.prompt for each in inputs),
        places=tuple(each.place for each in inputs),
        base64=fields.encoding_format == "base64",
        dimensions=fields.dimensions,
        end_user=fields.user or "",
        ignored=tuple(sorted(ignored)),
    )
