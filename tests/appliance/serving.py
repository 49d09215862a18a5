"""A small site with the real chat model and no environment of its own, served by the interpreter of the tests."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from bundles.recipe_text import local, one_model
from plugsky.audit import AuditLog
from plugsky.core.clock import SystemClock
from plugsky.core.paths import SitePaths
from plugsky.fleet import installation
from plugsky_builder import build as building
from plugsky_builder import recipe
from plugsky_bundles import ceremony, sealing, signing

MODEL = "smollm2-135m-instruct"
PASSPHRASE = b"correct horse"
LICENCE = b"Apache-2.0\n"


def install_site(place: Path, model: Path, others: Sequence[tuple[str, str, int, Path]] = ()) -> SitePaths:
    """Build, sign, seal and install a bundle that holds the model, and ``others`` by id, mode, context and file."""
    (place / "LICENSE").write_bytes(LICENCE)
    licence = local("LICENSE", hashlib.sha256(LICENCE).hexdigest())
    texts = []
    for name, mode, context, file in ((MODEL, "generate", 2048, model), *others):
        (place / f"{name}.gguf").symlink_to(file)
        weights = f"file = {local(f'{name}.gguf', model_digest(file))}"
        text = one_model(
            weights, licence, channel="only", model=name, context=context, licence="Apache-2.0", health=name == MODEL
        )
        texts.append(text.replace('mode = "generate"', f'mode = "{mode}"'))
    first, *rest = texts
    (place / "only.toml").write_text(first + "".join(text.replace('channel = "only"', "") for text in rest))
    now = datetime.now(UTC)
    pin = ceremony.init(place / "trust", PASSPHRASE, now=now).fingerprint
    built = building.build(
        recipe.load(place / "only.toml"), place / "out", place / "trust", cache=place / "c", wheelhouse=place, now=now
    )
    signing.sign(built.path, place / "trust", PASSPHRASE)
    sealing.seal(built.path, place / "trust", PASSPHRASE, now)
    paths = SitePaths.at(place / "site")
    verified = installation.verify_for(paths, built.path, pin)
    plan = installation.plan_for(verified, paths)
    installation.install(
        verified, plan, paths, lambda: AuditLog.open(paths, "cli", SystemClock(), spare=True), "user:test"
    )
    return paths


def model_digest(model: Path) -> str:
    """SHA-256 of the model's file."""
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def command(paths: SitePaths, *words: object) -> list[str]:
    """A ``plugsky`` command on that site."""
    return [sys.executable, "-m", "plugsky", *map(str, words), "--root", str(paths.root)]


def ask(paths: SitePaths, *words: object, env: dict[str, str] | None = None) -> dict:
    """The JSON answer of a command."""
    done = subprocess.run(command(paths, *words, "--json"), capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def served(paths: SitePaths, *options: object, expect: int = 0, **environment: str):
    """The site, running; gives the process and the base URL. It must end with ``expect`` on SIGTERM."""
    process = subprocess.Popen(
        command(paths, "serve", "--port", 0, "--json", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PLUGSKY_THREADS": "2", **environment},
    )
    ready = process.stdout.readline()
    if not ready:
        raise AssertionError(process.communicate()[1])
    try:
        yield process, json.loads(ready)["base_url"]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == expect, told
