"""What an administrator gives for an account, checked before anything is written. Pure."""

import re
from dataclasses import asdict
from typing import Final

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Rate

MAX_NUMBER: Final = 10**9
_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")


def checked_tenant(name: str) -> str:
    """The name of a tenant. Raises BAD_REQUEST for what is none."""
    if not _TENANT.match(name):
        raise bad("tenant", "the tenant's name is not allowed", "1 to 64 of a-z 0-9 . _ -, first a letter or digit")
    return name


def checked_rate(rate: Rate) -> Rate:
    """Limits that can be kept. Raises BAD_REQUEST that names the one out of range."""
    for name, value in asdict(rate).items():
        checked_number(name, value)
    return rate


def checked_number(name: str, value: int | None, most: int = MAX_NUMBER) -> None:
    """A number of 1 to ``most``, or None for none. Raises BAD_REQUEST with its name."""
    if value is not None and not 1 <= value <= most:
        raise bad(name, f"`{name}` cannot be {value}", f"1 to {most}, or none for no limit")


def bad(param: str, what: str, why: str, advice: str = "plugsky tenant set --help") -> PlugskyError:
    """The refusal of one property."""
    return PlugskyError(ErrorKind.BAD_REQUEST, what, why=why, next=advice, param=param)
