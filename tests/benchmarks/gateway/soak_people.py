"""The people of a soak: one request each time, in one of the dialects, some of whom leave in the middle."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.engine.scene import sentence
from benchmarks.engine.sse import Chunked

KINDS: Mapping[str, int] = {
    "chat, streamed": 25,
    "chat, streamed, usage not asked for": 15,
    "chat, whole": 15,
    "chat, two answers": 8,
    "text completion": 8,
    "response": 6,
    "Anthropic, streamed": 8,
    "Ollama": 6,
    "leaves in the middle": 9,
}
PASSING = frozenset({429, 502, 503, 504})
"""What a request may be answered while engines and gateways are killed, and for a budget that is used up."""


@dataclass
class Seen:
    """What clients saw. ``usage`` holds what was told of each request that was seen to its end, by its id."""

    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    usage: dict[str, tuple[int, int]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


class Cut(Exception):  # noqa: N818 - nothing of ours went wrong
    """The connection ended in the middle."""


class Person:
    """Asks one request after another. ``keys`` are of several tenants."""

    def __init__(self, port: int, model: str, keys: tuple[str, ...], seen: Seen, rng: random.Random) -> None:
        self._port, self._model, self._keys, self._seen, self._rng = port, model, keys, seen, rng

    async def one(self) -> None:
        """A request of any kind, to its end, whatever that is."""
        rng = self._rng
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        path, body = self._asked(kind)
        leaves = rng.randint(1, 1500) if kind == "leaves in the middle" else None
        self._seen.kinds[kind] += 1
        try:
            async with asyncio.timeout(300):
                status, request_id, answer = await self._exchange(path, body, leaves)
        except (OSError, asyncio.IncompleteReadError, Cut):
            self._seen.ends["cut off"] += 1
            return
        if leaves is not None and status == 200:
            self._seen.ends["left"] += 1
        elif status == 200:
            self._ended(kind, request_id, answer)
        else:
            self._seen.ends[f"{status}"] += 1
            if status not in PASSING:
                self._seen.wrong.append(f"{kind}: {status}: {answer[:300]!r}")

    def _asked(self, kind: str) -> tuple[str, dict[str, Any]]:
        rng = self._rng
        text, most = sentence(rng, rng.randint(3, 40)), rng.randint(1, 24)
        messages = [{"role": "user", "content": text}]
        chat = {"model": self._model, "messages": messages, "max_tokens": most}
        match kind:
            case "chat, streamed":
                return "/v1/chat/completions", {**chat, "stream": True, "stream_options": {"include_usage": True}}
            case "chat, streamed, usage not asked for" | "leaves in the middle":
                return "/v1/chat/completions", {**chat, "stream": True}
            case "chat, two answers":
                return "/v1/chat/completions", {**chat, "n": 2}
            case "text completion":
                return "/v1/completions", {"model": self._model, "prompt": text, "max_tokens": most}
            case "response":
                return "/v1/responses", {"model": self._model, "input": text, "max_output_tokens": max(16, most)}
            case "Anthropic, streamed":
                return "/v1/messages", {**chat, "stream": True}
            case "Ollama":
                asked = {"model": self._model, "messages": messages, "options": {"num_predict": most}}
                return "/api/chat", {**asked, "stream": False}
        return "/v1/chat/completions", chat

    async def _exchange(self, path: str, body: dict[str, Any], leaves: int | None) -> tuple[int, str, bytes]:
        """Status, request id and body; no more than ``leaves`` bytes of that."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            data = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: site\r\nAuthorization: Bearer {self._rng.choice(self._keys)}\r\n"
            writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            status, request_id = int(lines[0].split()[1]), headers["x-request-id"]
            chunked = Chunked() if headers.get("transfer-encoding") == "chunked" else None
            length = int(headers.get("content-length", 0))
            answer = bytearray()
            while leaves is None or len(answer) < leaves:
                if chunked.over if chunked is not None else len(answer) >= length:
                    return status, request_id, bytes(answer)
                received = await reader.read(1 << 16)
                if not received:
                    raise Cut
                answer += chunked.feed(received) if chunked is not None else received
            return status, request_id, bytes(answer)
        finally:
            writer.close()

    def _ended(self, kind: str, request_id: str, answer: bytes) -> None:
        if answer.startswith((b"data:", b"event:", b":")):
            lines = [line[6:] for line in answer.split(b"\n") if line.startswith(b"data: ") and line[6:] != b"[DONE]"]
            events = [json.loads(line) for line in lines]
        else:
            events = [json.loads(answer)]
        errors = [event["error"] for event in events if event.get("error")]
        if errors:
            self._seen.ends[f"in the stream: {errors[0].get('code') or errors[0].get('type')}"] += 1
            return
        self._seen.ends["whole"] += 1
        self._seen.ended.add(request_id)
        for event in events:
            if used := _usage(kind, event):
                self._seen.usage[request_id] = used


def _usage(kind: str, event: dict[str, Any]) -> tuple[int, int] | None:
    """Prompt and completion tokens, where an event tells them."""
    if kind == "Ollama":
        return event["prompt_eval_count"], event["eval_count"]
    used = event.get("usage") or {}
    if kind == "Anthropic, streamed":
        if event["type"] != "message_delta":
            return None
        # Anthropic counts what was found in the cache apart from the rest of the prompt.
        return used["input_tokens"] + used["cache_read_input_tokens"], used["output_tokens"]
    if "input_tokens" in used:
        return used["input_tokens"], used["output_tokens"]
    return (used["prompt_tokens"], used["completion_tokens"]) if used else None
