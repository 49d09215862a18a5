"""From what a client sends an embedding or reranking engine to checked tokens. Every refusal of an input happens here.

A client's text never becomes a control token. A pair is written as its model was trained to read it
(:class:`plugsky.engine.llama.pooling.PairForm`); a pair whose texts spell control tokens is tokenised piece by piece,
so that only the form's own become some.
"""

import re
from collections.abc import Mapping
from typing import Literal

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Params, Prepare, Prepared, Submit
from plugsky.engine.errors import EngineError, bad_request, context_exceeded
from plugsky.engine.llama.pooling import PairForm
from plugsky.engine.prompting.images import Piece
from plugsky.engine.prompting.prompts import MAX_NAME, Vocabulary, pieces_of
from plugsky.engine.tokens.markers import Markers


class Inputs:
    """Prepares and checks requests for one model of mode ``embed`` or ``rerank``. ``n_ctx`` counts a text's tokens."""

    def __init__(self, vocabulary: Vocabulary, mode: Literal["embed", "rerank"], form: PairForm, n_ctx: int) -> None:
        self._vocabulary = vocabulary
        self._mode = mode
        self._form = form
        self._markers = Markers(tuple(vocabulary.markers.values()))
        self.n_ctx = n_ctx

    def prepare(self, frame: Prepare) -> Prepared:
        """The input's tokens. Raises :class:`EngineError` that says what is wrong with it."""
        if frame.messages is not None:
            raise self._not_supported("messages")
        if frame.images:
            raise self._not_supported("images")
        if frame.adapter:
            raise self._not_supported("adapter")
        if frame.max_tokens is not None:
            raise self._not_supported("max_tokens")
        if frame.suffix is not None:
            raise self._not_supported("suffix")
        if frame.grammar or frame.json_schema:
            raise self._not_supported("grammar" if frame.grammar else "json_schema")
        if sum(given is not None for given in (frame.text, frame.tokens, frame.pair)) != 1:
            raise bad_request("give exactly one of text, pair and tokens")
        if (frame.pair is not None) != (self._mode == "rerank") and frame.tokens is None:
            wanted = "pairs of a query and a document" if self._mode == "rerank" else "texts"
            raise EngineError(ErrorKind.NOT_SUPPORTED, f"this model takes {wanted}", param="input")
        tokens = self._tokens(frame)
        self._check_tokens(tokens)
        pieces = pieces_of(tokens, self._vocabulary) if frame.shown else ()
        return Prepared(rid=frame.rid, tokens=tokens, room=0, pieces=pieces)

    def check(self, frame: Submit) -> Mapping[int, Piece]:
        """Refuse a submit that could not run: it may come from a peer that did not prepare it. It holds no images."""
        for name, value in (("job", frame.job), ("tenant", frame.tenant)):
            if not 0 < len(value) <= MAX_NAME:
                raise bad_request(f"{name} has 1 to {MAX_NAME} characters", name)
        if frame.max_tokens:
            raise bad_request("max_tokens must be 0: this model makes no tokens", "max_tokens")
        if frame.resume_tokens or frame.scored:
            param = "resume_tokens" if frame.resume_tokens else "scored"
            raise bad_request(f"{param} must not be given: this model makes no tokens", param)
        if frame.params != Params():
            raise EngineError(ErrorKind.UNSUPPORTED_FIELD, "this model chooses no tokens", param="params")
        if frame.adapter:
            raise self._not_supported("adapter")
        if frame.weight < 1:
            raise bad_request("weight must be at least 1", "weight")
        if frame.deadline_us is not None and frame.deadline_us < 1:
            raise bad_request("deadline_us must be at least 1", "deadline_us")
        self._check_tokens(frame.tokens)
        return {}

    def _tokens(self, frame: Prepare) -> tuple[int, ...]:
        if frame.tokens is not None:
            return frame.tokens
        if frame.pair is not None:
            return self._pair(*frame.pair)
        if not frame.text:
            raise bad_request("the text is empty", "input")
        return self._vocabulary.tokens(frame.text, add_special=frame.framed, parse_special=False)

    def _pair(self, query: str, document: str) -> tuple[int, ...]:
        for name, text in (("query", query), ("document", document)):
            if not text:
                raise bad_request(f"the {name} is empty", name)
        form = self._form
        if form.template is None:
            return (*form.before, *self._plain(query), *form.between, *self._plain(document), *form.after)
        texts = {"{query}": query, "{document}": document}
        pieces = re.split("({query}|{document})", form.template)
        if not any(any(True for _ in self._markers.places(text)) for text in texts.values()):
            return self._vocabulary.tokens("".join(texts.get(piece, piece) for piece in pieces), add_special=False)
        tokens: list[int] = []
        for piece in filter(None, pieces):
            given = texts.get(piece)
            tokens += self._vocabulary.tokens(piece, add_special=False) if given is None else self._plain(given)
        return tuple(tokens)

    def _plain(self, text: str) -> tuple[int, ...]:
        return self._vocabulary.tokens(text, add_special=False, parse_special=False)

    def _check_tokens(self, tokens: tuple[int, ...]) -> None:
        if not tokens:
            raise bad_request("the input is empty", "input")
        if len(tokens) > self.n_ctx:
            error = context_exceeded(len(tokens), self.n_ctx)
            error.param = "input"
            raise error
        if not (min(tokens) >= 0 and max(tokens) < self._vocabulary.n_vocab):
            raise bad_request(f"token ids go from 0 to {self._vocabulary.n_vocab - 1}", "tokens")

    def _not_supported(self, param: str) -> EngineError:
        does = "embeds texts" if self._mode == "embed" else "scores pairs of texts"
        return EngineError(ErrorKind.NOT_SUPPORTED, f"this model {does} and takes no {param}", param=param)
