"""The owner's thread of an engine: it loads the model, steps the context, reads the canary, and tells the event loop.

Orders may come at any time; those that come before the model is loaded are dropped. Everything it has to tell is told
in the event loop, through an :class:`Audience`, in the order in which it happened. It ends by itself when loading
fails or the context breaks, else with :meth:`Owner.end`.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.llama import native
from plugsky.engine.loading import canary, loading
from plugsky.engine.loading.head_start import HeadStart
from plugsky.engine.stepping.embedding import Embedder
from plugsky.engine.stepping.orders import Order, Quit, Report, Work
from plugsky.engine.stepping.stepper import Stepper


class Audience(Protocol):
    """Who is told, in the event loop."""

    def progressed(self, fraction: float) -> None:
        """So much of the model is read."""

    def load_failed(self, error: EngineError) -> None:
        """There will be no model."""

    def ready(self, loaded: loading.Loaded) -> None:
        """The model is in memory; orders are carried out from now on."""

    def reported(self, report: Report) -> None:
        """One turn of the loop is over."""

    def broken(self, reason: str) -> None:
        """The context is lost."""


class Owner:
    """The thread that owns the context of the model whose loading ``head`` began. Its methods belong to the loop."""

    def __init__(self, head: HeadStart, loop: asyncio.AbstractEventLoop, audience: Audience) -> None:
        self._head = head
        self._loop = loop
        self._audience = audience
        self._thread = threading.Thread(target=self._own, name="owner", daemon=True)
        self._fraction = 0.0
        self._loaded: loading.Loaded | None = None
        self._stepper: Stepper | Embedder | None = None
        self._canary_told: Callable[[canary.Verdict | EngineError], None] | None = None
        self.canary_kl: float | None = None
        """The latest canary's mean KL divergence in nats."""
        self.stopping = False
        """Set it to have loading given up."""

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def order(self, order: Order) -> None:
        """Leave an order. Raises ``overloaded`` when too many wait."""
        if self._stepper is not None:
            self._stepper.order(order)

    def read_canary(self, told: Callable[[canary.Verdict | EngineError], None]) -> None:
        """Read the canary between two steps; ``told`` is called in the event loop. One that trips breaks the context.

        Raises ``not_supported`` where there is no cache, ``conflict`` while one is being read.
        """
        read = None if self._loaded is None else self._loaded.read_canary
        if read is None:
            raise EngineError(ErrorKind.NOT_SUPPORTED, "nothing is kept between this model's batches, so nothing leaks")
        if self._canary_told is not None:
            raise EngineError(ErrorKind.CONFLICT, "a canary is being read already")
        self._canary_told = told
        self.order(Work(lambda: self._read_canary(read)))

    def end(self) -> None:
        """End the thread, after the step it is in, and what renders prompts."""
        self.stopping = True
        self.order(Quit())
        self._thread.join()
        if self._loaded is not None and self._loaded.renderer is not None:
            self._loaded.renderer.close()

    def close(self) -> None:
        """Give the model's memory back, once :meth:`end` was called and nothing prepares prompts any more."""
        if self._loaded is not None:
            self._loaded.close()

    # -- on the thread -----------------------------------------------------------------------------------------------

    def _own(self) -> None:
        broken = "its thread ended"
        try:
            self._load_and_step()
            broken = ""
        except EngineError as error:
            broken = ""
            self._loop.call_soon_threadsafe(self._audience.load_failed, error)
        except native.ContextBrokenError as error:
            broken = str(error)
        finally:
            if broken:
                self._loop.call_soon_threadsafe(self._audience.broken, broken)

    def _load_and_step(self) -> None:
        self._loaded = loading.load(self._head.spec, self._on_progress, self._head)
        if self._loaded.verdict is not None:
            self.canary_kl = self._loaded.verdict.kl
        self._stepper = self._loaded.stepper(self._on_report)
        if not self.stopping:  # else nobody may be left to order this thread to end
            self._loop.call_soon_threadsafe(self._audience.ready, self._loaded)
            self._stepper.run()

    def _on_progress(self, fraction: float) -> bool:
        if fraction - self._fraction >= 0.02:
            self._fraction = fraction
            self._loop.call_soon_threadsafe(self._audience.progressed, fraction)
        return not self.stopping

    def _on_report(self, report: Report) -> None:
        self._loop.call_soon_threadsafe(self._audience.reported, report)

    def _read_canary(self, read: Callable[[], canary.Verdict]) -> None:
        try:
            verdict = read()
        except native.CacheFullError:
            full = EngineError(ErrorKind.OVERLOADED, "the cache has no cells for the canary now", retry_after=5.0)
            self._loop.call_soon_threadsafe(self._canary_was_read, full)
            return
        self._loop.call_soon_threadsafe(self._canary_was_read, verdict)
        if verdict.tripped:
            raise native.ContextBrokenError("the canary tripped: sequences read each other's cells")

    # -- back in the event loop --------------------------------------------------------------------------------------

    def _canary_was_read(self, outcome: canary.Verdict | EngineError) -> None:
        told, self._canary_told = self._canary_told, None
        if isinstance(outcome, canary.Verdict):
            self.canary_kl = outcome.kl
        if told is not None:
            told(outcome)
