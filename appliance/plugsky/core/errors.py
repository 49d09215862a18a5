"""The one enum of failures that a site can answer with, and the exception that carries one.

Every failure a user can meet is one :class:`ErrorKind`. Its columns fix what each edge shows: the HTTP status and the
``type``/``code`` pair of the OpenAI error body, the exit code of the command line (``plugsky help exit-codes``), and
whether the same call may succeed later. A room raises :class:`PlugskyError` (or a subclass); only an edge turns it into
bytes.
"""

from enum import Enum
from typing import Final, NamedTuple


class ExitCode:
    """Exit codes of every ``plugsky`` command, documented by ``plugsky help exit-codes``."""

    OK: Final = 0
    FAILED: Final = 1
    USAGE: Final = 2
    DECLINED: Final = 3
    NOT_AUTHORISED: Final = 4
    VERIFICATION_FAILED: Final = 5
    REFUSED_BY_POLICY: Final = 6
    NOT_FOUND: Final = 7
    UNREACHABLE: Final = 8
    INTERRUPTED: Final = 130
    READER_GONE: Final = 141
    TERMINATED: Final = 143


EXIT_CODES: Final = {
    ExitCode.OK: "ok",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "wrong usage: an option, an argument, a recipe or a settings file",
    ExitCode.DECLINED: "declined at a question, or cancelled; nothing was changed",
    ExitCode.NOT_AUTHORISED: "not authorised: key, role or passphrase",
    ExitCode.VERIFICATION_FAILED: "verification failed: something is not what trusted people signed",
    ExitCode.REFUSED_BY_POLICY: "refused by policy",
    ExitCode.NOT_FOUND: "not found",
    ExitCode.UNREACHABLE: "unreachable, busy, overloaded or still loading; the same command may succeed later",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C, or by SIGTERM while installing",
    ExitCode.READER_GONE: "whoever read the output closed it before the end, as `| head` does",
    ExitCode.TERMINATED: "ended by SIGTERM before it had begun, or where nothing has to be cleaned up",
}
"""What each exit code means, for ``plugsky help exit-codes`` and the generated page."""


class ErrorColumns(NamedTuple):
    """What each edge shows for one kind of failure."""

    status: int
    openai_type: str
    openai_code: str | None
    exit_code: int
    retryable: bool


class ErrorKind(Enum):
    """Every failure by name; the value is its row of columns."""

    BAD_REQUEST = ErrorColumns(400, "invalid_request_error", None, ExitCode.USAGE, False)
    UNSUPPORTED_FIELD = ErrorColumns(400, "invalid_request_error", "unsupported_field", ExitCode.USAGE, False)
    CONTEXT_EXCEEDED = ErrorColumns(400, "invalid_request_error", "context_length_exceeded", ExitCode.FAILED, False)
    SCHEMA_REFUSED = ErrorColumns(400, "invalid_request_error", "invalid_json_schema", ExitCode.FAILED, False)
    UNAUTHENTICATED = ErrorColumns(401, "authentication_error", "invalid_api_key", ExitCode.NOT_AUTHORISED, False)
    FORBIDDEN = ErrorColumns(403, "permission_error", "forbidden", ExitCode.NOT_AUTHORISED, False)
    NOT_FOUND = ErrorColumns(404, "not_found_error", "not_found", ExitCode.NOT_FOUND, False)
    METHOD_NOT_ALLOWED = ErrorColumns(405, "invalid_request_error", "method_not_allowed", ExitCode.USAGE, False)
    MODEL_NOT_FOUND = ErrorColumns(404, "invalid_request_error", "model_not_found", ExitCode.NOT_FOUND, False)
    TOO_LARGE = ErrorColumns(413, "invalid_request_error", "request_too_large", ExitCode.FAILED, False)
    RATE_LIMITED = ErrorColumns(429, "rate_limit_exceeded", "rate_limit_exceeded", ExitCode.FAILED, True)
    QUOTA_EXHAUSTED = ErrorColumns(429, "insufficient_quota", "insufficient_quota", ExitCode.FAILED, False)
    POLICY_REFUSED = ErrorColumns(403, "permission_error", "policy_refused", ExitCode.REFUSED_BY_POLICY, False)
    NOT_SUPPORTED = ErrorColumns(501, "not_supported_error", "not_supported", ExitCode.FAILED, False)
    OVERLOADED = ErrorColumns(503, "unavailable_error", "overloaded", ExitCode.UNREACHABLE, True)
    LOADING = ErrorColumns(503, "unavailable_error", "model_loading", ExitCode.UNREACHABLE, True)
    TIMEOUT = ErrorColumns(504, "timeout_error", "timeout", ExitCode.UNREACHABLE, True)
    CANCELLED = ErrorColumns(499, "cancelled_error", "cancelled", ExitCode.DECLINED, False)
    ENGINE_LOST = ErrorColumns(503, "unavailable_error", "engine_lost", ExitCode.UNREACHABLE, True)
    INTERNAL = ErrorColumns(500, "server_error", "internal_error", ExitCode.FAILED, False)
    # Failures of the command line and the site that no API client can meet.
    CONFLICT = ErrorColumns(409, "invalid_request_error", "conflict", ExitCode.FAILED, False)
    UNREACHABLE = ErrorColumns(503, "unavailable_error", "unreachable", ExitCode.UNREACHABLE, True)
    TAMPERED = ErrorColumns(500, "server_error", "verification_failed", ExitCode.VERIFICATION_FAILED, False)

    @property
    def wire(self) -> str:
        """The name used in frames, logs and ``--json`` output, for example ``model_not_found``."""
        return self.name.lower()

    @classmethod
    def from_wire(cls, name: str) -> "ErrorKind":
        """The kind of that wire name; an unknown name is :attr:`INTERNAL`, so that a newer peer cannot break us."""
        return cls.__members__.get(name.upper(), cls.INTERNAL)


class PlugskyError(Exception):
    """A failure with its kind, what happened, why, and the next command to try.

    ``what`` and ``why`` never hold a secret, a prompt or an answer: they reach logs and API replies.
    ``param`` names the request field or command option at fault; ``retry_after`` is in seconds.
    """

    def __init__(
        self,
        kind: ErrorKind,
        what: str,
        *,
        why: str = "",
        next: str = "",  # noqa: A002 - the three words of the house: what, why, next
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(what)
        self.kind = kind
        self.what = what
        self.why = why
        self.next = next
        self.param = param
        self.retry_after = retry_after

    @property
    def exit_code(self) -> int:
        """The exit code a command ends with when this error reaches it."""
        return self.kind.value.exit_code
