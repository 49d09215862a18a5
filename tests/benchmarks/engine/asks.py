"""What is asked of a server and what came back: the same values for every server that is compared."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Ask:
    """One request: either tokens, or messages as pairs of role and content, for the server to render itself."""

    tokens: tuple[int, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()
    max_tokens: int = 32
    tenant: str = "one"
    temperature: float = 0.0


@dataclass
class Answer:
    """When it was asked, what arrived when (as times of `time.perf_counter` and counts of tokens), and the tokens."""

    sent: float
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    engine_us: int = 0

    @property
    def first_s(self) -> float:
        """Seconds to the first token."""
        return self.arrivals[0][0] - self.sent

    @property
    def end(self) -> float:
        """When the last token came."""
        return self.arrivals[-1][0]

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between tokens, those between arrivals of several at a time told once."""
        return [later[0] - earlier[0] for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]


class Server(Protocol):
    """What takes requests."""

    async def ask(self, ask: Ask) -> Answer:
        """Run one request to its end, ignoring the model's wish to stop."""
        ...
