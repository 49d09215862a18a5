"""Fetches one pinned file from a Python package index with the standard library alone.

It asks the index that pip would ask: ``PIP_INDEX_URL``, else ``index-url`` of pip's configuration files, else the
public one. Certificates come from ``PIP_CERT``, pip's ``cert``, ``SSL_CERT_FILE``/``SSL_CERT_DIR`` or the system,
proxies from ``PIP_PROXY`` or the usual variables. The page is read as the simple repository API describes it (PEP
503), in HTML, which every index serves.

The channel is not what is trusted: a file counts only when its SHA-256 is one that the lock names, and nothing else
of the answer is used. So a machine without any CA certificates can still start: the server is then not authenticated,
and no password is sent. A file appears under its name only when it is whole and right; a wrong one is removed.
"""

import base64
import configparser
import hashlib
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

from setup.errors import SetupError
from setup.locks import normalised
from setup.wheels import sha256_of

PUBLIC_INDEX: Final = "https://pypi.org/simple"
_HTML: Final = "application/vnd.pypi.simple.v1+html, text/html;q=0.9"
_PAGE_BYTES: Final = 32 << 20
_FILE_BYTES: Final = 1 << 30
_READ: Final = 1 << 18
_TIMEOUT_SECONDS: Final = 60
_ATTEMPTS: Final = 3

Progress = Callable[[int, int], None]
"""Called with the bytes read and the bytes expected (0 when unknown)."""


@dataclass(frozen=True)
class Source:
    """Where files come from: the index's address, a CA bundle and a proxy of one's own, each as pip would use it."""

    url: str
    ca_bundle: str | None = None
    proxy: str | None = None

    @property
    def shown(self) -> str:
        """The address without a user name or password, for messages."""
        return _split_credentials(self.url)[0]


def source_of(environ: Mapping[str, str], configurations: Sequence[str] = ()) -> Source:
    """The index that pip would use, from the environment and the texts of pip's configuration files, weakest first."""
    settings: dict[str, str] = {}
    for text in configurations:
        parser = configparser.RawConfigParser()
        with suppress(configparser.Error):
            parser.read_string(text)
        for section in ("global", "install"):
            if parser.has_section(section):
                settings |= dict(parser.items(section))
    url = environ.get("PIP_INDEX_URL") or settings.get("index-url") or PUBLIC_INDEX
    authorities = (environ.get("PIP_CERT"), settings.get("cert"), environ.get("SSL_CERT_FILE"))
    return Source(
        url.strip().rstrip("/"),
        next((path for path in authorities if path), None),
        environ.get("PIP_PROXY") or settings.get("proxy") or None,
    )


def pip_configurations(environ: Mapping[str, str]) -> list[str]:
    """The texts of pip's configuration files on this machine, weakest first (pip's own order)."""
    home = Path(environ.get("HOME", "/nonexistent"))
    user = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    paths = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), home / ".pip/pip.conf", user / "pip/pip.conf"]
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:
        return []
    if named:
        paths.append(Path(named))
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()]


class _Links(HTMLParser):
    """Collects the targets of all anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.targets += [value for name, value in attrs if name == "href" and value]


def link_to(page: str, page_url: str, file_name: str) -> str | None:
    """The absolute address of ``file_name`` on a project page of the simple API, without its fragment; None if
    absent."""
    links = _Links()
    links.feed(page)
    for target in links.targets:
        address, _fragment = urllib.parse.urldefrag(urllib.parse.urljoin(page_url, target))
        if urllib.parse.unquote(urllib.parse.urlsplit(address).path.rsplit("/", 1)[-1]) == file_name:
            return address
    return None


def fetch(
    source: Source, project: str, file_name: str, sha256: Collection[str], folder: Path, progress: Progress
) -> Path:
    """``folder/file_name``, whose SHA-256 is one of ``sha256``: what lies there already, or fetched from the index.

    Raises:
        SetupError: the index cannot be reached, does not have the file, or serves another content under its name.
    """
    place = folder / file_name
    if place.is_file():
        if sha256_of(place) in sha256:
            return place
        place.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    opener = _opener(source)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            page_url = f"{source.url}/{normalised(project)}/"
            page, landed = _page(opener, page_url)
            address = link_to(page, landed, file_name)
            if address is None:
                raise SetupError(
                    f"{file_name} is not on the package index.",
                    f"{source.shown}/{normalised(project)}/ does not list it",
                    "let your mirror carry that file, or set PIP_INDEX_URL to an index that has it",
                )
            _download(opener, _with_credentials_of(source.url, address), place, sha256, progress)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if attempt == _ATTEMPTS or isinstance(error, urllib.error.HTTPError):
                raise _unreachable(source, file_name, error) from error
            time.sleep(attempt)
        else:
            break
    return place


def _page(opener: urllib.request.OpenerDirector, url: str) -> tuple[str, str]:
    with _open(opener, url, _HTML) as answer:
        raw = answer.read(_PAGE_BYTES)
        return raw.decode("utf-8", errors="replace"), answer.geturl()


def _download(
    opener: urllib.request.OpenerDirector, url: str, place: Path, sha256: Collection[str], progress: Progress
) -> None:
    part = place.with_name(place.name + ".part")
    total = hashlib.sha256()
    with _open(opener, url, "*/*") as answer, part.open("wb") as sink:
        expected = int(answer.headers.get("Content-Length") or 0)
        done = 0
        while block := answer.read(_READ):
            done += len(block)
            if done > _FILE_BYTES:
                raise OSError(f"the answer is longer than {_FILE_BYTES} bytes")
            total.update(block)
            sink.write(block)
            progress(done, expected)
        if expected and done != expected:
            raise OSError(f"the answer ended after {done} of {expected} bytes")
        sink.flush()
        os.fsync(sink.fileno())
    if total.hexdigest() not in sha256:
        part.unlink()
        raise SetupError(
            f"{place.name} is not the file that the lock names.",
            f"its SHA-256 is {total.hexdigest()}, the lock allows {', '.join(sorted(sha256))}",
            "do not use this index until its owner has explained the difference; nothing of the file was kept",
        )
    part.replace(place)


def _opener(source: Source) -> urllib.request.OpenerDirector:
    """Only HTTP and HTTPS: an index page cannot make us read ``file:`` or ``ftp:`` addresses."""
    proxies = {"http": source.proxy, "https": source.proxy} if source.proxy else None
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=_tls(source)),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _tls(source: Source) -> ssl.SSLContext:
    if source.ca_bundle is None:
        context = ssl.create_default_context()
        if not _has_authorities() and not _split_credentials(source.url)[1]:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
    try:
        if Path(source.ca_bundle).is_dir():
            return ssl.create_default_context(capath=source.ca_bundle)
        return ssl.create_default_context(cafile=source.ca_bundle)
    except OSError as error:
        raise SetupError(
            f"The CA bundle {source.ca_bundle} cannot be read.",
            str(error),
            "correct PIP_CERT, SSL_CERT_FILE or `cert` in pip.conf",
        ) from error


def _has_authorities() -> bool:
    """Whether this machine has CA certificates where OpenSSL looks for them."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile is not None or (paths.capath is not None and any(Path(paths.capath).glob("*.0")))


def _open(opener: urllib.request.OpenerDirector, url: str, accept: str) -> http.client.HTTPResponse:
    address, credentials = _split_credentials(url)
    headers = {"Accept": accept, "User-Agent": "plugsky-setup"}
    if credentials:
        headers["Authorization"] = "Basic " + base64.b64encode(credentials.encode()).decode()
    scheme = urllib.parse.urlsplit(address).scheme
    if scheme not in {"http", "https"}:
        raise SetupError(
            "The package index does not speak HTTP.",
            f"a {scheme or 'relative'} address is not fetched",
            "set PIP_INDEX_URL to an http or https index",
        )
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - the scheme is checked just above
    answer: http.client.HTTPResponse = opener.open(request, timeout=_TIMEOUT_SECONDS)
    return answer


def _split_credentials(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return urllib.parse.urlunsplit(parts._replace(netloc=host)), urllib.parse.unquote(user) if at else ""


def _with_credentials_of(index_url: str, address: str) -> str:
    """``address`` with the user and password of the index when it lies on the same host, as pip does."""
    index, target = urllib.parse.urlsplit(index_url), urllib.parse.urlsplit(address)
    user, at, host = index.netloc.rpartition("@")
    if at and target.scheme == index.scheme and target.netloc == host:
        return urllib.parse.urlunsplit(target._replace(netloc=f"{user}@{host}"))
    return address


def _unreachable(source: Source, file_name: str, error: Exception) -> SetupError:
    reason = re.sub(r"//[^/@\s]+@", "//", str(error)) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        next_step = "`sudo apt-get install ca-certificates`, or set PIP_CERT to the CA bundle of your network"
    else:
        next_step = (
            "check the network (behind a mirror or proxy: PIP_INDEX_URL, HTTPS_PROXY, PIP_CERT), then run this again"
        )
    return SetupError(f"{file_name} could not be fetched from {source.shown}.", reason, next_step)
