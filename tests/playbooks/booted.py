"""Booted hosts without a network: a minimal Debian with systemd in a container, a stick, and SSH over a private link.

A host is a real root file system of Debian's signed packages, booted by systemd-nspawn in namespaces of its own. The
only link leads to the machine of the test, and there is no route behind it. The bundle is bound read-only, as a stick
would be. ``IPAddressDeny`` and ``DevicePolicy`` are enforced inside, which takes the unified cgroup hierarchy and the
right to load BPF programs.

What a container does not show is listed in :data:`NOT_COVERED`, and the tests print it.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

NOT_COVERED: Final = (
    "limits of memory and tasks",
    "sysctls of the kernel",
    "the kernel's audit",
    "setting the clock",
    "the kernel's log of the firewall",
    "kernel modules and GPUs",
)
TOOLS: Final = ("systemd-nspawn", "mmdebstrap", "gpg", "ssh", "ssh-keygen", "ip")
PACKAGES: Final = ("systemd-sysv", "dbus", "openssh-server", "iproute2", "udev")
BOOT_S: Final = 60
_NETWORK: Final = "[Match]\nName=host0\n[Network]\nAddress={address}/30\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"


def missing() -> str:
    """Why no host can be booted here; empty where it can."""
    if os.geteuid() != 0:
        return "booting hosts needs root"
    if os.uname().machine != "x86_64":
        return "the hosts are amd64"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"{', '.join(lacking)} not installed" if lacking else ""


class BootedHost:
    """One host. ``number`` (1 to 60) makes its name and its address; use it as a context manager."""

    def __init__(self, tar: Path, folder: Path, number: int, stick: Path | None = None) -> None:
        self.name = f"ps{os.getpid() % 10000}h{number}"
        self.address = f"10.213.{os.getpid() % 250}.{number * 4 + 2}"
        self._gateway = f"10.213.{os.getpid() % 250}.{number * 4 + 1}"
        self.root = folder / f"h{number}"
        self._key = folder / "id_ed25519"
        self._log = folder / f"h{number}.boot"
        self._stick = stick
        self._process: subprocess.Popen[bytes] | None = None
        self._unpack(tar, number)

    def boot(self) -> None:
        """Boot it and wait until SSH answers."""
        command = ["systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", f"--machine={self.name}"]
        command += ["--private-network", "--network-veth", "--register=no", "--keep-unit", "--console=pipe"]
        command += ["--system-call-filter=bpf", "--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON"]
        if self._stick is not None:
            command.append(f"--bind-ro={self._stick}:/media/stick")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={"PATH": os.environ["PATH"], "UNIFIED_CGROUP_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + BOOT_S
        link = f"ve-{self.name}"
        while subprocess.run(["ip", "link", "show", link], capture_output=True, check=False).returncode:
            self._not_later_than(deadline)
        subprocess.run(["ip", "address", "add", f"{self._gateway}/30", "dev", link], check=True)
        subprocess.run(["ip", "link", "set", link, "up"], check=True)
        while self.ssh("true", check=False).returncode:
            self._not_later_than(deadline)

    def ssh(self, *command: str, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run a shell command line as root on it."""
        options = ("-q", "-i", str(self._key), "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null")
        options += ("-oBatchMode=yes", "-oConnectTimeout=2", "-oControlMaster=no")
        done = subprocess.run(
            ["ssh", *options, f"root@{self.address}", *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def run(self, command: str, **kwargs) -> str:
        """What a command that succeeds prints."""
        return self.ssh(command, **kwargs).stdout

    def json(self, command: str):
        return json.loads(self.run(command))

    def power_off(self) -> None:
        """Pull the plug: every process of it is killed. Those of a PID namespace end with its first (namespaces(7))."""
        if self._process is not None:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            for pid in (*map(int, children), self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            subprocess.run(["ip", "link", "delete", f"ve-{self.name}"], capture_output=True, check=False)

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(self, *_) -> None:
        self.power_off()

    def _unpack(self, tar: Path, number: int) -> None:
        self.root.mkdir(parents=True)
        unpacking = ["tar", "--numeric-owner", "--xattrs", "-C", str(self.root), "-xf", str(tar)]
        subprocess.run([*unpacking, "--exclude=./dev/*"], check=True)
        if not self._key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._key)], check=True)
        etc = self.root / "etc"
        (self.root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self._key.with_suffix(".pub"), self.root / "root/.ssh/authorized_keys")
        (self.root / "root/.ssh/authorized_keys").chmod(0o600)
        (etc / "hostname").write_text(f"h{number}\n")
        (etc / "systemd/network").mkdir(parents=True, exist_ok=True)
        (etc / "systemd/network/10-host0.network").write_text(_NETWORK.format(address=self.address))
        wanted = etc / "systemd/system/multi-user.target.wants"
        wanted.mkdir(parents=True, exist_ok=True)
        (wanted / "systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")
        (etc / "machine-id").write_text("")
        (etc / "resolv.conf").unlink(missing_ok=True)

    def _not_later_than(self, deadline: float) -> None:
        if time.monotonic() > deadline or (self._process is not None and self._process.poll() is not None):
            raise TimeoutError(f"the host did not boot:\n{self._log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.1)


@contextlib.contextmanager
def booted(tar: Path, folder: Path, number: int = 1, stick: Path | None = None) -> Iterator[BootedHost]:
    """A host that has booted, for the length of the block."""
    with BootedHost(tar, folder, number, stick) as host:
        yield host
