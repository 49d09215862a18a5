"""API keys: made, listed, replaced, revoked, and checked at every request.

Guarantees: a key's text is shown once and stored nowhere, only its HMAC under the site's pepper (``state/pepper``,
32 bytes, made once).
:meth:`Keys.authenticate` answers alike, and compares the same number of bytes in constant time, whether the key is
missing, malformed, unknown, wrong, expired or revoked. What it knows of a key is at most :data:`FRESH_US` old, so a
revocation by any process of the site counts within half a second.

Tenants are made by their first key. Every method may use the database: call them in a thread, not on an event loop.
"""

import hashlib
import hmac
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col

from plugsky.access.checked import checked_rate, checked_tenant
from plugsky.access.key_text import PREFIX, digest_of, id_of, key_in, new_key
from plugsky.core.clock import Clock, unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.ids import is_model_id
from plugsky.core.paths import SitePaths
from plugsky.core.principal import UNLIMITED, Principal, Rate
from plugsky.state import RESTORE, ApiKey, Database, Tenant
from plugsky.state.secrets import read_or_make, read_secret

FRESH_US: Final = 500_000
MAX_CACHED: Final = 10_000
MAX_DAYS: Final = 3650
MAX_OVERLAP_HOURS: Final = 24 * 90
PEPPER_BYTES: Final = 32
_HOUR_US: Final = 3_600_000_000
_DAY_US: Final = 24 * _HOUR_US
_ENDPOINT: Final = re.compile(r"[a-z]{1,32}([.-][a-z]{1,32}){0,3}\Z")
_NOBODY: Final = bytes(32)
_CONTENT: Final = b"plugsky content\x00"
"""What keeps these codes apart from those of keys."""


@dataclass(frozen=True)
class KeyRecord:
    """A key as it may be shown. Times in microseconds since the Unix epoch; a scope of None means everything."""

    id: str
    tenant: str
    name: str
    models: tuple[str, ...] | None
    created_us: int
    expires_us: int | None
    revoked_us: int | None
    last_used_us: int | None
    endpoints: tuple[str, ...] | None = None
    rate: Rate = UNLIMITED
    replaced_by: str | None = None

    @property
    def prefix(self) -> str:
        """The part of the key that is no secret."""
        return f"{PREFIX}{self.id}"


@dataclass(frozen=True)
class IssuedKey:
    """A key just made, with its text: the only time it exists outside its owner's hands."""

    record: KeyRecord
    secret: str

    def __repr__(self) -> str:
        return f"IssuedKey({self.record!r}, secret=<hidden>)"


Witness = Callable[[KeyRecord], object]
"""Called inside the transaction, before it commits; what it raises undoes the change."""
RotationWitness = Callable[[KeyRecord, KeyRecord], object]
"""A witness of the key that is replaced, and of the one that replaces it."""


@dataclass(frozen=True)
class _Known:
    digest: bytes
    principal: Principal
    expires_us: int | None
    revoked: bool
    at_us: int

    def holds(self, now_us: int) -> bool:
        """Whether the key is neither revoked nor expired."""
        return not self.revoked and (self.expires_us is None or now_us < self.expires_us)


class Keys:
    """The keys of one site, over its database."""

    def __init__(self, database: Database, pepper: bytes, clock: Clock) -> None:
        self._database = database
        self._pepper = pepper
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, database: Database, paths: SitePaths, clock: Clock, beginning: Callable[[], None] = lambda: None
    ) -> "Keys":
        """The site's keys, with its pepper made on first use.

        ``beginning`` is called before the pepper is made, and raises where there must be one already. Raises TAMPERED
        for a pepper that is missing though keys depend on it, or that is none.
        """
        path = paths.state / "pepper"
        pepper = read_secret(path)
        if pepper is None:
            with database.read() as session:
                depended_on = session.scalar(select(col(ApiKey.id)).limit(1)) is not None
            # Another process may have made it, and a key, since it was looked for.
            if depended_on and read_secret(path) is None:
                raise _no_pepper(path, "it is missing, and the keys of this site are stored as an HMAC under it")
            if not depended_on:
                beginning()
            pepper = read_or_make(path, lambda: secrets.token_bytes(PEPPER_BYTES))
        if len(pepper) != PEPPER_BYTES:
            raise _no_pepper(path, f"it has {len(pepper)} bytes instead of {PEPPER_BYTES}: it was cut or replaced")
        return cls(database, pepper, clock)

    def derived(self, purpose: bytes) -> bytes:
        """A key of 32 bytes for one other purpose, derived from the site's pepper."""
        return hmac.digest(self._pepper, purpose, hashlib.sha256)

    def create(
        self,
        tenant: str,
        name: str = "",
        models: tuple[str, ...] | None = None,
        days: int | None = None,
        witness: Witness | None = None,
        *,
        endpoints: tuple[str, ...] | None = None,
        rate: Rate = UNLIMITED,
    ) -> IssuedKey:
        """A new key for ``tenant``, valid for ``days`` (1 to 3650) or until revoked."""
        _check(tenant, name, models, endpoints, days)
        checked_rate(rate)
        now = unix_us(self._clock.now())
        key_id, text = new_key()
        row = ApiKey(
            id=key_id,
            tenant=tenant,
            name=name,
            digest=digest_of(text, self._pepper),
            models=_joined(models),
            endpoints=_joined(endpoints),
            created_us=now,
            expires_us=None if days is None else now + days * _DAY_US,
            **asdict(rate),
        )
        with self._database.write() as session:
            if session.get(Tenant, tenant) is None:
                session.add(Tenant(id=tenant, created_us=now))
                session.flush()
            session.add(row)
            session.flush()
            record = _record(row)
            if witness is not None:
                witness(record)
        return IssuedKey(record, text)

    def list(self, tenant: str | None = None) -> tuple[KeyRecord, ...]:
        """Every key, oldest first, of one tenant or of all."""
        query = select(ApiKey).order_by(col(ApiKey.created_us), col(ApiKey.id))
        if tenant is not None:
            query = query.where(col(ApiKey.tenant) == tenant)
        with self._database.read() as session:
            return tuple(_record(row) for row in session.scalars(query))

    def rotate(self, key_id: str, overlap_hours: int = 24, witness: RotationWitness | None = None) -> IssuedKey:
        """A new key with the scope and the limits of another, which goes on for ``overlap_hours`` (0 to 2160) at most.

        The new key lives as long as the other had been given. Raises NOT_FOUND for an id that is none, CONFLICT for a
        key that was revoked, has expired or was replaced before.
        """
        if not 0 <= overlap_hours <= MAX_OVERLAP_HOURS:
            raise _bad("overlap_hours", f"it is 0 to {MAX_OVERLAP_HOURS}", "the old key ends after so many hours")
        now = unix_us(self._clock.now())
        new_id, text = new_key()
        with self._database.write() as session:
            old = _found(session, key_id)
            if old.revoked_us is not None or (old.expires_us is not None and old.expires_us <= now) or old.replaced_by:
                raise PlugskyError(
                    ErrorKind.CONFLICT,
                    f"key {old.id} cannot be replaced",
                    why=f"it was replaced by {old.replaced_by}" if old.replaced_by else "it is revoked or has expired",
                    next=f"plugsky key create --tenant {old.tenant}",
                )
            lifetime = None if old.expires_us is None else old.expires_us - old.created_us
            new = ApiKey(
                id=new_id,
                tenant=old.tenant,
                name=old.name,
                digest=digest_of(text, self._pepper),
                models=old.models,
                endpoints=old.endpoints,
                created_us=now,
                expires_us=None if lifetime is None else now + lifetime,
                **asdict(_rate(old)),
            )
            ends = now + overlap_hours * _HOUR_US
            old.expires_us = ends if old.expires_us is None else min(ends, old.expires_us)
            old.replaced_by = new_id
            session.add_all((old, new))
            session.flush()
            record = _record(new)
            if witness is not None:
                witness(_record(old), record)
        with self._lock:
            self._known.pop(old.id, None)
        return IssuedKey(record, text)

    def revoke(self, key_id: str, witness: Witness | None = None) -> KeyRecord:
        """Ends a key. Ending it again changes nothing. Raises NOT_FOUND for an id that is none."""
        with self._database.write() as session:
            row = _found(session, key_id)
            if row.revoked_us is None:
                row.revoked_us = unix_us(self._clock.now())
                session.add(row)
                session.flush()
            record = _record(row)
            if witness is not None:
                witness(record)
        with self._lock:
            self._known.pop(record.id, None)
        return record

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """Who sent a request with these headers (raw pairs, names in lower case). Raises UNAUTHENTICATED."""
        text = key_in(headers) or ""
        key_id = id_of(text)
        known = self._lookup(key_id) if key_id is not None else None
        matches = hmac.compare_digest(digest_of(text, self._pepper), known.digest if known else _NOBODY)
        now = unix_us(self._clock.now())
        if known and matches and known.holds(now):
            return known.principal
        raise _nobody()

    def at_hand(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal | None:
        """Who sent a request, where that is known without the database; None where :meth:`authenticate` must be asked.

        It waits for nothing, so an event loop may call it.
        """
        text = key_in(headers) or ""
        key_id = id_of(text)
        with self._lock:
            known = None if key_id is None else self._known.get(key_id)
        matches = hmac.compare_digest(digest_of(text, self._pepper), known.digest if known else _NOBODY)
        fresh = known is not None and self._clock.monotonic_us() - known.at_us < FRESH_US
        if known and fresh and matches and known.holds(unix_us(self._clock.now())):
            return known.principal
        return None

    def vouch(self, key_id: str) -> Principal:
        """Whose key of that id this is, for work that a request with it began. Raises UNAUTHENTICATED once it ended."""
        known = self._lookup(key_id)
        if known is None or not known.holds(unix_us(self._clock.now())):
            raise _nobody()
        return known.principal

    def keyed(self, digest: bytes) -> str:
        """HMAC-SHA-256 of a digest of content under the site's pepper, in hex: what the trail holds of it."""
        return hmac.new(self._pepper, _CONTENT + digest, hashlib.sha256).hexdigest()

    def _lookup(self, key_id: str) -> _Known | None:
        now = self._clock.monotonic_us()
        with self._lock:
            known = self._known.get(key_id)
        if known is not None and now - known.at_us < FRESH_US:
            return known
        with self._database.read() as session:
            found = session.execute(select(ApiKey, Tenant).join(Tenant).where(col(ApiKey.id) == key_id)).first()
        if found is None:
            return None
        row, tenant = found
        record = _record(row)
        principal = Principal(
            tenant=row.tenant,
            key_id=row.id,
            models=None if record.models is None else frozenset(record.models),
            weight=tenant.weight,
            endpoints=None if record.endpoints is None else frozenset(record.endpoints),
            rate=record.rate,
            tenant_rate=_rate(tenant),
        )
        known = _Known(row.digest, principal, row.expires_us, row.revoked_us is not None, now)
        with self._lock:
            self._known[key_id] = known
            self._known.move_to_end(key_id)
            while len(self._known) > MAX_CACHED:
                self._known.popitem(last=False)
        return known


def _record(row: ApiKey) -> KeyRecord:
    return KeyRecord(
        row.id,
        row.tenant,
        row.name,
        _parted(row.models),
        row.created_us,
        row.expires_us,
        row.revoked_us,
        row.last_used_us,
        _parted(row.endpoints),
        _rate(row),
        row.replaced_by,
    )


def _rate(row: ApiKey | Tenant) -> Rate:
    return Rate(row.requests_per_minute, row.tokens_per_minute, row.concurrency)


def _parted(scope: str | None) -> tuple[str, ...] | None:
    return None if scope is None else tuple(filter(None, scope.split(",")))


def _joined(scope: tuple[str, ...] | None) -> str | None:
    return None if scope is None else ",".join(sorted(set(scope)))


def _found(session: Session, key_id: str) -> ApiKey:
    row = session.get(ApiKey, key_id.removeprefix(PREFIX))
    if row is None:
        raise PlugskyError(
            ErrorKind.NOT_FOUND,
            "there is no API key of that id",
            why="an id is the 8 characters after psk_",
            next="plugsky key list",
            param="key_id",
        )
    return row


def _check(
    tenant: str, name: str, models: tuple[str, ...] | None, endpoints: tuple[str, ...] | None, days: int | None
) -> None:
    checked_tenant(tenant)
    if len(name) > 64 or not name.isprintable():
        raise _bad("name", "the key's name is not allowed", "at most 64 printable characters")
    if models is not None and not (models and all(is_model_id(model) for model in models)):
        raise _bad("models", "the key's scope is not a list of model ids", "see plugsky model list")
    if endpoints is not None and not (endpoints and all(_ENDPOINT.match(name) for name in endpoints)):
        raise _bad("endpoints", "the key's scope is not a list of endpoints", "see plugsky help api")
    if days is not None and not 1 <= days <= MAX_DAYS:
        raise _bad("days", f"a key cannot live for {days} days", f"1 to {MAX_DAYS} days, or none for no expiry")


def _nobody() -> PlugskyError:
    return PlugskyError(
        ErrorKind.UNAUTHENTICATED,
        "the API key is missing, unknown, expired or revoked",
        why="every request carries `Authorization: Bearer psk_…` with a key of this site",
        next="ask the site's administrator for a key (plugsky key create --tenant NAME)",
    )


def _no_pepper(path: Path, why: str) -> PlugskyError:
    return PlugskyError(
        ErrorKind.TAMPERED, "no API key of this site can be checked", why=f"{path}: {why}", next=RESTORE
    )


def _bad(param: str, what: str, why: str) -> PlugskyError:
    return PlugskyError(ErrorKind.BAD_REQUEST, what, why=why, next="plugsky key create --help", param=param)
