"""The builder's one HTTP client, as the machine's administrator wants it.

* Certificates are always checked: against the system's store, or the one that SSL_CERT_FILE, SSL_CERT_DIR or
  REQUESTS_CA_BUNDLE names. TLS 1.2 at least.
* Proxies are those of HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY; mirrors those of PLUGSKY_MIRRORS.
* Passwords come from the netrc file (NETRC, else ~/.netrc) by host, and go to no other host.
* No redirect is followed by itself; whoever follows one decides where it may lead.
"""

from __future__ import annotations

import base64
import netrc
import re
import ssl
from pathlib import Path
from typing import Final

import httpx2

from plugsky.core import env
from plugsky_bundles.errors import SourceError

CONNECT_SECONDS: Final = 30.0
SILENCE_SECONDS: Final = 60.0
AGENT: Final = "plugsky-builder"

_USER: Final = re.compile(r"//[^/@\s]+@")
_QUERY: Final = re.compile(r"(https?://[^\s?#'\"]*)[?#][^\s'\"]*")


def client() -> httpx2.Client:
    """A client for one piece of work; close it. Raises SourceError where a CA bundle or proxy is set up wrongly."""
    try:
        return httpx2.Client(
            verify=certificates(),
            timeout=httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            headers={"user-agent": AGENT},
        )
    except (ValueError, ImportError) as error:
        raise SourceError(
            "The proxy cannot be used", redacted(str(error)), "Correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"
        ) from error


def certificates() -> ssl.SSLContext:
    """The authorities that servers are checked against. Raises SourceError for a bundle that cannot be read."""
    for variable in (env.SSL_CERT_FILE, env.REQUESTS_CA_BUNDLE, env.SSL_CERT_DIR):
        named = variable.read()
        if named is None:
            continue
        try:
            if Path(named).is_dir():
                return ssl.create_default_context(capath=named)
            return ssl.create_default_context(cafile=named)
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "strerror", None) or "it is no list of PEM certificates"
            raise SourceError(
                f"The CA bundle {named} cannot be read", why, f"Correct {variable.name}, or unset it"
            ) from error
    return ssl.create_default_context()


def password_header(host: str) -> dict[str, str]:
    """The header that logs in at `host`, when the netrc file knows it. Raises SourceError for one it cannot read."""
    path = env.NETRC.read() or str(Path("~/.netrc").expanduser())
    if not Path(path).is_file():
        return {}
    try:
        known = netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError) as error:
        what = getattr(error, "strerror", None) or f"line {getattr(error, 'lineno', None)} is wrong"
        raise SourceError(f"{path} cannot be read", str(what), "Correct it, or name another file by NETRC") from error
    if known is None:
        return {}
    user, _, password = known
    token = base64.b64encode(f"{user}:{password or ''}".encode()).decode("ascii")
    return {"authorization": f"Basic {token}"}


def mirrored(url: str) -> str:
    """Where `url` is fetched from: the first mirror whose prefix it begins with, else itself. Raises SourceError."""
    for pair in (env.MIRRORS.read() or "").split():
        prefix, equals, mirror = pair.partition("=")
        if not equals or not prefix.endswith("/") or not mirror.endswith("/"):
            raise SourceError(
                f"{env.MIRRORS.name} cannot be used",
                "each of its words must be PREFIX=MIRROR, and both addresses end with a slash",
                f"Correct {env.MIRRORS.name}",
            )
        if url.startswith(prefix):
            return mirror + url.removeprefix(prefix)
    return url


def redacted(text: str) -> str:
    """`text` without what could be a secret: users and passwords in addresses, and everything behind their paths."""
    return _QUERY.sub(r"\1", _USER.sub("//***@", text))
