"""Who asked for what: jobs by id, so that a submit sent twice runs once and an answer outlives its connection.

A *run* is one execution of a job, numbered by a ticket. While a run is live its job cannot be claimed by another
connection. A run that ended keeps its answer and its ``final`` until acknowledged; claiming the job again then repeats
both, from the token the claimant has come to, and runs nothing. Log-probabilities of a prompt are not kept: a claimant
that lacks some has the job run anew. A run whose connection ended is an orphan: it is cancelled, and claiming its job
again runs it anew; nothing of it is kept. A job is its tenant's: no other is told of it. At most :data:`MAX_FINALS`
finals and :data:`MAX_TOKENS` tokens of their answers are kept; the oldest go first.
"""

from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Finish, StepItem
from plugsky.engine.errors import EngineError

MAX_FINALS: Final = 4096
MAX_TOKENS: Final = 1 << 18

PeerT = TypeVar("PeerT")


@dataclass(slots=True, eq=False)
class Run(Generic[PeerT]):
    """One execution of a job. ``peer`` is None when nobody is to be told of it: it ended, or its connection did.

    ``resumed`` counts the tokens of its answer that it was given, ``answer`` holds those it made; ``scored`` counts the
    log-probabilities of its prompt that are known, which are not kept.
    """

    ticket: int
    job: str
    peer: PeerT | None
    rid: int
    resumed: int = 0
    scored: int = 0
    answer: list[StepItem] = field(default_factory=list)
    final: Finish | None = None
    tenant: str = ""

    @property
    def made(self) -> int:
        """How many tokens it made."""
        return sum(len(item.ids) for item in self.answer)

    def told(self, item: StepItem) -> None:
        """Its peer was told ``item``."""
        self.scored += len(item.prompt_logprobs)
        if not item.prompt_logprobs:
            self.answer.append(item)

    def rest(self, rid: int, had: int) -> StepItem:
        """What a claimant that had so many tokens of the answer lacks, and the final, as news of ``rid``."""
        left, lacking = had - self.resumed, []
        for item in self.answer:
            if left <= 0:
                lacking.append(item)
            left -= len(item.ids)
        return StepItem(
            rid=rid,
            ids=tuple(token for item in lacking for token in item.ids),
            text="".join(item.text for item in lacking),
            logprobs=tuple(known for item in lacking for known in item.logprobs),
            final=self.final,
        )


class JobTable(Generic[PeerT]):
    """The runs of one engine, live and ended."""

    def __init__(self) -> None:
        self._by_job: dict[str, Run[PeerT]] = {}
        self._ended: dict[str, int] = {}
        self._tokens = 0
        self._by_ticket: dict[int, Run[PeerT]] = {}
        self._next_ticket = 1

    @property
    def live(self) -> int:
        """Runs that have not ended, orphans included."""
        return len(self._by_ticket)

    @property
    def unacknowledged(self) -> int:
        """Finals kept."""
        return len(self._ended)

    def claim(
        self, job: str, peer: PeerT, rid: int, resumed: int = 0, scored: int = 0, *, tenant: str = ""
    ) -> Run[PeerT]:
        """The run that answers this submit: a new one, or an ended one whose answer is to be repeated.

        Raises ``conflict`` when the job is running for someone or is another tenant's, or ``rid`` is in use on this
        connection.
        """
        if self.find(peer, rid) is not None:
            raise EngineError(ErrorKind.CONFLICT, f"request {rid} of this connection is still running", param="rid")
        known = self._by_job.get(job)
        if known is not None and known.tenant != tenant:
            raise EngineError(ErrorKind.CONFLICT, "the id of this job is taken", param="job")
        if known is not None and known.final is not None:
            if scored >= known.scored:
                return known
            self.acknowledge(job)
        elif known is not None and known.peer is not None:
            raise EngineError(ErrorKind.CONFLICT, "this job is running already", param="job")
        run = Run(self.take_ticket(), job, peer, rid, resumed, scored, tenant=tenant)
        self._by_job[job] = run
        self._by_ticket[run.ticket] = run
        return run

    def take_ticket(self) -> int:
        """A number that no run has."""
        ticket = self._next_ticket
        self._next_ticket += 1
        return ticket

    def find(self, peer: PeerT, rid: int) -> Run[PeerT] | None:
        """The live run that answers ``rid`` of this connection."""
        return next((run for run in self._by_ticket.values() if run.rid == rid and run.peer is peer), None)

    def get(self, ticket: int) -> Run[PeerT] | None:
        """The live run of that ticket."""
        return self._by_ticket.get(ticket)

    def tickets(self) -> list[int]:
        """The tickets of all live runs."""
        return list(self._by_ticket)

    def finish(self, ticket: int, final: Finish) -> None:
        """A run ended; its answer is kept unless its connection ended before."""
        run = self._by_ticket[ticket]
        if run.peer is None:
            self.drop(ticket)
            return
        del self._by_ticket[ticket]
        run.final, run.peer = final, None
        self._ended[run.job] = run.made
        self._tokens += run.made
        while len(self._ended) > MAX_FINALS or (self._tokens > MAX_TOKENS and len(self._ended) > 1):
            self.acknowledge(next(iter(self._ended)))

    def drop(self, ticket: int) -> None:
        """A run failed: it has no final, and its job may be claimed again."""
        run = self._by_ticket.pop(ticket)
        if self._by_job.get(run.job) is run:
            del self._by_job[run.job]

    def acknowledge(self, job: str) -> None:
        """Forget the final of ``job``. A job that is unknown or still live is left as it is."""
        run = self._by_job.get(job)
        if run is not None and run.final is not None:
            del self._by_job[job]
            self._tokens -= self._ended.pop(job)

    def leave(self, peer: PeerT) -> list[int]:
        """A connection ended: the tickets of its live runs, now orphans, to be cancelled."""
        orphans = [run for run in self._by_ticket.values() if run.peer is peer]
        for run in orphans:
            run.peer = None
            run.answer.clear()
        return [run.ticket for run in orphans]
