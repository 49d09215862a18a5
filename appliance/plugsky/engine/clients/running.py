"""One request at an engine as its peer sees it: what was asked, what has come, and how to ask for the rest.

It outlives the connection it was asked over: with a :class:`Keeper` it is carried on by another one, from the token it
has come to.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from plugsky.core import frames
from plugsky.core.errors import PlugskyError
from plugsky.engine.errors import EngineError


class Keeper(Protocol):
    """Who keeps requests over the loss of a connection, and is told how they fare."""

    def progressed(self, running: "Running", tokens: int) -> None:
        """The request brought so many tokens, and has not ended."""
        ...

    def turned_away(self, running: "Running") -> None:
        """The engine retires and did not take the request."""
        ...

    def refused(self, running: "Running", error: EngineError) -> bool:
        """The engine failed the request with ``error``. Whether the keeper asks for it again; else it fails."""
        ...

    def ended(self, running: "Running") -> None:
        """The request has its final, or has failed."""
        ...


class Running:
    """The answer to one submit: an async iterator of its :class:`~plugsky.core.frames.StepItem`.

    The last item carries ``final``; then the iteration ends. A failure of the request or the loss of the engine raises
    :class:`EngineError` from the iteration, after all items that came before it.
    """

    def __init__(self, submit: frames.Submit, keeper: Keeper | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.rid = submit.rid
        self.job = submit.job
        self.submit = submit
        self._keeper = keeper
        self._send: Callable[[frames.ToEngine], None] | None = None
        self._received: list[int] = []
        self._scored = submit.scored
        self._expires = None if submit.deadline_us is None else loop.time() + submit.deadline_us / 1e6
        self._items: asyncio.Queue[frames.StepItem | PlugskyError] = asyncio.Queue()
        self._accepted: asyncio.Future[frames.Accepted] = loop.create_future()
        self._cancelled = False
        self._over = False

    @property
    def received(self) -> int:
        """How many tokens have come."""
        return len(self._received)

    async def accepted(self) -> frames.Accepted:
        """Wait until the engine has queued the request. Raises :class:`EngineError` when it refuses or is lost."""
        return await asyncio.shield(self._accepted)

    def cancel(self) -> None:
        """Ask the engine to stop within one step; go on iterating for the ``final`` with the usage so far."""
        if self._over or self._cancelled:
            return
        self._cancelled = True
        if self._send is not None:
            self._send(frames.Cancel(rid=self.rid))
        else:
            self._end_cancelled()

    def acknowledge(self) -> None:
        """Tell the engine that the final's usage is settled, so that it may forget the job."""
        if self._send is not None:
            self._send(frames.AckFinal(jobs=(self.job,)))

    def fail(self, error: PlugskyError) -> None:
        """End the request with ``error``."""
        if self._over:
            return
        self._over = True
        if not self._accepted.done():
            self._accepted.set_exception(error)
            self._accepted.exception()  # marks it as seen: a peer may wait for items only
        self._items.put_nowait(error)
        if self._keeper is not None:
            self._keeper.ended(self)

    def __aiter__(self) -> "Running":
        return self

    async def __anext__(self) -> frames.StepItem:
        if self._over and self._items.empty():
            raise StopAsyncIteration
        item = await self._items.get()
        if isinstance(item, PlugskyError):
            raise item
        return item

    def carried_by(self, send: Callable[[frames.ToEngine], None], rid: int) -> frames.Submit:
        """The submit that carries the request on, from where it stands, over the connection that ``send`` writes to."""
        self._send, self.rid = send, rid
        deadline_us = self.submit.deadline_us
        if deadline_us is not None and self._expires is not None:
            deadline_us = min(deadline_us, max(1, int((self._expires - asyncio.get_running_loop().time()) * 1e6)))
        resume = (*self.submit.resume_tokens, *self._received)
        return msgspec.structs.replace(
            self.submit, rid=rid, resume_tokens=resume, deadline_us=deadline_us, scored=self._scored
        )

    def refuse(self, error: EngineError) -> None:
        """The engine failed it: it fails with ``error``, unless a keeper has it carried on."""
        self._send = None
        if self._keeper is None or not self._keeper.refused(self, error):
            self.fail(error)
        elif self._cancelled:
            self._end_cancelled()

    def was_accepted(self, frame: frames.Accepted) -> None:
        """The engine has queued it."""
        if not self._accepted.done():
            self._accepted.set_result(frame)

    def put(self, item: frames.StepItem) -> None:
        """News of it."""
        self._over = item.final is not None
        self._received += item.ids
        self._scored += len(item.prompt_logprobs)
        self._items.put_nowait(item)
        if self._keeper is None:
            return
        if self._over:
            self._keeper.ended(self)
        elif item.ids:
            self._keeper.progressed(self, len(item.ids))

    def lose(self, error: EngineError) -> None:
        """The connection has ended: it fails with ``error``, unless a keeper has it carried on."""
        if self._keeper is None:
            self.fail(error)
            return
        self._send = None
        if self._cancelled:
            self._end_cancelled()

    def turn_away(self, error: EngineError) -> None:
        """The engine retires and did not take it: it fails with ``error``, unless a keeper has it carried on."""
        self.lose(error)
        if self._keeper is not None and not self._over:
            self._keeper.turned_away(self)

    def _end_cancelled(self) -> None:
        """What the engine would say of the end, when none has the request: what came here was used."""
        made = len(self.submit.resume_tokens) + len(self._received)
        usage = frames.Usage(prompt_tokens=len(self.submit.tokens) if made else 0, completion_tokens=made)
        self.was_accepted(frames.Accepted(rid=self.rid))
        self.put(frames.StepItem(rid=self.rid, final=frames.Finish(reason="cancelled", usage=usage)))
