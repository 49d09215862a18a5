"""One run of ansible-playbook, as a child process: what it is told, what it tells, how it ended.

Ansible stays outside: it is started, never imported. Its events come as lines of JSON over a pipe, from the callback
that lies beside the playbooks; what it prints for people goes to a log. A run that is interrupted ends Ansible, waits
for it, and is said to be interrupted; it can be begun again at any time, since every task looks before it changes.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from plugsky.core import env

State = Literal["ok", "changed", "failed", "ignored", "unreachable", "skipped"]
INTERPRETER: Final = "/usr/bin/python3"
UNREACHABLE: Final = 4
"""ansible-playbook's exit status when a host could not be reached, alone or among others (a bit of it)."""
_END_S: Final = 30.0


@dataclass(frozen=True)
class Wish:
    """What is to be run: a playbook, on whom, how. Without an ``inventory`` on this host."""

    playbook: Path
    inventory: Path | None = None
    limit: str = ""
    tags: tuple[str, ...] = ()
    variables: Mapping[str, object] = field(default_factory=dict)
    check: bool = False
    diff: bool = False

    def command(self) -> tuple[str, ...]:
        """The command line; what people give stands behind an option or as one word, and is never parsed by a shell."""
        where = ("-i", "localhost,", "-c", "local") if self.inventory is None else ("-i", str(self.inventory))
        options = [*where]
        options += ["--limit", self.limit] if self.limit else []
        options += ["--tags", ",".join(self.tags)] if self.tags else []
        options += ["--extra-vars", json.dumps(dict(self.variables))] if self.variables else []
        options += ["--check"] if self.check else []
        options += ["--diff"] if self.diff else []
        return (sys.executable, "-m", "ansible", "playbook", *options, str(self.playbook))


@dataclass(frozen=True)
class TaskBegun:
    """A host begins a task."""

    host: str
    role: str
    task: str


@dataclass(frozen=True)
class TaskEnded:
    """A host has ended a task; ``message`` is why it failed."""

    host: str
    role: str
    task: str
    state: State
    seconds: float
    message: str = ""


@dataclass(frozen=True)
class HostRecap:
    """How many tasks ended how on one host."""

    ok: int
    changed: int
    unreachable: int
    failed: int
    skipped: int

    @property
    def well(self) -> bool:
        """Whether nothing failed there."""
        return not (self.failed or self.unreachable)


RunEvent = TaskBegun | TaskEnded


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``ended`` are its tasks in order; no ``recap`` where Ansible could not even begin."""

    status: int
    recap: Mapping[str, HostRecap]
    ended: tuple[TaskEnded, ...]
    seconds: float
    log: Path

    @property
    def failures(self) -> tuple[TaskEnded, ...]:
        return tuple(task for task in self.ended if task.state in ("failed", "unreachable"))

    @property
    def well(self) -> bool:
        return self.status == 0 and bool(self.recap) and all(host.well for host in self.recap.values())


def run(wish: Wish, log: Path, told: Callable[[RunEvent], None]) -> Outcome:
    """Run it to its end; each event is told when it comes. ``log`` is made anew.

    KeyboardInterrupt ends Ansible first. Raises OSError where the log cannot be written.
    """
    ended: list[TaskEnded] = []
    recap: dict[str, HostRecap] = {}
    seconds = 0.0
    with _started(wish, log) as (process, lines):
        for values in lines:
            match values:
                case {"event": "begin"}:
                    told(TaskBegun(values["host"], values["role"], values["task"]))
                case {"event": "result"}:
                    task = TaskEnded(**{name: values[name] for name in TaskEnded.__annotations__})
                    ended.append(task)
                    told(task)
                case {"event": "recap"}:
                    recap = {host: _recap(counts) for host, counts in values["hosts"].items()}
                    seconds = values["seconds"]
        status = process.wait()
    return Outcome(status, recap, tuple(ended), seconds, log)


def _recap(counts: Mapping[str, int]) -> HostRecap:
    return HostRecap(counts["ok"], counts["changed"], counts["unreachable"], counts["failures"], counts["skipped"])


@contextmanager
def _started(wish: Wish, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[dict[str, Any]]]]:
    reading, writing = os.pipe()
    with (
        tempfile.TemporaryDirectory(prefix="plugsky-run-") as home,
        os.fdopen(reading, "r", encoding="utf-8") as events,
        os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640), "wb") as out,
    ):
        try:
            process = subprocess.Popen(
                wish.command(),
                env=_environment(wish, home, writing),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            yield process, (json.loads(line) for line in events)
        except BaseException:
            _end(process)
            raise


def _environment(wish: Wish, home: str, events: int) -> dict[str, str]:
    rooms = wish.playbook.parent
    return env.for_child() | {
        "ANSIBLE_CONFIG": str(rooms / "ansible.cfg"),
        "ANSIBLE_HOME": home,
        "ANSIBLE_CALLBACK_PLUGINS": str(rooms / "callback_plugins"),
        "ANSIBLE_CALLBACKS_ENABLED": "plugsky_events",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PYTHON_INTERPRETER": INTERPRETER,
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        env.EVENTS.name: str(events),
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End Ansible and what it started, first kindly."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                continue
