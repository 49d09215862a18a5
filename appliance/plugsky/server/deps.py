"""What the gateway needs from other rooms, as the narrowest protocols that will do.

The rooms themselves fit these protocols as they are; :mod:`plugsky.server.gateway` puts them together. Everything that
may touch the database or wait for a disk is an ``async`` method here: no such call is made on the event loop.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from plugsky.access.aliases import AliasRecord
from plugsky.core import frames
from plugsky.core.clock import Clock
from plugsky.core.policy import EffectivePolicy
from plugsky.core.principal import Principal
from plugsky.server.flights import Flights
from plugsky.server.metrics import Metrics
from plugsky.server.rates import Rates
from plugsky.server.storage import Storage

RawHeaders = Iterable[tuple[bytes, bytes]]
"""Request headers as ASGI gives them: names in lower case."""

AuditFields = dict[str, str | int | bool | None]


@dataclass(frozen=True)
class ServedModel:
    """What the API tells of a model. ``digest`` is the SHA-256 of its file; ``created`` is in Unix seconds.

    ``dimensions`` are the lengths that its vectors were trained to be cut to.
    """

    id: str
    digest: str
    context: int
    mode: str = "generate"
    licence: str = ""
    languages: tuple[str, ...] = ()
    created: int = 0
    dimensions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Entry:
    """How one request stands in the books when it is opened."""

    job: str
    principal: Principal
    requested_model: str
    model: ServedModel
    tokens: int
    end_user: str = ""
    service_class: frames.ServiceClass = "standard"


@dataclass(frozen=True)
class Outcome:
    """How one request ended: a finish reason or the wire name of a failure, its usage, and what the record shows.

    ``content`` holds SHA-256 digests of what was said, which the record shows keyed only.
    """

    name: str
    usage: frames.Usage
    fields: AuditFields = field(default_factory=dict)
    content: Mapping[str, bytes] = field(default_factory=dict)


class Accounts(Protocol):
    """Authentication, the ledger and the audit trail."""

    async def authenticate(self, headers: RawHeaders) -> Principal:
        """Whose key the headers carry. Raises ``unauthenticated``, the same for every way a key can be wrong."""
        ...

    async def vouch(self, key_id: str) -> Principal:
        """Whose key that is, for what a batch asks in its place. Raises ``unauthenticated`` for one that has ended."""
        ...

    def check(self) -> None:
        """Raise ``overloaded`` while the audit trail cannot be written and the policy forbids serving without it."""
        ...

    async def aliases(self, tenant: str) -> Mapping[str, AliasRecord]:
        """The other names that models have for a tenant, at most half a second old."""
        ...

    async def month(self, tenant: str) -> tuple[int, int | None]:
        """Tokens that a tenant has used this month, with those set aside; and its budget of them, None for none."""
        ...

    async def reserve(self, entry: Entry) -> None:
        """Set ``entry.tokens`` aside for the job. Raises ``quota_exhausted``."""
        ...

    async def top_up(self, job: str, tokens: int) -> None:
        """Set further tokens aside. Raises ``quota_exhausted``; the job's earlier reservation stands."""
        ...

    async def settle(self, entry: Entry, outcome: Outcome) -> None:
        """Write the usage to the ledger and hand the record with the same counts to the audit trail."""
        ...

    async def refused(self, job: str, principal: Principal, requested_model: str, outcome: Outcome) -> None:
        """Record a request that was turned away before anything was set aside for it."""
        ...


class EngineAnswer(Protocol):
    """One submitted request: an async iterator of its items, the last of which carries ``final``."""

    async def accepted(self) -> frames.Accepted: ...

    def cancel(self) -> None: ...

    def acknowledge(self) -> None: ...

    async def __anext__(self) -> frames.StepItem: ...


class Engine(Protocol):
    """A connection to the engine of one model."""

    @property
    def hello(self) -> frames.EngineHello: ...

    async def prepare(self, *, tenant: str, max_tokens: int | None = None, **prompt: Any) -> frames.Prepared:
        """``prompt`` holds the fields of a :class:`~plugsky.server.prompt.Prompt`."""
        ...

    def submit(
        self,
        *,
        job: str,
        tenant: str,
        adapter: str = "",
        tokens: tuple[int, ...],
        params: frames.Params,
        max_tokens: int,
        service_class: frames.ServiceClass = "standard",
        weight: int = 1,
        deadline_us: int | None = None,
        prompt: Mapping[str, Any] | None = None,
    ) -> EngineAnswer:
        """``prompt`` is what ``tokens`` were prepared from, for an engine that has to prepare it again."""
        ...


class Engines(Protocol):
    """The engines of the site's models."""

    async def engine(self, model: ServedModel) -> Engine:
        """A connected engine. Waits while it loads; raises ``loading`` or ``overloaded`` when that takes too long."""
        ...

    def connected(self) -> frozenset[str]:
        """The ids of the models whose engines are there now."""
        ...

    def context_of(self, model: ServedModel) -> int:
        """The context the model is served with, in tokens; before its engine was first seen, the trained one."""
        ...


@dataclass
class Gateway:
    """Everything one gateway process holds. ``draining`` turns on once and stays on.

    Without ``storage`` there are no files and no batches.
    """

    models: Mapping[str, ServedModel]
    accounts: Accounts
    engines: Engines
    flights: Flights
    clock: Clock
    policy: EffectivePolicy = field(default_factory=EffectivePolicy)
    draining: bool = False
    storage: Storage | None = None

    def __post_init__(self) -> None:
        self.rates = Rates(self.clock)
        self.metrics = Metrics(self.flights)
