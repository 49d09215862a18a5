"""What can be seen of a site's isolation from the kernel's own tables. Reads ``/proc``; changes nothing.

The reading is of facts, not of settings: which network namespace each engine lives in and what that namespace holds,
which sockets the site's processes listen on, whether any of them has a socket to somewhere that is not this host, and
whether the host has a default route. ``proven`` is true only when nothing speaks against it; every objection is a
finding in words. The firewall's counters join this reading when a host is provisioned; without them a host with a
default route is never called proven.

Sources: proc(5), proc_pid_net(5) for the columns of ``net/tcp``, namespaces(7).
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LISTEN: Final = "0A"
_UNBOUND_STATES: Final = frozenset({LISTEN, "07"})  # listening TCP, and UDP without a peer


@dataclass(frozen=True)
class Socket:
    """One row of ``/proc/PID/net/{tcp,tcp6,udp,udp6}``."""

    protocol: str
    local: ipaddress.IPv4Address | ipaddress.IPv6Address
    local_port: int
    remote: ipaddress.IPv4Address | ipaddress.IPv6Address
    remote_port: int
    state: str
    inode: int

    @property
    def where(self) -> str:
        """``127.0.0.1:8080`` or ``[::1]:8080``: where it listens or sends from."""
        return _endpoint(self.local, self.local_port)


@dataclass(frozen=True)
class ProcessView:
    """What was read of one process: its network namespace, that namespace's sockets and links, and its own inodes."""

    pid: int
    role: str
    namespace: str
    sockets: tuple[Socket, ...]
    links: tuple[str, ...]
    inodes: frozenset[int]


@dataclass(frozen=True)
class IsolationReading:
    """The verdict; the fields are those of ``admin.api.Isolation``."""

    proven: bool
    engine_namespace: bool
    listening: tuple[str, ...]
    outbound: tuple[str, ...]
    default_route: bool
    findings: tuple[str, ...]


def judge(
    processes: Iterable[ProcessView], host_namespace: str, default_route: bool, allowed_hosts: Iterable[str]
) -> IsolationReading:
    """The verdict on what was read. Pure: the same reading always gets the same verdict."""
    seen = list(processes)
    findings: list[str] = []
    engines = [process for process in seen if process.role == "engine"]
    engine_namespace = bool(engines)
    for engine in engines:
        outer = [link for link in engine.links if link != "lo"]
        if engine.namespace == host_namespace:
            engine_namespace = False
            findings.append(f"engine {engine.pid} shares the host's network namespace")
        elif outer:
            engine_namespace = False
            findings.append(f"the network namespace of engine {engine.pid} has the link {outer[0]}")
    if not engines:
        findings.append("no engine is running, so its isolation cannot be seen")
    listening, outbound = _own_sockets(seen)
    allowed = {ipaddress.ip_address(host) for host in allowed_hosts}
    findings += [
        f"the site listens on {socket.where}, which the policy does not allow"
        for socket in listening
        if socket.local not in allowed
    ]
    findings += [f"a process of the site has a socket to {_remote(socket)}" for socket in outbound]
    if default_route:
        findings.append("the host has a default route and no firewall counters vouch that nothing uses it")
    return IsolationReading(
        proven=not findings,
        engine_namespace=engine_namespace,
        listening=tuple(sorted({socket.where for socket in listening})),
        outbound=tuple(sorted({_remote(socket) for socket in outbound})),
        default_route=default_route,
        findings=tuple(findings),
    )


def _own_sockets(processes: Iterable[ProcessView]) -> tuple[list[Socket], list[Socket]]:
    """The sockets the processes hold: those that listen, and those whose peer is neither this host nor our client."""
    mine = [s for process in processes for s in process.sockets if s.inode in process.inodes]
    listening = [s for s in mine if s.state in _UNBOUND_STATES and not s.remote_port]
    served = {(s.protocol, s.local_port) for s in listening}
    outbound = [
        s for s in mine if s.remote_port and not s.remote.is_loopback and (s.protocol, s.local_port) not in served
    ]
    return listening, outbound


def _remote(socket: Socket) -> str:
    return f"{socket.protocol} {_endpoint(socket.remote, socket.remote_port)}"


def _endpoint(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def parse_sockets(protocol: str, text: str) -> list[Socket]:
    """The rows of a ``/proc/PID/net`` socket table. Rows that do not have its columns are skipped, as its header is."""
    rows = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 10 or ":" not in fields[1]:
            continue
        local, local_port = _address(fields[1])
        remote, remote_port = _address(fields[2])
        rows.append(Socket(protocol, local, local_port, remote, remote_port, fields[3], int(fields[9])))
    return rows


def _address(column: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """``0100007F:1F90`` to an address and a port: the kernel prints each 32-bit word in host (little-endian) order."""
    host, port = column.split(":")
    words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
    address = ipaddress.ip_address(b"".join(words))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped, int(port, 16)
    return address, int(port, 16)


def has_default_route(route: str, ipv6_route: str) -> bool:
    """Whether ``/proc/net/route`` or ``/proc/net/ipv6_route`` holds a default route that leads to another host."""
    for line in route.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[1] == "00000000" and fields[7] == "00000000" and int(fields[3], 16) & 1:
            return True
    for line in ipv6_route.splitlines():
        fields = line.split()
        if len(fields) > 9 and fields[0] == "0" * 32 and fields[1] == "00" and fields[9] != "lo":
            return True
    return False


def probe(pids: Mapping[int, str], allowed_hosts: Iterable[str], proc: Path = Path("/proc")) -> IsolationReading:
    """Read ``/proc`` for the processes (pid to role: engine, gateway, admin) and judge. Gone ones are left out."""
    views = [view for pid, role in pids.items() if (view := _view(proc / str(pid), pid, role)) is not None]
    route = has_default_route(_text(proc / "net/route"), _text(proc / "net/ipv6_route"))
    return judge(views, str((proc / "self/ns/net").readlink()), route, allowed_hosts)


def _view(process: Path, pid: int, role: str) -> ProcessView | None:
    try:
        namespace = str((process / "ns/net").readlink())
        inodes = _inodes(process / "fd")
    except (FileNotFoundError, ProcessLookupError):
        return None
    sockets = [
        socket
        for table in ("tcp", "tcp6", "udp", "udp6")
        for socket in parse_sockets(table.removesuffix("6"), _text(process / "net" / table))
    ]
    links = [line.split(":")[0].strip() for line in _text(process / "net/dev").splitlines()[2:]]
    return ProcessView(pid, role, namespace, tuple(sockets), tuple(links), inodes)


def _inodes(directory: Path) -> frozenset[int]:
    found = set()
    for entry in directory.iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue  # closed between the listing and the look
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return frozenset(found)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""  # no IPv6, or the process ended: nothing to see is nothing held
