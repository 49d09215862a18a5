"""Every code that an error under ``--json`` can have, and the form of its object; for ``plugsky help errors``.

The codes are those of the errors themselves, so that none can be missing; a test holds real failures to this table.
"""

import inspect
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from plugsky.core.errors import ErrorKind, ExitCode
from plugsky_bundles.errors import BundleError

FORM: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "plugsky.error/1",
    "type": "object",
    "required": ["schema", "error"],
    "properties": {
        "schema": {"const": "plugsky.error/1"},
        "error": {
            "type": "object",
            "required": ["code", "what", "why", "next"],
            "properties": {
                "code": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$", "description": "a name of the table"},
                "what": {"type": "string", "description": "what happened, on one line"},
                "why": {"type": "string", "description": "why, or empty"},
                "next": {"type": "string", "description": "the next thing to do, often a command, or empty"},
            },
        },
    },
}
"""The object as JSON Schema. A later version may add members; ``plugsky.error/1`` keeps these."""

_OF_THE_COMMAND_LINE: Final = {
    "usage": (ExitCode.USAGE, "A command, an option or an argument that there is not, or a value that it cannot have."),
    "declined": (ExitCode.DECLINED, "Nobody said yes."),
    "interrupted": (ExitCode.INTERRUPTED, "Ctrl-C, or SIGTERM while installing."),
}
_OF_A_SITE: Final = {
    ErrorKind.BAD_REQUEST: "Something that the command needs is missing or wrong.",
    ErrorKind.UNSUPPORTED_FIELD: "A field of a request that is not supported.",
    ErrorKind.CONTEXT_EXCEEDED: "A prompt that is longer than the model's context.",
    ErrorKind.SCHEMA_REFUSED: "A JSON schema that answers cannot be held to.",
    ErrorKind.UNAUTHENTICATED: "No valid API key.",
    ErrorKind.FORBIDDEN: "Something that whoever asks may not do.",
    ErrorKind.NOT_FOUND: "Something that is not where it was said to be.",
    ErrorKind.METHOD_NOT_ALLOWED: "A method that an address of the API does not have.",
    ErrorKind.MODEL_NOT_FOUND: "A model that the site does not have.",
    ErrorKind.TOO_LARGE: "A request that is too large.",
    ErrorKind.RATE_LIMITED: "Too many requests at once; later the same one may succeed.",
    ErrorKind.QUOTA_EXHAUSTED: "A tenant's budget that is used up.",
    ErrorKind.POLICY_REFUSED: "Something that the site's policy forbids.",
    ErrorKind.NOT_SUPPORTED: "Something that this version, or this model, cannot do.",
    ErrorKind.OVERLOADED: "No room now; later the same command may succeed.",
    ErrorKind.LOADING: "A model that is still being loaded.",
    ErrorKind.TIMEOUT: "No answer in time.",
    ErrorKind.CANCELLED: "Cancelled by whoever asked.",
    ErrorKind.ENGINE_LOST: "The engine of a model ended while it worked.",
    ErrorKind.INTERNAL: "A failure of the operating system, or a defect of plugsky.",
    ErrorKind.CONFLICT: "Something that is in the way of what was asked.",
    ErrorKind.UNREACHABLE: "A process of the site that does not answer.",
    ErrorKind.TAMPERED: "A file of the site that is not what trusted people signed.",
}


class Code(NamedTuple):
    """A code, the exit code that goes with it, and what it means."""

    code: str
    exit_code: int
    about: str


def table() -> list[Code]:
    """All of them, by name. A name that is a site's and a bundle's means the same of both."""
    found = {code: Code(code, number, about) for code, (number, about) in _OF_THE_COMMAND_LINE.items()}
    for kind, about in _OF_A_SITE.items():
        found[kind.wire] = Code(kind.wire, kind.value.exit_code, about)
    for error in _below(BundleError):
        name = error.__new__(error).code
        found.setdefault(name, Code(name, error.exit_code, (inspect.getdoc(error) or "").partition("\n")[0]))
    return [found[code] for code in sorted(found)]


def _below(error: type[BundleError]) -> Iterator[type[BundleError]]:
    for child in error.__subclasses__():
        if child.__module__ == BundleError.__module__:  # what a test defines is none of ours
            yield child
            yield from _below(child)
