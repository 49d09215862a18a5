"""The frames that processes of a site exchange over Unix sockets.

They are cut on the wire as :mod:`plugsky.core.wire` says. Unknown fields of a known frame are ignored (a newer minor
version may add some); an unknown frame, or a ``hello`` whose major version differs, ends the connection.

Engine, one socket per model. To the engine: ``hello`` (first), ``prepare``, ``submit``, ``cancel``, ``threads``,
``stats``, ``canary``, ``pin``, ``unpin``, ``drain``, ``ack_final``. From it: ``hello`` (first), ``loading``,
``refused``, ``prepared``, ``accepted``, ``step``, ``stats_reply``, ``canary_reply``, ``pinned``, ``failed``,
``retiring``.
One ``step`` frame carries the news of all sequences; an item's ``final`` carries the usage and is kept until
``ack_final`` names its job: a submit of that job then repeats the answer from the end of its ``resume_tokens``, with
the final, and runs nothing.

Admin: ``call`` and ``abort`` to the service; ``reply``, ``item``, ``end`` and ``failed`` from it. A unary verb answers
one ``reply``; a server-streaming verb any number of ``item`` and one ``end``.

``rid`` numbers a request on one connection; ``job`` is its UUIDv7, the same after a reconnect, so that a submit sent
twice runs once. Times are integer microseconds.
"""

from typing import Any, Final, Literal

import msgspec

from plugsky.core import wire
from plugsky.core.answer import Finish as Finish
from plugsky.core.answer import FinishReason as FinishReason
from plugsky.core.answer import StepItem as StepItem
from plugsky.core.answer import TokenLogprob as TokenLogprob
from plugsky.core.answer import Usage as Usage
from plugsky.core.request import Effort as Effort
from plugsky.core.request import ImagePart as ImagePart
from plugsky.core.request import Message as Message
from plugsky.core.request import Params as Params
from plugsky.core.request import Tool as Tool
from plugsky.core.request import ToolChoice as ToolChoice
from plugsky.core.wire import MAX_FRAME as MAX_FRAME
from plugsky.core.wire import FrameBuffer as FrameBuffer
from plugsky.core.wire import FrameError as FrameError

PROTOCOL: Final = 1
"""Major version of the frames; peers of another major refuse each other."""

ServiceClass = Literal["interactive", "standard", "batch"]


class _Frame(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    """What all frames share: a tag with their name, immutability, and defaults that are not sent."""


# -- to the engine ---------------------------------------------------------------------------------------------------


class ClientHello(_Frame, frozen=True, tag="hello"):
    """The first frame of a peer of the engine."""

    proto: int = PROTOCOL


class Prepare(_Frame, frozen=True, tag="prepare"):
    """Render, tokenise and check a request without running it. Exactly one of messages, text, tokens, pair is given.

    A ``pair`` is a query and a document, for engines of mode ``rerank``; those of mode ``embed`` take text or tokens.
    Both take a submit with ``max_tokens`` 0 and default ``params``, and answer it with one ``final``.
    At most one of ``grammar`` (GBNF) and ``json_schema`` (JSON text) is given; the schema is compiled.
    With messages, ``tools`` are on offer: as ``tool_choice`` says, or only the one that ``tool_name`` names, which then
    must be called. ``thinking`` and ``reasoning_effort`` are the template's own where they are not given.
    ``images`` are PNG or JPEG files, each of which stands in one message (:class:`ImagePart`).
    A ``suffix`` is what comes behind the answer to ``text``, for models trained to write what stands between. Without
    ``framed`` a text is tokenised alone, with nothing put before or behind it. ``shown`` asks for what the tokens say.
    """

    rid: int
    tenant: str
    adapter: str = ""
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    max_tokens: int | None = None
    grammar: str = ""
    json_schema: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    tool_name: str = ""
    parallel_tool_calls: bool = True
    thinking: bool | None = None
    reasoning_effort: Effort = ""
    pair: tuple[str, str] | None = None
    images: tuple[bytes, ...] = ()
    suffix: str | None = None
    framed: bool = True
    shown: bool = False


class Submit(_Frame, frozen=True, tag="submit"):
    """Run a prepared request. ``resume_tokens`` were already delivered and are prefilled, not chosen again.

    With ``params.prompt_logprobs`` the prompt is computed from its first token on, whatever the cache holds, except for
    those of which the peer had the log-probabilities already: the first ``scored`` of them. ``max_tokens`` may then be
    0: the request ends after its prompt, with reason ``length``.
    ``adapter`` names the LoRA adapter to compute with, as in ``prepare``; unknown ones fail: ``model_not_found``.
    """

    rid: int
    job: str
    tenant: str
    tokens: tuple[int, ...]
    params: Params
    max_tokens: int
    service_class: ServiceClass = "standard"
    weight: int = 1
    resume_tokens: tuple[int, ...] = ()
    deadline_us: int | None = None
    """Microseconds from receipt until the request is ended with reason ``deadline``."""
    scored: int = 0
    adapter: str = ""


class Cancel(_Frame, frozen=True, tag="cancel"):
    """Stop a request within one step; its ``final`` follows with reason ``cancelled``."""

    rid: int


class Threads(_Frame, frozen=True, tag="threads"):
    """The engine's share of the host's cores from the next step on."""

    n: int


class Stats(_Frame, frozen=True, tag="stats"):
    """Ask for one ``stats_reply``."""

    rid: int


class Canary(_Frame, frozen=True, tag="canary"):
    """Ask whether sequences are kept apart: for one ``canary_reply``, between two steps."""

    rid: int


class Pin(_Frame, frozen=True, tag="pin"):
    """Compute these tokens, as a request of class ``batch``, and let every tenant share them, for one ``pinned``.

    They stay until they are unpinned or the engine ends; another one has none. Only an administrator may ask for it:
    whose prompts begin like these can be told by time and by usage.
    """

    rid: int
    name: str
    tokens: tuple[int, ...]
    adapter: str = ""


class Unpin(_Frame, frozen=True, tag="unpin"):
    """Give back the cells that are pinned under ``name``, for one ``pinned`` with none."""

    rid: int
    name: str


class Drain(_Frame, frozen=True, tag="drain"):
    """Finish what runs, accept nothing more."""


class AckFinal(_Frame, frozen=True, tag="ack_final"):
    """The finals of these jobs were received and settled; the engine may forget them."""

    jobs: tuple[str, ...]


# -- from the engine -------------------------------------------------------------------------------------------------


class EngineHello(_Frame, frozen=True, tag="engine_hello"):
    """The first frame of an engine that has its model in memory."""

    proto: int
    instance: str
    build: str
    digest: str
    n_ctx: int
    caps: tuple[str, ...] = ()


class Loading(_Frame, frozen=True, tag="loading"):
    """The model is being loaded; ``fraction`` runs from 0 to 1."""

    fraction: float


class Refused(_Frame, frozen=True, tag="refused"):
    """The model cannot be loaded here: it needs ``need`` bytes and ``have`` are free."""

    need: int
    have: int


class Prepared(_Frame, frozen=True, tag="prepared"):
    """The answer to ``prepare``: the prompt's tokens, how many more the context can hold, and what to submit with them.

    ``family`` says how to read the answer (:mod:`plugsky.engine.prompting.families`); ``thinking`` that it begins in
    reasoning. An image is a run of tokens below zero, which this engine knows for a while: a submit that comes too
    late, or to another engine, is refused with ``conflict`` and has to be prepared again.

    Where it was asked for, ``pieces`` are the bytes of each token, the names of control tokens included, and ``text``
    is the rendered template.
    """

    rid: int
    tokens: tuple[int, ...]
    room: int
    grammar: str = ""
    grammar_triggers: tuple[str, ...] = ()
    show_special: dict[int, str] = {}
    family: str = ""
    thinking: bool = False
    text: str = ""
    pieces: tuple[bytes, ...] = ()


class Accepted(_Frame, frozen=True, tag="accepted"):
    """The submit is queued; ``cached`` prompt tokens need no computing."""

    rid: int
    cached: int = 0


class Step(_Frame, frozen=True, tag="step"):
    """One step of the engine: its number, its duration, and news of every request that has any."""

    n: int
    t_us: int
    items: tuple[StepItem, ...]


class StatsReply(_Frame, frozen=True, tag="stats_reply"):
    """How the engine stands now. Cells are counted once, whoever shares them.

    ``kv_used`` cells are held by requests and pins, ``parked`` ones by what is kept of ended requests; a step reads the
    cache up to ``highest``. ``saved`` cells lie in host memory. Of the ``running`` requests ``paused`` ones had no part
    in the latest step.
    """

    rid: int
    running: int
    waiting: int
    kv_used: int
    kv_cells: int
    tokens_per_s: float
    steps: int
    completion_tokens: int
    prompt_tokens: int
    rss_bytes: int
    canary_kl: float | None = None
    """The last canary's mean KL divergence in nats; None of an engine without a cache."""
    parked: int = 0
    highest: int = 0
    saved: int = 0
    paused: int = 0
    waiting_by_class: tuple[int, int, int] = (0, 0, 0)
    """Interactive, standard, batch."""
    pinned: dict[str, int] = {}
    """Cells of what is pinned, by name. Two that begin alike both count what they share."""


class Failed(_Frame, frozen=True, tag="failed"):
    """A request, or with ``rid`` 0 the engine itself, failed. ``kind`` is the wire name of an ErrorKind."""

    rid: int
    kind: str
    what: str
    param: str | None = None
    n_prompt: int | None = None
    n_ctx: int | None = None


class CanaryReply(_Frame, frozen=True, tag="canary_reply"):
    """A known text diverged by ``kl`` nats among neighbours; over ``bound`` it ``tripped``, and the engine ends."""

    rid: int
    kl: float
    bound: float
    tripped: bool


class Pinned(_Frame, frozen=True, tag="pinned"):
    """What was to be pinned holds so many cells."""

    rid: int
    cells: int


class Retiring(_Frame, frozen=True, tag="retiring"):
    """The engine accepts nothing more and exits when the peer closes."""


# -- Admin -----------------------------------------------------------------------------------------------------------


class Call(_Frame, frozen=True, tag="call"):
    """Run a verb of the Admin protocol with these arguments."""

    id: int
    verb: str
    args: dict[str, Any] = {}


class Abort(_Frame, frozen=True, tag="abort"):
    """Stop a streaming verb."""

    id: int


class Reply(_Frame, frozen=True, tag="reply"):
    """The result of a unary verb."""

    id: int
    value: Any = None


class Item(_Frame, frozen=True, tag="item"):
    """One result of a streaming verb."""

    id: int
    value: Any = None


class End(_Frame, frozen=True, tag="end"):
    """A streaming verb is over."""

    id: int


class CallFailed(_Frame, frozen=True, tag="call_failed"):
    """A verb failed: the fields of a PlugskyError."""

    id: int
    kind: str
    what: str
    why: str = ""
    next: str = ""


Asking = Prepare | Submit | Stats | Canary | Pin | Unpin
"""What an engine answers under a ``rid``."""
Answering = Prepared | StatsReply | CanaryReply | Pinned
"""The answers that are one frame."""
ToEngine = ClientHello | Asking | Cancel | Threads | Drain | AckFinal
FromEngine = EngineHello | Loading | Refused | Answering | Accepted | Step | Failed | Retiring
ToAdmin = Call | Abort
FromAdmin = Reply | Item | End | CallFailed
AnyFrame = ToEngine | FromEngine | ToAdmin | FromAdmin


def encode(frame: AnyFrame) -> bytes:
    """The frame as bytes for the wire, length first. Raises :class:`FrameError` above 16 MiB."""
    return wire.encode(frame)


def to_engine_buffer() -> FrameBuffer[ToEngine]:
    """A buffer for the engine's side of its socket."""
    return FrameBuffer(msgspec.msgpack.Decoder(ToEngine))


def from_engine_buffer() -> FrameBuffer[FromEngine]:
    """A buffer for a peer of the engine."""
    return FrameBuffer(msgspec.msgpack.Decoder(FromEngine))


def to_admin_buffer() -> FrameBuffer[ToAdmin]:
    """A buffer for the Admin service."""
    return FrameBuffer(msgspec.msgpack.Decoder(ToAdmin))


def from_admin_buffer() -> FrameBuffer[FromAdmin]:
    """A buffer for an Admin client."""
    return FrameBuffer(msgspec.msgpack.Decoder(FromAdmin))
