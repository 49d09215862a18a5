"""The thread that writes the ledger: what waits for it shares one transaction, and one wait for the disk.

Guarantees: (1) a wish is over when its transaction is on disk, and what was to follow it, after that; (2) one that is
refused changes nothing, and the others of its transaction stand; (3) where a transaction fails for the fault of one
wish, each is tried alone, and only the guilty one fails; where the database takes nothing at the moment, all fail, and
may come again; (4) wishes are taken in their order, :data:`TOGETHER` at most at once, and no wish waits for company.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from plugsky.access.ledger import Ledger
from plugsky.access.ledger_turn import Turn
from plugsky.core.errors import PlugskyError

ResultT = TypeVar("ResultT")
TOGETHER: Final = 64


@dataclass
class _Wish:
    act: Callable[[Turn], Any]
    then: Callable[[Any], object]
    told: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None

    def run(self, turn: Turn) -> None:
        try:
            self.result = self.act(turn)
        except PlugskyError as refused:
            self.error = refused

    def follow(self) -> None:
        if self.error is None:
            try:
                self.then(self.result)
            except Exception as error:  # noqa: BLE001 - whoever waits for it is told
                self.error = error

    def tell(self) -> None:
        if self.told.done():  # whoever waited was cancelled
            return
        if self.error is None:
            self.told.set_result(self.result)
        else:
            self.told.set_exception(self.error)


class LedgerThread:
    """One thread over one ledger. Its methods are for an event loop; :meth:`close` is for another thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._wishes: SimpleQueue[_Wish | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    async def do(self, act: Callable[[Turn], ResultT], then: Callable[[ResultT], object] = lambda _: None) -> ResultT:
        """What ``act`` gives, once it is on disk and ``then`` was called with it. Raises what either raises."""
        wish = _Wish(act, then, asyncio.get_running_loop().create_future())
        self._wishes.put(wish)
        result: ResultT = await wish.told
        return result

    def close(self) -> None:
        """Do what was wished so far, and end."""
        self._wishes.put(None)
        self._thread.join()

    def _run(self) -> None:
        going = True
        while going:
            group = [self._wishes.get()]
            with suppress(Empty):
                while len(group) < TOGETHER:
                    group.append(self._wishes.get_nowait())
            going = None not in group
            wishes = [wish for wish in group if wish is not None and not wish.told.cancelled()]
            if wishes:
                self._grant(wishes)
                _tell(wishes)

    def _grant(self, wishes: Sequence[_Wish]) -> None:
        try:
            with self._ledger.turn() as turn:
                for wish in wishes:
                    wish.run(turn)
        except Exception as error:  # noqa: BLE001 - whoever waits for it is told
            passing = isinstance(error, PlugskyError) and error.kind.value.retryable
            for wish in wishes:
                wish.result, wish.error = None, error if passing or len(wishes) == 1 else None
                if wish.error is None:
                    self._grant([wish])
        else:
            for wish in wishes:
                wish.follow()


def _tell(wishes: Sequence[_Wish]) -> None:
    """Wake each event loop once, however many of its own were waiting."""

    def tell(mine: Sequence[_Wish]) -> None:
        for wish in mine:
            wish.tell()

    for loop in {wish.told.get_loop() for wish in wishes}:
        loop.call_soon_threadsafe(tell, [wish for wish in wishes if wish.told.get_loop() is loop])
