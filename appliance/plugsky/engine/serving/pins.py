"""What an administrator has pinned in an engine's cache: beginnings that every tenant may share, by their names.

Tenants share nothing else. A pinned beginning is computed once, as a request of class ``batch``, and stays until it is
unpinned or the engine ends: nothing evicts it. An engine that is started again has none until whoever pinned asks
again, as :class:`plugsky.engine.clients.pin_book.PinBook` does. Its cells are not there
for requests, so a request that needs more than the rest (and does not begin with it) is refused; therefore all of them
hold at most ``cells // SHARE`` cells and are at most :data:`MAX_PINS`. Two that begin alike share those cells, but both
count them.

Pinning the same again under the same name changes nothing; other tokens under a name in use are refused, so that
nobody's pin is replaced by mistake.

This is the event loop's book of them; the cells are kept by the :mod:`~plugsky.engine.stepping.stepper`, under the
ticket.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Params, Pin, Submit
from plugsky.engine.errors import EngineError, bad_request

SHARE: Final = 4
MAX_PINS: Final = 16
MAX_NAME: Final = 128
"""Characters of a name."""
PAYER: Final = "(pinned)"
"""The tenant whose account the compute time goes to."""

PeerT = TypeVar("PeerT")


@dataclass(slots=True, eq=False)
class Pinned(Generic[PeerT]):
    """One beginning. ``peer`` asked for it under ``rid``, and hears when it is ``computed``."""

    ticket: int
    frame: Pin
    peer: PeerT
    computed: bool = False

    @property
    def cells(self) -> int:
        """How many cells it holds."""
        return len(self.frame.tokens)


class Pins(Generic[PeerT]):
    """The pinned beginnings of a cache of ``cells``."""

    def __init__(self, cells: int) -> None:
        self._most = cells // SHARE
        self._pins: dict[str, Pinned[PeerT]] = {}

    @property
    def computing(self) -> bool:
        """Whether one is not in the cache yet."""
        return not all(pin.computed for pin in self._pins.values())

    def cells(self) -> dict[str, int]:
        """How many cells each holds that is in the cache."""
        return {name: pin.cells for name, pin in self._pins.items() if pin.computed}

    def is_there(self, frame: Pin) -> bool:
        """Whether the very same is in the cache. Raises ``conflict`` where the name stands for something else."""
        pin = self._pins.get(frame.name)
        if pin is None:
            return False
        if (pin.frame.tokens, pin.frame.adapter) != (frame.tokens, frame.adapter):
            raise EngineError(
                ErrorKind.CONFLICT,
                "other tokens are pinned under this name",
                next="Unpin them first, or choose another name",
                param="name",
            )
        if not pin.computed:
            raise _still_computed()
        return True

    def begin(self, frame: Pin, ticket: int, peer: PeerT) -> None:
        """Take on what is not there yet.

        Raises ``bad_request`` for a name out of bounds and ``too_large``, with the numbers, when there is no room.
        """
        if not 0 < len(frame.name) <= MAX_NAME:
            raise bad_request(f"name has 1 to {MAX_NAME} characters", "name")
        if len(self._pins) >= MAX_PINS:
            raise EngineError(ErrorKind.TOO_LARGE, f"{MAX_PINS} beginnings are pinned already, which is the most")
        taken = sum(pin.cells for pin in self._pins.values())
        if taken + len(frame.tokens) > self._most:
            raise EngineError(
                ErrorKind.TOO_LARGE,
                f"{len(frame.tokens)} tokens cannot be pinned",
                why=f"pinned beginnings may hold {self._most} cells of the cache, and {taken} of them are taken",
                param="tokens",
            )
        self._pins[frame.name] = Pinned(ticket, frame, peer)

    def settle(self, ticket: int, *, computed: bool) -> Pinned[PeerT] | None:
        """What became of one that was taken on; it is forgotten unless ``computed``. None for any other ticket."""
        pin = next((pin for pin in self._pins.values() if pin.ticket == ticket), None)
        if pin is not None:
            pin.computed = computed
            if not computed:
                del self._pins[pin.frame.name]
        return pin

    def release(self, name: str) -> int:
        """Forget one that is in the cache: its ticket. Raises ``not_found``, or ``conflict`` while it is computed."""
        pin = self._pins.get(name)
        if pin is None:
            raise EngineError(ErrorKind.NOT_FOUND, "nothing is pinned under this name", param="name")
        if not pin.computed:
            raise _still_computed()
        del self._pins[name]
        return pin.ticket


def request(frame: Pin) -> Submit:
    """What is computed for a pin. Its one token of an answer is never made: it is there for the check of a submit."""
    return Submit(
        rid=frame.rid,
        job=frame.name,
        tenant=PAYER,
        tokens=frame.tokens,
        params=Params(),
        max_tokens=1,
        service_class="batch",
        adapter=frame.adapter,
    )


def _still_computed() -> EngineError:
    return EngineError(
        ErrorKind.CONFLICT, "what is pinned under this name is still being computed", next="Try again", param="name"
    )
