"""A maker of wheels, right ones and wrong ones: it writes what it is told, byte by byte where need be."""

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path


def recorded(data: bytes) -> str:
    """The hash of a file as RECORD writes it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def wheel_files(
    name: str,
    version: str,
    files: Mapping[str, bytes],
    *,
    tag: str = "py3-none-any",
    about: str = "",
    info: Mapping[str, bytes] | None = None,
) -> dict[str, bytes]:
    """Every member of a right wheel but its RECORD; `about` are further lines of METADATA."""
    folder = f"{name}-{version}.dist-info"
    return {
        **files,
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{about}".encode(),
        f"{folder}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
        **{f"{folder}/{member}": data for member, data in (info or {}).items()},
    }


def with_record(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """The members and the RECORD that is right for them."""
    folder = next(member.split("/")[0] for member in members if ".dist-info/" in member)
    lines = [f"{member},{recorded(data)},{len(data)}" for member, data in members.items()]
    return {**members, f"{folder}/RECORD": "\n".join([*lines, f"{folder}/RECORD,,", ""]).encode()}


def zipped(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    """An archive of these members, the same bytes each time."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data, method)
    return path


def write_wheel(
    folder: Path, name: str, version: str, files: Mapping[str, bytes], *, tag: str = "py3-none-any", about: str = ""
) -> Path:
    """A right wheel of these files."""
    members = with_record(wheel_files(name, version, files, tag=tag, about=about))
    return zipped(folder / f"{name}-{version}-{tag}.whl", members)
