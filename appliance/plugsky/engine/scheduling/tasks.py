"""A request as the scheduler sees it, and the bounds it is scheduled within. Values; no decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from plugsky.engine.scheduling.kv_cache import Reuse
from plugsky.engine.scheduling.prefix import Resident, TokenBuffer
from plugsky.engine.scheduling.waiting import Tenant

ServiceClass = Literal["interactive", "standard", "batch"]

LEVELS: Final = {"interactive": 0, "standard": 1, "batch": 2}
COST: Final = (1.0, 2.0, 4.0)
"""How often the compute time of a request of each class counts."""
WAITS_US: Final = (0, 2_000_000, 30_000_000)
"""How much later than an interactive request one of each class is due."""
PAUSE_US: Final = (0, 250_000, 1_000_000)
"""How much longer than an interactive one a running request of each class may be left out when places go around."""


@dataclass(frozen=True)
class Limits:
    """The bounds of one engine. ``cells``, ``batch``, ``saved`` and ``outputs`` count tokens, the rest tasks."""

    cells: int
    spare: int = 0
    """Cells of the context beyond these, that something else uses."""
    batch: int = 512
    places: int = 16
    """Tasks that decode in one step."""
    sequences: int = 64
    """Sequences of the context, without the one kept for copying state in and out."""
    queue: int = 1024
    tenant_queue: int = 512
    saved: int = 1 << 15
    """Cells that may lie in host memory."""
    outputs: int = 64
    """Rows of logits one step may give for scoring: each is a number per word of the vocabulary."""
    reuse: Reuse = "prefix"
    target_us: int = 100_000
    alone_us: int = 400_000
    first_us: int = 300_000


@dataclass(frozen=True, slots=True)
class Task:
    """A request as the scheduler sees it. Tickets rise."""

    ticket: int
    tenant: str
    tokens: Sequence[int]
    service_class: ServiceClass = "standard"
    weight: int = 1
    adapter: str = ""
    deadline_us: int | None = None
    score_from: int | None = None
    """Position from which on all logits are wanted, where a text is scored; ``tokens`` are then that text."""
    pin: bool = False
    """Compute the tokens and keep them for all tenants; ``tenant`` only pays."""


class QueueFullError(Exception):
    """No more tasks may wait: ``bound`` is how many may, ``of_tenant`` whether it is the tenant's own bound."""

    def __init__(self, bound: int, *, of_tenant: bool) -> None:
        super().__init__(f"{bound} requests are waiting")
        self.bound = bound
        self.of_tenant = of_tenant


@dataclass(slots=True, eq=False)
class Run:
    """A task on its way: in the line, or admitted with a sequence of its own or waiting for an owner's."""

    task: Task
    tenant: Tenant
    level: int
    due: int
    ticket: int
    tokens: TokenBuffer
    resident: Resident | None = None
    owner: Resident | None = None
    promised: int = 0
    cached: int | None = None
    latest_us: int = 0
    is_waiting: bool = False
    score_from: int | None = None
    """Where scoring has come to; None when there is nothing (more) to score."""
    gave_way: bool = False
    """Whether its cells were once taken for a tenant that had less."""

    @property
    def length(self) -> int:
        """Its tokens so far."""
        return self.tokens.length

    def left(self) -> int:
        """Tokens without cells."""
        if self.resident is not None:
            return self.length - self.resident.computed
        return self.length - (self.promised if self.owner is not None else 0)

    def held(self) -> Resident:
        """Its sequence. Raises :class:`LookupError` when it has none."""
        if self.resident is None:
            raise LookupError(f"task {self.ticket} holds no sequence")
        return self.resident

    def advance(self) -> None:
        """More of it was computed: those of its logits that were wanted have been given out."""
        if self.score_from is not None:
            at = self.held().computed
            self.score_from = max(self.score_from, at) if at < self.length else None

    def turn(self) -> int:
        """When it is to have a token, where places go around."""
        return self.latest_us + PAUSE_US[self.level]
