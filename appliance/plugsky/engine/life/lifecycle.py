"""The life of one engine as a pure state machine: an event in, a new state and effects out. No clock, no process.

::

    absent --admit--> admitted --spawned--> loading --loaded--> ready --retire, idle--> retiring --exited--> absent
                         ^                     |                  |
                         |                 load_failed         exited
                         |                     v                  v
                         |                  absent             crashed --backoff_over--> loading --loaded--> suspect
                         |                (with problem)          ^                                            |
                         +----------------- admit                 +----------------- exited ------------------ +
                                                                                       suspect --calm--> ready

A *load failure* is an answer, not a crash: the process lives on and tells every peer the named error, so nothing is
restarted until someone admits the model again. A *crash* is restarted after a pause that doubles
(:func:`~plugsky.core.processes.pause_s`). After it the engine is ``suspect``: it serves, and only when it has stayed up
for :data:`CALM_S` is the crash forgiven. An engine that crashes :data:`MAX_LOAD_CRASHES` times in a row without ever
being loaded is given up: its model would only kill the next process too. A process that could not even be started
counts as a crash while loading.

A model that does not fit into the memory that is free is *roomless*: whoever asks meanwhile is told both numbers by
the process, which then ends, unless others make room for it. It is admitted again when somebody connects. An engine
that makes room for another *rests*: it ends like an idle one.

An engine that says that it retires though nobody asked it to is *idle*: its end is no crash. It is absent then, and
admitted again when somebody connects.

The supervisor of ``plugsky serve`` and systemd's units are two thin edges of this one machine.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

from plugsky.core.processes import pause_s

State = Literal["absent", "admitted", "loading", "ready", "retiring", "crashed", "suspect"]

CALM_S: Final = 60.0
MAX_LOAD_CRASHES: Final = 3


@dataclass(frozen=True)
class Admit:
    """The model may be loaded: there is room for it."""


@dataclass(frozen=True)
class Spawned:
    """The process was started."""

    pid: int


@dataclass(frozen=True)
class SpawnFailed:
    """The process could not be started. ``why`` is the system's word for it."""

    why: str


@dataclass(frozen=True)
class Loaded:
    """The process said ``hello``: its model is in memory."""


@dataclass(frozen=True)
class LoadFailed:
    """The process lives and refuses to serve, for the reason it named."""

    problem: str


@dataclass(frozen=True)
class NoRoom:
    """The process lives and has not the memory it needs: so many bytes are ``missing``."""

    problem: str
    missing: int


@dataclass(frozen=True)
class Dismiss:
    """No room was made for the process that found none."""


@dataclass(frozen=True)
class Rest:
    """The engine is to finish what runs and end until somebody wants it again: another needs the memory."""


@dataclass(frozen=True)
class Exited:
    """The process ended. ``how`` says how in words."""

    how: str


@dataclass(frozen=True)
class BackoffOver:
    """The pause after a crash is over."""


@dataclass(frozen=True)
class Calm:
    """The engine has stayed up for :data:`CALM_S` after a crash."""


@dataclass(frozen=True)
class Idle:
    """The process said that it retires, by itself."""


@dataclass(frozen=True)
class Retire:
    """The engine is to finish what runs and end."""


Ending = Dismiss | Rest | Exited | Idle | Retire
Event = Admit | Spawned | SpawnFailed | Loaded | LoadFailed | NoRoom | BackoffOver | Calm | Ending


@dataclass(frozen=True)
class Spawn:
    """Start the process."""


@dataclass(frozen=True)
class Terminate:
    """Ask the process to drain and end."""


@dataclass(frozen=True)
class Wait:
    """Send :class:`BackoffOver` after this many seconds."""

    seconds: float


@dataclass(frozen=True)
class Watch:
    """Send :class:`Calm` after this many seconds, unless the engine ends before."""

    seconds: float


@dataclass(frozen=True)
class Await:
    """Send :class:`Admit` when somebody connects."""


@dataclass(frozen=True)
class MakeRoom:
    """Have other engines make room of so many bytes; then send :class:`Admit`, or :class:`Dismiss` if none can."""

    missing: int


@dataclass(frozen=True)
class GiveUp:
    """Answer peers in the engine's place: it will not be started again."""


Effect = Spawn | Terminate | Wait | Watch | Await | MakeRoom | GiveUp


@dataclass(frozen=True)
class Life:
    """How one engine stands.

    ``crashes`` counts those not yet forgiven, ``load_crashes`` those since it was last loaded; ``problem`` is in words
    for people; ``idle``: it is retiring, or absent, because nobody asked it for anything.
    """

    state: State = "absent"
    pid: int = 0
    restarts: int = 0
    crashes: int = 0
    load_crashes: int = 0
    problem: str = ""
    idle: bool = False
    roomless: bool = False
    """It is absent because the memory it needs was not free."""

    @property
    def serves(self) -> bool:
        """Whether requests can be sent to it."""
        return self.state in ("ready", "suspect")

    @property
    def given_up(self) -> bool:
        """Whether it will not be started again unless someone admits the model again."""
        return self.state == "crashed" and self.load_crashes >= MAX_LOAD_CRASHES

    @property
    def settled(self) -> bool:
        """Whether nothing more is coming by itself: it serves, has refused its model, or is given up."""
        return self.serves or self.given_up or (self.state == "absent" and (self.idle or bool(self.problem)))


class ImpossibleEventError(ValueError):
    """An event that cannot happen in this state: a fault of the edge that sent it."""


def step(life: Life, event: Event) -> tuple[Life, tuple[Effect, ...]]:
    """The life after ``event``, and what its edge must do now. Raises :class:`ImpossibleEventError`."""
    match life.state, event:
        case (("absent" | "crashed"), Admit()):
            if life.pid:  # the process that could not load its model: another takes its place once it has ended
                return replace(life, state="admitted"), (Terminate(),)
            return Life("admitted", restarts=life.restarts), (Spawn(),)
        case (("admitted" | "crashed"), Spawned(pid)):
            return replace(life, state="loading", pid=pid), ()
        case (("admitted" | "crashed"), SpawnFailed(why)):
            return _crashed(life, f"could not be started: {why}", while_loading=True)
        case "loading", Loaded():
            if life.crashes:
                return replace(life, state="suspect", load_crashes=0, roomless=False), (Watch(CALM_S),)
            return replace(life, state="ready", problem="", roomless=False), ()
        case "loading", LoadFailed(problem):
            return replace(life, state="absent", problem=problem), ()
        case "loading", NoRoom(problem, missing):
            return replace(life, state="absent", problem=problem, roomless=True), (MakeRoom(missing),)
        case "absent", Dismiss() if life.roomless:
            return life, (Terminate(),) if life.pid else ()
        case "suspect", Calm():
            return replace(life, state="ready", crashes=0, problem=""), ()
        case (("loading" | "ready" | "suspect"), Exited(how)):
            return _crashed(life, how, while_loading=life.state == "loading")
        case "crashed", BackoffOver():
            return replace(life, restarts=life.restarts + 1), (Spawn(),)
        case (("admitted" | "crashed"), Retire()):
            return replace(life, state="absent"), (Terminate(),) if life.pid else ()
        case (("loading" | "ready" | "suspect"), Retire()):
            return replace(life, state="retiring"), (Terminate(),)
        case (("loading" | "ready" | "suspect"), Idle()):
            return replace(life, state="retiring", idle=True), ()
        case (("ready" | "suspect"), Rest()):
            return replace(life, state="retiring", idle=True), (Terminate(),)
        case "retiring", Retire() if life.idle:
            return replace(life, idle=False), (Terminate(),)
        case "absent", Retire():
            return replace(life, idle=False, roomless=False), (Terminate(),) if life.pid else ()
        case "retiring", Exited():
            return Life(restarts=life.restarts, idle=life.idle), (Await(),) if life.idle else ()
        case "admitted", Exited():
            return replace(life, pid=0), (Spawn(),)
        case "absent", Exited():
            return replace(life, pid=0), (Await(),) if life.roomless else ()
        # Facts that come late: they were true of a process that is on its way out.
        case (
            ("retiring" | "absent" | "crashed" | "admitted"),
            (Loaded() | LoadFailed() | NoRoom() | Calm() | BackoffOver() | Idle()),
        ):
            return life, ()
        case (("retiring" | "ready" | "suspect" | "loading" | "admitted"), (Admit() | Retire())):
            return life, ()
        case (("ready" | "loading"), (Calm() | BackoffOver())):
            return life, ()
        case _, (Rest() | Dismiss()):  # who is not there, or is on its way, gives no room and needs none
            return life, ()
        case _:
            raise ImpossibleEventError(f"{type(event).__name__} in state {life.state}")


def _crashed(life: Life, how: str, *, while_loading: bool) -> tuple[Life, tuple[Effect, ...]]:
    crashes = life.crashes + 1
    load_crashes = life.load_crashes + while_loading
    crashed = Life("crashed", 0, life.restarts, crashes, load_crashes, f"the engine {how}")
    if crashed.given_up:
        return replace(crashed, problem=f"the engine {how} while loading, {load_crashes} times in a row"), (GiveUp(),)
    return crashed, (Wait(pause_s(crashes)),)
