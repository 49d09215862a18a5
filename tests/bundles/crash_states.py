"""What a disk may hold after a power cut: a model of file system calls, and of what may be lost of them.

The rules are those of POSIX where ext4 keeps them, and weaker where ext4 promises more than POSIX:
* what was written to a file is there for sure once fsync(2) of that file, or syncfs(2), came back; of the rest a
  prefix is there, in the order of the calls, the first missing one perhaps in half;
* a name (made, moved, linked, removed) is there for sure once fsync(2) of its directory, or syncfs(2), came back; of
  the other operations on names any may be lost, whatever came before or after them;
* a rename is there as a whole or not at all.

Everything is by inode: a name that survives while its file's data does not, leads to what is left of the data.

**Which states are looked at.** Power goes after each operation. Of the names that may be lost then, every subset when
they are at most `EXHAUSTIVE`; else none, all, each one alone, all but each one, every prefix and every suffix. With
each of these, of the data that may be lost: none, all, all but a half operation per file, the last operation of each
file, and all of each one file alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import PurePosixPath

from bundles.syscalls import SYNCS, Call

NAMES = ("create", "mkdir", "rename", "link", "symlink", "unlink", "rmdir")
DATA = ("write", "truncate", "reserve")
EXHAUSTIVE = 8

Leads = int | str | None
"""Where a name leads: to the file of that number, to a link's target, or None for a directory."""
Cut = tuple[int, bool]
"""How many of a file's operations on data are there, and whether half of the next one is."""


@dataclass(frozen=True)
class Operation:
    """A call that changed something; from the moment `safe` on it cannot be lost.

    `file` is the number of its file; of an operation that makes a name, `leads` is where the name leads.
    """

    call: Call
    file: int
    leads: Leads
    moment: int
    safe: int

    @property
    def is_name(self) -> bool:
        return self.call.name in NAMES


@dataclass(frozen=True)
class State:
    """Names below the site and where they lead; of each file that was written to, how much of that is there."""

    names: dict[str, Leads]
    cuts: dict[int, Cut]

    @property
    def key(self) -> tuple[object, ...]:
        return tuple(sorted(self.names.items())), tuple(sorted(self.cuts.items()))


class Crashes:
    """The states that may be found after a crash. `before`: the names then, `content`: the bytes of their files."""

    def __init__(self, before: dict[str, Leads], content: dict[int, bytes], operations: list[Operation]) -> None:
        self._before, self._content = before, content
        self._operations = operations
        self._data: dict[int, list[Call]] = {}
        for operation in operations:
            if not operation.is_name:
                self._data.setdefault(operation.file, []).append(operation.call)
        self.bytes_of = lru_cache(maxsize=512)(self._bytes_of)
        self.digest_of = lru_cache(maxsize=None)(lambda *cut: hashlib.sha256(self._bytes_of(*cut)).hexdigest())

    def states(self) -> Iterator[tuple[str, State]]:
        """Each distinct state, and in words how it came about."""
        seen: set[tuple[object, ...]] = set()
        for count in range(len(self._operations) + 1):
            done = self._operations[:count]
            now = done[-1].moment + 1 if done else 0
            last = f"{done[-1].call.name} {done[-1].call.path}" if done else "nothing"
            names = [operation for operation in done if operation.is_name and operation.safe >= now]
            fates = list(self._fates(done, now))
            for lost in _subsets(names):
                kept = self._names([op for op in done if op.is_name and op not in lost])
                for fate, cuts in fates:
                    state = State(kept, cuts)
                    if state.key not in seen:
                        seen.add(state.key)
                        yield f"after {last}: {fate}; lost names: {[op.call.path for op in lost]}", state

    def final(self) -> State:
        """The state when nothing is lost."""
        return State(
            self._names([op for op in self._operations if op.is_name]),
            {file: (len(calls), False) for file, calls in self._data.items()},
        )

    def _names(self, operations: Iterable[Operation]) -> dict[str, Leads]:
        names = dict(self._before)
        for operation in operations:
            call = operation.call
            if call.name in ("rename", "unlink", "rmdir"):
                names.pop(call.other if call.name == "rename" else call.path, None)
            if call.name not in ("unlink", "rmdir"):
                names[call.path] = operation.leads
        return names

    def _fates(self, done: list[Operation], now: int) -> Iterator[tuple[str, dict[int, Cut]]]:
        """What may be there of the data, in words and by file."""
        total: dict[int, int] = {}
        safe: dict[int, int] = {}
        for operation in done:
            if not operation.is_name:
                total[operation.file] = total.get(operation.file, 0) + 1
                if operation.safe < now:
                    safe[operation.file] = total[operation.file]
        loose = [file for file in total if safe.get(file, 0) < total[file]]
        whole = {file: (count, False) for file, count in total.items()}
        yield "all data is there", whole
        if loose:
            yield "unsynced data is lost", whole | {file: (safe.get(file, 0), False) for file in loose}
            yield "unsynced data is half there", whole | {file: (safe.get(file, 0), True) for file in loose}
            yield "last data is lost", whole | {file: (total[file] - 1, False) for file in loose}
        for file in loose if len(loose) > 1 else ():
            yield f"data of file {file} is lost", whole | {file: (safe.get(file, 0), False)}

    def _bytes_of(self, file: int, count: int, half: bool) -> bytes:
        data = bytearray(self._content.get(file, b""))
        for position, call in enumerate(self._data.get(file, [])[: count + half]):
            if call.name == "truncate":
                del data[call.length :]
            if call.name in ("truncate", "reserve"):
                data.extend(bytes(max(0, call.length - len(data))))
            else:
                piece = call.data if position < count else call.data[: len(call.data) // 2]
                data.extend(bytes(max(0, call.offset - len(data))))
                data[call.offset : call.offset + len(piece)] = piece
        return bytes(data)

    def tree(self, state: State) -> dict[str, Leads | Cut]:
        """What can be reached: names all of whose directories are there."""
        directories = {path for path, leads in state.names.items() if leads is None}
        return {
            path: leads
            for path, leads in state.names.items()
            if all(str(parent) in directories for parent in list(PurePosixPath(path).parents)[:-1])
        }


def operations_of(calls: list[Call], inodes: dict[int, int]) -> list[Operation]:
    """The operations that `calls` are, with the moment from which each is safe; `inodes` numbers the files before.

    Paths are relative already. An inode that is used again for a new file gets a new number.
    """
    known, fresh = dict(inodes), max(inodes.values(), default=0)
    links: dict[str, str] = {}
    done: list[tuple[int, Call, int, Leads]] = []
    for moment, call in enumerate(calls):
        if call.result < 0:
            continue
        if call.name == "create" and call.other == "new":
            fresh += 1
            known[call.inode] = fresh
        file = known.get(call.inode, 0)
        leads: Leads = None if call.name == "mkdir" else file
        if call.name == "symlink":
            leads = links[call.path] = call.other
        elif call.name == "rename" and call.other in links:
            leads = links[call.path] = links.pop(call.other)
        done.append((moment, call, file, leads))
    syncs = [(moment, call, file) for moment, call, file, _ in done if call.name in SYNCS]
    return [
        Operation(call, file, leads, moment, _safe(moment, call, file, syncs))
        for moment, call, file, leads in done
        if call.name in DATA or (call.name in NAMES and (call.name != "create" or call.other == "new"))
    ]


def _safe(moment: int, call: Call, file: int, syncs: list[tuple[int, Call, int]]) -> int:
    """The moment of the first sync after `moment` that covers the operation; beyond all moments when there is none."""
    folders = {
        str(PurePosixPath(path).parent) for path in (call.path, *((call.other,) if call.name == "rename" else ()))
    }
    for at, sync, synced in syncs:
        if at > moment and (
            sync.name == "syncfs" or (sync.path in folders if call.name in NAMES else synced == file and file != 0)
        ):
            return at
    return 1 << 60


def _subsets(names: list[Operation]) -> Iterator[tuple[Operation, ...]]:
    """Which operations on names are lost (see the module's text)."""
    if len(names) <= EXHAUSTIVE:
        for count in range(len(names) + 1):
            yield from combinations(names, count)
        return
    yield from ((), tuple(names))
    for position, name in enumerate(names):
        yield (name,)
        yield tuple(other for other in names if other is not name)
        yield tuple(names[:position])
        yield tuple(names[position:])
