"""What the Admin service needs from the running site, as the narrowest protocols that will do.

The composition root passes in what it has. Without a running site there is no engine table and no gateway: models are
then ``absent``, traffic is unknown, and verbs that need neither work as ever.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from plugsky.admin.api import Duty, Host, Identity, RequestView, Traffic
from plugsky.engine.life.status import EngineStatus


class CatalogueModel(Protocol):
    """A model of the current generation, as ``models.catalogue`` gives it. ``sha256`` is that of its file."""

    @property
    def id(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def licence(self) -> str: ...
    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def sha256(self) -> str: ...
    @property
    def local(self) -> bool: ...


class IsolationReading(Protocol):
    """What ``policy.isolation`` saw; the fields of :class:`plugsky.admin.api.Isolation`."""

    @property
    def proven(self) -> bool: ...
    @property
    def engine_namespace(self) -> bool: ...
    @property
    def listening(self) -> tuple[str, ...]: ...
    @property
    def outbound(self) -> tuple[str, ...]: ...
    @property
    def default_route(self) -> bool: ...
    @property
    def findings(self) -> tuple[str, ...]: ...


class EngineTable(Protocol):
    """The supervisor's view of its engines."""

    async def engines(self) -> Mapping[str, EngineStatus]:
        """By model id; a model without an entry is absent."""
        ...


class GatewayControl(Protocol):
    """The gateway's control socket. Methods raise UNREACHABLE while the gateway is not there."""

    async def requests(self) -> tuple[RequestView, ...]: ...

    async def traffic(self) -> Traffic: ...

    async def cancel(self, job: str) -> None:
        """Ends a request in flight. Raises NOT_FOUND."""
        ...


class SiteFacts(Protocol):
    """What the composition root knows of the site and its host. Called in a thread."""

    def identity(self) -> Identity: ...

    def duties(self) -> tuple[Duty, ...]: ...

    def host(self) -> Host: ...

    def models(self) -> Sequence[CatalogueModel]: ...


IsolationProbe = Callable[[], Awaitable[IsolationReading]]
"""Reads the isolation of the site's processes now."""
