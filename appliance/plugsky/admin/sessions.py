"""Who is logged in on the Admin socket.

A session is a random token; only its digest is kept, in memory, so that a restart ends them all. It counts for the uid
that began it, ends after :data:`IDLE_S` without a call and :data:`LONGEST_S` after its beginning, and with its login.
"""

import asyncio
import hashlib
import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Final

from plugsky.core.clock import Clock
from plugsky.core.errors import ErrorKind, PlugskyError

IDLE_S: Final = 15 * 60
LONGEST_S: Final = 12 * 3600
MAX_SESSIONS: Final = 256
CHECKS_AT_ONCE: Final = 4
"""Fewer than there are threads to work for everybody, so that many who try to log in hold up nobody else."""


@dataclass
class _Session:
    uid: int
    name: str
    begun_us: int
    used_us: int


class Sessions:
    """The sessions of one site. Belongs to one thread, that of the event loop."""

    def __init__(self, clock: Clock) -> None:
        self.checking = asyncio.Semaphore(CHECKS_AT_ONCE)
        """Held while it is found out who somebody is."""
        self._clock = clock
        self._sessions: dict[bytes, _Session] = {}
        self._ended: Counter[str] = Counter()

    def ended(self, name: str) -> int:
        """How often all sessions of a login were ended: to be asked before it is found out whose it is."""
        return self._ended[name]

    def begin(self, uid: int, name: str, ended: int) -> str:
        """The token of a new session.

        Raises UNAUTHENTICATED where all of the login's were ended since ``ended`` was asked, OVERLOADED where there are
        too many.
        """
        if ended != self._ended[name]:
            raise over()
        self._forget()
        if len(self._sessions) >= MAX_SESSIONS:
            raise PlugskyError(
                ErrorKind.OVERLOADED,
                "too many people are logged in",
                why=f"there are {MAX_SESSIONS} sessions",
                next="plugsky login end, in sessions that are not used",
            )
        token = secrets.token_urlsafe(32)
        now = self._clock.monotonic_us()
        self._sessions[_digest(token)] = _Session(uid, name, now, now)
        return token

    def name_of(self, uid: int, token: str, *, using: bool = True) -> str:
        """Whose session this is; ``using`` it begins its idle time anew. Raises UNAUTHENTICATED where it is over."""
        self._forget()
        session = self._sessions.get(_digest(token))
        if session is None or session.uid != uid:
            raise over()
        if using:
            session.used_us = self._clock.monotonic_us()
        return session.name

    def end(self, uid: int, token: str) -> str:
        """Ends a session. Whose it was; empty where it was over already, or is another account's."""
        session = self._sessions.get(_digest(token))
        if session is None or session.uid != uid:
            return ""
        del self._sessions[_digest(token)]
        return session.name

    def end_all(self, name: str) -> None:
        """Ends every session of a login, also those that are being begun."""
        self._ended[name] += 1
        self._sessions = {key: session for key, session in self._sessions.items() if session.name != name}

    def _forget(self) -> None:
        now = self._clock.monotonic_us()
        self._sessions = {
            key: session
            for key, session in self._sessions.items()
            if now - session.used_us < IDLE_S * 1_000_000 and now - session.begun_us < LONGEST_S * 1_000_000
        }


def over() -> PlugskyError:
    """What is raised for a session that is none."""
    return PlugskyError(
        ErrorKind.UNAUTHENTICATED,
        "nobody is logged in with this session",
        why=f"it ended, {IDLE_S // 60} minutes after its last use at most, or it is another account's",
        next="plugsky login begin NAME",
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
