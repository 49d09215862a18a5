"""The site's settings and where each value comes from.

A flag beats the environment, the environment beats the user's file, the user's file beats the system's file
(``/etc/plugsky/plugsky.toml``), and that beats the default. A file is TOML with the names below at its top level; an
unknown name or a value of the wrong type is refused with the file's path, never ignored; so is a file that
``PLUGSKY_CONFIG`` names and that is not there. ``plugsky config show`` prints the result with its origins.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_type_hints

from plugsky.core import env
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SYSTEM_ROOT

LOOPBACK: Final = "127.0.0.1"
SYSTEM_FILE: Final = Path("/etc/plugsky/plugsky.toml")
AUTO: Final = "auto"

KvType = Literal["f16", "q8_0", "q4_0"]
"""How engines keep keys and values: in 16 bits, or quantised to about 8 or 4."""
Numa = Literal["off", "distribute", "isolate", "numactl"]
"""How an engine spreads threads and memory over NUMA nodes: see llama.cpp's ``--numa``."""


LogFormat = Literal["text", "json"]
"""How processes write their logs: lines to read, or a JSON object a line."""


LoginRule = Literal["optional", "required"]


@dataclass(frozen=True)
class Settings:
    """The values a command runs with."""

    root: Path | None
    trust: Path | None
    cache: Path
    wheelhouse: Path | None
    host: str
    port: int
    database: str
    """A PostgreSQL URL without a password; empty: the site keeps its own file."""
    tls_certificate: Path | None
    """With its chain. None: no TLS, and so loopback only."""
    tls_key: Path | None
    tls_clients: Path | None
    """Authorities of clients. None: clients need no certificate."""
    log_format: LogFormat
    logins: LoginRule
    """Whether people must log in on the Admin socket of a running site, beyond being the account they are."""
    ldap_url: str
    """The site's directory, ``ldaps://HOST`` or ``ldap://HOST``; empty: there is none."""
    ldap_bind: str
    """As whom a person binds; ``{name}`` stands for the login's name."""
    ldap_base: str
    ldap_filter: str
    """What a person's entry below ``ldap_base`` must be like; ``{name}`` as in ``ldap_bind``."""
    ldap_authorities: Path | None
    """Authorities of the directory's certificate, in PEM."""
    oidc_issuer: str
    """The site's OpenID provider, as its tokens name it; empty: there is none."""
    oidc_client: str
    """What the site is called there."""
    oidc_claim: str
    """Which claim of a token names a person."""
    oidc_keys: Path | None
    """The provider's public keys, a JWK Set."""
    threads: int
    context: int
    idle_exit: int
    """Seconds without a request after which an engine gives its memory back; 0: never."""
    batch: int
    kv_type: KvType
    gpu_layers: int | None
    """None: as many as fit."""
    numa: Numa


@dataclass(frozen=True)
class Sourced:
    """Settings and, for each name, where its value comes from: flag, a variable's name, a file's path, or default."""

    values: Settings
    origins: Mapping[str, str]


_VARIABLES: Final = {
    "root": env.ROOT,
    "trust": env.TRUST,
    "cache": env.CACHE,
    "wheelhouse": env.WHEELHOUSE,
    "host": env.HOST,
    "port": env.PORT,
    "database": env.DATABASE,
    "tls_certificate": env.TLS_CERTIFICATE,
    "tls_key": env.TLS_KEY,
    "tls_clients": env.TLS_CLIENTS,
    "log_format": env.LOG_FORMAT,
    "logins": env.LOGINS,
    "ldap_url": env.LDAP_URL,
    "ldap_bind": env.LDAP_BIND,
    "ldap_base": env.LDAP_BASE,
    "ldap_filter": env.LDAP_FILTER,
    "ldap_authorities": env.LDAP_AUTHORITIES,
    "oidc_issuer": env.OIDC_ISSUER,
    "oidc_client": env.OIDC_CLIENT,
    "oidc_claim": env.OIDC_CLAIM,
    "oidc_keys": env.OIDC_KEYS,
    "threads": env.THREADS,
    "context": env.CONTEXT,
    "idle_exit": env.IDLE_EXIT,
    "batch": env.BATCH,
    "kv_type": env.KV_TYPE,
    "gpu_layers": env.GPU_LAYERS,
    "numa": env.NUMA,
}


def load(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    system_file: Path = SYSTEM_FILE,
) -> Sourced:
    """The settings under these flags (None values are absent flags) and this environment.

    Raises :class:`PlugskyError` of kind ``bad_request`` for a file or variable that cannot be used, by name.
    """
    environment = env.current() if environ is None else environ
    values: dict[str, Any] = _defaults(environment)
    origins = dict.fromkeys(values, "default")
    for path, named in ((system_file, False), (user_file(environment), env.CONFIG.read(environment) is not None)):
        for name, value in _read_file(path, named=named).items():
            values[name] = _typed(name, value, str(path))
            origins[name] = str(path)
    for name, variable in _VARIABLES.items():
        text = variable.read(environment)
        if text is not None:
            values[name] = _typed(name, text, variable.name)
            origins[name] = variable.name
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = _typed(name, value, f"--{name.replace('_', '-')}")
            origins[name] = "flag"
    return Sourced(Settings(**values), origins)


def user_file(environ: Mapping[str, str]) -> Path:
    """The user's settings file: ``PLUGSKY_CONFIG``, else below ``$XDG_CONFIG_HOME``."""
    named = env.CONFIG.read(environ)
    if named:
        return Path(named)
    base = env.XDG_CONFIG_HOME.read(environ)
    return (Path(base) if base else Path.home() / ".config") / "plugsky" / "plugsky.toml"


def _defaults(environ: Mapping[str, str]) -> dict[str, Any]:
    cache = env.XDG_CACHE_HOME.read(environ)
    return {
        "root": SYSTEM_ROOT if os.geteuid() == 0 and SYSTEM_ROOT.is_dir() else None,
        "trust": None,
        "cache": (Path(cache) if cache else Path.home() / ".cache") / "plugsky",
        "wheelhouse": None,
        "host": LOOPBACK,
        "port": 8080,
        "database": "",
        "tls_certificate": None,
        "tls_key": None,
        "tls_clients": None,
        "log_format": "text",
        "logins": "optional",
        "ldap_url": "",
        "ldap_bind": "",
        "ldap_base": "",
        "ldap_filter": "(uid={name})",
        "ldap_authorities": None,
        "oidc_issuer": "",
        "oidc_client": "",
        "oidc_claim": "sub",
        "oidc_keys": None,
        "threads": physical_cores(),
        "context": 4096,
        "idle_exit": 0,
        "batch": 256,
        "kv_type": "f16",
        "gpu_layers": None,
        "numa": "off",
    }


def physical_cores(sys_cpu: Path = Path("/sys/devices/system/cpu")) -> int:
    """Cores this process may run on, hyper-threads counted once: sharing one slows llama.cpp down."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = sys_cpu / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        cores.add(siblings.read_text().strip() if siblings.exists() else str(cpu))
    return max(1, len(cores))


def _read_file(path: Path, *, named: bool) -> dict[str, Any]:
    """The settings in ``path``; none where it is not there, unless someone ``named`` it."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        if not named:
            return {}
        raise _bad(
            f"{path} is not there.", f"{env.CONFIG.name} names it", f"make it, or unset {env.CONFIG.name}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad(f"{path} is not TOML.", str(error), f"mend {path}") from error
    for name in table:
        if name not in _VARIABLES:
            near = difflib.get_close_matches(name, _VARIABLES, 1)
            hint = f"did you mean {near[0]}?" if near else f"known names: {', '.join(_VARIABLES)}"
            raise _bad(f"{path} sets {name}, which is no setting.", hint, f"mend {path}")
    return table


_TYPES: Final = {field.name: get_type_hints(Settings)[field.name] for field in fields(Settings)}
_CHOICES: Final = {
    "log_format": get_args(LogFormat),
    "logins": get_args(LoginRule),
    "kv_type": get_args(KvType),
    "numa": get_args(Numa),
}
_RANGES: Final = {
    "port": (0, 65535),
    "threads": (1, 1024),
    "context": (256, 1 << 24),
    "batch": (64, 4096),
    "gpu_layers": (0, 1024),
    "idle_exit": (0, 1 << 31),
}


def _typed(name: str, value: object, origin: str) -> object:
    if name == "gpu_layers":
        return gpu_layers(value, origin)
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise _bad(f"{origin} is {value!r}.", f"{name} is one of {', '.join(_CHOICES[name])}", f"mend {origin}")
        return value
    if name in _RANGES:
        return _number(name, value, origin)
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value:
        raise _bad(f"{origin} is {value!r}.", f"{name} is text", f"mend {origin}")
    if name == "host" and value == "localhost":
        return LOOPBACK
    return value if _TYPES[name] is str else Path(value)


def gpu_layers(value: object, origin: str) -> int | None:
    """How many layers ``value`` wants on GPUs, None where that is ``auto``. Raises ``bad_request``, by ``origin``."""
    return None if value == AUTO else _number("gpu_layers", value, origin)


def _number(name: str, value: object, origin: str) -> int:
    try:
        number = int(str(value))
    except ValueError as error:
        auto = f", or {AUTO}" if name == "gpu_layers" else ""
        raise _bad(f"{origin} is {value!r}.", f"{name} is a whole number{auto}", f"mend {origin}") from error
    low, high = _RANGES[name]
    if not low <= number <= high:
        raise _bad(f"{origin} is {number}.", f"{name} lies between {low} and {high}", f"mend {origin}")
    return number


def _bad(what: str, why: str, advice: str) -> PlugskyError:
    return PlugskyError(ErrorKind.BAD_REQUEST, what, why=why, next=advice)
