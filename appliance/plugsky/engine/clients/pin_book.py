"""The beginnings that an administrator has pinned in an engine, kept where they outlive it: a new engine has none.

Guarantees, in order:

1. What was pinned, and not unpinned, is pinned again in each engine that comes next, one after another. What is not is
   logged by its name, never by its tokens.
2. One that was being computed again when the engine crashed may be the reason. It is forgotten, so that it can neither
   crash engines in a loop nor throw suspicion on the same request twice.
3. One that the engine refuses, as for want of room, is asked for again of the next.
"""

import logging
from typing import Final

from plugsky.core.errors import ErrorKind
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.errors import EngineError

LOG: Final = logging.getLogger(__name__)
_NOT_THERE: Final = frozenset({ErrorKind.NOT_FOUND, ErrorKind.ENGINE_LOST})


class PinBook:
    """What is pinned in the engines of one model, by name."""

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._pins: dict[str, tuple[tuple[int, ...], str]] = {}

    async def pin(self, client: EngineClient, name: str, tokens: tuple[int, ...], adapter: str = "") -> int:
        """As :meth:`EngineClient.pin`, for this engine and the next ones: how many cells it holds."""
        pinned = await client.pin(name, tokens, adapter)
        self._pins[name] = tokens, adapter
        return pinned.cells

    async def unpin(self, client: EngineClient, name: str) -> None:
        """As :meth:`EngineClient.unpin`, for this engine and the next ones. One that is away holds nothing."""
        known = self._pins.pop(name, None)
        try:
            await client.unpin(name)
        except EngineError as error:
            if known is not None and error.kind in _NOT_THERE:
                return
            if known is not None:
                self._pins[name] = known
            raise

    async def restore(self, client: EngineClient) -> None:
        """Pin again, in a new engine, what was pinned in those before it."""
        for name, (tokens, adapter) in list(self._pins.items()):
            try:
                await client.pin(name, tokens, adapter)
            except EngineError as error:
                LOG.warning("engine %s: %r is not pinned again: %s", self._model_id, name, error.what)
                if error.kind is not ErrorKind.ENGINE_LOST:
                    continue
                if not client.retiring:
                    LOG.warning("engine %s: %r is forgotten, pin it anew if that was not why", self._model_id, name)
                    self._pins.pop(name, None)
                return
