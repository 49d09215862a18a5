"""Every table of the site. Times are integer microseconds since the Unix epoch, UTC, so that both dialects sort alike.

The schema only grows: a column or table is added with a default and never dropped or renamed, because the previous
generation must run on the schema of the next. :mod:`plugsky.state.migrations` holds the same tables as steps, and a
test compares the two.
"""

from typing import Final

from sqlalchemy import BigInteger, Index, Text
from sqlmodel import Field, SQLModel


class LedgerState:
    """Where a ledger entry stands. Only ``settled`` entries are usage."""

    RESERVED: Final = "reserved"
    SETTLED: Final = "settled"
    RECOVERED: Final = "recovered"


class Tenant(SQLModel, table=True):
    """Who is billed. ``monthly_tokens`` is the budget of prompt plus completion tokens a UTC month; None: no limit.

    The rates bound all keys of the tenant together.
    """

    id: str = Field(primary_key=True, sa_type=Text)
    created_us: int = Field(sa_type=BigInteger)
    monthly_tokens: int | None = Field(default=None, sa_type=BigInteger)
    weight: int = 1
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = Field(default=None, sa_type=BigInteger)
    concurrency: int | None = None


class ApiKey(SQLModel, table=True):
    """A tenant's key: an HMAC of it, never the key. ``models`` and ``endpoints`` are comma-separated; None: every one.

    ``replaced_by`` is the id of the key that was made in its place.
    """

    id: str = Field(primary_key=True, sa_type=Text)
    tenant: str = Field(foreign_key="tenant.id", index=True, sa_type=Text)
    name: str = Field(default="", sa_type=Text)
    digest: bytes
    models: str | None = Field(default=None, sa_type=Text)
    created_us: int = Field(sa_type=BigInteger)
    expires_us: int | None = Field(default=None, sa_type=BigInteger)
    revoked_us: int | None = Field(default=None, sa_type=BigInteger)
    last_used_us: int | None = Field(default=None, sa_type=BigInteger)
    endpoints: str | None = Field(default=None, sa_type=Text)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = Field(default=None, sa_type=BigInteger)
    concurrency: int | None = None
    replaced_by: str | None = Field(default=None, sa_type=Text)


class Person(SQLModel, table=True):
    """An account of the host that has a role on the Admin socket. ``uid`` is the one it had when it was given."""

    account: str = Field(primary_key=True, sa_type=Text)
    uid: int = Field(sa_type=BigInteger)
    role: str = Field(sa_type=Text)
    created_us: int = Field(sa_type=BigInteger)


class Login(SQLModel, table=True):
    """Somebody who logs in. ``password`` is a digest, ``codes`` the encrypted secret of one-time codes.

    ``source`` says who knows the password: the site (``local``), or else ``password`` is empty. ``subject`` is who they
    are there, where that is not ``name``.

    ``used_step`` is the newest time step whose code was taken.
    """

    name: str = Field(primary_key=True, sa_type=Text)
    role: str = Field(sa_type=Text)
    source: str = Field(default="local", sa_type=Text)
    subject: str = Field(default="", sa_type=Text)
    password: str = Field(sa_type=Text)
    codes: bytes
    used_step: int = Field(default=0, sa_type=BigInteger)
    created_us: int = Field(sa_type=BigInteger)


class Alias(SQLModel, table=True):
    """Another name of a model, for one tenant or, where ``tenant`` is empty, for all.

    ``defaults`` is a JSON object of parameters for requests that do not give them.
    """

    name: str = Field(primary_key=True, sa_type=Text)
    tenant: str = Field(default="", primary_key=True, sa_type=Text)
    model: str = Field(sa_type=Text)
    defaults: str = Field(default="{}", sa_type=Text)
    created_us: int = Field(sa_type=BigInteger)


class StoredFile(SQLModel, table=True):
    """A file of a tenant. Its bytes lie in a file of that name under ``state/files``."""

    id: str = Field(primary_key=True, sa_type=Text)
    tenant: str = Field(foreign_key="tenant.id", index=True, sa_type=Text)
    key_id: str = Field(sa_type=Text)
    name: str = Field(sa_type=Text)
    purpose: str = Field(sa_type=Text)
    size: int = Field(sa_type=BigInteger)
    created_us: int = Field(sa_type=BigInteger)
    expires_us: int = Field(sa_type=BigInteger)


class Batch(SQLModel, table=True):
    """Many requests in one file, run when nobody else wants the engines. Moments are None until they come.

    ``output`` and ``errors`` are the ids that the files of the answers have or will have; ``problem`` is the JSON of
    what was wrong with the input.
    """

    __table_args__ = (Index("ix_batch_tenant", "tenant"), Index("ix_batch_status", "status"))

    id: str = Field(primary_key=True, sa_type=Text)
    tenant: str = Field(foreign_key="tenant.id", sa_type=Text)
    key_id: str = Field(sa_type=Text)
    endpoint: str = Field(sa_type=Text)
    input: str = Field(sa_type=Text)
    output: str = Field(sa_type=Text)
    errors: str = Field(sa_type=Text)
    metadata_json: str = Field(default="{}", sa_type=Text)
    status: str = Field(default="validating", sa_type=Text)
    total: int = 0
    completed: int = 0
    failed: int = 0
    problem: str = Field(default="[]", sa_type=Text)
    created_us: int = Field(sa_type=BigInteger)
    expires_us: int = Field(sa_type=BigInteger)
    started_us: int | None = Field(default=None, sa_type=BigInteger)
    cancelling_us: int | None = Field(default=None, sa_type=BigInteger)
    ended_us: int | None = Field(default=None, sa_type=BigInteger)


class Glossary(SQLModel, table=True):
    """Which word stands for which when a tenant has texts translated."""

    id: str = Field(primary_key=True, sa_type=Text)
    tenant: str = Field(foreign_key="tenant.id", index=True, sa_type=Text)
    name: str = Field(sa_type=Text)
    created_us: int = Field(sa_type=BigInteger)


class GlossaryDictionary(SQLModel, table=True):
    """The entries of a glossary for one pair of languages: a JSON object of terms."""

    glossary: str = Field(primary_key=True, foreign_key="glossary.id", sa_type=Text)
    source: str = Field(primary_key=True, sa_type=Text)
    target: str = Field(primary_key=True, sa_type=Text)
    count: int
    entries: str = Field(sa_type=Text)


class TenantMonth(SQLModel, table=True):
    """A tenant's running sums of one UTC month (``2026-11``): what budgets are checked against, in one update."""

    tenant: str = Field(primary_key=True, foreign_key="tenant.id", sa_type=Text)
    month: str = Field(primary_key=True, sa_type=Text)
    used: int = Field(default=0, sa_type=BigInteger)
    reserved: int = Field(default=0, sa_type=BigInteger)


class LedgerEntry(SQLModel, table=True):
    """One request from reservation to settlement. ``writer`` is the audit chain of the gateway that answers for it.

    ``digest`` is the SHA-256 of the model file, ``engine_us`` the request's share of measured compute time, ``outcome``
    a finish reason or the wire name of a failure. ``month`` is that of the reservation; the budget follows it.
    """

    __table_args__ = (
        Index("ix_ledgerentry_state_writer", "state", "writer"),
        Index("ix_ledgerentry_settled_us", "settled_us"),
        Index("ix_ledgerentry_tenant_settled_us", "tenant", "settled_us"),
    )

    job: str = Field(primary_key=True, sa_type=Text)
    tenant: str = Field(foreign_key="tenant.id", sa_type=Text)
    key_id: str = Field(sa_type=Text)
    end_user: str = Field(default="", sa_type=Text)
    requested_model: str = Field(sa_type=Text)
    model: str = Field(sa_type=Text)
    digest: str = Field(sa_type=Text)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    image_tokens: int = 0
    engine_us: int = Field(default=0, sa_type=BigInteger)
    service_class: str = Field(default="standard", sa_type=Text)
    price_list: str = Field(default="", sa_type=Text)
    state: str = Field(default=LedgerState.RESERVED, sa_type=Text)
    outcome: str = Field(default="", sa_type=Text)
    month: str = Field(sa_type=Text)
    reserved_tokens: int = Field(sa_type=BigInteger)
    created_us: int = Field(sa_type=BigInteger)
    settled_us: int | None = Field(default=None, sa_type=BigInteger)
    writer: str = Field(sa_type=Text)
