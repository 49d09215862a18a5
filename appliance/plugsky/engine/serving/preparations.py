"""The side thread of an engine: it renders and tokenises prompts, so that a slow template holds nobody else up.

One prompt at a time, at most :data:`MAX_PREPARES` waiting; what a peer asked for and did not live to hear is dropped.
"""

import asyncio
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

from plugsky.core import frames
from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError, failed
from plugsky.engine.serving.peer import Peer

LOG: Final = logging.getLogger(__name__)
MAX_PREPARES: Final = 256
"""Prompts that may wait to be prepared."""


class Preparer(Protocol):
    """What prepares the prompts of one model."""

    def prepare(self, frame: frames.Prepare) -> frames.Prepared: ...


class Preparations:
    """The prompts that are being prepared, and whom each is for. All methods belong to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")
        self._peers: dict[Future[frames.Prepared], Peer] = {}

    @property
    def pending(self) -> bool:
        """Whether a prompt is being prepared, or waits."""
        return bool(self._peers)

    def begin(self, peer: Peer, frame: frames.Prepare, prompts: Preparer) -> None:
        """Have ``frame`` prepared; the peer is answered in time. Raises ``overloaded`` when too many wait."""
        if len(self._peers) >= MAX_PREPARES:
            raise EngineError(ErrorKind.OVERLOADED, f"{MAX_PREPARES} prompts wait to be prepared", retry_after=1.0)
        future = self._thread.submit(prompts.prepare, frame)
        self._peers[future] = peer
        future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._done, done, frame.rid))

    def forget(self, peer: Peer) -> None:
        """A connection ended: nothing more is prepared for it."""
        for future, owner in list(self._peers.items()):
            if owner is peer:
                future.cancel()

    def close(self) -> None:
        """Finish the prompt in hand and drop the others."""
        self._thread.shutdown(cancel_futures=True)

    def _done(self, done: Future[frames.Prepared], rid: int) -> None:
        peer = self._peers.pop(done)
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            peer.send(done.result())
        elif isinstance(error, EngineError):
            peer.send(failed(rid, error))
        else:
            LOG.error("preparing a prompt ended with %s", type(error).__name__)
            peer.send(failed(rid, EngineError(ErrorKind.INTERNAL, "the prompt could not be prepared")))
