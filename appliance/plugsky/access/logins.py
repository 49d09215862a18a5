"""Logins of people: a name with a password and one-time codes, and the role that it has.

The password is the site's own, or others vouch for who somebody is: the site's directory, or its OpenID provider, whose
token then takes the password's place. The codes and the role are always the site's.

Guarantees. A password is kept as a digest only, the secret of the codes is encrypted under a key of the site, and both
are shown once, when the login is made or reset. :meth:`Logins.check` takes as long for a name that does not exist as
for one that does, answers alike whatever was wrong, takes no code twice, and after :data:`FREE_FAILURES` failures of a
name makes it wait, up to :data:`LONGEST_WAIT_S`. Digests are made one after another, so that they cannot exhaust the
memory. Others are asked only by who has the right code, so that no stranger learns from them or locks an account there.

Methods but :meth:`Logins.role_of` use the database and take their time: call them in a thread. One process of a site
answers on the Admin socket, so what it knows of roles and failures is what there is.
"""

import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import select, update
from sqlmodel import col

from plugsky.access import passwords, totp
from plugsky.access.checked import bad
from plugsky.core.clock import Clock, unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Role
from plugsky.state import Database, Login

MAX_LOGINS: Final = 1000
FREE_FAILURES: Final = 4
LONGEST_WAIT_S: Final = 900
MAX_REMEMBERED: Final = 10_000
MAX_SUBJECT: Final = 255
ISSUER: Final = "Plugsky"
_NAME: Final = re.compile(r"[a-z][a-z0-9._-]{0,63}\Z")
_NONCE: Final = 12
_ADD: Final = "plugsky login add --help"
_LIST: Final = "plugsky login list"
_CONFIG: Final = "plugsky config show --origin"
PURPOSE: Final = b"plugsky one-time codes\x00"


class Source(Enum):
    """Who knows a login's password."""

    LOCAL = "local"
    LDAP = "ldap"
    OIDC = "oidc"


class Voucher(Protocol):
    """Vouches for people beside the site itself."""

    def knows(self, who: str, proof: str) -> bool:
        """Whether ``proof``, such as a password, shows that this is ``who``. Raises UNREACHABLE."""
        ...


@dataclass(frozen=True)
class LoginRecord:
    """A login as it may be shown."""

    name: str
    role: Role
    source: Source
    subject: str
    created_us: int


@dataclass(frozen=True)
class IssuedLogin:
    """A login that was just made or reset: the only time that its secrets are shown.

    ``password`` is empty where it is not the site's.
    """

    record: LoginRecord
    password: str
    uri: str

    def __repr__(self) -> str:
        return f"IssuedLogin({self.record!r}, password=<hidden>, uri=<hidden>)"


Witness = Callable[[LoginRecord], object]
"""Called inside the transaction, before it commits; what it raises undoes the change."""


@dataclass
class _Failures:
    count: int = 0
    wait_until_us: int = 0


class Logins:
    """The logins of one site."""

    def __init__(self, database: Database, clock: Clock, key: bytes, vouchers: Mapping[Source, Voucher]) -> None:
        """``key`` encrypts the secrets of codes; it is the site's own, for :data:`PURPOSE`."""
        self._vouchers = vouchers
        self._database = database
        self._clock = clock
        self._cipher = AESGCM(key)
        self._one = threading.Lock()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._nobody = passwords.digest(secrets.token_urlsafe())
        self._roles = {login.name: login.role for login in self.list()}

    def role_of(self, name: str) -> Role | None:
        """The role of a login; None where there is no such one."""
        return self._roles.get(name)

    def list(self) -> tuple[LoginRecord, ...]:
        """Every login, by name."""
        with self._database.read() as session:
            return tuple(map(_record, session.scalars(select(Login).order_by(col(Login.name)))))

    def add(
        self, name: str, role: str, source: str = "local", subject: str = "", witness: Witness | None = None
    ) -> IssuedLogin:
        """A new login. ``subject`` is who an OpenID provider says this is.

        Raises BAD_REQUEST for what cannot be one, CONFLICT for a name that is taken.
        """
        if not _NAME.match(name):
            raise bad("name", "this name is not allowed", "1 to 64 of a-z 0-9 . _ -, first a letter", _ADD)
        wanted = _source(source)
        self._check_source(wanted, subject)
        password, kept = _new_password(wanted)
        secret = totp.new_secret()
        row = Login(
            name=name, role=_role(role).value, source=wanted.value, subject=subject, password=kept,
            codes=self._sealed(name, secret), created_us=unix_us(self._clock.now()),
        )  # fmt: skip
        with self._database.write() as session:
            if session.get(Login, name) is not None:
                raise PlugskyError(ErrorKind.CONFLICT, f"there is a login {name} already", next=_LIST, param="name")
            if len(list(session.scalars(select(col(Login.name))))) >= MAX_LOGINS:
                raise bad("name", "there are too many logins", f"a site has {MAX_LOGINS} at most", _LIST)
            session.add(row)
            session.flush()
            record = _record(row)
            if witness is not None:
                witness(record)
        self._roles[name] = record.role
        return IssuedLogin(record, password, totp.uri(secret, name, ISSUER))

    def set_role(self, name: str, role: str, witness: Witness | None = None) -> LoginRecord:
        """Gives a login another role. Raises BAD_REQUEST for a role that is none, NOT_FOUND for a name that is none."""
        wanted = _role(role)
        with self._database.write() as session:
            row = _found(session.get(Login, name))
            row.role = wanted.value
            session.add(row)
            session.flush()
            record = _record(row)
            if witness is not None:
                witness(record)
        self._roles[name] = wanted
        return record

    def reset(self, name: str, witness: Witness | None = None) -> IssuedLogin:
        """New codes, and where it is the site's a new password, for who lost theirs. Raises NOT_FOUND."""
        secret = totp.new_secret()
        password, kept = _new_password(self._source_of(name))
        with self._database.write() as session:
            row = _found(session.get(Login, name))
            row.password, row.codes, row.used_step = kept, self._sealed(name, secret), 0
            session.add(row)
            session.flush()
            record = _record(row)
            if witness is not None:
                witness(record)
        self._failures.pop(name, None)
        return IssuedLogin(record, password, totp.uri(secret, name, ISSUER))

    def remove(self, name: str, witness: Witness | None = None) -> LoginRecord:
        """Ends a login. Raises NOT_FOUND for a name that is none."""
        with self._database.write() as session:
            row = _found(session.get(Login, name))
            record = _record(row)
            session.delete(row)
            session.flush()
            if witness is not None:
                witness(record)
        self._roles.pop(name, None)
        return record

    def check(self, name: str, password: str, code: str) -> LoginRecord:
        """Whose name, password and code these are.

        Raises UNAUTHENTICATED, RATE_LIMITED after many failures, or UNREACHABLE where the directory cannot be asked.
        """
        name = name if _NAME.match(name) else ""
        with self._one:
            self._may_try(name)
            with self._database.read() as session:
                row = session.get(Login, name)
            right = passwords.fits(password[: passwords.LONGEST], self._digest_of(row))
            secret = bytes(20) if row is None else self._opened(name, row.codes)
            step = totp.step_of(secret, code, unix_us(self._clock.now()) // 1_000_000)
            # It failed until the opposite is shown: many who try at once are counted each.
            self._failed(name)
        if row is not None and step is not None and Source(row.source) is not Source.LOCAL:
            try:
                right = self._vouched(row, password)
            except PlugskyError:
                self._forgive(name)
                raise
        if row is None or not right or step is None or not self._took(name, step):
            raise PlugskyError(
                ErrorKind.UNAUTHENTICATED,
                "name, password and code do not fit together",
                why="or the code was used before: each is good for one login",
                next="wait for the next code of your authenticator, then log in again",
            )
        self._forgive(name, all_of_them=True)
        return _record(row)

    def _digest_of(self, row: Login | None) -> str:
        """What a password is compared with; where that is not known, what nobody's fits, so that it takes as long."""
        return self._nobody if row is None or Source(row.source) is not Source.LOCAL else row.password

    def _vouched(self, row: Login, proof: str) -> bool:
        voucher = self._vouchers.get(Source(row.source))
        if voucher is None:
            raise PlugskyError(
                ErrorKind.UNREACHABLE, "nobody can say who this is", why=_not_set(Source(row.source)), next=_CONFIG
            )
        return voucher.knows(row.subject or row.name, proof)

    def _check_source(self, source: Source, subject: str) -> None:
        if source is not Source.LOCAL and source not in self._vouchers:
            raise bad("source", "nobody could say who this is", _not_set(source), _CONFIG)
        if (source is Source.OIDC) != bool(subject):
            raise bad("subject", "the subject is who an OpenID provider says this is", "there for oidc only", _ADD)
        if len(subject) > MAX_SUBJECT or not subject.isprintable():
            raise bad("subject", "this subject is not allowed", f"at most {MAX_SUBJECT} letters that print", _ADD)

    def change_password(
        self, name: str, password: str, code: str, new: str, witness: Witness | None = None
    ) -> LoginRecord:
        """Another password, by who knows the one so far. Raises as :meth:`check`, and BAD_REQUEST for a poor one."""
        chosen = passwords.checked_password(new, name)
        if self.check(name, password, code).source is not Source.LOCAL:
            raise PlugskyError(
                ErrorKind.CONFLICT,
                "this password is not the site's",
                why="others vouch for who this is",
                next="change it there",
            )
        kept = passwords.digest(chosen)
        with self._database.write() as session:
            row = _found(session.get(Login, name))
            row.password = kept
            session.add(row)
            session.flush()
            record = _record(row)
            if witness is not None:
                witness(record)
        return record

    def _source_of(self, name: str) -> Source:
        with self._database.read() as session:
            return Source(_found(session.get(Login, name)).source)

    def _took(self, name: str, step: int) -> bool:
        """Whether no code of this step or a later one was taken before; it is now."""
        newer = update(Login).where(col(Login.name) == name, col(Login.used_step) < step).values(used_step=step)
        with self._database.write() as session:
            return bool(session.connection().execute(newer).rowcount)

    def _may_try(self, name: str) -> None:
        failures = self._failures.get(name)
        left_us = 0 if failures is None else failures.wait_until_us - self._clock.monotonic_us()
        if left_us > 0:
            raise PlugskyError(
                ErrorKind.RATE_LIMITED,
                "this name failed too often",
                why=f"it can be tried again in {left_us // 1_000_000 + 1} seconds",
                next="wait, or let an administrator reset the login",
                retry_after=left_us / 1e6,
            )

    def _failed(self, name: str) -> None:
        failures = self._failures.setdefault(name, _Failures())
        self._failures.move_to_end(name)
        failures.count += 1
        if failures.count > FREE_FAILURES:
            wait_s = min(1 << min(failures.count - FREE_FAILURES, 30), LONGEST_WAIT_S)
            failures.wait_until_us = self._clock.monotonic_us() + wait_s * 1_000_000
        if len(self._failures) > MAX_REMEMBERED:
            self._failures.popitem(last=False)

    def _forgive(self, name: str, *, all_of_them: bool = False) -> None:
        """Takes back the last failure of a name, which was none, or all."""
        with self._one:
            failures = self._failures.get(name)
            if failures is None or all_of_them:
                self._failures.pop(name, None)
            else:
                failures.count, failures.wait_until_us = failures.count - 1, 0

    def _sealed(self, name: str, secret: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, secret, name.encode())

    def _opened(self, name: str, sealed: bytes) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode())
        except (InvalidTag, ValueError):
            raise PlugskyError(
                ErrorKind.TAMPERED,
                f"the one-time codes of {name} cannot be read",
                why="they were not encrypted under this site's key for this name",
                next=f"plugsky login reset {name}",
            ) from None


def _not_set(source: Source) -> str:
    return f"the settings of {source.value} are not set"


def _new_password(source: Source) -> tuple[str, str]:
    """A new password to be told and what is kept of it, both empty where the site does not know it."""
    if source is not Source.LOCAL:
        return "", ""
    password = passwords.new_password()
    return password, passwords.digest(password)


def _source(text: str) -> Source:
    try:
        return Source(text)
    except ValueError:
        raise bad("source", "passwords have no such source", "local, ldap or oidc", _ADD) from None


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise bad(
            "role", "there is no such role", f"there are {', '.join(each.value for each in Role)}", _ADD
        ) from None


def _found(row: Login | None) -> Login:
    if row is None:
        raise PlugskyError(ErrorKind.NOT_FOUND, "there is no such login", next=_LIST, param="name")
    return row


def _record(row: Login) -> LoginRecord:
    return LoginRecord(row.name, Role(row.role), Source(row.source), row.subject, row.created_us)
