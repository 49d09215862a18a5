"""The gateway's control socket: live requests, traffic, cancel. Admin is its peer (``plugsky.admin.gateway_client``).

Only root, the gateway's own user and, on a host, Admin's are answered; who calls is the kernel's word.
"""

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from plugsky.admin.call_server import Answering
from plugsky.core import host_users
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.flights import Flights


def verbs(flights: Flights) -> Answering:
    """What the control socket answers over these flights."""

    answered = {0, os.geteuid(), *host_users.uids(host_users.ADMIN)}

    async def answer(uid: int, verb: str, args: Mapping[str, Any]) -> Any:
        if uid not in answered:
            raise PlugskyError(ErrorKind.FORBIDDEN, "the gateway's control socket answers its own site only")
        if verb == "requests":
            return msgspec.to_builtins(flights.requests())
        if verb == "traffic":
            return msgspec.to_builtins(flights.traffic())
        if verb == "cancel":
            return _cancel(flights, args.get("job"))
        raise PlugskyError(ErrorKind.NOT_FOUND, "the gateway has no such verb")

    return answer


def _cancel(flights: Flights, job: object) -> None:
    if not isinstance(job, str) or not flights.cancel(job, "operator"):
        raise PlugskyError(
            ErrorKind.NOT_FOUND,
            "there is no such request in flight",
            why="it ended, or never was",
            next="plugsky console",
            param="job",
        )
