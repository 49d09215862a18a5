"""What was known to be vulnerable when the bundle was built: `evidence/vulnerabilities.json`, frozen with its date.

Python packages are asked about at OSV by pip-audit, a process of its own with a time limit, whose answer is read
strictly. Debian packages are looked up in the security tracker's data, when the operator brings that file. What could
not be asked stands there too, as not checked and why: it is never silently absent, and a recipe or the command line can
demand it. PLUGSKY_MIRRORS can name a mirror of https://api.osv.dev/.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from plugsky.core import env
from plugsky_builder import system_tools, web
from plugsky_builder.cache import Cache
from plugsky_builder.evidence import components as parts
from plugsky_builder.evidence.components import Component
from plugsky_bundles import strict_json
from plugsky_bundles.errors import MalformedMetadata, SourceError, SourceUnreachable
from plugsky_bundles.times import stamp

SERVICE: Final = "https://api.osv.dev/v1/query"
SECONDS: Final = 300.0
ANSWER_SECONDS: Final = 15
NO_VULNERABILITIES, SOME = 0, 1
_UNREACHABLE: Final = re.compile(r"ConnectionError|Timeout|ProxyError|SSLError")


def unchecked(why: str, at: datetime) -> dict[str, Any]:
    """The record of what was not checked."""
    return {"checked": False, "why": why, "at": stamp(at)}


def python(components: Iterable[Component], cache: Cache, at: datetime) -> dict[str, Any] | None:
    """What OSV knows of the wheels among `components`; None where there are none. Raises nothing for one not asked."""
    pins = sorted({(one.name, one.version) for one in components if one.kind == parts.WHEEL})
    if not pins:
        return None
    if cache.offline:
        return unchecked("the build was offline", at)
    try:
        answer = _ask(pins, web.mirrored(SERVICE))
    except SourceError as error:
        return unchecked(f"{error.what}: {error.why}", at)
    return {
        "checked": True,
        "at": stamp(at),
        "tool": f"pip-audit {importlib.metadata.version('pip-audit')}",
        "database": {"service": SERVICE, "as_of": stamp(at)},
        "packages": len(pins),
        **answer,
    }


def _ask(pins: Iterable[tuple[str, str]], url: str) -> dict[str, Any]:
    """Raises SourceError when there is no answer for all of them."""
    rounds: list[dict[str, str]] = []
    for name, version in pins:  # each target may have its own version of a package, and a round knows one
        place = next((one for one in rounds if name not in one), None)
        if place is None:
            rounds.append(place := {})
        place[name] = version
    answers = [_ask_round(one, url) for one in rounds]
    return {
        kind: sorted((one for answer in answers for one in answer[kind]), key=lambda one: (one["name"], repr(one)))
        for kind in ("found", "skipped")
    }


def _ask_round(pins: Mapping[str, str], url: str) -> dict[str, list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory(prefix="plugsky-audit-") as folder:
        path = Path(folder) / "pins.txt"
        path.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()), encoding="ascii")
        command = [sys.executable, "-m", "pip_audit", "-r", str(path), "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", "osv", "--osv-url", url, "--timeout", str(ANSWER_SECONDS)]
        command += ["--format", "json", "--desc", "off", "--aliases", "on", "--progress-spinner", "off"]
        command += ["--cache-dir", str(Path(folder) / "cache")]
        said = system_tools.run(command, seconds=SECONDS, inherited=True, environment=_certificates())
    if said.code not in (NO_VULNERABILITIES, SOME) or not said.out.strip():
        last = web.redacted((said.err.strip().splitlines() or ["it says nothing"])[-1])
        if _UNREACHABLE.search(last):
            raise SourceUnreachable(f"{web.redacted(url)} did not answer", last.partition(":")[0], "Check the network")
        raise SourceError("pip-audit got no answer", last[:300], "Check the network")
    return _read(said.out, set(pins.items()))


def _certificates() -> dict[str, str]:
    """pip-audit knows one of the variables that name the authorities to trust."""
    named = env.SSL_CERT_FILE.read()
    return {env.REQUESTS_CA_BUNDLE.name: named} if named and not env.REQUESTS_CA_BUNDLE.read() else {}


def _read(out: bytes, asked: set[tuple[str, str]]) -> dict[str, list[dict[str, Any]]]:
    try:
        answer = strict_json.parse_object(out, "pip-audit's answer", limit=system_tools.MAX_SAID)
        found, skipped, heard = [], [], set()
        for one in answer["dependencies"]:
            name = _text(one["name"])
            if "skip_reason" in one:
                skipped.append({"name": name, "why": _text(one["skip_reason"])})
                continue
            version = _text(one["version"])
            heard.add((name, version))
            found += [_vulnerability(name, version, known) for known in one["vulns"]]
    except (MalformedMetadata, KeyError, TypeError, ValueError) as error:
        raise SourceError("pip-audit's answer cannot be read", repr(error)[:200], "Report it") from error
    missing = {name for name, _ in asked - heard} - {one["name"] for one in skipped}
    if missing:
        raise SourceError("pip-audit's answer is not complete", f"it lacks {', '.join(sorted(missing))}", "Report it")
    return {"found": found, "skipped": skipped}


def _vulnerability(name: str, version: str, known: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "id": _text(known["id"]),
        "aliases": sorted(_text(alias) for alias in known["aliases"]),
        "fixed": [_text(fixed) for fixed in known["fix_versions"]],
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        msg = f"{value!r} is not text"
        raise TypeError(msg)
    return value
