"""Wheels that no index has ready: taken from the wheelhouse, where the set-up or a person put them.

A wheel for the CPU lies in the wheelhouse itself, one for an accelerator in its folder of that name (`cuda-13`). Such a
wheel promises nothing by its name, so its libraries are held against the target: processor, glibc, libstdc++ and the
libraries they load (`elf_needs`). A wheel of no particular Python serves every target that it fits.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from plugsky_builder import elf_needs, wheel_lint, zip_layout
from plugsky_builder.fit import Fit
from plugsky_builder.locks import Pin
from plugsky_builder.wheel_lint import WheelReport
from plugsky_bundles.errors import SourceError, WheelError

MAX_LIBRARY: Final = 4 * 1024**3


def find(pin: Pin, wheelhouse: Path, fit: Fit) -> Path:
    """The wheel of exactly that version for the target. Raises SourceError when there is none, or a choice."""
    accelerator = fit.target.accelerator if fit.target is not None else "cpu"
    folder = wheelhouse if accelerator == "cpu" else wheelhouse / accelerator
    candidates = sorted(folder.glob(f"{pin.name.replace('-', '_')}-{pin.version}-*.whl"))
    found = [path for path in candidates if _fits(path.name, fit)]
    if len(found) == 1:
        return found[0]
    count = "several wheels" if found else "no wheel"
    what = f"There is {count} of {pin.name} {pin.version} in {folder}"
    if accelerator != "cpu" and not found:
        raise SourceError(what, *_accelerated(accelerator, folder))
    others = f"; {', '.join(path.name for path in candidates)} is not for {fit.name}" if candidates else ""
    raise SourceError(
        what,
        f"it is compiled on the build machine and not downloaded{others}",
        "Run `make setup`, or name the folder with its wheel by --wheelhouse or PLUGSKY_WHEELHOUSE",
    )


def check(path: Path, file_name: str, report: WheelReport, fit: Fit) -> None:
    """Refuse a wheel with a library that would not load on the target. Raises WheelError.

    A bundle for hosts like the build machine is not asked: what was compiled here runs here.
    """
    if fit.target is None:
        return
    own = {member.name.rpartition("/")[2] for member in report.libraries}
    try:
        with path.open("rb") as file:
            for member in report.libraries:
                if member.length > MAX_LIBRARY:
                    wheel_lint.refuse(f"{member.name!r} has {member.length} bytes")
                needs = elf_needs.read(b"".join(zip_layout.content(file, member)), member.name)
                elf_needs.check(needs, member.name, fit.target, own)
    except WheelError as error:
        raise WheelError(
            f"{file_name} cannot be used", error.why, f"Compile it on {fit.target.os}, or on something older"
        ) from error


def _fits(file_name: str, fit: Fit) -> bool:
    try:
        tags = parse_wheel_filename(file_name)[3]
    except InvalidWheelFilename:
        return False
    return not tags.isdisjoint(fit.compiled_tags)


def _accelerated(accelerator: str, folder: Path) -> tuple[str, str]:
    """Why there is no wheel for an accelerator, and how to get one."""
    how = f"Compile it as docs/recipes.md says and put it into {folder}, or take it from a machine that has"
    if shutil.which("nvcc") is None:
        return f"nvcc, the compiler of CUDA, is not on this machine to compile one for {accelerator}", how
    return f"nobody has compiled one for {accelerator} yet", how
