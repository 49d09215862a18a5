"""What a plan must know of the host and of the file systems that a site lies on, or would; nothing is written for it.

Before the first installation the site's directories do not exist: what counts is the nearest directory above that does.
Sources: os-release(5), confstr(3), sysconf(3), getrlimit(2), proc_pid_mountinfo(5).
"""

import os
import platform
import resource
from dataclasses import replace
from pathlib import Path
from typing import Final

from plugsky.core.paths import SitePaths
from plugsky.fleet import generations
from plugsky_bundles.format import MAX_FILE
from plugsky_bundles.preflight import SiteFacts

FAT_LIMIT: Final = (1 << 32) - 1
"""Bytes of the longest file on FAT32."""
_FAT: Final = frozenset({"vfat", "msdos"})
_LINKLESS: Final = _FAT | {"exfat"}
_MOUNTS: Final = Path("/proc/self/mountinfo")


def of(paths: SitePaths) -> SiteFacts:
    """The facts of the site at ``paths`` and of this host."""
    root = _nearest(paths.root)
    kind = file_system(root)
    limits = [MAX_FILE]
    if kind in _FAT:
        limits.append(FAT_LIMIT)
    if (limit := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) != resource.RLIM_INFINITY:
        limits.append(limit)
    return replace(
        generations.facts(paths),
        os=_system(),
        glibc=(os.confstr("CS_GNU_LIBC_VERSION") or "").rpartition(" ")[2],
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        max_file=min(limits),
        links=kind not in _LINKLESS,
        apart=tuple(
            str(path)
            for path in (paths.store, paths.staging, paths.generations)
            if _nearest(path).stat().st_dev != root.stat().st_dev
        ),
    )


def file_system(path: Path, mounts: Path = _MOUNTS) -> str:
    """The type of the file system that ``path`` is on, as ``ext4`` or ``vfat``; empty where the kernel does not say."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.read_text(errors="replace").splitlines():
        mount, _, rest = line.partition(" - ")
        if mount.split()[2:3] == [number]:
            return rest.split()[0]
    return ""


def _nearest(path: Path) -> Path:
    return next(path for path in (path, *path.parents) if path.is_dir())


def _system() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    return f"{release.get('ID', '')}-{release.get('VERSION_ID', '')}"
