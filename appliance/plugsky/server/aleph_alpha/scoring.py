"""``POST /evaluate`` and ``/explain``: how likely a text is behind a prompt, and what in the prompt makes it so.

An explanation is made by leaving out: the target is scored behind the whole prompt, and behind the prompt without each
stretch. A score is by how many nats the target is likelier with the stretch than without. All is one request in the
books, and every token of it is computed and counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from plugsky.core import frames
from plugsky.server.aleph_alpha import stretching
from plugsky.server.aleph_alpha.fields import (
    EvaluateFields,
    ExplainFields,
    ScoredRequest,
    parse_evaluate,
    parse_explain,
)
from plugsky.server.aleph_alpha.prompts import Stretch, read, stretches
from plugsky.server.aleph_alpha.tables import EVALUATE, EXPLAIN
from plugsky.server.aleph_alpha.wording import spoken
from plugsky.server.answering import Received, answered, received
from plugsky.server.deps import Gateway
from plugsky.server.exchange import Exchange
from plugsky.server.failures import bad
from plugsky.server.prompt import Prompt
from plugsky.server.settlement import Ask

MAX_STRETCHES: Final = 64
_NOTHING: Final = "\n"
"""What is left of a prompt that is one stretch, without it: a text needs something to stand behind."""


class Evaluate:
    """Tells how likely a text is behind a prompt, in Aleph Alpha's dialect."""

    fields = EvaluateFields
    tables = EVALUATE

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        spoken(exchange)
        async with received(self._gateway, exchange, "aleph-alpha.evaluate", parse_evaluate) as taken:
            request = taken.request
            prompt = _joined(await stretches(self._gateway, taken, request.items))
            target = await _target(self._gateway, taken)
            (known,), usage = await _scored(
                self._gateway, taken, "aleph-alpha.evaluate", [prompt or await _nothing(self._gateway, taken)], target
            )
            shape = {"model_version": taken.model.id, "result": _result(request.target, known)}
            body = {**shape, "num_tokens_prompt_total": usage.prompt_tokens}
        await exchange.reply(200, msgspec.json.encode(body))


class Explain:
    """Tells what in a prompt makes a text likely, in Aleph Alpha's dialect, by leaving out stretch after stretch."""

    fields = ExplainFields
    tables = EXPLAIN

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, exchange: Exchange) -> None:
        spoken(exchange)
        async with received(self._gateway, exchange, "aleph-alpha.explain", parse_explain) as taken:
            parts = await stretches(self._gateway, taken, taken.request.items)
            target = await _target(self._gateway, taken)
            plan = _plan(taken.request, parts, target)
            whole = _joined(parts)
            nothing = await _nothing(self._gateway, taken)
            without = [_left(whole, cut) for cut in plan.cuts]
            known, _ = await _scored(
                self._gateway, taken, "aleph-alpha.explain", [prompt or nothing for prompt in (whole, *without)], target
            )
            shape = {"model_version": taken.model.id, "explanations": plan.explanations(known)}
        await exchange.reply(200, msgspec.json.encode(shape))


@dataclass(frozen=True)
class _Plan:
    """What is left out in turn. ``cuts`` are numbers of the prompt's tokens, item by item."""

    request: ScoredRequest
    spans: Sequence[Sequence[stretching.Span] | int]
    """Of each item its stretches; of a run of token ids, how many there are."""
    cuts: Sequence[frozenset[int]]
    target: Stretch

    def explanations(self, known: Sequence[Sequence[frames.TokenLogprob]]) -> list[dict[str, Any]]:
        """The JSON, from what each prompt made of the target's tokens: the whole prompt first."""
        whole, *others = [[each.logprob for each in prompt] for prompt in known]
        places = range(len(whole))
        asked = [(place,) for place in places] if self.request.each_token else [tuple(places)]
        told = []
        for these in asked:
            scores = [sum(whole[place] - other[place] for place in these) for other in others]
            told.append(
                {"target": self._said(these), "items": [*self._items(scores), {"type": "target", "scores": []}]}
            )
        return told

    def _said(self, places: Sequence[int]) -> str:
        if len(places) == len(self.target.tokens):
            return self.request.target
        return b"".join(self.target.pieces[place] for place in places).decode(errors="replace")

    def _items(self, scores: Sequence[float]) -> list[dict[str, Any]]:
        rest = iter(scores)
        counts = [each if isinstance(each, int) else len(each) for each in self.spans]
        made = stretching.finished(
            [[next(rest) for _ in range(count)] for count in counts],
            self.request.postprocessing,
            normalize=self.request.normalize,
        )
        items: list[dict[str, Any]] = []
        for spans, told in zip(self.spans, made, strict=True):
            if isinstance(spans, int):
                items.append({"type": "token_ids", "scores": told})
            else:
                shown = [
                    {"start": begin, "length": end - begin, "score": score}
                    for (begin, end), score in zip(spans, told, strict=True)
                ]
                items.append({"type": "text", "scores": shown})
        return items


def _plan(request: ScoredRequest, parts: Sequence[Stretch], target: Stretch) -> _Plan:
    """What to leave out. Raises ``bad_request`` for more stretches than :data:`MAX_STRETCHES`."""
    places = [stretching.token_spans(part.text or "", part.pieces) for part in parts]
    granularity = request.granularity
    if granularity is None:
        names = ("token", "word", "sentence", "paragraph")
        counts = {name: sum(len(each) for each in _spans(name, None, parts, places)) for name in names}
        chosen, delimiter = stretching.chosen(counts), None
    else:
        chosen, delimiter = granularity.type, granularity.delimiter
    texts = iter(_spans(chosen, delimiter, parts, places))
    spans: list[Sequence[stretching.Span] | int] = []
    cuts: list[frozenset[int]] = []
    first = 0
    for part, tokens in zip(parts, places, strict=True):
        if part.text is None:
            spans.append(len(part.tokens))
            cuts += [frozenset({first + number}) for number in range(len(part.tokens))]
        else:
            found = next(texts)
            spans.append(found)
            cuts += [frozenset(first + number for number in stretching.overlapping(span, tokens)) for span in found]
        first += len(part.tokens)
    if len(cuts) > MAX_STRETCHES:
        raise bad("prompt_granularity", f"the prompt has {len(cuts)} stretches so; at most {MAX_STRETCHES} are weighed")
    return _Plan(request, spans, cuts, target)


def _spans(
    granularity: str, delimiter: str | None, parts: Sequence[Stretch], places: Sequence[Sequence[stretching.Span]]
) -> list[list[stretching.Span]]:
    return [
        stretching.spans(part.text, granularity, delimiter, tokens)
        for part, tokens in zip(parts, places, strict=True)
        if part.text is not None
    ]


def _joined(parts: Sequence[Stretch]) -> tuple[int, ...]:
    return tuple(token for part in parts for token in part.tokens)


def _left(tokens: tuple[int, ...], cut: frozenset[int]) -> tuple[int, ...]:
    return tuple(token for number, token in enumerate(tokens) if number not in cut)


async def _target(gateway: Gateway, taken: Received[ScoredRequest]) -> Stretch:
    text = taken.request.target
    prepared = await read(gateway, taken, Prompt(text=text, framed=False, shown=True))
    return Stretch(prepared.tokens, prepared.pieces, text)


async def _nothing(gateway: Gateway, taken: Received[ScoredRequest]) -> tuple[int, ...]:
    return (await read(gateway, taken, Prompt(text=_NOTHING, framed=False))).tokens


async def _scored(
    gateway: Gateway,
    taken: Received[ScoredRequest],
    endpoint: str,
    prompts: Sequence[tuple[int, ...]],
    target: Stretch,
) -> tuple[list[list[frames.TokenLogprob]], frames.Usage]:
    """What each prompt makes of the target's tokens, and what that cost."""
    ask = Ask(
        endpoint=endpoint,
        requested_model=taken.request.model,
        prompts=tuple(Prompt(tokens=prompt + target.tokens) for prompt in prompts),
        params=frames.Params(temperature=0.0, prompt_logprobs=1),
        max_tokens=0,
        request_sha256=taken.sha256,
    )
    known: list[list[frames.TokenLogprob]] = [[] for _ in prompts]
    async with answered(gateway, taken, ask) as (answer, _):
        async for number, item, _ in answer.news():
            known[number] += item.prompt_logprobs
        return [each[-len(target.tokens) :] for each in known], answer.usage


def _result(text: str, known: Sequence[frames.TokenLogprob]) -> dict[str, Any]:
    total = math.fsum(each.logprob for each in known)
    greedy = [_likeliest(each) for each in known]
    return {
        "log_probability": total,
        "log_perplexity": -total,
        "log_perplexity_per_token": -total / len(known),
        "log_perplexity_per_character": -total / len(text),
        "correct_greedy": all(rival is None for rival in greedy),
        "token_count": len(known),
        "character_count": len(text),
        "completion": b"".join(
            each.piece if rival is None else rival for each, rival in zip(known, greedy, strict=True)
        ).decode(errors="replace"),
    }


def _likeliest(known: frames.TokenLogprob) -> bytes | None:
    """What the model would rather have said; None where it is this token."""
    rivals = [(logprob, piece) for _token, piece, logprob in known.top if logprob > known.logprob]
    return max(rivals)[1] if rivals else None
