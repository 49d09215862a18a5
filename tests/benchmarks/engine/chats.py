"""People at chat, beside llama-server: the same requests, the same interleaving, each server freshly loaded per round.

The engine is asked over its socket, to render, tokenise and generate; llama-server over HTTP, to do the same.
"""

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from benchmarks import report
from benchmarks.engine import figures, peers, subject
from benchmarks.engine.asks import Answer, Ask, Server
from benchmarks.engine.scene import Figures, Scene, Workload, chance, prompt, sentence, together, wake, wall

CLIENTS = (1, 4, 8, 16)
SLOTS = 8
SYSTEM, SHARERS = 900, 16
LONG, SHORT, CHATTERS, BESIDE_S = 1500, 40, 7, 60.0
CONVERSATIONS, TURNS, OPENING, SAID, REPLY = 16, 4, 200, 40, 32

Play = Callable[[Server], Awaitable[Figures]]


@contextlib.asynccontextmanager
async def _ours(scene: Scene) -> AsyncIterator[Server]:
    async with subject.running(scene.model, threads=scene.threads) as engine:
        yield engine


@contextlib.asynccontextmanager
async def _llama(scene: Scene, slots: int) -> AsyncIterator[Server]:
    async with peers.llama_server(scene.model, slots=slots, threads=scene.threads) as peer:
        yield peer.server


async def _both(scene: Scene, rng: random.Random, play: Play, *, slots: int = SLOTS, name: str = "") -> Figures:
    """Play the same to both, in an order that chance decides."""
    sides = [("ours", _ours(scene)), ("llama-server", _llama(scene, slots))]
    rng.shuffle(sides)
    found: Figures = {}
    for side, opened in sides:
        async with opened as server:
            await wake(server, scene)
            found |= {f"{name}{side} {what}": value for what, value in (await play(server)).items()}
    return found


async def measure_chat(scene: Scene, rng: random.Random) -> Figures:
    """One round of chats with different prompts, by the number of clients; each has two in a row."""
    found: Figures = {}
    for clients in CLIENTS:
        asks = [
            Ask(messages=(("user", sentence(rng, 60)),), max_tokens=scene.sized(64), tenant=f"tenant-{number}")
            for number in range(2 * clients)
        ]

        shares = [asks[number::clients] for number in range(clients)]

        async def play(server: Server, shares: Sequence[Sequence[Ask]] = shares) -> Figures:
            answers = await asyncio.gather(*(_in_turn(server, share) for share in shares))
            return {"wall": wall([one for some in answers for one in some])}

        found |= await _both(scene, rng, play, slots=clients, name=f"{clients} ")
    return found


async def _in_turn(server: Server, asks: Sequence[Ask]) -> list[Answer]:
    return [await server.ask(ask) for ask in asks]


def tell_chat(rounds: Sequence[Figures]) -> str:
    """Wall times; the ratio is of speeds, so more is better."""
    rows = []
    for clients in CLIENTS:
        ours = [found[f"{clients} ours wall"] for found in rounds]
        theirs = [found[f"{clients} llama-server wall"] for found in rounds]
        row = (f"{statistics.median(ours):.1f} s", f"{statistics.median(theirs):.1f} s")
        rows.append((clients, *row, f"{figures.median_ratio(theirs, ours):.2f}"))
    return report.table(("clients", "ours", "llama-server", "speed ratio"), rows)


async def measure_shared(scene: Scene, rng: random.Random) -> Figures:
    """One round of requests that come at once and begin with the same text."""
    system = prompt(scene, rng, SYSTEM)
    asks = [Ask(tokens=system + prompt(scene, rng, 30), max_tokens=scene.sized(32)) for _ in range(SHARERS)]

    async def play(server: Server) -> Figures:
        answers = await together(server, asks)
        return {"wall": wall(answers), "first": figures.percentile([answer.first_s for answer in answers], 0.95)}

    return await _both(scene, rng, play) | await _limit_of_shared(scene)


async def _limit_of_shared(scene: Scene) -> Figures:
    """The same tokens in batches with nothing around them: the common prompt once, then the rest, then the answers."""

    def bench(prompt: int, *, shared: bool) -> peers.Limit:
        return peers.batched_bench(
            scene.model,
            sequences=SHARERS,
            prompt=prompt,
            answer=scene.sized(32),
            threads=scene.threads,
            shared=shared,
        )

    common = await asyncio.to_thread(bench, SYSTEM, shared=True)
    rest = await asyncio.to_thread(bench, 30, shared=False)
    first = common.prefill_s + rest.prefill_s
    return {"limit first": first, "limit wall": first + common.generation_s}


async def measure_beside(scene: Scene, rng: random.Random) -> Figures:
    """One round of short chats while one more client sends one long prompt after the other."""
    seed = rng.random()

    async def play(server: Server) -> Figures:
        draw = chance(seed)
        until = time.perf_counter() + BESIDE_S * scene.scale
        answers: list[Answer] = []

        async def client(length: int, answer: int, kept: list[Answer], tenant: str) -> None:
            while time.perf_counter() < until:
                ask = Ask(tokens=prompt(scene, draw, length), max_tokens=answer, tenant=tenant)
                kept.append(await server.ask(ask))

        chats = (client(SHORT, 24, answers, f"chat-{number}") for number in range(CHATTERS))
        await asyncio.gather(client(LONG, 16, [], "long"), *chats)
        return {
            "first": figures.percentile([answer.first_s for answer in answers], 0.95),
            "gap": figures.percentile([gap for answer in answers for gap in answer.gaps_s], 0.99),
            "chats": len(answers),
        }

    return await _both(scene, rng, play)


async def measure_conversations(scene: Scene, rng: random.Random) -> Figures:
    """One round of conversations whose every turn sends all that was said before."""
    openings = [prompt(scene, rng, OPENING) for _ in range(CONVERSATIONS)]
    said = [[prompt(scene, rng, SAID) for _ in range(TURNS - 1)] for _ in range(CONVERSATIONS)]

    async def play(server: Server) -> Figures:
        async def converse(number: int) -> list[Answer]:
            tokens, answers = openings[number], []
            for turn in range(TURNS):
                ask = Ask(tokens=tokens, max_tokens=scene.sized(REPLY), tenant=f"tenant-{number}")
                answers.append(await server.ask(ask))
                if turn < TURNS - 1:
                    tokens = (*tokens, *answers[-1].ids, *said[number][turn])
            return answers

        answers = [one for some in await asyncio.gather(*map(converse, range(CONVERSATIONS))) for one in some]
        return {"wall": wall(answers), "first": figures.percentile([answer.first_s for answer in answers], 0.95)}

    limit = await asyncio.to_thread(
        lambda: peers.batched_bench(
            scene.model,
            sequences=CONVERSATIONS,
            prompt=OPENING + (TURNS - 1) * SAID,
            answer=TURNS * scene.sized(REPLY),
            threads=scene.threads,
        )
    )  # each token once, all conversations side by side, as if nobody waited for anybody
    return await _both(scene, rng, play) | {"limit wall": limit.prefill_s + limit.generation_s}


_TOLD = {"wall": "wall", "first": "p95 first token", "gap": "p99 between tokens"}


def tell(rounds: Sequence[Figures]) -> str:
    """Times of both sides and their ratios, so less is better."""
    rows = []
    for what, said in _TOLD.items():
        if f"ours {what}" in rounds[0]:
            ours = [found[f"ours {what}"] for found in rounds]
            theirs = [found[f"llama-server {what}"] for found in rounds]
            row = [f"{statistics.median(ours):.2f} s", f"{statistics.median(theirs):.2f} s"]
            row.append(f"{figures.median_ratio(ours, theirs):.2f}")
            if f"limit {what}" in rounds[0]:
                limit = [found[f"limit {what}"] for found in rounds]
                row += [f"{statistics.median(limit):.2f} s", f"{figures.median_ratio(limit, theirs):.2f}"]
            rows.append((said, *row))
    head = ("what", "ours", "llama-server", "ratio", "limit", "limit's ratio")
    return report.table(head[: len(rows[0])], rows)


CHAT = Workload("Chats with different prompts", measure_chat, tell_chat)
SHARED = Workload(f"{SHARERS} requests that share a system prompt of {SYSTEM} tokens", measure_shared, tell)
BESIDE = Workload(f"Short chats beside a client with prompts of {LONG} tokens", measure_beside, tell)
TURNS_OF_MANY = Workload(f"{CONVERSATIONS} conversations of {TURNS} turns", measure_conversations, tell)
