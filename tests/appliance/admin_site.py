"""The Admin service over a site with a past: real files, keys, ledger and trail; what runs is given as values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.proven_site import DIGEST, ProvenSite
from plugsky.access.aliases import Aliases
from plugsky.access.logins import PURPOSE, Logins
from plugsky.access.people import People
from plugsky.access.tenants import Tenants
from plugsky.admin.api import Duty, Host, Identity, RequestView, Traffic
from plugsky.admin.assembly import OnDemandLog
from plugsky.admin.service import AdminService, OperatorAdmin
from plugsky.admin.sessions import Sessions
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Operator, Role
from plugsky.engine.life.status import EngineStatus

TRAFFIC = Traffic(7, 1, 1, 0, 70, 140, 12.5, 1000, 2000, 30, 60)
REQUEST = RequestView("job-live", "demo", "key", "m", "decode", 10, 3, 5_000_000, 900)


@dataclass(frozen=True)
class Model:
    id: str = "m"
    mode: str = "generate"
    size: int = 100
    context: int = 2048
    licence: str = "Apache-2.0"
    languages: tuple[str, ...] = ("en",)
    sha256: str = DIGEST
    local: bool = False


@dataclass(frozen=True)
class Reading:
    proven: bool = False
    engine_namespace: bool = True
    listening: tuple[str, ...] = ("127.0.0.1:8080",)
    outbound: tuple[str, ...] = ()
    default_route: bool = True
    findings: tuple[str, ...] = ("the host has a default route",)


class Facts:
    def identity(self) -> Identity:
        return Identity("host", "0.1.0", "/site", "demo", 1, "b" * 64, "f" * 64, "2026-11-22T17:00:00.000000Z")

    def duties(self) -> tuple[Duty, ...]:
        return (Duty("disk-full", "warning", "9 % free", "make room"),)

    def host(self) -> Host:
        return Host(0.5, 1, 2, None, None)

    def models(self) -> list[Model]:
        return [Model(), Model(id="other")]


class Engines:
    async def engines(self) -> Mapping[str, EngineStatus]:
        return {"m": EngineStatus("ready", pid=42, threads=2, restarts=1)}


class Gateway:
    def __init__(self) -> None:
        self.live = [REQUEST]

    async def requests(self) -> tuple[RequestView, ...]:
        return tuple(self.live)

    async def traffic(self) -> Traffic:
        return TRAFFIC

    async def cancel(self, job: str) -> None:
        if job not in [request.job for request in self.live]:
            raise PlugskyError(ErrorKind.NOT_FOUND, f"no request {job} is in flight", next="plugsky console")
        self.live = [request for request in self.live if request.job != job]


class AdminSite:
    """``as_`` gives the Admin of an operator with that role; ``service`` is what a server would serve."""

    def __init__(self, root: Path) -> None:
        self.past = ProvenSite(root)
        self.log = OnDemandLog(self.past.paths, "admin", self.past.clock)
        self.gateway = Gateway()

        async def probe() -> Reading:
            return Reading()

        self.service = AdminService(
            paths=self.past.paths,
            keys=self.past.keys,
            tenants=Tenants(self.past.database, self.past.clock),
            aliases=Aliases(self.past.database, self.past.clock),
            people=People(self.past.database, self.past.clock),
            logins=Logins(self.past.database, self.past.clock, self.past.keys.derived(PURPOSE), {}),
            sessions=Sessions(self.past.clock),
            ledger=self.past.ledger,
            audit=self.log,
            facts=Facts(),
            probe=probe,
            clock=self.past.clock,
            engines=Engines(),
            gateway=self.gateway,
            started_us=self.past.clock.monotonic_us() - 5_000_000,
        )

    def as_(self, role: Role) -> OperatorAdmin:
        return self.service.for_operator(Operator(1000 + list(Role).index(role), role.value, role))

    def stopped(self) -> OperatorAdmin:
        """An administrator while no site is running."""
        service = replace(self.service, engines=None, gateway=None, started_us=0)
        return service.for_operator(Operator(0, "root", Role.ADMIN))

    def close(self) -> None:
        self.log.close()
        self.past.close()
