"""The site's own directory (LDAP), asked whether a password is somebody's and whether they may come here.

One question is one run of Debian's ``ldapsearch``: it binds as the person, with the password on its standard input, and
looks for the one entry that the filter names. Binding proves the password, finding the entry proves what the filter
asks, such as a group; no account of the site's own is needed. The connection is encrypted and the server's certificate
is checked against the authorities that the settings name, whatever the host's own LDAP settings say (RFC 4513).
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.settings import Settings

TOOL: Final = "ldapsearch"
CONNECT_S: Final = 5
ANSWER_S: Final = 10
_INVALID_CREDENTIALS: Final = 49
_NAME: Final = "{name}"


@dataclass(frozen=True)
class Directory:
    """Where the directory is and how a person is found in it. ``bind`` and ``filter`` hold ``{name}``."""

    url: str
    bind: str
    base: str
    filter: str
    authorities: Path

    def knows(self, name: str, password: str) -> bool:
        """Whether the person has this password and is whom the filter lets in. Blocks for as long as it takes.

        ``name`` must be a login's name, which has no letter that a filter or a distinguished name treats specially.
        Raises UNREACHABLE where the directory cannot tell.
        """
        if not password or "\x00" in password:
            # A bind without a password is an anonymous one, which succeeds (RFC 4513, section 5.1.2).
            return False
        found = self._ask(name, password.encode("utf-8", "surrogatepass"))
        if found.returncode == _INVALID_CREDENTIALS:
            return False
        if found.returncode != 0:
            raise _unable(" ".join(found.stderr.decode("utf-8", "replace").split())[:300])
        return sum(line.startswith(b"dn:") for line in found.stdout.splitlines()) == 1

    def _ask(self, name: str, password: bytes) -> "subprocess.CompletedProcess[bytes]":
        tool = shutil.which(TOOL)
        if tool is None:
            raise _unable(f"{TOOL} is not installed", "apt-get install ldap-utils")
        question = [tool, "-x", "-LLL", "-o", "ldif_wrap=no", "-o", f"nettimeout={CONNECT_S}", "-l", str(CONNECT_S)]
        question += ["-z", "2", "-H", self.url, "-D", self.bind.replace(_NAME, name), "-y", "/dev/stdin"]
        question += ["-b", self.base, "-s", "sub", self.filter.replace(_NAME, name), "1.1"]
        if not self.url.startswith("ldaps:"):
            question.insert(1, "-ZZ")
        try:
            return subprocess.run(
                question, input=password, capture_output=True, timeout=ANSWER_S, cwd="/", check=False,
                env={"LDAPCONF": "/dev/null", "LDAPTLS_REQCERT": "demand", "LDAPTLS_CACERT": str(self.authorities)},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise _unable(f"it did not answer within {ANSWER_S} seconds") from None


def directory_of(settings: Settings) -> Directory | None:
    """The directory that the settings name; None where they name none. Raises BAD_REQUEST for half of one."""
    parts = {
        "ldap_url": settings.ldap_url,
        "ldap_bind": settings.ldap_bind,
        "ldap_base": settings.ldap_base,
        "ldap_authorities": settings.ldap_authorities,
    }
    if not any(parts.values()):
        return None
    for name, value in parts.items():
        if not value:
            raise _bad(name, "it is not set, and a directory needs it")
    if not settings.ldap_url.startswith(("ldaps://", "ldap://")):
        raise _bad("ldap_url", "it is ldaps://HOST, or ldap://HOST to begin TLS there")
    for name, value in (("ldap_bind", settings.ldap_bind), ("ldap_filter", settings.ldap_filter)):
        if _NAME not in value:
            raise _bad(name, f"it has no {_NAME} in it, so it would be the same for everybody")
    if settings.ldap_authorities is None or not settings.ldap_authorities.is_file():
        raise _bad("ldap_authorities", f"{settings.ldap_authorities} is no file")
    return Directory(
        settings.ldap_url, settings.ldap_bind, settings.ldap_base, settings.ldap_filter, settings.ldap_authorities
    )


def _unable(why: str, advice: str = "plugsky config show --origin") -> PlugskyError:
    return PlugskyError(ErrorKind.UNREACHABLE, "the directory cannot say who this is", why=why, next=advice)


def _bad(name: str, why: str) -> PlugskyError:
    return PlugskyError(ErrorKind.BAD_REQUEST, f"the directory's {name} cannot be used", why=why, next=f"mend {name}")
