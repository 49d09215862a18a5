"""What all workloads share: the model, the size of the run, prompts of plain words, and what is told of a round."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine.asks import Answer, Ask, Server
from plugsky.engine.known_text import TEXT

Figures = dict[str, float]
"""What one round measured, by name."""


@dataclass(frozen=True)
class Scene:
    """One run of a workload. ``scale`` shortens answers and durations where a run only has to prove the workload."""

    model: Path
    pool: tuple[int, ...]
    threads: int
    scale: float

    def sized(self, full: int) -> int:
        """A length at this scale, never below 8."""
        return max(8, round(full * self.scale))


@dataclass(frozen=True)
class Workload:
    """A row of the table: what one round measures, and how the rounds are told."""

    title: str
    measure: Callable[[Scene, random.Random], Awaitable[Figures]]
    tell: Callable[[Sequence[Figures]], str]


def chance(seed: object) -> random.Random:
    """Chance that comes again in every run."""
    return random.Random(str(seed))  # noqa: S311 - repeatable on purpose


def words() -> tuple[str, ...]:
    """The words of a text of ours."""
    return tuple(TEXT.read_text().split())


def prompt(scene: Scene, rng: random.Random, length: int) -> tuple[int, ...]:
    """A prompt of plain tokens that no cache knows."""
    return tuple(rng.choices(scene.pool, k=length))


def sentence(rng: random.Random, length: int) -> str:
    """So many plain words."""
    return " ".join(rng.choices(words(), k=length))


async def together(server: Server, asks: Sequence[Ask]) -> list[Answer]:
    """Ask all at once; raises when one fails."""
    return list(await asyncio.gather(*(server.ask(ask) for ask in asks)))


async def wake(server: Server, scene: Scene) -> None:
    """A first, short answer that is not counted: memory is touched, threads exist."""
    await server.ask(Ask(tokens=scene.pool[:16], max_tokens=8))


def wall(answers: Sequence[Answer]) -> float:
    """Seconds from the first request to the last token."""
    return max(answer.end for answer in answers) - min(answer.sent for answer in answers)
