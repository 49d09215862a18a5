"""Before anybody signs: install the bundle's parts once, where there is no network, as a site will.

For each target with Debian packages, on a minimal host of that release: the packages that bring Python, by dpkg alone;
then everything else by apt from the signed flat repository; then the wheels into an environment, `plugsky --version`,
and llama.cpp with its kernels. A target without Debian packages gets the wheels on a minimal host with Debian's Python;
a bundle for hosts like the build machine gets them right here. `rehearse.sh` is what runs.

What came of it travels as `evidence/rehearsal.json`. A rehearsal that fails stops the build. One that cannot take place
is recorded with its reason, and stops the build only when it was required. One with the very same parts, host and
script is not repeated: the cache remembers what it came to.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

from plugsky_builder import base_system, rehearsal_host
from plugsky_builder.cache import Cache
from plugsky_builder.debs import parts as deb_parts
from plugsky_builder.debs import releases, repository, state
from plugsky_builder.debs.fetching import Mirror
from plugsky_builder.debs.lock import BARE
from plugsky_builder.debs.parts import KEYRING_PATH, DebParts, TargetDebs
from plugsky_builder.debs.recipe_part import ALWAYS
from plugsky_builder.pack import Material
from plugsky_builder.system_tools import Said, Tick
from plugsky_builder.targets import Target
from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import RehearsalFailed, SourceError
from plugsky_bundles.progress import Progress, ProgressEvent
from plugsky_bundles.strict_json import encode

SCHEMA: Final = "plugsky.rehearsal/1"
PATH: Final = "evidence/rehearsal.json"
HERE: Final = "this host"
WORK: Final = "rehearsal"
LOG: Final = "rehearsal"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one target: either `facts` of a rehearsal that passed, or `why` there was none."""

    target: str
    host: str = ""
    steps: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    why: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Without the time it took, which differs each time."""
        if self.why:
            return {"target": self.target, "rehearsed": False, "why": self.why}
        facts = dict(sorted(self.facts.items()))
        return {
            "target": self.target,
            "rehearsed": True,
            "host": self.host,
            "network": "none",
            "steps": list(self.steps),
            "facts": facts,
        }


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of all targets of a bundle; none for a bundle that has nothing to install."""

    outcomes: tuple[Outcome, ...]

    @property
    def missing(self) -> tuple[Outcome, ...]:
        """Those that could not be rehearsed."""
        return tuple(outcome for outcome in self.outcomes if outcome.why)

    def evidence(self) -> list[Material]:
        """What travels: deterministic, but for the seconds that stand apart. Nothing where there was nothing to do."""
        if not self.outcomes:
            return []
        took = {outcome.target: round(outcome.seconds) for outcome in self.outcomes if not outcome.why}
        content = {"schema": SCHEMA, "targets": [outcome.to_json() for outcome in self.outcomes], "seconds": took}
        return [Material.of_bytes(PATH, encode(content))]


def rehearse(
    materials: Sequence[Material],
    targets: Sequence[Target],
    debs: DebParts | None,
    cache: Cache,
    progress: Progress,
    *,
    off: str = "",
    required: bool = False,
) -> Rehearsal:
    """Rehearse the installation of `materials` on each of `targets`, or here when there are none.

    `off` says why there shall be none. Raises RehearsalFailed for one that failed, or for one that was `required` and
    could not take place.
    """
    stage = _Stage(materials, debs, cache, progress)
    outcomes = []
    for target in targets or (None,):
        if not stage.parts(target):
            continue
        name = HERE if target is None else target.folder
        started = time.monotonic()
        try:
            outcome = Outcome(name, why=off) if off else stage.play(target)
        except SourceError as error:
            outcome = Outcome(name, why=f"{error.what}: {error.why}")
        if required and outcome.why:
            raise RehearsalFailed(
                f"The installation on {name} was not rehearsed", outcome.why, "Leave out --require-rehearsal"
            )
        outcomes.append(replace(outcome, seconds=time.monotonic() - started))
    return Rehearsal(tuple(outcomes))


class _Stage:
    """The rehearsals of one bundle. Raises SourceError for what stands in the way, RehearsalFailed for what failed."""

    def __init__(self, materials: Sequence[Material], debs: DebParts | None, cache: Cache, progress: Progress) -> None:
        self._materials = materials
        self._debs = debs
        self._mirror = debs.mirror if debs else Mirror(cache, releases.ARCHIVES, progress)
        self._cache = cache
        self._progress = progress

    def parts(self, target: Target | None) -> list[Material]:
        """What a host of that kind installs."""
        if target is None:
            return self._below("python")
        own = [*self._below(f"python/{target.folder}"), *self._below(f"debs/{target.folder}")]
        return own + [m for m in self._materials if own and m.path == KEYRING_PATH]

    def play(self, target: Target | None) -> Outcome:
        if target is None:
            return self._here()
        if target.machine != platform.machine():
            raise _obstacle(f"this machine is {platform.machine()}, the target is {target.machine}")
        own = next((item for item in self._debs.targets if item.target == target), None) if self._debs else None
        if own is not None and own.lock.status != BARE:
            raise _obstacle("its packages are for hosts with a known package status, and none of those is here")
        return self._in_root(target, own)

    def _here(self) -> Outcome:
        host = f"this machine's own system with Python {platform.python_version()}"
        key = self._key(host, None)
        if (known := self._known(key, HERE, host)) is not None:
            return known
        _check_possible(root=False)
        with self._work() as work:
            _lay_out(work / "python", self._below("python"), copy=False)
            tick = self._tick(HERE)
            return self._judge(key, HERE, host, lambda: rehearsal_host.run_here(work, sys.executable, tick))

    def _in_root(self, target: Target, own: TargetDebs | None) -> Outcome:
        name = target.folder
        index = (own.indexes if own else state.newest(target, self._mirror, None))[0]
        host = f"a minimal {name} of {index.signed.date:%Y-%m-%d}{'' if own else ' with python3 and libgomp1'}"
        key = self._key(f"{host} {index.signed.index_sha256}", target)
        if (known := self._known(key, name, host)) is not None:
            return known
        _check_possible(root=True)
        tar = base_system.obtain(target, index, () if own else ALWAYS, self._mirror, self._progress)
        with self._work() as work:
            self._tick(name)(b"")
            parts = rehearsal_host.unpack(tar, work / "root")
            _lay_out(parts / "python", self._below(f"python/{name}"), copy=True)
            packages: Sequence[str] = ()
            if own is not None:
                packages = own.lock.packages
                self._lay_out_debs(parts, name)
            tick = self._tick(name)
            return self._judge(key, name, host, lambda: rehearsal_host.run_in_root(work / "root", packages, tick))

    def _lay_out_debs(self, parts: Path, name: str) -> None:
        debs = self._below(f"debs/{name}")
        _lay_out(parts / "debs", debs, copy=True)
        _lay_out(parts, [m for m in self._materials if m.path == KEYRING_PATH], copy=True)
        place, keyring = f"/{rehearsal_host.PARTS}", PurePosixPath(KEYRING_PATH).name
        source = repository.source(f"{place}/debs", f"{place}/{keyring}")
        (parts / "plugsky.sources").write_text(source, encoding="ascii")
        stages: dict[int, list[str]] = {}
        for deb in deb_parts.bootstrap_set([m.entry for m in debs], name):
            stages.setdefault(deb.stage, []).append(PurePosixPath(deb.path).name)
        (parts / "stages").mkdir()
        for stage, files in stages.items():
            (parts / "stages" / f"{stage:03}").write_text("".join(f"{file}\n" for file in files), encoding="ascii")

    def _below(self, folder: str) -> list[Material]:
        return [m for m in self._materials if PurePosixPath(m.path).parent == PurePosixPath(folder)]

    def _judge(self, key: str, name: str, host: str, run: Callable[[], Said]) -> Outcome:
        log = self._cache.root / f"{LOG}-{name.replace(' ', '-')}.log"
        try:
            said = run()
        except SourceError as error:
            raise RehearsalFailed(f"The rehearsal on {name} did not end", error.why, error.next) from error
        steps = _steps(said.out)
        if said.code != 0 or steps[-1:] != ["done"]:
            write_file(log, said.out + said.err.encode("utf-8"))
            raise RehearsalFailed(
                f"The installation on {name} fails at the step {steps[-1] if steps else 'start'!r}",
                _complaints(said),
                f"The whole of what was said is in {log}; correct the recipe or its locks",
            )
        facts = dict(line.split(" ", 1) for line in _after("fact: ", said.out) if " " in line)
        self._cache.keep_note(key, {"steps": steps[:-1], "facts": facts})
        return Outcome(name, host, tuple(steps[:-1]), facts)

    def _known(self, key: str, name: str, host: str) -> Outcome | None:
        match self._cache.note(key):
            case {"steps": list(steps), "facts": dict(facts)}:
                return Outcome(name, host, tuple(steps), facts)
            case _:
                return None

    def _key(self, host: str, target: Target | None) -> str:
        """Stands for the script, the host and every part, so that one rehearsal is enough for all of them."""
        lines = [rehearsal_host.SCRIPT.read_text(encoding="utf-8"), host]
        lines += [f"{m.path} {m.length} {m.sha256}" for m in sorted(self.parts(target), key=lambda m: m.path)]
        return f"rehearsal-{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:32]}"

    @contextmanager
    def _work(self) -> Iterator[Path]:
        self._cache.drop_work(WORK)
        try:
            yield self._cache.work(WORK)
        finally:
            self._cache.drop_work(WORK)

    def _tick(self, name: str) -> Tick:
        def tick(said: bytes) -> None:
            steps = _steps(said)
            self._progress(ProgressEvent("rehearse", len(steps), 0, f"{name}: {steps[-1] if steps else 'start'}"))

        return tick


def _complaints(said: Said) -> str:
    """What apt, dpkg or pip call an error, else the last lines."""
    marks = ("E: ", "dpkg: error", "ERROR: ")
    errors = [line.strip() for line in said.err.splitlines() if line.startswith(marks)]
    return " / ".join(errors[-3:])[:400] or said.last


def _steps(said: bytes) -> list[str]:
    return _after("step: ", said)


def _after(mark: str, said: bytes) -> list[str]:
    """What stands behind the mark in each line that begins with it."""
    lines = said.decode("utf-8", "replace").splitlines()
    return [line.removeprefix(mark) for line in lines if line.startswith(mark)]


def _lay_out(folder: Path, materials: Sequence[Material], *, copy: bool) -> None:
    """Put files where the script looks for them; a `copy` is for hosts whose programs might change them.

    Everyone there may read a copy, whatever the umask here: apt reads as a user of its own.
    """
    if materials:
        folder.mkdir(exist_ok=True)
        if copy:
            folder.chmod(0o755)
    for material in materials:
        place = folder / PurePosixPath(material.path).name
        if isinstance(material.content, bytes):
            place.write_bytes(material.content)
        elif copy:
            shutil.copyfile(material.content, place)
        else:
            place.symlink_to(material.content.absolute())
            continue
        if copy:
            place.chmod(0o644)


def _check_possible(*, root: bool) -> None:
    if why := rehearsal_host.obstacle(root=root):
        raise _obstacle(why)


def _obstacle(why: str) -> SourceError:
    return SourceError("No rehearsal", why, "Build on a machine where it can take place")
