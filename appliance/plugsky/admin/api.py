"""The Admin protocol: the verbs, who may call them, and the values they give. Imports ``core`` only.

Every verb is one row of :data:`VERBS`: its name, the least role that may call it, and whether it writes. The service
looks up the row, compares the role with the peer's, writes one audit record for each write before it answers, and
answers with the value. A name outside the table is ``not_found``; a role too low is ``forbidden``.
"""

from collections.abc import AsyncIterator
from typing import Literal, Protocol

import msgspec


class _Value(msgspec.Struct, frozen=True):
    """What a verb gives: immutable, the same over the socket and in process."""


class Identity(_Value, frozen=True):
    """Which site this is. ``host`` is the kernel's node name; ``generation`` is 0 before the first install."""

    host: str
    version: str
    root: str
    channel: str
    generation: int
    bundle_id: str
    root_fingerprint: str
    time: str


EngineState = Literal["absent", "admitted", "loading", "ready", "retiring", "crashed", "suspect"]


class ModelView(_Value, frozen=True):
    """A model of the catalogue and how its engine stands. Sizes in bytes; rates in tokens per second."""

    id: str
    mode: str
    size: int
    context: int
    licence: str
    languages: tuple[str, ...]
    digest: str
    state: EngineState
    pid: int = 0
    threads: int = 0
    running: int = 0
    waiting: int = 0
    kv_used: int = 0
    kv_cells: int = 0
    tokens_per_s: float = 0.0
    rss_bytes: int = 0
    restarts: int = 0
    problem: str = ""
    local: bool = False
    """Made in this facility and imported, not brought by a bundle."""


class RequestView(_Value, frozen=True):
    """A request in flight: metadata only, never its content. ``age_us`` counts from its arrival."""

    job: str
    tenant: str
    key_id: str
    model: str
    state: Literal["queued", "prefill", "decode", "ending"]
    prompt_tokens: int
    completion_tokens: int
    age_us: int
    ttft_us: int | None = None


class Isolation(_Value, frozen=True):
    """What was seen of the site's isolation. ``proven`` is the conjunction; ``findings`` say what speaks against it."""

    proven: bool
    engine_namespace: bool
    listening: tuple[str, ...]
    outbound: tuple[str, ...]
    default_route: bool
    findings: tuple[str, ...]


class Duty(_Value, frozen=True):
    """Something a person must do; it stays on the Home screen until done."""

    id: str
    severity: Literal["info", "warning", "alarm"]
    text: str
    next: str


class Host(_Value, frozen=True):
    """The host's resources now; None where the source is missing (shown as a dash)."""

    cpu_fraction: float | None
    memory_used: int | None
    memory_total: int | None
    disk_free: int | None
    disk_total: int | None


class Traffic(_Value, frozen=True):
    """The gateway's counters since its start, and percentiles over its last requests. Times in microseconds."""

    requests: int
    failed: int
    running: int
    waiting: int
    prompt_tokens: int
    completion_tokens: int
    tokens_per_s: float
    ttft_p50_us: int | None
    ttft_p95_us: int | None
    inter_token_p50_us: int | None
    inter_token_p95_us: int | None


class Home(_Value, frozen=True):
    """Everything the first screen shows, taken at one moment."""

    identity: Identity
    operator: str
    role: str
    uptime_s: float
    models: tuple[ModelView, ...]
    requests: tuple[RequestView, ...]
    traffic: Traffic | None
    isolation: Isolation
    duties: tuple[Duty, ...]
    host: Host


class NewKey(_Value, frozen=True):
    """A key just made. ``secret`` is shown this once and stored nowhere."""

    id: str
    tenant: str
    name: str
    secret: str
    expires: str | None


class KeyView(_Value, frozen=True):
    """A key as it may be listed: never its secret."""

    id: str
    tenant: str
    name: str
    prefix: str
    models: tuple[str, ...] | None
    created: str
    expires: str | None
    revoked: str | None
    last_used: str | None
    endpoints: tuple[str, ...] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    replaced_by: str | None = None


class TenantView(_Value, frozen=True):
    """A tenant with its budget, its weight and its limits, and its tokens of this UTC month."""

    id: str
    created: str
    monthly_tokens: int | None
    weight: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None
    used: int
    reserved: int


class AliasView(_Value, frozen=True):
    """Another name of a model. ``tenant`` is empty for an alias of the whole site."""

    name: str
    tenant: str
    model: str
    defaults: dict[str, float]
    created: str


class PersonView(_Value, frozen=True):
    """An account of the host that has a role on this site."""

    account: str
    uid: int
    role: str
    created: str


class LoginView(_Value, frozen=True):
    """Somebody who may log in.

    ``source`` says who vouches for them: ``local``, ``ldap`` or ``oidc``; ``subject`` who an OpenID provider says they
    are.
    """

    name: str
    role: str
    source: str
    subject: str
    created: str


class NewLogin(_Value, frozen=True):
    """A login just made or reset. ``password`` and ``uri`` (``otpauth://``) exist nowhere else and are shown once.

    ``password`` is empty where it is not the site's.
    """

    name: str
    role: str
    password: str
    uri: str

    def __repr__(self) -> str:
        return f"NewLogin(name={self.name!r}, role={self.role!r}, password=<hidden>, uri=<hidden>)"


class SessionView(_Value, frozen=True):
    """A session just begun; ``token`` is its secret. ``role`` is what the login and the account both may."""

    token: str
    name: str
    role: str
    idle_s: int

    def __repr__(self) -> str:
        return f"SessionView(token=<hidden>, name={self.name!r}, role={self.role!r})"


class UsageRow(_Value, frozen=True):
    """Settled usage of one tenant, key and model in the period asked for."""

    tenant: str
    key_id: str
    model: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    image_tokens: int
    engine_us: int


class UsageReport(_Value, frozen=True):
    """The ledger, summed. ``open_reservations`` are requests not yet settled; they are in no row."""

    since: str | None
    until: str | None
    rows: tuple[UsageRow, ...]
    open_reservations: int


class AuditRecord(_Value, frozen=True):
    """One audit record as it may be shown."""

    chain: str
    seq: int
    time: str
    actor: str
    action: str
    subject: str
    outcome: str
    fields: dict[str, str | int | float | bool | None]
    hash: str


class ChainVerdict(_Value, frozen=True):
    """The verdict on one chain: intact up to its signed head, or where and how it is broken."""

    chain: str
    records: int
    head: str
    ok: bool
    problem: str = ""
    first_time: str = ""
    last_time: str = ""


class AuditVerdict(_Value, frozen=True):
    """The verdict on every chain of the site, from ``trust init`` on, and on ledger against audit."""

    ok: bool
    chains: tuple[ChainVerdict, ...]
    links: tuple[str, ...]
    """Sentences: what was proven between chains, in order."""
    problems: tuple[str, ...]


class Admin(Protocol):
    """Every verb. An instance speaks for one operator; the role decides what it may do."""

    async def home(self) -> Home: ...

    def watch_home(self, interval_s: float) -> AsyncIterator[Home]:
        """A Home now and then every ``interval_s`` seconds (0.2 to 60) until closed."""
        ...

    async def model_list(self) -> tuple[ModelView, ...]: ...

    async def request_list(self) -> tuple[RequestView, ...]: ...

    async def request_cancel(self, job: str) -> None: ...

    async def key_create(
        self,
        tenant: str,
        name: str = "",
        models: tuple[str, ...] | None = None,
        days: int | None = None,
        endpoints: tuple[str, ...] | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        concurrency: int | None = None,
    ) -> NewKey:
        """A new key. The tenant is made if it does not exist."""
        ...

    async def key_rotate(self, key_id: str, overlap_hours: int = 24) -> NewKey:
        """A new key in the place of another, which goes on for so many hours at most."""
        ...

    async def key_list(self, tenant: str | None = None) -> tuple[KeyView, ...]: ...

    async def key_revoke(self, key_id: str) -> KeyView: ...

    async def tenant_list(self) -> tuple[TenantView, ...]: ...

    async def tenant_set(self, tenant: str, terms: dict[str, int | None]) -> TenantView:
        """``terms`` may name ``monthly_tokens``, ``weight`` and the limits; null takes one away, the rest stays."""
        ...

    async def alias_list(self) -> tuple[AliasView, ...]: ...

    async def alias_set(
        self, name: str, model: str, tenant: str = "", defaults: dict[str, float] | None = None
    ) -> AliasView: ...

    async def alias_remove(self, name: str, tenant: str = "") -> AliasView: ...

    async def person_list(self) -> tuple[PersonView, ...]: ...

    async def person_set(self, account: str, role: str) -> PersonView: ...

    async def person_remove(self, account: str) -> PersonView: ...

    async def login_begin(self, name: str, password: str, code: str) -> SessionView:
        """A session, for who knows the password, or has a token, and the code of this moment."""
        ...

    async def login_end(self, token: str) -> None: ...

    async def login_password(self, name: str, password: str, code: str, new: str) -> LoginView:
        """Another password; every session of the login ends."""
        ...

    async def login_list(self) -> tuple[LoginView, ...]: ...

    async def login_add(self, name: str, role: str, source: str = "local", subject: str = "") -> NewLogin: ...

    async def login_role(self, name: str, role: str) -> LoginView: ...

    async def login_reset(self, name: str) -> NewLogin: ...

    async def login_remove(self, name: str) -> LoginView: ...

    async def usage_report(
        self, since: str | None = None, until: str | None = None, tenant: str | None = None
    ) -> UsageReport:
        """``since`` is inclusive, ``until`` exclusive, both RFC 3339."""
        ...

    async def audit_search(
        self,
        text: str = "",
        action: str = "",
        since: str | None = None,
        until: str | None = None,
        *,
        limit: int = 100,
        oldest_first: bool = False,
        skip: int = 0,
    ) -> tuple[AuditRecord, ...]:
        """At most ``limit`` (1 to 1000) records behind the first ``skip``, newest or oldest first.

        ``text`` is as :mod:`plugsky.audit.query` says; ``since`` is inclusive, ``until`` exclusive, both RFC 3339.
        """
        ...

    async def audit_verify(self) -> AuditVerdict: ...

    async def isolation(self) -> Isolation: ...
