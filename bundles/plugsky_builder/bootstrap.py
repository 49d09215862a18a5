"""What a sysadmin meets first: install.sh, README.txt and the one-file verifier at the top of a bundle.

* A bundle with the appliance for whole hosts has all three. install.sh holds the SHA-256 of the verifier and, per
  target, of the packages that bring Python and libgomp1, in the order in which dpkg takes them; of everything else the
  verifier checks the signatures. So the paper needs to name no more than install.sh and the root.
* A delta, or a bundle without the appliance, has README.txt alone: a bare host cannot use it.
* Same content, channel and version: same bytes. No time, no path and no name of the build machine.
* README.txt is ASCII in lines of at most 79; what a recipe says in other letters is left out of it.

Only fixed alphabets are filled into install.sh: digits, and names that the bundle format allows.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

from plugsky.core.paths import data_directory
from plugsky_builder.debs import parts
from plugsky_builder.locks import normalised
from plugsky_builder.pack import Material
from plugsky_bundles.errors import NotFound, SourceError
from plugsky_bundles.format import MAX_CHUNK, ROLES, FileEntry
from plugsky_bundles.preflight import is_lock

INSTALLER: Final = "install.sh"
README: Final = "README.txt"
UPDATE: Final = "README-update.txt"
VERIFIER: Final = "tools/plugsky_verify.py"
APPLIANCE: Final = "plugsky"
WIDTH: Final = 79
NOT_NEEDED: Final = (
    "alembic",
    "ansible-core",
    "llama-cpp-python",
    "markdown-it-py",
    "numpy",
    "pip",
    "pygments",
    "starlette",
    "textual",
    "uvicorn",
)
"""Packages that `plugsky bundle install` does not import: most of the bytes, unpacked for the generation only."""

_PLACEHOLDER = re.compile(r"@[a-z_]+@")


def materials(
    channel: str, version: int, title: str, entries: Sequence[FileEntry], *, delta: bool = False, contact: str = ""
) -> list[Material]:
    """The files for the top of a bundle that has these `entries`; a `delta` lacks what a bare host would need.

    Raises NotFound when this Plugsky lacks the templates, SourceError for a package that install.sh could not handle.
    """
    hosts = _hosts(entries)
    facts = {
        "channel": channel,
        "version": str(version),
        "title": _ascii(title) or channel,
        "contents": "\n".join(_contents(entries)),
        "contact": _paragraph(f"Questions: {_ascii(contact)}") if _ascii(contact) else "",
    }
    if delta or not hosts:
        return [Material.of_bytes(README, _fill(UPDATE, facts))]
    verifier = _template("plugsky_verify.py")
    digest = hashlib.sha256(verifier).hexdigest()
    script = {
        "channel": channel,
        "version": str(version),
        "verifier": digest,
        "not_needed": " ".join(NOT_NEEDED),
        "parts": "\n".join([*hosts, *_debs(entries, hosts)]),
    }
    told = "\n".join(f"   - {_told(line, entries)}" for line in hosts)
    return [
        Material.of_bytes(INSTALLER, _fill(INSTALLER, script)),
        Material.of_bytes(README, _fill(README, {**facts, "hosts": told})),
        Material.of_bytes(VERIFIER, verifier),
    ]


def _hosts(entries: Sequence[FileEntry]) -> list[str]:
    """A line `target FOLDER OS MACHINE PYTHON` for each kind of host that the appliance is there for."""
    lines = []
    for entry in sorted(entries, key=lambda entry: entry.path):
        folder = entry.path.rpartition("/")[0]
        names = {other.path.rpartition("/")[2].split("-")[0] for other in entries if _is_wheel_in(other, folder)}
        if is_lock(entry.path) and {APPLIANCE, "pip"} <= {normalised(name) for name in names}:
            short = folder.removeprefix("python").removeprefix("/") or "."
            facts = [entry.custom.get("os", "any"), entry.custom["machine"], entry.custom["python"]]
            lines.append(" ".join(["target", short, *map(str, facts)]))
    return lines


def _is_wheel_in(entry: FileEntry, folder: str) -> bool:
    return entry.path.endswith(".whl") and entry.path.rpartition("/")[0] == folder


def _debs(entries: Sequence[FileEntry], hosts: Sequence[str]) -> list[str]:
    """A line `deb FOLDER STAGE SHA256 FILE` for each package that a bare host needs, in dpkg's order."""
    lines = []
    for host in hosts:
        folder = host.split(" ")[1]
        for deb in parts.bootstrap_set(entries, folder):
            if deb.length > MAX_CHUNK:
                raise SourceError(
                    f"{deb.path} is too long for a bare host",
                    f"it has {deb.length} bytes, install.sh takes a package as one blob of at most {MAX_CHUNK}",
                    "Leave out [debs], or report it",
                )
            lines.append(f"deb {folder} {deb.stage} {deb.sha256} {deb.path.rpartition('/')[2]}")
    return lines


def _told(host: str, entries: Sequence[FileEntry]) -> str:
    _, folder, system, machine, python = host.split(" ")
    name = "Linux" if system == "any" else system.replace("-", " ").title()
    brought = bool(parts.bootstrap_set(entries, folder))
    return f"{name} on {machine}, {'with or without Python' if brought else f'with Python {python} and libgomp1'}"


def _contents(entries: Sequence[FileEntry]) -> list[str]:
    told = []
    for role in ROLES:
        lengths = [entry.length for entry in entries if entry.role == role]
        if lengths:
            told.append(f"   {role:10} {len(lengths):6} files {sum(lengths) / 1e6:12,.1f} MB")
    return told


def _fill(name: str, facts: Mapping[str, str]) -> bytes:
    """The template `name` with every placeholder filled in. A fact is not looked at for placeholders again."""
    text = _template(name).decode("ascii")
    return _PLACEHOLDER.sub(lambda match: facts[match[0].strip("@")], text).rstrip("\n").encode("ascii") + b"\n"


def _template(name: str) -> bytes:
    path = data_directory("bootstrap") / name
    if not path.is_file():
        raise NotFound(f"Plugsky's {name} is missing", f"{path} is not there", "Install Plugsky again")
    return path.read_bytes()


def _ascii(text: str) -> str:
    """`text` without what is not ASCII, on one line."""
    return " ".join("".join(c for c in text if " " <= c <= "~").split())


def _paragraph(text: str) -> str:
    return "\n".join(textwrap.wrap(text, WIDTH))
