"""The engine's front: it answers peers while one thread loads and steps the model and another prepares prompts.

Three threads share the work. This one runs the event loop and holds everything about peers and jobs. The *owner*
(:mod:`plugsky.engine.serving.owner`) loads the model and steps it. The *side* thread
(:mod:`plugsky.engine.serving.preparations`) renders and tokenises, so that a slow template holds up neither. They hand
each other finished values only.

States: loading -> serving -> retiring, or loading -> failed. A load failure is not a crash: the engine stays and
answers each frame with the named error, so that nobody restarts it in a loop. SIGTERM or ``drain`` retires: nothing
more is accepted, not even a connection, and what runs is finished. After SIGTERM the process then ends, and what still
runs after :data:`DRAIN_S` is cancelled; after ``drain`` it ends when its peers have closed. An engine that has been
idle for too long (:mod:`plugsky.engine.serving.idle`) retires by itself, and waits for its peers no longer than that.
Whoever connects meanwhile waits in the socket, which outlives the process, for the next one. An engine whose step hangs
(:mod:`plugsky.engine.serving.watchdog`) says so to its peers and ends at once, with an exit code of its own.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final, Literal

from plugsky.core import frames
from plugsky.core.errors import ErrorKind
from plugsky.core.ids import new_id
from plugsky.core.processes import on_wish_to_end
from plugsky.engine.errors import DoesNotFitError, EngineError, failed
from plugsky.engine.llama import native
from plugsky.engine.loading import canary, loading
from plugsky.engine.loading.head_start import HeadStart
from plugsky.engine.prompting.images import Piece
from plugsky.engine.serving import pins
from plugsky.engine.serving.idle import IdleClock
from plugsky.engine.serving.jobs import JobTable, Run
from plugsky.engine.serving.notify import Notifier
from plugsky.engine.serving.owner import Owner
from plugsky.engine.serving.peer import Peer
from plugsky.engine.serving.preparations import Preparations
from plugsky.engine.serving.tally import Tally
from plugsky.engine.serving.watchdog import HUNG_EXIT, TICK_S, Watchdog
from plugsky.engine.stepping.orders import Report, SetThreads, Start, Stop, Unpin, Update

LOG: Final = logging.getLogger(__name__)

DRAIN_S: Final = 25.0
"""Seconds that running requests may take to finish after SIGTERM, and peers to leave an idle engine."""
ACK_S: Final = 2.0
"""Seconds to wait after the last request for peers to acknowledge its final."""
FLUSH_S: Final = 1.0
"""Seconds peers get at the very end to read what was written for them."""
MAX_THREADS: Final = 512

State = Literal["loading", "serving", "failed", "retiring"]


class Service:
    """One engine as its peers see it, which may be idle for ``idle_s`` seconds. Made and run inside an event loop."""

    def __init__(self, head: HeadStart, caps: tuple[str, ...], notifier: Notifier, idle_s: float | None) -> None:
        self._spec = head.spec
        self._caps = caps
        self._notifier = notifier
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[int] = self._loop.create_future()
        self._owner = Owner(head, self._loop, self)
        self._preparations = Preparations(self._loop)
        self._state: State = "loading"
        self._stopping = False
        self._fraction = 0.0
        self._failure = EngineError(ErrorKind.LOADING, "the model is still being loaded", retry_after=1.0)
        self._hello: frames.EngineHello | None = None
        self._loaded: loading.Loaded | None = None
        self._peers: set[Peer] = set()
        self._no_peers = asyncio.Event()
        self._jobs: JobTable[Peer] = JobTable()
        self._tally = Tally()
        self._pins: pins.Pins[Peer] = pins.Pins(0)
        self._watchdog = Watchdog(head.spec.batch, time.monotonic())
        self._idle = IdleClock(idle_s, time.monotonic())
        self._server: asyncio.Server | None = None

    async def run(self, listener: socket.socket) -> int:
        """Load the model and serve peers on ``listener`` until the end. The exit code; 1 when the context broke."""
        on_wish_to_end(self._loop, self._on_signal)
        self._server = await self._loop.create_server(self._new_peer, sock=listener, backlog=256)
        self._owner.start()
        self._look()
        try:
            return await self._over
        finally:
            self._server.close()
            await self._close()

    async def _close(self) -> None:
        for peer in self._peers:
            peer.close()
        self._stopping = True
        self._owner.end()
        self._preparations.close()
        self._owner.close()
        if self._peers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._no_peers.wait(), FLUSH_S)
        for peer in self._peers:
            peer.abort()

    # -- what the owner tells ----------------------------------------------------------------------------------------

    def progressed(self, fraction: float) -> None:
        """So much of the model is read."""
        self._fraction = fraction
        self._notifier.loading(fraction)
        self._tell_all(frames.Loading(fraction=fraction))

    def load_failed(self, error: EngineError) -> None:
        """There will be no model: say so to whoever asks."""
        if self._stopping:
            return
        LOG.error("engine %s: %s; %s", self._spec.model_id, error.what, error.why)
        self._state, self._failure = "failed", error
        self._notifier.ready(f"refusing: {error.what}")
        for peer in self._greeted():
            self._welcome(peer)

    def ready(self, loaded: loading.Loaded) -> None:
        """The model is in memory: serve it."""
        if self._stopping:
            return
        self._state = "serving"
        self._loaded = loaded
        self._pins = pins.Pins(loaded.cells)
        self._hello = frames.EngineHello(
            proto=frames.PROTOCOL,
            instance=new_id(),
            build=native.build(),
            digest=self._spec.digest,
            n_ctx=loaded.prompts.n_ctx,
            caps=(*self._caps, *loaded.caps),
        )
        self._notifier.ready("serving")
        self._tell_all(self._hello)

    def broken(self, reason: str) -> None:
        """The context is lost: end, and leave it to a new process."""
        LOG.error("engine %s: the context is lost: %s", self._spec.model_id, reason)
        lost = EngineError(ErrorKind.ENGINE_LOST, "the engine's context broke", why=reason)
        self._tell_all(failed(0, lost))
        self._end(1)

    def _look(self) -> None:
        """Every tick: whether the owner's thread still comes to the end of its steps."""
        works = self._jobs.live > 0 or self._pins.computing
        if self._watchdog.hangs(time.monotonic(), busy=works):
            LOG.critical("engine %s: a step did not end within %.0f s", self._spec.model_id, self._watchdog.bound_s)
            self._tell_all(failed(0, EngineError(ErrorKind.ENGINE_LOST, "a step of the engine did not end")))
            os._exit(HUNG_EXIT)  # the owner's thread is stuck in C: there is no end in good order
        self._notifier.alive()
        if self._state == "retiring" and self._jobs.live:
            self._notifier.finishing()
        busy = works or self._state != "serving" or self._preparations.pending
        if self._idle.has_run_out(time.monotonic(), busy=busy):
            self._loop.call_later(DRAIN_S, self._end, 0)
            self._retire()
        self._loop.call_later(TICK_S, self._look)

    def reported(self, report: Report) -> None:
        """One turn of the owner's loop is over: tell every peer what is new."""
        self._watchdog.heard(report.t_us, report.prompt_tokens + report.completion_tokens)
        self._tally.add(report)
        items: dict[Peer, list[frames.StepItem]] = {}
        for update in report.updates:
            run = self._jobs.get(update.ticket)
            if run is None:
                self._pin_told(update)
                continue
            peer = run.peer
            if peer is not None:
                self._deliver(peer, run, update, items)
            if update.error is not None:
                self._jobs.drop(update.ticket)
            elif update.finish is not None:
                self._jobs.finish(update.ticket, update.finish)
        for peer, news in items.items():
            peer.send(frames.Step(n=report.n, t_us=report.t_us, items=tuple(news)))
        self._end_if_done()

    def _deliver(self, peer: Peer, run: Run[Peer], update: Update, items: dict[Peer, list[frames.StepItem]]) -> None:
        rid = run.rid
        if update.accepted:
            peer.send(frames.Accepted(rid=rid, cached=update.cached))
        elif update.error is not None:
            peer.send(failed(rid, update.error))
        else:
            item = frames.StepItem(
                rid=rid,
                ids=update.ids,
                text=update.text,
                logprobs=update.logprobs,
                final=update.finish,
                prompt_logprobs=update.prompt_logprobs,
            )
            run.told(item)
            items.setdefault(peer, []).append(item)

    def _pin_told(self, update: Update) -> None:
        if update.finish is None and update.error is None:
            return
        pin = self._pins.settle(update.ticket, computed=update.error is None)
        if pin is not None:
            rid = pin.frame.rid
            pinned = frames.Pinned(rid=rid, cells=pin.cells)
            pin.peer.send(pinned if update.error is None else failed(rid, update.error))

    # -- what peers say ----------------------------------------------------------------------------------------------

    def _new_peer(self) -> Peer:
        peer = Peer(self._welcome, self._handle, self._lost)
        self._peers.add(peer)
        self._no_peers.clear()
        return peer

    def _welcome(self, peer: Peer) -> None:
        """What a peer hears after its ``hello``."""
        if self._state == "retiring":
            peer.send(frames.Retiring())
        elif self._state == "loading":
            peer.send(frames.Loading(fraction=self._fraction))
        elif self._hello is not None:
            peer.send(self._hello)
        elif isinstance(self._failure, DoesNotFitError):
            peer.send(frames.Refused(need=self._failure.need, have=self._failure.have))
        else:
            peer.send(failed(0, self._failure))

    def _lost(self, peer: Peer) -> None:
        self._peers.discard(peer)
        if not self._peers:
            self._no_peers.set()
        self._preparations.forget(peer)
        for ticket in self._jobs.leave(peer):
            self._owner.order(Stop(ticket))
        self._end_if_done()

    def _handle(self, peer: Peer, frame: frames.ToEngine) -> None:
        match frame:
            case frames.Cancel(rid=rid):
                run = self._jobs.find(peer, rid)
                if run is not None:
                    self._owner.order(Stop(run.ticket))
            case frames.Threads(n=n):
                if 1 <= n <= MAX_THREADS:
                    self._owner.order(SetThreads(n))
            case frames.AckFinal(jobs=jobs):
                for job in jobs:
                    self._jobs.acknowledge(job)
                self._end_if_done()
            case frames.Drain():
                self._retire()
            case frames.ClientHello():
                peer.reject("hello is said once")
            case _ if frame.rid < 1:
                peer.reject("requests are numbered from 1")
            case _:
                try:
                    self._ask(peer, frame)
                except EngineError as error:
                    peer.send(failed(frame.rid, error))

    def _ask(self, peer: Peer, frame: frames.Asking) -> None:
        loaded = self._loaded
        if loaded is None or self._state in ("loading", "failed"):
            raise self._failure
        if isinstance(frame, frames.Stats):
            peer.send(self._tally.reply(frame.rid, loaded.cells, self._owner.canary_kl, self._pins.cells()))
            return
        if self._state == "retiring":
            raise EngineError(ErrorKind.LOADING, "the engine is being stopped", retry_after=2.0)
        self._idle.asked(time.monotonic())
        if isinstance(frame, frames.Canary):
            self._owner.read_canary(lambda outcome: self._canary_told(peer, frame.rid, outcome))
        elif isinstance(frame, frames.Prepare):
            self._preparations.begin(peer, frame, loaded.prompts)
        elif isinstance(frame, frames.Pin):
            self._pin(peer, frame, loaded)
        elif isinstance(frame, frames.Unpin):
            self._owner.order(Unpin(self._pins.release(frame.name)))
            peer.send(frames.Pinned(rid=frame.rid, cells=0))
        else:
            self._submit(peer, frame, loaded.prompts.check(frame))

    def _canary_told(self, peer: Peer, rid: int, outcome: canary.Verdict | EngineError) -> None:
        if isinstance(outcome, EngineError):
            peer.send(failed(rid, outcome))
        else:
            peer.send(frames.CanaryReply(rid=rid, kl=outcome.kl, bound=canary.BOUND, tripped=outcome.tripped))

    def _pin(self, peer: Peer, frame: frames.Pin, loaded: loading.Loaded) -> None:
        if not loaded.cells:
            raise EngineError(ErrorKind.NOT_SUPPORTED, "nothing is kept between this model's batches to be shared")
        if self._pins.is_there(frame):
            peer.send(frames.Pinned(rid=frame.rid, cells=len(frame.tokens)))
            return
        submit = pins.request(frame)
        if loaded.prompts.check(submit):
            raise EngineError(ErrorKind.NOT_SUPPORTED, "images are not kept for all tenants", param="tokens")
        ticket = self._jobs.take_ticket()
        self._pins.begin(frame, ticket, peer)
        try:
            self._owner.order(Start(ticket, submit, pin=True))
        except EngineError:
            self._pins.settle(ticket, computed=False)
            raise

    def _submit(self, peer: Peer, frame: frames.Submit, images: Mapping[int, Piece]) -> None:
        had = len(frame.resume_tokens)
        run = self._jobs.claim(frame.job, peer, frame.rid, had, frame.scored, tenant=frame.tenant)
        if run.final is not None:
            item = run.rest(frame.rid, had)
            peer.send(frames.Accepted(rid=frame.rid))
            peer.send(frames.Step(n=self._tally.latest.n, t_us=0, items=(item,)))
            return
        try:
            self._owner.order(Start(run.ticket, frame, images=images))
        except EngineError:
            self._jobs.drop(run.ticket)
            raise

    # -- the end -----------------------------------------------------------------------------------------------------

    def _on_signal(self) -> None:
        if self._stopping:
            self._cancel_all()
            return
        self._stopping = self._owner.stopping = True
        if self._state in ("loading", "failed"):
            self._end(0)
            return
        self._loop.call_later(DRAIN_S, self._cancel_all)
        self._retire()

    def _retire(self) -> None:
        if self._state == "serving":
            self._state = "retiring"
            self._notifier.stopping()
            if self._server is not None:
                self._server.close()
            self._tell_all(frames.Retiring())
        self._end_if_done()

    def _cancel_all(self) -> None:
        for ticket in self._jobs.tickets():
            self._owner.order(Stop(ticket))

    def _end_if_done(self) -> None:
        if self._state != "retiring" or self._jobs.live:
            return
        if not self._peers or (self._stopping and not self._jobs.unacknowledged):
            self._end(0)
        elif self._stopping:
            self._loop.call_later(ACK_S, self._end, 0)

    def _end(self, code: int) -> None:
        if not self._over.done():
            self._over.set_result(code)

    def _greeted(self) -> list[Peer]:
        return [peer for peer in self._peers if peer.greeted]

    def _tell_all(self, frame: frames.FromEngine) -> None:
        for peer in self._greeted():
            peer.send(frame)
