"""Writing the audit trail: one chain per process, one thread that signs it, one signature for many records.

Guarantees. A record is in the kernel's hands when :meth:`AuditLog.append` returns, so the death of the process loses
none. A record whose future is done is signed and on disk; records wait at most :data:`GROUP_S` for company, an urgent
one not at all, and that is what a power cut can lose. Two processes never write one chain: the second is refused, or
where it may, takes a chain of its own beside (``host.cli-2``).

When the disk refuses, nothing is dropped: records stay in the bounded queue and are tried again every second, urgent
ones fail at once so that their caller can undo, and :meth:`AuditLog.check` stops the site from taking new work until
the trail is whole again. The trail then says that it stood still (``audit.gap``): how many urgent records were refused,
and, where policy lets the site serve without its trail, how many the full queue could not hold.

The first record of a process names the newest signed line of every other chain, so that cutting or removing one
chain contradicts another.
"""

import os
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from plugsky.audit.events import CLOSE, GAP, HEAD_PREFIX, MAX_FACTS, OPEN, RETRACT, Event, Fact, record_of
from plugsky.audit.site_key import former_site_keyids, site_key
from plugsky.audit.trail import CHAIN_FILE, chain_names, newest_commit
from plugsky.core.clock import Clock, rfc3339
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky_bundles.chain import ChainWriter, Position
from plugsky_bundles.errors import BundleError, ExistsError

GROUP_S: Final = 0.05
RETRY_S: Final = 1.0
MAX_QUEUE: Final = 10_000
MAX_WRITERS: Final = 16
_NEXT: Final = "make room on the disk of the site's audit/ directory, then: plugsky audit verify"


@dataclass
class _Waiting:
    record: dict[str, Any]
    urgent: bool
    done: "Future[Position]"


class AuditLog:
    """The audit chain of this process. Safe to use from any thread."""

    def __init__(self, chain: ChainWriter, name: str, clock: Clock, *, serve_without_audit: bool = False) -> None:
        self.name = name
        self._chain = chain
        self._clock = clock
        self._lenient = serve_without_audit
        self._queue: deque[_Waiting] = deque()
        self._written: list[tuple[_Waiting, Position]] = []
        self._dropped = 0
        self._refused = 0
        self._problem = ""
        self._urgent = False
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"audit {name}", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        paths: SitePaths,
        process: str,
        clock: Clock,
        *,
        spare: bool = False,
        serve_without_audit: bool = False,
        wait_s: float = 5.0,
    ) -> "AuditLog":
        """The chain ``<host>.<process>``; ``<host>~<n>.<process>`` under the site's n-th key.

        While another process writes it: with ``spare`` the next free name, else waits ``wait_s`` seconds for it (a
        predecessor that drains) and raises CONFLICT.
        """
        signer = site_key(paths)
        lives = len(former_site_keyids(paths)) + 1
        base = f"{host_name()}.{process}" if lives == 1 else f"{host_name()}~{lives}.{process}"
        names = [base, *(f"{base}-{number}" for number in range(2, MAX_WRITERS + 1))] if spare else [base]
        deadline = time.monotonic() + (0 if spare else wait_s)
        while True:
            for name in names:
                directory = paths.audit / name
                directory.mkdir(mode=0o750, parents=True, exist_ok=True)
                try:
                    chain = ChainWriter(directory / CHAIN_FILE, signer, name)
                except ExistsError:
                    continue
                except (BundleError, OSError) as error:
                    raise _cannot_open(name, error) from error
                log = cls(chain, name, clock, serve_without_audit=serve_without_audit)
                log.record(*_opened(paths.audit, name))
                return log
            if time.monotonic() >= deadline:
                raise PlugskyError(
                    ErrorKind.CONFLICT,
                    f"another process writes the audit chain {base}",
                    why="a chain has one writer at a time",
                    next="stop that process first (plugsky serve runs once per site)",
                )
            time.sleep(0.05)

    def append(
        self, action: str, actor: str, subject: str, outcome: str, fields: Mapping[str, Fact]
    ) -> "Future[Position]":
        """Hands a record to the kernel, or queues it while that refuses. The future: it is signed and on disk.

        Raises OVERLOADED when too many wait, ValueError or TypeError for facts without an exact form.
        """
        return self._put(Event(action, actor, subject, outcome, fields), urgent=False)

    def record(self, action: str, actor: str, subject: str, outcome: str, fields: Mapping[str, Fact]) -> Position:
        """Writes a record and waits until it is signed and on disk. Raises PlugskyError when it cannot be."""
        return self._put(Event(action, actor, subject, outcome, fields), urgent=True).result()

    def check(self) -> None:
        """Raises OVERLOADED while the trail cannot be written, unless policy lets the site serve without it."""
        if self._problem and not self._lenient:
            raise _refusing(self._problem)

    def close(self) -> None:
        """Writes what waits and a last record, and lets go of the chain. Raises when records could not be written."""
        with self._changed:
            if self._closing:
                return
            goodbye = Event(CLOSE, "site", self.name, "ok", {})
            self._queue.append(_Waiting(record_of(goodbye, rfc3339(self._clock.now())), False, Future()))
            self._closing = True
            self._changed.notify()
        self._thread.join()
        lost = len(self._queue) + len(self._written)
        try:
            self._chain.close()
        except (BundleError, OSError) as error:
            raise _refusing(_reason(error)) from error
        if lost:
            raise PlugskyError(
                ErrorKind.INTERNAL, f"{lost} audit records could not be written", why=self._problem, next=_NEXT
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, event: Event, *, urgent: bool) -> "Future[Position]":
        waiting = _Waiting(record_of(event, rfc3339(self._clock.now())), urgent, Future())
        with self._changed:
            if self._closing:
                raise _refusing("the log is closed")
            if urgent and self._problem:
                raise self._refuse(self._problem)
            if len(self._queue) + len(self._written) >= MAX_QUEUE:
                if not self._lenient:
                    raise _refusing(self._problem or f"{MAX_QUEUE} records wait to be written")
                self._dropped += 1
                waiting.done.set_exception(_refusing("the queue is full"))
                return waiting.done
            self._queue.append(waiting)
            try:
                self._hand_over()
            except (BundleError, OSError) as error:
                self._problem = _reason(error)
                if urgent:
                    self._queue.pop()
                    raise self._refuse(self._problem) from error
            self._urgent = self._urgent or urgent
            if urgent or len(self._queue) + len(self._written) == 1:
                self._changed.notify()
        return waiting.done

    def _refuse(self, why: str) -> PlugskyError:
        """An urgent record cannot be written; the trail will say so."""
        self._refused += 1
        self._changed.notify()
        return _refusing(why)

    def _hand_over(self) -> None:
        """Gives the kernel what waits, in order. What is handed over is never handed over again."""
        if self._dropped or self._refused:
            self._chain.append(self._note(GAP, self.name, {"records": self._dropped, "refused": self._refused}).record)
            self._dropped = self._refused = 0
        while self._queue:
            waiting = self._queue[0]
            self._written.append((waiting, self._chain.append(waiting.record)))
            self._queue.popleft()

    def _run(self) -> None:
        while self._gather():
            last_try = self._closing
            if not self._write() and last_try:
                return
        # Nothing waits and the log is closing: the thread ends, close() lets go of the chain.

    def _gather(self) -> bool:
        """Waits for records and then for company, or for a moment to try again. False when nothing is left to write."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._unfinished())
            self._changed.wait_for(lambda: self._closing or self._urgent, RETRY_S if self._problem else GROUP_S)
            return self._unfinished()

    def _unfinished(self) -> bool:
        return bool(self._queue or self._written or self._dropped or self._refused or self._problem)

    def _write(self) -> bool:
        """Signs what was handed over and makes it last; whether that worked. Others may append while the disk works."""
        with self._changed:
            self._urgent = False
            try:
                self._hand_over()
                self._chain.sign()
            except (BundleError, OSError) as error:
                self._fail(_reason(error))
                return False
            signed = len(self._written)
        try:
            self._chain.sync()
        except OSError as error:
            with self._changed:
                self._fail(_reason(error))
            return False
        with self._changed:
            written, self._written = self._written[:signed], self._written[signed:]
            if not self._queue and not self._refused:
                self._problem = ""
        for waiting, position in written:
            if not waiting.done.done():
                waiting.done.set_result(position)
        return True

    def _fail(self, why: str) -> None:
        """Keeps what can wait and fails what cannot."""
        self._problem, self._urgent = why, False
        for waiting, position in self._written:
            # Handed over but not signed: it will be, so the chain must also say that its caller was told no.
            if waiting.urgent and not waiting.done.done():
                self._queue.append(self._note(RETRACT, f"{self.name}:{position.seq}", {}))
                waiting.done.set_exception(_refusing(why))

    def _note(self, action: str, subject: str, fields: Mapping[str, Fact]) -> _Waiting:
        event = Event(action, "site", subject, "failed", fields)
        return _Waiting(record_of(event, rfc3339(self._clock.now())), False, Future())


def host_name() -> str:
    """The kernel's node name, reduced to what may name a directory."""
    return re.sub(r"[^a-z0-9-]", "-", os.uname().nodename.lower().partition(".")[0])[:63].strip("-") or "host"


def _opened(audit: Path, name: str) -> Event:
    fields: dict[str, Fact] = {"pid": os.getpid()}
    for other in chain_names(audit)[: MAX_FACTS - 1]:
        head = newest_commit(audit / other / CHAIN_FILE) if other != name else None
        if head is not None:
            fields[f"{HEAD_PREFIX}{other}"] = f"{head.seq}:{head.hash}"
    return Event(OPEN, "site", name, "ok", fields)


def _reason(error: BundleError | OSError) -> str:
    return error.why if isinstance(error, BundleError) else error.strerror or type(error).__name__


def _refusing(why: str) -> PlugskyError:
    return PlugskyError(
        ErrorKind.OVERLOADED, "the audit trail cannot be written", why=why, next=_NEXT, retry_after=RETRY_S
    )


def _cannot_open(name: str, error: BundleError | OSError) -> PlugskyError:
    kind = ErrorKind.TAMPERED if isinstance(error, BundleError) and error.exit_code == 5 else ErrorKind.INTERNAL
    return PlugskyError(
        kind,
        f"the audit chain {name} cannot be continued",
        why=_reason(error),
        next=error.next if isinstance(error, BundleError) else _NEXT,
    )
