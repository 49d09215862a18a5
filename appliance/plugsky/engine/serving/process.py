"""The engine process, ``plugsky engine run``: it gives up the network first, then loads the model and serves it.

The order matters: the line to systemd is opened while its address can be found, namespaces must be left while there is
one thread, and importing numpy or llama.cpp starts more.
"""

import asyncio
import socket
from typing import Final

from plugsky.core import env
from plugsky.core.processes import die_with_parent
from plugsky.engine import sandbox
from plugsky.engine.loading.head_start import HeadStart
from plugsky.engine.serving.notify import Notifier
from plugsky.engine.spec import EngineSpec

SPINS: Final = "3000"
"""Rounds that an idle OpenMP thread spins before it sleeps. libgomp's 300,000 suit a machine that does nothing else,
but a gateway shares ours; not spinning at all is slow everywhere. docs/benchmarks.md has the figures."""


def run(spec: EngineSpec, listener: socket.socket, parent: int | None = None, idle_s: float | None = None) -> int:
    """Serve ``spec`` on ``listener``, a listening Unix socket, until told to stop. The process's exit code.

    With ``parent``, the pid of the process that started this one, it ends when that one does; with ``idle_s``
    also after so many seconds without a request.

    A model that cannot be loaded ends nothing: the process then answers every peer with the named error.
    """
    notifier = Notifier.of_this_process()
    confined = sandbox.leave_network()
    if parent is not None and not die_with_parent(parent):
        return 1
    env.set_default(env.GOMP_SPINCOUNT, SPINS)
    head = HeadStart(spec)
    from plugsky.engine.serving.service import (
        Service,  # not before: it starts threads, and takes as long as a head start does
    )

    async def serve() -> int:
        return await Service(head, (sandbox.NETNS,) if confined else (), notifier, idle_s).run(listener)

    return asyncio.run(serve())
