"""Downloads one file whose SHA-256 is known, however often the connection breaks.

* Only HTTPS, or a server on this machine; each redirect, of at most `MAX_REDIRECTS`, must lead to HTTPS again.
* Never more bytes than the recipe or the server said; a server that says nothing is refused where the recipe is silent.
* What came so far stays in the cache's work directory. The next try, in this build or after a kill, hashes it and asks
  for the rest only (RFC 9110: Range, If-Range); when the sum is wrong then, one try begins anew.
* Passwords and tokens go to the host they are for alone, and into no message.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import httpx2

from plugsky_builder import web
from plugsky_builder.cache import BLOCK, Cache
from plugsky_builder.file_sources import is_loopback, is_safe, shown
from plugsky_bundles.atomic import out_of_space
from plugsky_bundles.errors import (
    DigestMismatch,
    NoSpace,
    SourceError,
    SourceForbidden,
    SourceMissing,
    SourceUnreachable,
)
from plugsky_bundles.format import MAX_FILE
from plugsky_bundles.progress import Progress, ProgressEvent
from plugsky_bundles.sizes import shortage

MAX_REDIRECTS: Final = 5
PAUSES: Final = (0.2, 1.0, 3.0)
"""Seconds before each further try that follows one without progress."""
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_BUSY: Final = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to fetch. `size` in bytes, None where the server's word counts; `headers` go to the host of `url` alone.

    `what` is its name for people, `advice` what they can do when the server wants to know who asks.
    """

    url: str
    sha256: str
    size: int | None
    what: str
    advice: str = "Put the user and password for that host into ~/.netrc"
    headers: Mapping[str, str] = field(default_factory=dict)


class _BrokenError(Exception):
    """The connection or the server failed; another try may succeed."""


def fetch(wanted: Wanted, cache: Cache, progress: Progress) -> Path:
    """The cached file. Raises SourceError and its kinds, DigestMismatch or NoSpace; or NotCached without a network."""
    cache.going_out(wanted.what)
    part = _Part(cache, wanted, progress)
    pauses, anew = list(PAUSES), False
    with web.client() as client:
        while True:
            before = part.length
            try:
                _receive(client, wanted, part, progress)
            except _BrokenError as error:
                if part.length > before:
                    pauses = list(PAUSES)
                if not pauses:
                    if not part.length:
                        part.drop()
                    raise SourceUnreachable(
                        f"{wanted.what} could not be downloaded",
                        f"{urlsplit(web.mirrored(wanted.url)).hostname}: {error}",
                        _advice(str(error)),
                    ) from error
                time.sleep(pauses.pop(0))
                continue
            if part.digest == wanted.sha256:
                kept = cache.keep(part.path, wanted.sha256)
                part.drop()
                return kept
            resumed, digest, length = part.resumed, part.digest, part.length
            part.drop()
            if anew or not resumed:
                raise DigestMismatch(
                    f"{wanted.what} is not what the recipe pins",
                    f"SHA-256 {digest} of {length} bytes, not {wanted.sha256}",
                    "Check the hash in the recipe against the publisher's; if it is right, the source was changed",
                )
            anew = True


class _Part:
    """What has come so far, hashed; beside it the server's name for that content (a validator of RFC 9110)."""

    def __init__(self, cache: Cache, wanted: Wanted, progress: Progress) -> None:
        self.path = cache.root / "work" / f"{wanted.sha256}.download"
        self._label = self.path.with_suffix(".validator")
        self._hash = hashlib.sha256()
        self.length = 0
        self.resumed = False
        if self.path.is_file():
            with self.path.open("rb") as file:
                while block := file.read(BLOCK):
                    self._hash.update(block)
                    self.length += len(block)
                    progress(ProgressEvent("check", self.length, self.path.stat().st_size, wanted.what))
            self.resumed = self.length > 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    @property
    def validator(self) -> str:
        return self._label.read_text(encoding="ascii") if self.resumed and self._label.is_file() else ""

    def begin(self, response: httpx2.Response) -> None:
        """Start anew, under the strong name that the server gives its answer."""
        self.drop()
        tag = response.headers.get("etag", "")
        if tag.startswith('"') and tag.isascii() and tag.isprintable():
            self._label.write_text(tag, encoding="ascii")

    @contextmanager
    def appending(self) -> Iterator[Callable[[bytes], None]]:
        """Gives the function that adds a block; what was added stays, however this ends."""
        with out_of_space(self.path), self.path.open("ab", buffering=0) as file:

            def append(block: bytes) -> None:
                file.write(block)
                self._hash.update(block)
                self.length += len(block)

            yield append

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._label.unlink(missing_ok=True)
        self._hash = hashlib.sha256()
        self.length, self.resumed = 0, False


def _receive(client: httpx2.Client, wanted: Wanted, part: _Part, progress: Progress) -> None:
    """One try: add what is missing to `part`. Raises _BrokenError where another try may help."""
    if part.length and part.digest == wanted.sha256:
        return
    part.resumed = part.length > 0
    if wanted.size is not None and part.length >= wanted.size:
        part.drop()
    headers = {"accept-encoding": "identity"}
    if part.length:
        headers["range"] = f"bytes={part.length}-"
        if part.validator:
            headers["if-range"] = part.validator
    progress(ProgressEvent("download", part.length, wanted.size or 0, wanted.what))
    try:
        with _answer(client, wanted, headers) as response:
            total = _accept(response, wanted, part)
            with part.appending() as append:
                for block in response.iter_raw():
                    if part.length + len(block) > total:
                        part.drop()
                        raise DigestMismatch(
                            f"{wanted.what} is longer than it should be",
                            f"more than {total} bytes came",
                            "Check the size and the hash in the recipe against the publisher's",
                        )
                    append(block)
                    progress(ProgressEvent("download", part.length, total, wanted.what))
    except httpx2.TransportError as error:
        raise _BrokenError(web.redacted(str(error)) or type(error).__name__) from error
    except httpx2.HTTPError as error:
        raise SourceError(f"{wanted.what} could not be downloaded", web.redacted(str(error)), _CHECK) from error
    if part.length < total:
        raise _BrokenError(f"the answer ended after {part.length} of {total} bytes")


@contextmanager
def _answer(client: httpx2.Client, wanted: Wanted, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
    """The answer to a GET, redirects followed; closed in the end."""
    url = web.mirrored(wanted.url)
    first = urlsplit(url)
    for _ in range(MAX_REDIRECTS + 1):
        parts = urlsplit(url)
        own = wanted.headers if (parts.scheme, parts.netloc) == (first.scheme, first.netloc) else {}
        sent = {**web.password_header(parts.hostname or ""), **own, **headers}
        request = client.build_request("GET", url, headers=sent)
        with closing(client.send(request, stream=True, follow_redirects=False)) as response:
            if response.status_code not in _REDIRECTS:
                yield response
                return
        url = _redirected(url, response.headers.get("location", ""), wanted.what)
    raise SourceError(
        f"{wanted.what} could not be downloaded",
        f"{first.hostname} redirects more than {MAX_REDIRECTS} times",
        "Name the last address in the recipe",
    )


def _redirected(url: str, location: str, what: str) -> str:
    """Where a redirect leads: to HTTPS only, and off this machine's plain HTTP at most to itself."""
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        safe = bool(location) and is_safe(parts)
        safe = safe and (parts.scheme == "https" or is_loopback(urlsplit(url).hostname or ""))
    except ValueError:
        safe, target = False, "an address that is none"
    if not safe:
        raise SourceError(
            f"{what} could not be downloaded",
            f"{urlsplit(url).hostname} redirects to {shown(target)}, which is not HTTPS",
            "Name an address in the recipe that stays on HTTPS",
        )
    return target


def _accept(response: httpx2.Response, wanted: Wanted, part: _Part) -> int:
    """How long the whole file will be, after the answer's status and headers were found good; may reset `part`."""
    status, host = response.status_code, response.request.url.host
    failed = f"{wanted.what} could not be downloaded"
    if status in (401, 403):
        raise SourceForbidden(failed, f"{host} does not let us ({status})", wanted.advice)
    if status in (404, 410):
        raise SourceMissing(failed, f"{host} does not have it ({status})", "Correct the address in the recipe")
    if status == 416 and part.length:
        part.drop()
        raise _BrokenError("the server has nothing behind what came so far")
    if status in _BUSY:
        raise _BrokenError(f"the server answered {status}")
    if status not in (200, 206):
        raise SourceError(failed, f"{host} answered {status}", _CHECK)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise SourceError(failed, f"{host} encodes it although we did not ask for that", "Name another address")
    if status == 206:
        total = _resumed_total(response, part)
    else:
        part.begin(response)
        total = _number(response.headers.get("content-length"))
    if wanted.size is not None and total not in (None, wanted.size):
        raise DigestMismatch(
            f"{wanted.what} is not what the recipe pins",
            f"{host} has {total} bytes, the recipe says {wanted.size}",
            "Check the size in the recipe against the publisher's",
        )
    total = total if wanted.size is None else wanted.size
    if total is None:
        raise SourceError(failed, f"{host} does not say how long it is", "Add its size in bytes to the recipe")
    if total > MAX_FILE:
        raise SourceError(failed, f"{host} announces {total} bytes, the limit is {MAX_FILE}", _CHECK)
    free = shutil.disk_usage(part.path.parent).free
    if total - part.length > free:
        lack = shortage(total - part.length, free, f"in {part.path.parent}")
        raise NoSpace(failed, lack, "Free some space there, or name another directory with --cache")
    return total


def _resumed_total(response: httpx2.Response, part: _Part) -> int | None:
    """The whole length that a partial answer tells; it must go on exactly where `part` ends."""
    found = _RANGE.fullmatch(response.headers.get("content-range", ""))
    if found is None or int(found[1]) != part.length:
        part.drop()
        raise _BrokenError("the server sent another range than the one we asked for")
    return None if found[2] == "*" else int(found[2])


def _number(text: Any) -> int | None:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 20 else None


def _advice(why: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return "Name the CA bundle of your network by SSL_CERT_FILE, then run it again"
    return "Check the network and HTTPS_PROXY, then run it again: it goes on where it stopped"


_CHECK: Final = "Check the address in the recipe"
