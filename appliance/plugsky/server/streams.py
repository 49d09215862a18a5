"""The answers to one request's submits, merged as they come: one for each choice that the client asked for.

Guarantees: (1) items of one choice come in their order, each with the number of its choice; (2) a wait that is
cancelled loses no item; (3) the first failure of any is raised, and the others go on until they are cancelled.
"""

import asyncio
from collections.abc import Sequence

from plugsky.core import frames
from plugsky.server.deps import EngineAnswer

Numbered = tuple[int, frames.StepItem]


class Streams:
    """An async source of items. Call :meth:`close` in the end."""

    def __init__(self, answers: Sequence[EngineAnswer]) -> None:
        self._answers = answers
        self._waiting: dict[asyncio.Task[frames.StepItem], int] = {}
        self._begun = False

    async def accepted(self) -> None:
        """Wait until the engine has accepted every one."""
        for answer in self._answers:
            await answer.accepted()

    async def next(self) -> Numbered:
        """The next item of any choice. Ask no more once each has had its final."""
        if len(self._answers) == 1:
            return 0, await self._answers[0].__anext__()
        if not self._begun:
            self._begun = True
            for number in range(len(self._answers)):
                self._await(number)
        await asyncio.wait(self._waiting, return_when=asyncio.FIRST_COMPLETED)
        done = next(task for task in self._waiting if task.done())
        number = self._waiting.pop(done)
        item = done.result()
        if item.final is None:
            self._await(number)
        return number, item

    def cancel(self) -> None:
        """Ask the engine to end them all."""
        for answer in self._answers:
            answer.cancel()

    def acknowledge(self) -> None:
        """Let the engine forget them all."""
        for answer in self._answers:
            answer.acknowledge()

    async def close(self) -> None:
        """Wait for nothing more."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        self._waiting.clear()

    def _await(self, number: int) -> None:
        self._waiting[asyncio.ensure_future(self._item(number))] = number

    async def _item(self, number: int) -> frames.StepItem:
        return await self._answers[number].__anext__()
