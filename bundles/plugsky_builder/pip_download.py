"""Downloads wheels with pip, so that the machine's own mirrors, proxies and CAs are used.

Only what is listed, only with hashes. pip runs as a child process of this Python and ends with it; what it says is
turned into progress and, when it fails, into one named error. Credentials in index addresses never get into an error,
and the passphrase of the operator's keys never gets to pip.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from plugsky.core import bound_child, env
from plugsky_builder import web
from plugsky_bundles.errors import DigestMismatch, NoSpace, SourceError, SourceUnreachable
from plugsky_bundles.progress import Progress, ProgressEvent

_COLLECTING = re.compile(r"^(?:Collecting|Processing) (?:\S*/)?(\S+)")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_BUILD_TOOLS = re.compile(r"Some build dependencies for .* ((?:are missing|conflict with)\b.*?)\.?$", re.MULTILINE)
_UNREACHABLE: Final = (
    "NewConnectionError",
    "NameResolutionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "Max retries exceeded",
    "ProxyError",
    "SSLError",
    "Network is unreachable",
    "connection broken",
)


def download(requirements: str, into: Path, *, expected: int, progress: Progress, options: Sequence[str] = ()) -> None:
    """Put the wheels of `requirements` (requirement file text with hashes) into the directory `into`.

    Files already there with a right hash are kept, so an interrupted download goes on where it was. `expected` is the
    number of requirements, for progress; further `options` may make pip choose for another host.
    Raises DigestMismatch, SourceUnreachable, SourceError or NoSpace.
    """
    listing = into / "requirements.in"
    listing.write_text(requirements, encoding="ascii")
    chosen = ["download", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--progress-bar", "raw"]
    chosen += ["--retries", "3", "--dest", str(into), "--requirement", str(listing), *options]
    run(chosen, env.for_child(), expected, progress)
    listing.unlink(missing_ok=True)


def run(
    options: Sequence[str],
    environment: Mapping[str, str],
    expected: int,
    progress: Progress,
    python: str | None = None,
    path: str = "",
) -> None:
    """Run pip with these options by `python`, or by this one; `path` is a folder with pip for one that has none.

    Raises as `download`.
    """
    said: list[str] = []
    done, item = 0, "the package index"
    progress(ProgressEvent("fetch", done, expected, item))
    with subprocess.Popen(
        bound_child.command(
            python or sys.executable, "pip", "--disable-pip-version-check", "--no-input", *options, path=path
        ),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as pip:
        try:
            for line in pip.stdout or ():
                if (found := _COLLECTING.match(line)) is not None:
                    done, item = done + 1, found[1]
                    progress(ProgressEvent("fetch", min(done, expected), expected, item))
                elif (moved := _PROGRESS.match(line)) is not None:
                    progress(ProgressEvent("download", int(moved[1]), int(moved[2]), item))
                else:
                    said.append(line.strip())
        except BaseException:
            pip.terminate()
            raise
    if pip.returncode != 0:
        raise _failure(said, item)


def _failure(said: list[str], item: str) -> SourceError | DigestMismatch | NoSpace:
    text = web.redacted("\n".join(line for line in said if line))
    if "DO NOT MATCH THE HASHES" in text:
        return DigestMismatch(
            f"{item} is not what the lock pins",
            "the index gave a file with another hash",
            "Check the hash against the publisher's; if it is right, the index was tampered with",
        )
    if (lacks := _BUILD_TOOLS.search(text)) is not None:
        return SourceError(
            f"{item} is compiled with tools that are not locked",
            f"some {lacks[1]}",
            "Name a lock with hashes of them as `build-lock` in [python], see docs/recipes.md",
        )
    if "No space left on device" in text:
        return NoSpace(f"{item} could not be kept", "the disk of the cache is full", "Free some space, or name --cache")
    last = " / ".join([line for line in text.splitlines() if line.startswith("ERROR:")][-3:]) or text[-300:]
    if any(mark in text for mark in _UNREACHABLE):
        return SourceUnreachable(
            f"{item} could not be downloaded", last, "Check the network, proxy and pip's settings (pip config list)"
        )
    return SourceError(
        f"{item} could not be downloaded", last, "Check the version and pip's settings (pip config list)"
    )
