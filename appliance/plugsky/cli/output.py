"""What a command says: data on stdout, talk on stderr, each in words or as JSON.

``--json`` prints exactly one JSON object on stdout, with a ``schema`` field such as ``plugsky.bundle.verify/1``.
``--progress auto|plain|json|none`` chooses how long work shows itself on stderr: one line on a terminal that is
rewritten, else a plain line whenever ten per cent or two seconds have passed.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from plugsky.cli.status_line import StatusLine
from plugsky.core import env
from plugsky.core.errors import PlugskyError
from plugsky_bundles.errors import BundleError
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.sizes import size
from plugsky_bundles.times import stamp

_status = StatusLine()

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; an error is one on stderr.")]


class ProgressStyle(StrEnum):
    """How long work shows itself."""

    AUTO = "auto"
    PLAIN = "plain"
    JSON = "json"
    NONE = "none"


ProgressFlag = Annotated[ProgressStyle, typer.Option("--progress", help="How long work shows itself on stderr.")]


@dataclass(frozen=True)
class Failure:
    """An error in the three words of the house, and its machine-readable name."""

    code: str
    what: str
    why: str
    next: str

    @classmethod
    def of(cls, error: PlugskyError | BundleError) -> "Failure":
        """The failure of an error that a room raised."""
        code = error.kind.wire if isinstance(error, PlugskyError) else error.code
        return cls(code, error.what, error.why, error.next)


def print_failure(failure: Failure, as_json: bool) -> None:
    """Say on stderr what happened, why, and the next command."""
    if as_json:
        say(json.dumps({"schema": "plugsky.error/1", "error": failure.__dict__}, ensure_ascii=False))
        return
    say(f"error: {failure.what}")
    if failure.why:
        say(f"  why:  {failure.why}")
    if failure.next:
        say(f"  next: {failure.next}")


def end_status() -> None:
    """Leave the line on which work shows itself; for whoever writes to the terminal by other ways than these."""
    _status.end()


def say(text: str) -> None:
    """One line of talk, on stderr."""
    end_status()
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the edge that prints


def tell(text: str) -> None:
    """One line of data, on stdout."""
    end_status()
    print(text, flush=True)  # noqa: T201 - the edge that prints


def tell_json(schema: str, body: dict[str, Any]) -> None:
    """The command's whole answer as one JSON object; times are RFC 3339 in UTC, paths are text."""
    tell(json.dumps({"schema": schema, **body}, ensure_ascii=False, default=_in_json))


def _in_json(value: object) -> str:
    return stamp(value) if isinstance(value, datetime) else str(value)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows as aligned columns on stdout, two spaces apart; numbers to the right. Nothing is ever cut off."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(column) for column in columns) for columns in zip(headings, *cells, strict=True)]
    numeric = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(headings))]
    for row in [list(headings), *cells]:
        line = "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        tell(line.rstrip())


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).isdigit()


def progress(style: ProgressStyle) -> Progress:
    """What to hand to a library so that its work shows in that style."""
    if style is ProgressStyle.AUTO:
        interactive = sys.stderr.isatty() and env.TERM.read() != "dumb"
        return _Lines(live=True) if interactive else _Lines(live=False)
    if style is ProgressStyle.PLAIN:
        return _Lines(live=False)
    if style is ProgressStyle.JSON:
        return _json_event
    return silent


def _json_event(event: ProgressEvent) -> None:
    body = {"schema": "plugsky.progress/1", **dataclasses.asdict(event)}
    say(json.dumps(body, ensure_ascii=False))


class _Lines:
    """Progress in words. ``live`` rewrites one line of a terminal; otherwise a line per 10 % or two seconds."""

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._stage = ""
        self._started = self._shown_at = 0.0
        self._shown_done = 0
        self._finished = False

    def __call__(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        begins = event.stage != self._stage
        if begins:
            self._stage, self._started, self._shown_at, self._shown_done = event.stage, now, now, 0
            due = True
        else:
            tenth = event.total > 0 and (event.done - self._shown_done) * 10 >= event.total
            due = (tenth and now - self._shown_at >= 0.1) or now - self._shown_at >= (0.1 if self._live else 2.0)
        finished = event.total > 0 and event.done >= event.total
        if not (due or (finished and self._shown_done < event.done)):
            return
        self._shown_at, self._shown_done = now, event.done
        parts = _progress_parts(event, now - self._started)
        if not self._live:
            say(f"  {'  '.join(parts)}")
            return
        if begins and self._finished:  # a stage that came to its end stays to be read
            end_status()
        self._finished = finished
        _status.show(parts)


def _progress_parts(event: ProgressEvent, elapsed: float) -> list[str]:
    parts = [event.stage]
    if event.total > 100_000:
        rate = event.done / elapsed if elapsed > 0.05 else 0.0
        parts.append(f"{size(event.done)} of {size(event.total)} ({100 * event.done // event.total} %)")
        if rate:
            parts.append(f"{size(int(rate))}/s")
            if event.done < event.total:
                parts.append(f"{(event.total - event.done) / rate:.0f} s left")
    elif event.total:
        parts.append(f"{event.done} of {event.total}")
    if event.item:
        parts.append(event.item)
    return parts
