"""Reads a wheel as an installer would and refuses one that is not plainly what its name says.

Guarantees of `lint`, in this order:
1. the file name is a wheel's (a source package is not one), and one of its tags fits the host it is for;
2. every reader sees the same archive (`zip_layout`), and all it unpacks to is within `MAX_UNPACKED`;
3. its one `.dist-info` folder, METADATA and WHEEL carry the name, version and tags of the file name;
4. RECORD lists every file exactly once with its SHA-256 and length, and nothing else;
5. it installs no program that shadows Python, pip, Ansible or Plugsky, unless it is that package, and reaches no place
   outside its own: not the environment's configuration, not another package's metadata.
What runs without being asked (`.pth` files, `sitecustomize`) and what lands among the programs is listed in the report.
Source: the binary distribution format and the recording of installed projects of the Python packaging specifications.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, parse_tag
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from plugsky_builder import zip_layout
from plugsky_builder.zip_layout import Member
from plugsky_bundles.errors import WheelError

MAX_UNPACKED: Final = 16 * 1024**3
MAX_TEXT: Final = 16 * 1024**2
_UNRECORDED: Final = ("RECORD", "RECORD.jws", "RECORD.p7s")
_SCHEMES: Final = ("purelib", "platlib", "headers", "scripts", "data")
_STARTUP: Final = ("sitecustomize.py", "usercustomize.py", "sitecustomize", "usercustomize")
OWNERS: Final = {
    re.compile(r"python[0-9.]*(-config)?|activate.*|pydoc[0-9.]*|idle[0-9.]*|2to3.*"): "",
    re.compile(r"pip[0-9.]*"): "pip",
    re.compile(r"ansible(-.*)?"): "ansible-core",
    re.compile(r"plugsky(-.*)?"): "plugsky",
}
"""Names of programs that only one package may install; those of "" none may."""


@dataclass(frozen=True, slots=True)
class WheelReport:
    """What a sound wheel says and does. `unpacked` is in bytes; `libraries` are its compiled files,
    `installed` its files by where they will lie below site-packages.

    `programs` and `startup` are for a reviewer: what it puts among the programs, and what runs whenever Python starts.
    """

    name: str
    version: Version
    unpacked: int
    members: int
    requires: tuple[Requirement, ...]
    requires_python: SpecifierSet
    programs: tuple[str, ...]
    startup: tuple[str, ...]
    libraries: tuple[Member, ...]
    installed: frozenset[str]


def lint(path: Path, file_name: str, tags: AbstractSet[Tag]) -> WheelReport:
    """The report on the wheel at `path`, called `file_name`, for a host of these `tags`. Raises WheelError."""
    name, version, own_tags = _named(file_name)
    if own_tags.isdisjoint(tags):
        raise _refused(file_name, f"its tags {', '.join(sorted(map(str, own_tags)))} do not fit the target")
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size, name, version, own_tags).report()
    except WheelError as error:
        raise _refused(file_name, error.why) from error


class _Reader:
    """One wheel while it is read."""

    def __init__(self, file: BinaryIO, size: int, name: str, version: Version, tags: AbstractSet[Tag]) -> None:
        self._file, self._name, self._version, self._tags = file, name, version, tags
        self._members = {member.name: member for member in zip_layout.read(file, size) if not member.is_directory}
        self._info = self._dist_info()

    def report(self) -> WheelReport:
        unpacked = sum(member.length for member in self._members.values())
        if unpacked > MAX_UNPACKED:
            refuse(f"it unpacks to {unpacked} bytes, the limit is {MAX_UNPACKED}")
        about = HeaderParser().parsestr(self._text("METADATA"))
        self._check_identity(about.get("Name", ""), about.get("Version", ""))
        self._check_tags()
        self._check_record()
        programs = self._programs()
        for program in programs:
            self._check_owner(program)
        return WheelReport(
            self._name,
            self._version,
            unpacked,
            len(self._members),
            tuple(_requirement(text) for text in about.get_all("Requires-Dist", [])),
            _specifiers(about.get("Requires-Python", "")),
            tuple(sorted(programs)),
            tuple(sorted(place for name in self._members if _runs_by_itself(place := _site_path(name)))),
            tuple(member for member in self._members.values() if re.search(r"\.so(\.[0-9.]+)?$", member.name)),
            frozenset(place for name in self._members if (place := _site_path(name))),
        )

    def _dist_info(self) -> str:
        folders = {name.split("/")[0] for name in self._members}
        found = sorted(folder for folder in folders if folder.endswith(".dist-info"))
        if len(found) != 1:
            refuse(f"it has {len(found)} .dist-info folders, not one")
        self._check_identity(*_split(found[0].removesuffix(".dist-info")))
        for folder in folders:
            if folder.endswith(".data") and folder != f"{found[0].removesuffix('.dist-info')}.data":
                refuse(f"its folder {folder} is not its own")
        return found[0]

    def _check_identity(self, name: str, version: str) -> None:
        try:
            same = canonicalize_name(name) == self._name and Version(version) == self._version
        except InvalidVersion:
            same = False
        if not same:
            refuse(f"inside it is {name!r} {version!r}, which its file name does not say")

    def _check_tags(self) -> None:
        told = HeaderParser().parsestr(self._text("WHEEL"))
        if not told.get("Wheel-Version", "").startswith("1."):
            refuse(f"its format is {told.get('Wheel-Version', 'not named')}, not version 1")
        tags = {tag for text in told.get_all("Tag", []) for tag in parse_tag(text)}
        if tags != self._tags:
            refuse(f"inside it has the tags {', '.join(sorted(map(str, tags)))}, which its file name does not say")

    def _check_record(self) -> None:
        """Every file once, with its hash and length; the record itself and its signatures without."""
        own = {f"{self._info}/{name}" for name in _UNRECORDED}
        seen: set[str] = set()
        for row in csv.reader(self._text("RECORD").splitlines()):
            if len(row) != 3:
                refuse("its RECORD is not a table of three columns")
            name, digest, length = row
            if name in seen:
                refuse(f"its RECORD lists {name!r} twice")
            seen.add(name)
            if name in own:
                continue
            member = self._members.get(name)
            if member is None:
                refuse(f"its RECORD lists {name!r}, which it does not have")
            if digest != self._digest(member) or length != str(member.length):
                refuse(f"its RECORD has another hash or length for {name!r} than the file")
        for name in self._members.keys() - seen - own:
            refuse(f"its RECORD does not list {name!r}")

    def _digest(self, member: Member) -> str:
        sha256 = hashlib.sha256()
        for block in zip_layout.content(self._file, member):
            sha256.update(block)
        return "sha256=" + base64.urlsafe_b64encode(sha256.digest()).rstrip(b"=").decode("ascii")

    def _programs(self) -> set[str]:
        """What it puts among the programs, by name, from entry points and from its data folder."""
        programs: set[str] = set()
        points = f"{self._info}/entry_points.txt"
        if points in self._members:
            parser = configparser.RawConfigParser(delimiters=("=",), strict=True, interpolation=None)
            parser.optionxform = str  # type: ignore[assignment, method-assign]  # the documented way to keep capitals
            try:
                parser.read_string(self._text("entry_points.txt"))
            except configparser.Error as error:
                refuse(f"its entry points cannot be read: {type(error).__name__}")
            for section in ("console_scripts", "gui_scripts"):
                programs |= set(parser[section]) if parser.has_section(section) else set()
        for name in self._members:
            top, _, inner = name.partition("/")
            if not top.endswith(".data"):
                continue
            scheme, _, place = inner.partition("/")
            if scheme not in _SCHEMES:
                refuse(f"it has data of an unknown kind: {name!r}")
            if scheme == "scripts":
                programs.add(place)
            elif scheme == "data" and place.startswith("bin/"):
                programs.add(place.removeprefix("bin/"))
            elif scheme == "data" and (place.startswith(("lib/", "lib64/")) or place == "pyvenv.cfg"):
                refuse(f"it writes into the environment itself: {name!r}")
        return programs

    def _check_owner(self, program: str) -> None:
        if "/" in program or program in ("", ".", ".."):
            refuse(f"its program {program!r} is not a plain name")
        for pattern, owner in OWNERS.items():
            if pattern.fullmatch(program.casefold()) and owner != self._name:
                refuse(f"its program {program!r} would stand in for {owner or 'Python'}'s")

    def _text(self, name: str) -> str:
        member = self._members.get(f"{self._info}/{name}")
        if member is None:
            refuse(f"it has no {name}")
        if member.length > MAX_TEXT:
            refuse(f"its {name} has {member.length} bytes, the limit is {MAX_TEXT}")
        return b"".join(zip_layout.content(self._file, member)).decode("utf-8", "replace")


def check_apart(reports: Iterable[tuple[str, WheelReport]]) -> None:
    """Refuse two wheels that install the same file: the later would change the earlier, unseen by both RECORDs."""
    owners: dict[str, str] = {}
    for file_name, report in reports:
        for name in report.installed:
            other = owners.setdefault(name, file_name)
            if other != file_name:
                raise _refused(file_name, f"it installs {name!r}, and so does {other}")


def refuse(why: str) -> NoReturn:
    zip_layout.refuse(why)


def _named(file_name: str) -> tuple[str, Version, AbstractSet[Tag]]:
    if not file_name.endswith(".whl"):
        raise _refused(file_name, "it is a source package, not a wheel: it would run its own code when installed")
    try:
        name, version, _, tags = parse_wheel_filename(file_name)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion) as error:
        raise _refused(file_name, f"its name is not a wheel's: {error}") from error
    return name, version, tags


def _site_path(name: str) -> str:
    """Where a member lies below site-packages; empty for what goes elsewhere."""
    parts = name.split("/")
    if not parts[0].endswith(".data"):
        return name
    return "/".join(parts[2:]) if parts[1] in ("purelib", "platlib") else ""


def _runs_by_itself(place: str) -> bool:
    """Whether Python reads or runs it when it starts."""
    return place.split("/")[0] in _STARTUP or (place.endswith(".pth") and "/" not in place)


def _split(stem: str) -> tuple[str, str]:
    name, _, version = stem.partition("-")
    return name, version


def _requirement(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement:
        refuse(f"its METADATA requires {text!r}, which names no package")


def _specifiers(text: str) -> SpecifierSet:
    try:
        return SpecifierSet(text)
    except InvalidSpecifier:
        refuse(f"its METADATA requires Python {text!r}, which names no versions")


def _refused(file_name: str, why: str) -> WheelError:
    return WheelError(f"{file_name} cannot be trusted", why, "Ask its publisher, or lock another version")
