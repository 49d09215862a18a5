"""``plugsky demo``: the main job, end to end, on a real model, in one directory.

Every step runs the public command that a person would type, as its own process, and prints it first. A step whose
result is already there is done again by its command, which says so quickly; so a killed demo is finished by the next.
Two demos never share a directory: a lock holds the second one off. Every command that a demo starts holds a second lock
with it, so that a demo that follows a killed one waits until the last of its commands has ended.
"""

import dataclasses
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from plugsky.cli.demo_place import LOCK, STEPS_LOCK, check_whole, claim, clear
from plugsky.cli.options import path
from plugsky.cli.output import JsonFlag, say, table, tell, tell_json
from plugsky.core import env, settings
from plugsky.core.clock import SystemClock, rfc3339
from plugsky.core.commands import command_line
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.locks import one_after_another, only_one
from plugsky.core.paths import data_directory
from plugsky_bundles.atomic import write_file

app = typer.Typer(add_completion=False, rich_markup_mode=None)

MODEL: Final = "smollm2-135m-instruct"
QUESTION: Final = "Where is the Eiffel Tower?"
READY_TIMEOUT_S: Final = 120


@app.command()
def demo(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", parser=path, metavar="PATH", help="Where everything goes. Default: the cache."),
    ] = None,
    question: Annotated[str, typer.Option("--question", help="What to ask the model.")] = QUESTION,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove what an earlier demo made there, and begin.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Walk the main job: trust, build, sign, seal, verify, install, serve, ask, report, verify the trail.

    Example: plugsky demo --dir /tmp/plugsky-demo
    """
    place = (directory or settings.load().values.cache / "demo").absolute()
    claim(place)
    with (
        only_one(place / LOCK, f"A demo runs in {place}", next="wait for it, or choose another --dir"),
        one_after_another(place / STEPS_LOCK, _say_what_is_waited_for) as held,
    ):
        if fresh:
            clear(place)
        check_whole(place)
        walk = Walk(place, held)
        told = _steps(walk, question)
    if as_json:
        tell_json("plugsky.demo/1", {**dataclasses.asdict(told), "steps": walk.seconds, "total_s": walk.total})
        return
    say("")
    table(
        ("step", "seconds"),
        [*((name, f"{took:.2f}") for name, took in walk.seconds.items()), ("all", f"{walk.total:.2f}")],
    )
    tell("")
    tell(f"{MODEL} answered: {told.answer}")
    tell(f"The ledger holds {told.prompt_tokens} prompt and {told.completion_tokens} completion tokens for it.")


@dataclass
class Walk:
    """A demo under way: where it happens, the lock its commands hold, and what each arrow cost in seconds."""

    place: Path
    held: int
    seconds: dict[str, float] = field(default_factory=dict)
    began: str = field(default_factory=lambda: rfc3339(SystemClock().now()))

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def environment(self) -> dict[str, str]:
        """What a person would have exported once in their shell."""
        return {
            **env.current(),
            env.TRUST.name: str(self.place / "trust"),
            env.PASSPHRASE_FILE.name: str(self.place / "passphrase"),
            env.ROOT.name: str(self.place / "site"),
        }

    @contextmanager
    def step(self, name: str, about: str) -> Iterator[None]:
        """One arrow: say it, time it."""
        say(f"\n[{len(self.seconds) + 1}] {name}: {about}")
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
        say(f"    {self.seconds[name]:.2f} s")

    def run(self, *command: str | Path, program: tuple[str | Path, ...] = ()) -> str:
        """Run one public command, show it, and give what it printed. Its failure ends the demo with its words."""
        shown = " ".join(_short(part, self.place) for part in (*(program[:1] or ("plugsky",)), *command))
        say(f"    $ {shown}")
        words = [str(part) for part in (*(program or (sys.executable, "-m", "plugsky")), *command)]
        done = subprocess.run(
            words,
            env=self.environment,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            pass_fds=(self.held,),
        )
        if done.returncode:
            raise StepError(self.place, shown, done.returncode)
        return done.stdout

    def json(self, *command: str | Path, program: tuple[str | Path, ...] = ()) -> dict[str, Any]:
        """Likewise, with ``--json``."""
        answer: dict[str, Any] = json.loads(self.run(*command, "--json", program=program))
        return answer


class StepError(PlugskyError):
    """A command of the demo failed; it has said why itself."""

    def __init__(self, place: Path, command: str, code: int) -> None:
        super().__init__(
            ErrorKind.INTERNAL,
            f"`{command}` ended with {code}.",
            why="it has said why above; what was made before it is kept, unless --fresh is given",
            next=command_line("demo", "--dir", place),
        )
        self._code = code

    @property
    def exit_code(self) -> int:
        return self._code if self._code > 0 else 128 - self._code


@dataclass(frozen=True)
class Told:
    """What the model said, and what the ledger says it cost."""

    answer: str
    prompt_tokens: int
    completion_tokens: int


def _steps(walk: Walk, question: str) -> Told:
    trust, media, site = (walk.place / name for name in ("trust", "media", "site"))
    recipe = data_directory("recipes") / "demo.toml"
    with walk.step("trust", "the operator makes root, targets, snapshot and timestamp keys"):
        _throwaway_passphrase(walk.place / "passphrase")
        if not trust.exists():
            walk.run("trust", "init", "--out", trust)
        pin = walk.json("trust", "show", "--trust", trust)["root_fingerprint"]
        say(f"    the paper says: root {pin}")
    with walk.step("build", "recipe -> Draft: model, wheels and playbooks, cut into chunks"):
        built = walk.json("bundle", "build", recipe, "--out", media)
        say(f"    {built['path']}: {built['state']}, content {built['content_id'][:16]}")
    with walk.step("sign and seal", "Draft -> sealed bundle"):
        if built["state"] != "sealed":
            walk.run("trust", "sign", built["path"])
            walk.run("bundle", "seal", built["path"])
    with walk.step("verify", "media -> VerifiedBundle, every byte read"):
        verdict = walk.json("bundle", "verify", built["path"], "--pin", pin)
        say(f"    bundle {verdict['bundle_id'][:16]}, {len(verdict['checks'])} checks passed")
    with walk.step("inspect", "who signed, what is inside, which licence"):
        tell(walk.run("bundle", "inspect", built["path"], "--pin", pin).rstrip())
    with walk.step("install", "VerifiedBundle -> Plan -> one-read copy -> Generation"):
        walk.run("bundle", "install", built["path"], "--pin", pin, "--yes")
    plugsky = (site / "current/venv/bin/plugsky",)
    with _served(walk, plugsky) as base_url:
        with walk.step("ask", "the unmodified openai package, streaming"):
            answer = _ask(walk, plugsky, base_url, question)
        with walk.step("usage", "LedgerEntry -> report"):
            tell(walk.run("usage", "report", "--since", walk.began, program=plugsky).rstrip())
            rows = walk.json("usage", "report", "--since", walk.began, program=plugsky)["rows"]
            tokens = tuple(sum(row[kind] for row in rows) for kind in ("prompt_tokens", "completion_tokens"))
        with walk.step("audit", "every chain, from trust init to that request"):
            tell(walk.run("audit", "verify", program=plugsky).rstrip())
        with walk.step("console", "the Home screen, as `plugsky console` draws it"):
            tell(walk.run("console", "--plain", program=plugsky).rstrip())
        with walk.step("doctor", "what is healthy"):
            tell(walk.run("doctor", program=plugsky).rstrip())
    return Told(answer, *tokens)


def _ask(walk: Walk, plugsky: tuple[Path, ...], base_url: str, question: str) -> str:
    client = data_directory("examples") / "ask.py"
    say(f"    $ python {client.name} {base_url} {MODEL} {question!r}")
    words = [sys.executable, str(client), base_url, MODEL, question]
    with _passing_key(walk, plugsky) as secret:
        environment = {**walk.environment, "OPENAI_API_KEY": secret}
        done = subprocess.run(
            words, env=environment, stdout=subprocess.PIPE, text=True, check=False, pass_fds=(walk.held,)
        )
        if done.returncode:
            raise StepError(walk.place, f"python {client.name}", done.returncode)
    return done.stdout.strip()


@contextmanager
def _passing_key(walk: Walk, plugsky: tuple[Path, ...]) -> Iterator[str]:
    """An API key that is revoked when the block ends, however it ends."""
    key = walk.json("key", "create", "--tenant", "demo", "--name", "demo", program=plugsky)
    try:
        yield key["secret"]
    except BaseException:
        with suppress(StepError):  # what went wrong first is what is told
            walk.run("key", "revoke", key["id"], program=plugsky)
        raise
    walk.run("key", "revoke", key["id"], program=plugsky)


@contextmanager
def _served(walk: Walk, plugsky: tuple[Path, ...]) -> Iterator[str]:
    """The site, running from its own generation, for as long as the block lasts."""
    words = [str(plugsky[0]), "serve", "--port", "0", "--exit-with-parent", str(os.getpid()), "--json"]
    with walk.step("serve", "gateway and one engine process behind a Unix socket"):
        say(f"    $ {' '.join(_short(part, walk.place) for part in words)}")
        log = walk.place / "serve.log"
        with log.open("w") as talk:
            process = subprocess.Popen(
                words,
                env=walk.environment,
                stdout=subprocess.PIPE,
                stderr=talk,
                text=True,
                pass_fds=(walk.held,),
            )
        ready = process.stdout.readline() if process.stdout else ""
        if not ready:
            code = process.wait() or 1
            say(log.read_text().rstrip())
            raise StepError(walk.place, "plugsky serve", code)
        base_url: str = json.loads(ready)["base_url"]
        say(f"    {base_url}")
    try:
        yield base_url
    finally:
        process.terminate()
        code = process.wait(READY_TIMEOUT_S)
    if code:
        raise StepError(walk.place, "plugsky serve", code)


def _say_what_is_waited_for() -> None:
    say("Waiting for the last command of a demo that was killed here.")


def _throwaway_passphrase(file: Path) -> None:
    """A random passphrase for keys that guard nothing: the demo's bundle never leaves this machine."""
    if not file.exists():
        write_file(file, secrets.token_urlsafe(24).encode() + b"\n", mode=0o600)


def _short(part: str | Path, place: Path) -> str:
    return str(part).replace(f"{place}/", "")
