"""A scheduler that keeps what it was asked and what it answered, to ask another one the same."""

from plugsky.engine.scheduling.plan import Plan
from plugsky.engine.scheduling.prefix import Resident
from plugsky.engine.scheduling.scheduler import Scheduler
from plugsky.engine.scheduling.tasks import QueueFullError


class RecordedScheduler:
    """Behaves as the :class:`Scheduler` of ``limits`` that it holds."""

    def __init__(self, limits):
        self._limits = limits
        self._scheduler = Scheduler(limits)
        self._calls = []

    def __getattr__(self, name):
        found = getattr(self._scheduler, name)
        if not callable(found) or name.startswith("_"):
            return found

        def call(*args, **options):
            answer = _ask(self._scheduler, name, args, options)
            self._calls.append((name, args, options, answer if isinstance(answer, Resident) else _told(answer)))
            if isinstance(answer, QueueFullError):
                raise answer
            return answer

        return call

    def replay(self):
        """Ask another scheduler the same; it must answer the same."""
        other, pinned = Scheduler(self._limits), {}
        for name, args, options, before in self._calls:
            answer = _ask(other, name, [pinned.get(arg, arg) if name == "unpin" else arg for arg in args], options)
            if isinstance(before, Resident):
                pinned[before] = answer
                assert answer.seq == before.seq
            else:
                assert _told(answer) == before, f"the same arrivals give the same answers to {name}"


def _ask(scheduler, name, args, options):
    try:
        return getattr(scheduler, name)(*args, **options)
    except QueueFullError as error:
        return error


def _told(answer):
    """An answer as a value that does not change any more."""
    if isinstance(answer, QueueFullError):
        return answer.bound, answer.of_tenant
    if isinstance(answer, Plan):
        return answer.ops, [(c.ticket, c.seq, c.start, tuple(c.tokens), c.outputs) for c in answer.chunks]
    return answer
