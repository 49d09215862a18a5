"""Prompts that ended the engine twice while it ran nothing else: refused for a while, so that they cannot do it again.

Guarantees, in order: (1) no prompt is kept, only its BLAKE2b hash (RFC 7693) under a key of this process that nobody
else has; (2) the tenant is part of what is hashed, so that none learns from a refusal what another has sent; (3) at
most :data:`MAX_PROMPTS` are kept, the first to end goes first; (4) each ends :data:`QUARANTINE_S` after it was put
here. Does no IO; the time is passed in.
"""

import hashlib
from typing import Final

QUARANTINE_S: Final = 3600.0
MAX_PROMPTS: Final = 1024


class Quarantine:
    """The prompts one engine is spared. ``key`` is 16 to 64 random bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._until: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def digest(self, tenant: str, prompt: bytes) -> bytes:
        """What stands for a prompt of a tenant here: 32 bytes that say nothing without the key."""
        name = tenant.encode(errors="surrogatepass")
        return hashlib.blake2b(len(name).to_bytes(8) + name + prompt, digest_size=32, key=self._key).digest()

    def add(self, digest: bytes, now: float) -> None:
        """Refuse this prompt from ``now``, in seconds, until :data:`QUARANTINE_S` later."""
        self._until.pop(digest, None)
        self._until[digest] = now + QUARANTINE_S
        while len(self._until) > MAX_PROMPTS:
            del self._until[next(iter(self._until))]

    def left_s(self, digest: bytes, now: float) -> float | None:
        """Seconds for which the prompt is still refused, or None when it may run."""
        until = self._until.get(digest)
        if until is None:
            return None
        if until <= now:
            del self._until[digest]
            return None
        return until - now
