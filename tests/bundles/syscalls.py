"""Disturbs real installations at any of their file system calls, or records all of them: `syscalls.c` from Python.

A driver process is started with the library preloaded. It makes bundles and a site once, and then forks for each
installation, so that a case costs milliseconds and not the start of a Python.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("syscalls.c")
CHANGES = ("create", "write", "truncate", "reserve", "chmod", "rename", "link", "symlink", "unlink", "rmdir", "mkdir")
SYNCS = ("fsync", "syncfs")
TAKES_ROOM = ("create", "write", "reserve", "rename", "link", "symlink", "mkdir", "fsync", "syncfs")


def library(folder: Path) -> Path:
    """The compiled library; skips the test where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here (Debian: build-essential)")
    built = folder / "syscalls.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(built), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return built


def drive(module: str, built: Path, *arguments: object, before: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Run a driver module with the library preloaded; gives the JSON objects that it prints, one a line."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    preloading = ["env", f"LD_PRELOAD={built}"]
    command = [*before, *preloading, sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    assert process.returncode == 0, f"the driver ended with {process.returncode}"


@dataclass(frozen=True)
class Call:
    """One system call as it was recorded; `result` is negative for an error number."""

    name: str
    path: str
    other: str
    inode: int
    offset: int
    length: int
    result: int
    data: bytes

    @classmethod
    def parse(cls, line: str) -> Call:
        name, path, other, inode, offset, length, result, data = line.rstrip("\n").split("\t")
        return cls(name, path, other, int(inode), int(offset), int(length), int(result), bytes.fromhex(data))


@dataclass(frozen=True, order=True)
class Point:
    """A system call by what it is: its name, its path without what is random in it, and how many came before."""

    name: str
    path: str
    ordinal: int


def points(calls: list[Call]) -> list[Point]:
    """The calls as points, in order."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for call in calls:
        path = normalised(call.path)
        found.append(Point(call.name, path, seen[call.name, path]))
        seen[call.name, path] += 1
    return found


def normalised(path: str) -> str:
    """As `normalise` of syscalls.c."""
    out, run = "", ""
    for character in path + "\0":
        if character in "0123456789abcdef":
            run += character
            continue
        out += "*" if len(run) >= 8 else run
        run = ""
        out += character
    return out[:-1]


def sampled(found: list[Point], keep: int) -> list[Point]:
    """Of a long run of one call on one kind of path: its first ones, its last, and those evenly between."""
    groups: dict[tuple[str, str], list[Point]] = {}
    for point in found:
        groups.setdefault((point.name, point.path), []).append(point)
    chosen = []
    for group in groups.values():
        last = len(group) - 1
        chosen += group if last < keep else sorted({group[n * last // (keep - 1)] for n in range(keep)})
    return chosen


class Preloaded:
    """The library, in a process that was started with it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.disturb.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int)
        self._library.watch.argtypes = (ctypes.c_char_p, ctypes.c_char_p)

    def watch(self, *paths: Path) -> None:
        first, second, *_ = [*(os.fsencode(path) for path in paths), None, None]
        self._library.watch(first, second)

    def record(self, to: Path, *, data: bool) -> None:
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._library.record(descriptor, int(data))

    def disturb(self, point: Point, effect: str) -> None:
        number = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}.get(effect, 0)
        kind = {"kill": 1, "short": 2}.get(effect, 0)
        self._library.disturb(point.name.encode(), os.fsencode(point.path), point.ordinal, kind, number)


def forked(work: Callable[[], str]) -> str:
    """What `work` returns, done in a child; `killed`, or the traceback of what it raised, when it does not end well."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = work()
        except Exception:  # noqa: BLE001 - whatever it is, the parent must hear of it
            said = "crashed: " + traceback.format_exc()
        os.write(writing, said.encode()[-60000:])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else said
