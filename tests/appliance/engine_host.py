"""Runs the real engine process for tests: the entry and descriptor 3 that ``plugsky engine run`` uses."""

import asyncio
import contextlib
import hashlib
import os
import socket
import sys
from pathlib import Path

from plugsky.core import frames, ids
from plugsky.core.processes import Child
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.spec import EngineSpec

_ENTRY = """
import socket, sys
from pathlib import Path
from plugsky.engine.serving.process import run
from plugsky.engine.spec import AdapterSpec, EngineSpec, ProjectorSpec
model, file, digest, mode, n_ctx, threads, parent, eye, eye_digest, *adapters = sys.argv[1:]
adapters = tuple(AdapterSpec.parse(text) for text in adapters)
projector = ProjectorSpec(Path(eye), eye_digest) if eye else None
spec = EngineSpec(
    model, Path(file), digest, mode, int(n_ctx), int(threads), adapters=adapters, projector=projector
)
sys.exit(run(spec, socket.socket(fileno=3), int(parent)))
"""
ABSENT = "ab" * 32


def spec_of(file: Path, n_ctx: int = 2048, mode: str = "generate") -> EngineSpec:
    """The spec of a model file as it is now; two threads, because that is what the smallest machine has."""
    return EngineSpec("smollm2", file, digest_of(file) if file.is_file() else ABSENT, mode, n_ctx, 2)


def digest_of(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def command_for(spec: EngineSpec) -> tuple[str, ...]:
    """A command line that runs ``spec`` without the command-line room."""
    words = (
        spec.model_id,
        str(spec.file),
        spec.digest,
        spec.mode,
        str(spec.n_ctx),
        str(spec.threads),
        str(os.getpid()),
        *((str(spec.projector.file), spec.projector.digest) if spec.projector is not None else ("", "")),
        *map(str, spec.adapters),
    )
    return (sys.executable, "-c", _ENTRY, *words)


@contextlib.asynccontextmanager
async def running_engine(spec: EngineSpec, path: Path):
    """An engine process on ``path``; ended at the end if it has not ended by itself."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    child = Child.spawn(command_for(spec), listener, path.with_suffix(".log"))
    listener.close()
    try:
        yield child
    finally:
        child.terminate()
        try:
            await asyncio.wait_for(child.wait(), 20)
        except TimeoutError:
            child.kill()
            await child.wait()
            raise


async def answer(client: EngineClient, tokens: tuple[int, ...], max_tokens: int = 8, **options):
    """Run one prompt to its end: its ids, text and finish."""
    params = options.pop("params", frames.Params(temperature=0.0))
    job = options.pop("job", None) or ids.new_id()
    tenant = options.pop("tenant", "acme")
    generation = client.submit(job=job, tenant=tenant, tokens=tokens, params=params, max_tokens=max_tokens, **options)
    return await collect(generation)


async def collect(generation):
    """The ids, text and finish of a generation, which is acknowledged."""
    made, text, final = [], "", None
    async for item in generation:
        made += item.ids
        text += item.text
        final = item.final
    generation.acknowledge()
    return made, text, final
