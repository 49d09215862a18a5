"""The policy a site runs under, as one frozen value that the composition root computes and hands to every room.

Rooms never ask which law applies; they obey the fields here. Jurisdiction packs are merged into it strictest-wins.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """Bounds on what one request and one process may ask for."""

    max_body_bytes: int = 8 << 20
    max_messages: int = 2048
    max_stop_strings: int = 16
    max_stop_chars: int = 256
    default_max_tokens: int = 1024
    default_params: Mapping[str, float] = field(default_factory=dict)
    """How tokens are drawn where a request does not say it, by the names of :class:`plugsky.core.request.Params`."""
    max_queue: int = 256
    load_wait_s: float = 60.0
    request_timeout_s: float = 600.0
    keepalive_s: float = 10.0
    reserve_step: int = 256
    max_file_bytes: int = 200 << 20
    max_stored_bytes: int = 2 << 30
    """What the files of one tenant may hold together."""
    max_files: int = 1_000
    max_batch_lines: int = 50_000
    file_days: int = 30
    """How long a file is kept unless it is deleted before."""


@dataclass(frozen=True)
class EffectivePolicy:
    """What this site allows and must do. The default is the strict base that every pack starts from."""

    limits: Limits = field(default_factory=Limits)
    serve_without_audit: bool = False
    """Whether requests go on when the audit trail cannot be written; by default serving stops."""
    bind_hosts: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses the gateway may listen on without an administrator's word."""
