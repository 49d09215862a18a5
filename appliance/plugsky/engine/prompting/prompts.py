"""From what a client sends to checked tokens: render, tokenise, count. Every refusal of a prompt happens here.

What a client wrote never becomes a control token; only the template's own text does
(:mod:`plugsky.engine.tokens.markers`).
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Final, Protocol

import msgspec

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Prepare, Prepared, Submit
from plugsky.engine.errors import EngineError, bad_request, context_exceeded
from plugsky.engine.grammars.constraint import Constraint, Pieces
from plugsky.engine.grammars.grammar import GrammarSpec
from plugsky.engine.grammars.json_schema.compiler import compiled
from plugsky.engine.headers.adapters import check_known
from plugsky.engine.prompting.chat import ChatPrompt, Chats
from plugsky.engine.prompting.families.constraint import CallConstraint
from plugsky.engine.prompting.images import Images, Piece
from plugsky.engine.prompting.renderer import Renderer
from plugsky.engine.tokens import sampling
from plugsky.engine.tokens.markers import Infill, Markers, Part
from plugsky.engine.vision.pictures import MAX_IMAGES

MAX_NAME: Final = 128
"""Characters of a job's id or a tenant's name: the engine keeps both for as long as the job."""

_NO_CHAT: Final = Prepare(rid=0, tenant="")
_CHAT_FIELDS: Final = ("tools", "tool_choice", "tool_name", "parallel_tool_calls", "thinking", "reasoning_effort")


class Vocabulary(Protocol):
    """What prompts need of a model."""

    n_vocab: int
    bos: str
    markers: dict[int, str]
    infill: Infill | None

    def tokens(self, text: str, *, add_special: bool, parse_special: bool = True) -> tuple[int, ...]: ...

    def piece(self, token: int) -> bytes: ...

    def pieces(self) -> Pieces: ...


class Prompts:
    """Prepares requests for one model. Used from one thread: the renderer's."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        renderer: Renderer | None,
        n_ctx: int,
        adapters: Collection[str] = (),
        images: Images | None = None,
    ) -> None:
        """``adapters`` are the names that requests may give."""
        self._adapters = adapters
        self._vocabulary = vocabulary
        self._images = images
        self._renderer = renderer
        self._markers = Markers(tuple(vocabulary.markers.values()), renderer.template if renderer else "")
        self._chats = Chats(renderer, self._markers) if renderer else None
        self._shown: dict[int, str] = {}
        if self._chats is not None:
            visible = self._chats.family.visible_tokens
            self._shown = {token: text for token, text in vocabulary.markers.items() if text in visible}
        self.n_ctx = n_ctx

    def prepare(self, frame: Prepare) -> Prepared:
        """The prompt's tokens, the room left and the grammar. Raises :class:`EngineError` that says what is wrong."""
        if frame.pair is not None:
            raise EngineError(ErrorKind.NOT_SUPPORTED, "this model generates text and takes no pair", param="pair")
        given = [part for part in (frame.messages, frame.text, frame.tokens) if part is not None]
        if len(given) != 1:
            raise bad_request("give exactly one of messages, text and tokens")
        if frame.suffix is not None and frame.text is None:
            raise bad_request("a suffix goes with a text only", "suffix")
        check_known(frame.adapter, self._adapters)
        if frame.max_tokens is not None and frame.max_tokens < 0:
            raise bad_request("max_tokens must be at least 0", "max_tokens")
        self._check_images(frame)
        chat = self._chat(frame)
        tokens = self._tokens(frame, chat)
        self._check_tokens(tokens, frame.tenant)
        if frame.max_tokens is not None and len(tokens) + frame.max_tokens > self.n_ctx:
            raise context_exceeded(len(tokens), self.n_ctx, frame.max_tokens)
        constraint = self._constraint(frame, chat)
        prepared = Prepared(
            rid=frame.rid,
            tokens=tokens,
            room=self.n_ctx - len(tokens),
            grammar=constraint.grammar,
            grammar_triggers=constraint.triggers,
            pieces=pieces_of(tokens, self._vocabulary) if frame.shown else (),
        )
        if chat is None or self._chats is None:
            return prepared
        family = self._chats.family.name
        return msgspec.structs.replace(
            prepared,
            family=family,
            thinking=chat.thinking,
            show_special=self._shown,
            text=chat.plain if frame.shown else "",
        )

    def check(self, frame: Submit) -> Mapping[int, Piece]:
        """Refuse a submit that could not run: it may come from a peer that did not prepare it.

        The images of its prompt, by where each begins.
        """
        for name, value in (("job", frame.job), ("tenant", frame.tenant)):
            if not 0 < len(value) <= MAX_NAME:
                raise bad_request(f"{name} has 1 to {MAX_NAME} characters", name)
        check_known(frame.adapter, self._adapters)
        images = self._check_tokens(frame.tokens, frame.tenant)
        scores = frame.params.prompt_logprobs is not None
        if scores and images:
            raise bad_request("a prompt with images cannot be scored", "prompt_logprobs")
        if frame.max_tokens < (0 if scores else 1):
            raise bad_request("max_tokens must be at least 1, or 0 with prompt_logprobs", "max_tokens")
        to_score = len(frame.tokens) - 1 if scores else 0
        if not 0 <= frame.scored <= to_score or (frame.resume_tokens and frame.scored < to_score):
            raise bad_request(f"scored must be {to_score} with resume_tokens, and at most that without", "scored")
        if len(frame.tokens) + frame.max_tokens > self.n_ctx:
            raise context_exceeded(len(frame.tokens), self.n_ctx, frame.max_tokens)
        if frame.resume_tokens and len(frame.resume_tokens) >= frame.max_tokens:
            raise bad_request("resume_tokens already hold max_tokens", "resume_tokens")
        self._check_range(frame.resume_tokens, "resume_tokens")
        if frame.deadline_us is not None and frame.deadline_us < 1:
            raise bad_request("deadline_us must be at least 1", "deadline_us")
        sampling.check(frame.params, self._vocabulary.n_vocab)
        if not frame.params.show_special.items() <= self._vocabulary.markers.items():
            raise bad_request("show_special holds what is no control token of this model", "show_special")
        return images

    def _check_images(self, frame: Prepare) -> None:
        if not frame.images:
            return
        if self._images is None:
            raise EngineError(ErrorKind.NOT_SUPPORTED, "this model reads no images", param="images")
        if frame.messages is None:
            raise bad_request("images go with messages only", "images")
        if len(frame.images) > MAX_IMAGES:
            raise bad_request(f"a prompt holds at most {MAX_IMAGES} images", "images")

    def _constraint(self, frame: Prepare, chat: ChatPrompt | None) -> CallConstraint:
        """The grammar of the answer, checked; none asked for is empty."""
        if frame.grammar and frame.json_schema:
            raise bad_request("give a grammar or a JSON schema, not both", "json_schema")
        grammar = compiled(frame.json_schema) if frame.json_schema else frame.grammar
        constraint = CallConstraint(grammar)
        if chat is not None and self._chats is not None:
            constraint = self._chats.constraint(frame, chat, grammar)
        if constraint.grammar:
            shown = tuple(self._shown.values())
            Constraint(GrammarSpec(constraint.grammar, constraint.triggers, shown), self._vocabulary.pieces())
        return constraint

    def _chat(self, frame: Prepare) -> ChatPrompt | None:
        """The rendered chat, if the prompt is one."""
        if frame.messages is None:
            named = [name for name in _CHAT_FIELDS if getattr(frame, name) != getattr(_NO_CHAT, name)]
            if named:
                raise bad_request(f"{named[0]} goes with messages only", named[0])
            return None
        if self._chats is None:
            raise EngineError(
                ErrorKind.NOT_SUPPORTED, "this model has no chat template; send text instead", param="messages"
            )
        return self._chats.prompt(frame)

    def _tokens(self, frame: Prepare, chat: ChatPrompt | None) -> tuple[int, ...]:
        if chat is not None:
            # A template that writes the beginning-of-text token itself must not get a second one.
            bos = self._vocabulary.bos
            seen = [self._images.tokens(frame.tenant, data) for data in frame.images] if self._images else []
            parts = [seen[part] if isinstance(part, int) else part for part in chat.parts]
            return self._tokenised(parts, add_special=not (bos and chat.text.startswith(bos)))
        if frame.suffix is not None:
            return self._between(frame)
        if frame.tokens is not None:
            return frame.tokens
        return self._tokenised([self._part(frame.text or "")], add_special=frame.framed)

    def _between(self, frame: Prepare) -> tuple[int, ...]:
        """A text and what comes behind the answer, in the order that llama.cpp's own server gives them."""
        marks = self._vocabulary.infill
        if marks is None:
            raise EngineError(
                ErrorKind.NOT_SUPPORTED, "this model was not trained to write between two texts", param="suffix"
            )
        before, behind = self._part(frame.text or ""), self._part(frame.suffix or "")
        parts: list[Part | tuple[int, ...]] = [(marks.prefix,), before, (marks.suffix,), behind, (marks.middle,)]
        return self._tokenised(parts, add_special=frame.framed)

    def _part(self, text: str) -> Part:
        return Part(text, tuple(self._markers.places(text)))

    def _tokenised(self, parts: Sequence[Part | tuple[int, ...]], *, add_special: bool) -> tuple[int, ...]:
        """The tokens of texts and, as they are, of what is tokens already."""
        texts = [part for part in parts if isinstance(part, Part) and not part.forged]
        if len(texts) == len(parts):
            return self._vocabulary.tokens("".join(part.text for part in texts), add_special=add_special)
        tokens: list[int] = []
        for part in parts:
            if not isinstance(part, Part):
                tokens += part
            else:
                tokens += self._plain(part) if part.forged else self._vocabulary.tokens(part.text, add_special=False)
        if not add_special:
            return tuple(tokens)
        # What the vocabulary puts around any text, once around all parts.
        bare, framed = (self._vocabulary.tokens("x", add_special=add) for add in (False, True))
        before = next(at for at in range(len(framed)) if framed[at : at + len(bare)] == bare)
        return (*framed[:before], *tokens, *framed[before + len(bare) :])

    def _plain(self, part: Part) -> tuple[int, ...]:
        """Tokens of a text that holds markers of a client's making, none of them a marker."""
        tokens = self._vocabulary.tokens(part.text, add_special=False, parse_special=False)
        if self._vocabulary.markers.keys().isdisjoint(tokens):
            return tokens
        # llama.cpp takes a vocabulary's user-defined tokens even from plain text, unless they come in two pieces.
        cuts = [0, *(place + 1 for place in part.forged), len(part.text)]
        pieces = [part.text[start:end] for start, end in pairwise(cuts)]
        tokens = tuple(
            token
            for piece in pieces
            for token in self._vocabulary.tokens(piece, add_special=False, parse_special=False)
        )
        if not self._vocabulary.markers.keys().isdisjoint(tokens):
            raise bad_request("the prompt holds the text of a control token that this model cannot read as plain text")
        return tokens

    def _check_tokens(self, tokens: tuple[int, ...], tenant: str) -> dict[int, Piece]:
        if not tokens:
            raise bad_request("the prompt is empty", "prompt")
        if len(tokens) >= self.n_ctx:
            raise context_exceeded(len(tokens), self.n_ctx)
        if self._images is None or min(tokens) >= 0:
            self._check_range(tokens, "tokens")
            return {}
        self._check_range(tuple(token for token in tokens if token >= 0), "tokens")
        return self._images.pieces(tenant, tokens)

    def _check_range(self, tokens: tuple[int, ...], param: str) -> None:
        if tokens and not (min(tokens) >= 0 and max(tokens) < self._vocabulary.n_vocab):
            raise bad_request(f"token ids go from 0 to {self._vocabulary.n_vocab - 1}", param)


def pieces_of(tokens: Sequence[int], vocabulary: Vocabulary) -> tuple[bytes, ...]:
    """The bytes of each token, a control token's its name, and none of an image's."""
    markers = vocabulary.markers
    return tuple(
        markers[token].encode() if token in markers else vocabulary.piece(token) if token >= 0 else b""
        for token in tokens
    )
