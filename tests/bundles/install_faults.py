"""Driver: installs a bundle over and over, disturbed at one system call each time, and looks at what is left.

Arguments: a folder to work in, and the effect (kill, EIO, ENOSPC, short), or for one clean installation `count` or
`record`.
Prints one JSON object a line: first how many calls a clean installation makes and how many cases follow from them, then
each case with what was wrong, if anything.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path

from bundles import forge as forging
from bundles.forge import NOW, Forge
from bundles.gguf_forge import Forge as GgufForge
from bundles.syscalls import CHANGES, SYNCS, TAKES_ROOM, Call, Point, Preloaded, forked, points, sampled
from plugsky.audit import AuditLog
from plugsky.core.clock import SystemClock
from plugsky.core.errors import PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, installation
from plugsky_bundles import staging
from plugsky_bundles.errors import BundleError
from plugsky_bundles.format import decode_chunk_list
from plugsky_bundles.media import open_bundle

LATER = NOW + timedelta(hours=1)
MIB = 1 << 20
HEAD, BODY, TAIL = os.urandom(70_003), os.urandom(2 * MIB + 5), os.urandom(99)
MODEL = GgufForge().build()
OLD = {"models/a/a.bin": HEAD + TAIL, "playbooks/site.yml": b"- hosts: all\n", "policy/channel.json": b"{}"}
NEW = {**OLD, "models/a/a.bin": HEAD + BODY + TAIL, "models/b/b.gguf": MODEL, "policy/channel.json": b'{"v":2}'}
CUT = {"models/a/a.bin": (len(HEAD), len(TAIL))}
NEW_CUT = {"models/a/a.bin": (len(HEAD), len(BODY), len(TAIL)), "models/b/b.gguf": (100, len(MODEL) - 100)}


class Bench:
    """A site with a generation that runs, as a pattern to copy, and the bundle that is to be installed on it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.log = base / "calls"
        self.inodes: dict[str, int] = {}
        self.forge = Forge(base)
        forging.CUT = CUT
        old = self.forge.sealed(files=OLD, name="old")
        forging.CUT = NEW_CUT
        self.bundle = self.forge.sealed(files=NEW, name="new")
        self.pattern = SitePaths.at(base / "pattern", base / "run")
        self.paths = SitePaths.at(base / "site", base / "run")
        self.content = {hashlib.sha256(data).hexdigest() for data in (*OLD.values(), *NEW.values())}
        said = forked(lambda: self.install(self.pattern, old))
        assert said == "installed 1", said

    def install(self, paths: SitePaths, bundle: Path) -> str:
        """As the command does: verify, plan, install."""
        try:
            verified = installation.verify_for(paths, open_bundle(bundle), self.forge.fingerprint, LATER)
            plan = installation.plan_for(verified, paths)
            trail = lambda: AuditLog.open(paths, "cli", SystemClock(), spare=True)  # noqa: E731
            made = installation.install(verified, plan, paths, trail, "user:test")
        except BundleError as error:
            return f"refused {error.code}"
        except PlugskyError as error:
            return f"refused {error.kind.wire}"
        except OSError as error:  # the command line names these, with the path
            return f"refused {errno.errorcode[error.errno or 0]}"
        return f"installed {made.number}"

    def fresh(self) -> None:
        """Make the site anew, as the pattern is: the same hard links."""
        shutil.rmtree(self.paths.root, ignore_errors=True)
        linked: dict[int, Path] = {}
        for source in [self.pattern.root, *sorted(self.pattern.root.rglob("*"))]:
            target = self.paths.root / source.relative_to(self.pattern.root)
            known = source.lstat()
            if source.is_symlink():
                target.symlink_to(source.readlink())
            elif source.is_dir():
                target.mkdir(mode=known.st_mode & 0o777)
            elif known.st_ino in linked:
                target.hardlink_to(linked[known.st_ino])
            else:
                shutil.copy2(source, target)
                linked[known.st_ino] = target

    def problems(self, *, done: bool) -> list[str]:
        """What is wrong with the site as it lies there; `done`: an installation said that it came to its end."""
        found = []
        current = generations.current_number(self.paths)
        if current not in ((2,) if done else (1, 2)):
            found.append(f"generation {current} is current")
        for number, files in ((1, OLD), (2, NEW)):
            if number == 1 or current == 2:
                found += self._generation(number, files)
        for path in self.paths.store.iterdir():
            if path.suffix == ".chunks":
                decode_chunk_list(path.read_bytes())
            elif path.name.removeprefix("sha256-") not in self.content:
                found.append(f"{path.name} in the store")
            elif f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()}" != path.name:
                found.append(f"{path.name} in the store has other bytes")
        left = list(self.paths.staging.iterdir()) if self.paths.staging.exists() else []
        found += [f"{path.name} in staging" for path in left if done or not staging.is_staged(path.name)]
        return found

    def _generation(self, number: int, files: dict[str, bytes]) -> list[str]:
        loaded = generations.load(self.paths, number)
        return [
            f"{path} of generation {number}"
            for path, data in files.items()
            if not (loaded.path / path).is_file() or (loaded.path / path).read_bytes() != data
        ]

    def clean_run(self, library: Preloaded, *, data: bool = False) -> list[Call]:
        """The calls of an installation that nothing disturbs."""
        self.fresh()
        root = self.paths.root
        self.inodes = {str(path.relative_to(root)): path.lstat().st_ino for path in sorted(root.rglob("*"))}

        def recorded() -> str:
            library.record(self.log, data=data)
            library.watch(self.paths.root, self.bundle)
            Path("plugsky-mark-begin").exists()
            said = self.install(self.paths, self.bundle)
            Path("plugsky-mark-end").exists()
            return said

        said = forked(recorded)
        assert said == "installed 2", said
        assert not (wrong := self.problems(done=True)), wrong
        return [Call.parse(line) for line in self.log.read_text().splitlines()]

    def disturbed(self, library: Preloaded, point: Point, effect: str) -> tuple[str, list[str]]:
        """What an installation disturbed at `point` said, and what is wrong afterwards or after running it again."""
        self.fresh()

        def work() -> str:
            library.watch(self.paths.root, self.bundle)
            library.disturb(point, effect)
            return self.install(self.paths, self.bundle)

        said = forked(work)
        wrong = [said] if said.startswith("crashed") else []
        if effect == "EIO" and point.path.startswith(str(self.bundle)) and said == "refused EIO":
            wrong.append("media that cannot be read has no name of its own")
        wrong += self.problems(done=said.startswith("installed"))
        again = forked(lambda: self.install(self.paths, self.bundle))
        if not again.startswith("installed"):
            wrong.append(f"running it again: {again}")
        wrong += [f"after running it again: {problem}" for problem in self.problems(done=True)]
        return said, wrong


def cases(calls: list[Call], effect: str) -> list[Point]:
    """Where an effect makes sense.

    A kill makes a difference only before calls that change something or put it on disk: between two of those the site
    does not change. Of a run of the same call on the same kind of path, four are disturbed where it changes something,
    else two: always the first and the last (see `syscalls.sampled`).
    """
    names = {"kill": CHANGES + SYNCS, "ENOSPC": TAKES_ROOM, "short": ("read", "write")}.get(effect)
    found = [point for point, call in zip(points(calls), calls, strict=True) if names is None or point.name in names]
    changes = [point for point in found if point.name in CHANGES + SYNCS]
    looks = [point for point in found if point.name not in CHANGES + SYNCS]
    return sampled(changes, 4) + sampled(looks, 2)


def tell(**values: object) -> None:
    """One line for whoever started the driver."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main() -> None:
    base, effect = Path(sys.argv[1]), sys.argv[2]
    library, bench = Preloaded(), Bench(base)
    calls = bench.clean_run(library, data=effect == "record")
    if effect == "count":
        tell(changes=sum(call.name in CHANGES + SYNCS for call in calls), site=str(bench.paths.root))
        return
    if effect == "record":
        site, pattern = str(bench.paths.root), str(bench.pattern.root)
        told = {"bundle": str(bench.bundle), "pin": bench.forge.fingerprint, "log": str(bench.log)}
        tell(site=site, pattern=pattern, inodes=bench.inodes, **told)
        return
    chosen = cases(calls, effect)
    tell(calls=len(calls), cases=len(chosen))
    for point in chosen:
        said, wrong = bench.disturbed(library, point, effect)
        tell(point=f"{point.name} {point.path} #{point.ordinal}", said=said, wrong=wrong)


if __name__ == "__main__":
    main()
