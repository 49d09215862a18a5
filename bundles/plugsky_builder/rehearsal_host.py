"""Throwaway hosts for a rehearsal: an empty network namespace, and for another release its own root file system.

* `run_here`: in a network namespace of its own, on this machine's own system, as any user who may make one.
* `run_in_root`: also with its own mounts, processes and root, made from the tar of a minimal host; needs root. What
  runs there keeps the few capabilities that dpkg needs, so it can neither mount nor chroot nor make devices nor load
  modules. That keeps honest packages from doing harm by mistake; it is no prison for packages that attack the kernel.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from plugsky_builder import system_tools
from plugsky_builder.system_tools import Said, Tick
from plugsky_bundles.errors import SourceError

SECONDS: Final = 1800
ROOT_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
CAPABILITIES: Final = ("chown", "dac_override", "fowner", "fsetid", "kill", "setfcap", "setgid", "setuid")
SCRIPT: Final = Path(__file__).with_name("rehearse.sh")
PARTS: Final = "srv/parts"
POLICY: Final = "usr/sbin/policy-rc.d"


def obstacle(*, root: bool) -> str:
    """Why this machine cannot make such a host; empty when it can."""
    if root and os.geteuid() != 0:
        return "it needs root, to make a root file system of another release"
    try:
        command = [*_namespaces(), "true"]
    except SourceError as error:
        return f"{error.what}; {error.why}"
    said = system_tools.run(command, seconds=10)
    return "" if said.code == 0 else f"this machine allows no network namespace: {said.last}"


def run_here(parts: Path, python: str, tick: Tick) -> Said:
    """Rehearse with the parts in the directory `parts` and an interpreter of this machine."""
    environment = {"PATH": ROOT_PATH, "HOME": str(parts), "TMPDIR": str(parts), "PYTHON": python}
    command = [*_namespaces(), "/bin/sh", str(SCRIPT), str(parts)]
    return system_tools.run(command, seconds=SECONDS, environment=environment, tick=tick)


def unpack(tar: Path, root: Path) -> Path:
    """Make the root file system `root` from the tar of a minimal host; returns where the parts go in it."""
    root.mkdir()
    root.chmod(0o755)  # users there may look into it, whatever the umask here
    command = [system_tools.find("tar", "tar"), "--numeric-owner", "--xattrs", "-C", str(root), "-xf", str(tar)]
    said = system_tools.run(command, seconds=SECONDS)
    if said.code != 0:
        raise SourceError("A host for the rehearsal could not be unpacked", said.last, "Free some space")
    policy = root / POLICY
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")  # no service starts where nothing runs
    policy.chmod(0o755)
    parts = root / PARTS
    parts.mkdir(parents=True)
    parts.chmod(0o755)
    shutil.copyfile(SCRIPT, root / "srv" / SCRIPT.name)
    return parts


def run_in_root(root: Path, packages: Sequence[str], tick: Tick) -> Said:
    """Rehearse in the root file system `root`; `packages` are for apt."""
    keep = ",".join(["-all", *(f"+{name}" for name in CAPABILITIES)])
    command = [
        *(system_tools.find("unshare", "util-linux"), "--net", "--mount", "--pid", "--ipc", "--uts", "--fork"),
        *("--kill-child", f"--root={root}", "--wd=/", "--mount-proc"),
        *("/usr/bin/setpriv", "--no-new-privs", f"--bounding-set={keep}", f"--inh-caps={keep}"),
        *("/bin/sh", f"/srv/{SCRIPT.name}", f"/{PARTS}", *packages),
    ]
    environment = {"PATH": ROOT_PATH, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"}
    return system_tools.run(command, seconds=SECONDS, environment=environment, tick=tick)


def _namespaces() -> list[str]:
    """The command that gives another one an empty network; without root by way of a user namespace."""
    unshare = system_tools.find("unshare", "util-linux")
    return [unshare, "--net", *(() if os.geteuid() == 0 else ("--map-root-user",)), "--"]
