"""Stands on the wire between a gateway and an engine, hands on every byte, and notes what the gateway was told."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path

from plugsky.core import frames


@dataclass
class Told:
    """What came to the gateway for one submitted answer: how many tokens in all its lives, and its end."""

    tokens: int = 0
    final: frames.Finish | None = None


@dataclass
class Tap:
    """``jobs`` holds what was told of each answer, by its request's job and its number (0 for the first)."""

    engine: Path
    jobs: dict[str, dict[str, Told]] = field(default_factory=dict)
    frames: int = 0
    resumed: int = 0
    """Submits that went on where an engine had been lost."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def listen(self, path: Path) -> asyncio.Server:
        """Be the engine at ``path``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return await asyncio.start_unix_server(self._serve, path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_engine, to_engine = await asyncio.open_unix_connection(self.engine)
        except OSError:  # it was killed, and its successor does not listen yet
            writer.close()
            return
        asked: dict[int, Told] = {}
        ways = [
            asyncio.create_task(self._upward(reader, to_engine, asked)),
            asyncio.create_task(self._downward(from_engine, writer, asked)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for side in (writer, to_engine):
            side.close()

    async def _upward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, Told]) -> None:
        buffer = frames.to_engine_buffer()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                for frame in buffer.feed(data):
                    if isinstance(frame, frames.Submit):
                        asked[frame.rid] = self._submitted(frame)
                writer.write(data)
                await writer.drain()

    def _submitted(self, frame: frames.Submit) -> Told:
        job, _, number = frame.job.partition(".")
        told = self.jobs.setdefault(job, {}).setdefault(number or "0", Told())
        if frame.resume_tokens:
            self.resumed += 1
            told.tokens = len(frame.resume_tokens)
        return told

    async def _downward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, Told]
    ) -> None:
        buffer = frames.from_engine_buffer()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                for frame in buffer.feed(data):
                    self.frames += 1
                    if isinstance(frame, frames.Step):
                        for item in frame.items:
                            if (told := asked.get(item.rid)) is not None:
                                told.tokens += len(item.ids)
                                told.final = item.final or told.final
                await writer.drain()
