"""The requests of a soak: work of every kind, with what must hold of it when it ends, whatever was killed meanwhile.

Of every request that has its final: it came once; it counts the tokens that came, and the tokens of the prompt; an
answer that ended by its length is just as long as was asked for. Answers under a grammar with one sentence only show to
the letter that nothing was lost or doubled; greedy answers are compared with those of an engine at rest, as far as the
kernels allow: another shape of batch rounds otherwise. A request that fails says so by a named error.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engine.scene import chance, sentence
from plugsky.core import frames, ids
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.engine.clients.client import EngineClient, Running
from plugsky.engine.clients.line import EngineLine
from plugsky.server.deps import ServedModel
from plugsky.server.engines import EnginePool

END_S = 900.0
"""Seconds within which every request must have ended."""
TENANTS = tuple(f"tenant-{number}" for number in range(6))
CLASSES = ("interactive", "standard", "batch")
FIXED, FIXED_TOKENS = 12, 40
GONE = (ErrorKind.ENGINE_LOST, ErrorKind.LOADING, ErrorKind.UNREACHABLE)
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)
NAMED = "twice while nothing else ran"


@dataclass
class Books:
    """What was seen, and what went wrong."""

    kinds: Counter[str] = field(default_factory=Counter)
    open: Counter[str] = field(default_factory=Counter)
    """The requests that have not ended, by their kind."""
    ends: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    tokens: int = 0
    outlived: int = 0
    """Answers that went on after the engine was killed under them."""
    exact: list[bool] = field(default_factory=list)
    """Of each answer that is known to the letter, whether it came so."""
    alike: list[float] = field(default_factory=list)
    """Of each greedy answer, the share of its tokens before it first differs from the one of an engine at rest."""
    blamed: int = 0
    """Requests that were alone with the engine when it was killed, twice: two kills of ours look like their fault."""

    def found(self, what: str) -> None:
        """Something went wrong; it is told at once."""
        print(f"WRONG: {what}", file=sys.stderr, flush=True)
        self.wrong.append(what)


@dataclass(frozen=True)
class Answer:
    """A request that has its final."""

    ids: tuple[int, ...]
    text: str
    scored: int
    final: frames.Finish


class Work:
    """Requests of all kinds to the engines of ``pool``. ``words`` are tokens to make prompts of."""

    def __init__(
        self,
        pool: EnginePool,
        path: Path,
        chat: ServedModel,
        embed: ServedModel | None,
        words: tuple[int, ...],
        books: Books,
    ) -> None:
        """The engine of ``chat`` listens at ``path``."""
        self.books = books
        self._pool, self._path, self._chat, self._embed = pool, path, chat, embed
        self._words = words
        self._fixed: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self._vectors: dict[str, tuple[float, ...]] = {}
        self._kinds: dict[Callable[[random.Random], Awaitable[None]], int] = {
            self.short: 20,
            self.talk: 20,
            self.fixed: 15,
            self.counted: 12,
            self.schema: 5,
            self.long: 6,
            self.scored: 4,
            self.cancelled: 8,
            self.deadline: 5,
            self.vanishing: 6,
            self.refused: 3,
        }
        if embed is not None:
            self._kinds[self.embedding] = 10

    async def line(self, model: ServedModel | None = None) -> EngineLine:
        """The line to an engine; that of the chat model when none is named."""
        line = await self._pool.engine(model or self._chat)
        assert isinstance(line, EngineLine)
        return line

    async def learn(self, rng: random.Random) -> None:
        """Have the answers that are compared later, from engines at rest."""
        for _ in range(FIXED):
            prompt = self._tokens(rng, 60)
            answer = await self._ask(rng, prompt, FIXED_TOKENS, _greedy())
            assert answer is not None
            self._fixed.append((prompt, answer.ids))
        if self._embed is not None:
            for _ in range(FIXED):
                text = sentence(rng, 30)
                self._vectors[text] = await self._vector(self._embed, text)
        self.books.tokens = 0
        self.books.ends.clear()

    async def one(self, rng: random.Random) -> None:
        """One request of any kind."""
        (kind,) = rng.choices(list(self._kinds), weights=list(self._kinds.values()))
        name = getattr(kind, "__name__", "")
        self.books.kinds[name] += 1
        self.books.open[name] += 1
        try:
            async with asyncio.timeout(END_S):
                await kind(rng)
        except TimeoutError:
            self.books.found(f"a request ({name}) did not end within {END_S:.0f} s")
        except PlugskyError as error:
            if error.kind is ErrorKind.INTERNAL and NAMED in error.what:
                self.books.blamed += 1
            else:
                self.books.found(f"a request ({name}) failed: {error.kind.wire}: {error.what}; {error.why}")
        finally:
            self.books.open[name] -= 1

    # -- the kinds ---------------------------------------------------------------------------------------------------

    async def short(self, rng: random.Random) -> None:
        """Few tokens of a prompt nobody knows, and up to 80 more."""
        params = frames.Params(temperature=rng.choice((0.0, 0.7, 1.0)), ignore_eos=True, seed=rng.getrandbits(30))
        most = rng.randint(1, 80)
        answer = await self._ask(rng, self._tokens(rng, rng.randint(1, 80)), most, params)
        if answer is not None and len(answer.ids) != most:
            self.books.found(f"{len(answer.ids)} tokens of {most} that were asked for")

    async def long(self, rng: random.Random) -> None:
        """A long prompt and a short answer."""
        await self._ask(rng, self._tokens(rng, rng.randint(500, 1500)), 8, _greedy())

    async def scored(self, rng: random.Random) -> None:
        """The log-probabilities of a text: one for each token but the first."""
        text = self._tokens(rng, rng.randint(20, 300))
        answer = await self._ask(rng, text, 0, frames.Params(prompt_logprobs=0))
        if answer is not None and answer.scored != len(text) - 1:
            self.books.found(f"{answer.scored} log-probabilities came of {len(text)} tokens")

    async def talk(self, rng: random.Random) -> None:
        """Two turns of a chat below one of three long beginnings that a tenant's chats share."""
        tenant = rng.choice(TENANTS)
        system = sentence(chance(f"{tenant} {rng.randrange(3)}"), 120)
        messages = [frames.Message("system", system)]
        for _ in range(2):
            messages.append(frames.Message("user", sentence(rng, 12)))
            line = await self.line()
            prepared = await line.prepare(tenant=tenant, messages=tuple(messages))
            params = frames.Params(temperature=0.7, seed=rng.getrandbits(30), top_p=0.9)
            answer = await self._ask(rng, prepared.tokens, 48, params, tenant=tenant)
            if answer is None:
                return
            messages.append(frames.Message("assistant", answer.text))

    async def fixed(self, rng: random.Random) -> None:
        """A greedy answer that is known from an engine at rest."""
        prompt, before = rng.choice(self._fixed)
        answer = await self._ask(rng, prompt, FIXED_TOKENS, _greedy())
        if answer is None:
            return
        if len(answer.ids) != FIXED_TOKENS:
            self.books.found(f"{len(answer.ids)} tokens of {FIXED_TOKENS} that were asked for")
        differ = (n for n, (one, other) in enumerate(zip(answer.ids, before, strict=False)) if one != other)
        self.books.alike.append(next(differ, FIXED_TOKENS) / FIXED_TOKENS)

    async def counted(self, rng: random.Random) -> None:
        """An answer that a grammar fixes to the letter."""
        first = rng.randrange(100, 900)
        text = " ".join(str(number) for number in range(first, first + 40))
        params = frames.Params(temperature=0.0, grammar=f'root ::= "{text}"')
        answer = await self._ask(rng, self._tokens(rng, 20), len(text) + 8, params)
        if answer is None:
            return
        self.books.exact.append(answer.text == text)
        if answer.text != text:
            at = next((n for n, (a, b) in enumerate(zip(answer.text, text, strict=False)) if a != b), len(answer.text))
            self.books.found(
                f"an answer that can only count from {first} has {len(answer.text)} characters, not {len(text)},"
                f" and differs from character {at} ({answer.final.reason})"
            )

    async def schema(self, rng: random.Random) -> None:
        """An answer that follows a JSON schema."""
        line = await self.line()
        tenant = rng.choice(TENANTS)
        prepared = await line.prepare(tenant=tenant, text=sentence(rng, 20), json_schema=SCHEMA)
        params = frames.Params(temperature=1.0, seed=rng.getrandbits(30), grammar=prepared.grammar)
        answer = await self._ask(rng, prepared.tokens, 120, params, tenant=tenant)
        if answer is not None and answer.final.reason == "stop" and set(json.loads(answer.text)) != {"name", "age"}:
            self.books.found("an answer does not follow its schema")

    async def cancelled(self, rng: random.Random) -> None:
        """A request that is taken back, at any point of it."""
        prompt = self._tokens(rng, rng.choice((10, 400)))
        await self._ask(rng, prompt, 100, _greedy(), cancel_at=rng.randrange(30), hurry_s=rng.choice((0.0, 0.0, 0.3)))

    async def deadline(self, rng: random.Random) -> None:
        """A request that may take so long and no longer."""
        prompt = self._tokens(rng, rng.choice((10, 400)))
        await self._ask(rng, prompt, 200, _greedy(), deadline_us=int(1e6 * rng.expovariate(0.5)) + 1)

    async def vanishing(self, rng: random.Random) -> None:
        """A peer of its own that is gone before anything is prepared, accepted or over."""
        client = EngineClient(self._path)
        try:
            await client.connect(60.0)
            stage = rng.randrange(4)
            if stage == 0:
                asking = asyncio.create_task(client.prepare(tenant="gone", text=sentence(rng, 400)))
                await asyncio.sleep(0)
                asking.cancel()
                return
            running = client.submit(**self._submit(rng, self._tokens(rng, 200), 60, _greedy(), "gone"))
            if stage >= 2:
                await running.accepted()
            if stage == 3:
                await anext(running)
        except PlugskyError as error:
            if error.kind not in GONE:
                raise
            self.books.errors[f"{error.kind.wire}, a peer of its own"] += 1
        finally:
            await client.close()

    async def refused(self, rng: random.Random) -> None:
        """What no engine can run."""
        submit = rng.choice(
            (
                self._submit(rng, (), 8, _greedy()),
                self._submit(rng, (1 << 30,), 8, _greedy()),
                self._submit(rng, self._tokens(rng, 5000), 8, _greedy()),
                self._submit(rng, self._tokens(rng, 5), 8, frames.Params(grammar="root ::= root")),
                self._submit(rng, self._tokens(rng, 5), 8, frames.Params(temperature=-1.0)),
            )
        )
        try:
            await self._read((await self.line()).submit(**submit))
        except PlugskyError as error:
            if error.kind not in (ErrorKind.BAD_REQUEST, ErrorKind.CONTEXT_EXCEEDED, ErrorKind.SCHEMA_REFUSED):
                raise
            self.books.errors[f"{error.kind.wire}, as it should be"] += 1
        else:
            self.books.found("a request that nothing can run was not refused")

    async def embedding(self, rng: random.Random) -> None:
        """A vector that is known from an engine at rest."""
        assert self._embed is not None
        text = rng.choice(list(self._vectors))
        vector = await self._vector(self._embed, text)
        if sum(a * b for a, b in zip(vector, self._vectors[text], strict=True)) < 0.999:
            self.books.found("a text has another embedding than before")

    # -- one request -------------------------------------------------------------------------------------------------

    async def _ask(
        self,
        rng: random.Random,
        tokens: tuple[int, ...],
        most: int,
        params: frames.Params,
        *,
        tenant: str = "",
        cancel_at: int | None = None,
        hurry_s: float = 0.0,
        deadline_us: int | None = None,
    ) -> Answer | None:
        """An answer that has come to its own end; None when it ended otherwise."""
        line = await self.line()
        began = line.hello.instance
        submit = self._submit(rng, tokens, most, params, tenant)
        running = line.submit(**submit, deadline_us=deadline_us)
        if hurry_s:
            asyncio.get_running_loop().call_later(hurry_s, running.cancel)
        answer = await self._read(running, cancel_at)
        usage, made, reason = answer.final.usage, len(answer.ids), answer.final.reason
        if usage.completion_tokens != made or made > most or (reason == "length" and made != most):
            self.books.found(f"{made} tokens came, its final counts {usage.completion_tokens} of {most} ({reason})")
        if usage.prompt_tokens != len(tokens) and (made or reason in ("stop", "length")):
            self.books.found(f"{len(tokens)} prompt tokens were sent, {usage.prompt_tokens} are counted")
        self.books.outlived += bool(made) and line.hello.instance != began
        if reason not in ("stop", "length", *(["cancelled"] if cancel_at is not None else [])) and deadline_us is None:
            self.books.found(f"a request ended as {reason}")
        return answer if reason in ("stop", "length") else None

    async def _read(self, running: Running, cancel_at: int | None = None) -> Answer:
        made: list[int] = []
        text, scored, finals = "", 0, []
        async for item in running:
            made += item.ids
            text += item.text
            scored += len(item.prompt_logprobs)
            finals += [item.final] if item.final is not None else []
            if cancel_at is not None and len(made) >= cancel_at:
                running.cancel()
        running.acknowledge()
        if len(finals) != 1:
            self.books.found(f"a request had {len(finals)} finals")
        self.books.tokens += len(made)
        self.books.ends[finals[-1].reason] += 1
        return Answer(tuple(made), text, scored, finals[-1])

    async def _vector(self, model: ServedModel, text: str) -> tuple[float, ...]:
        line = await self.line(model)
        prepared = await line.prepare(tenant="embeds", text=text)
        running = line.submit(
            job=ids.new_id(), tenant="embeds", tokens=prepared.tokens, params=frames.Params(), max_tokens=0
        )
        packed = (await self._read(running)).final.embedding
        return struct.unpack(f"<{len(packed) // 4}f", packed)

    def _submit(
        self, rng: random.Random, tokens: tuple[int, ...], most: int, params: frames.Params, tenant: str = ""
    ) -> dict[str, Any]:
        return {
            "job": ids.new_id(),
            "tenant": tenant or rng.choice(TENANTS),
            "tokens": tokens,
            "params": params,
            "max_tokens": most,
            "service_class": rng.choice(CLASSES),
            "weight": rng.choice((1, 1, 3)),
        }

    def _tokens(self, rng: random.Random, length: int) -> tuple[int, ...]:
        return tuple(rng.choices(self._words, k=length))


def _greedy() -> frames.Params:
    return frames.Params(temperature=0.0, ignore_eos=True)


def memory(pid: int) -> int:
    """Bytes of a process that no file backs (``RssAnon`` of proc_pid_status(5)): pages of a model come and go."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
