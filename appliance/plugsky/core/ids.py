"""Identifiers: UUIDv7 for everything that is made, and the rule for model ids.

A UUIDv7 (RFC 9562, section 5.7) begins with the Unix time in milliseconds, so ids sort by creation and index well.
"""

import os
import re
import time
import uuid

MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")


def new_id() -> str:
    """A fresh UUIDv7 as text: 48 bits of milliseconds, version, 74 random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def is_model_id(text: str) -> bool:
    """Whether ``text`` may name a model: ``[a-z0-9][a-z0-9._-]{0,63}``."""
    return MODEL_ID.match(text) is not None
