"""Every environment variable Plugsky reads, in one place. ``plugsky help environment`` prints it.

No other module may touch ``os.environ`` (a test holds that), so that a site's behaviour can be read from this page.
A flag beats the environment; the environment beats the user's file; see :mod:`plugsky.core.settings`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Variable:
    """One environment variable: its name, what it is for, and whether its value is a secret."""

    name: str
    about: str
    secret: bool = False

    def read(self, environ: Mapping[str, str] | None = None) -> str | None:
        """Its value, or None where it is unset or empty."""
        return (current() if environ is None else environ).get(self.name) or None


def current() -> Mapping[str, str]:
    """The environment of this process. To be read through a :class:`Variable`, or handed to a child as a whole."""
    return os.environ


ROOT: Final = Variable(
    "PLUGSKY_ROOT", "The site's directory, as --root. Default: /var/lib/plugsky for root, where it is there."
)
TRUST: Final = Variable("PLUGSKY_TRUST", "The operator's trust directory, as --trust.")
PASSPHRASE: Final = Variable("PLUGSKY_PASSPHRASE", "The passphrase of the operator's keys.", secret=True)
PASSPHRASE_FILE: Final = Variable("PLUGSKY_PASSPHRASE_FILE", "A file whose first line is that passphrase.")
HSM: Final = Variable("PLUGSKY_HSM", "The PKCS#11 library of a hardware security module, as --hsm.")
HSM_PIN: Final = Variable("PLUGSKY_HSM_PIN", "The PIN of the token in that module.", secret=True)
HSM_PIN_FILE: Final = Variable("PLUGSKY_HSM_PIN_FILE", "A file whose first line is that PIN.")
WHEELHOUSE: Final = Variable("PLUGSKY_WHEELHOUSE", "A folder with llama-cpp-python's compiled wheel.")
CACHE: Final = Variable("PLUGSKY_CACHE", "Where the builder keeps downloads. Default: $XDG_CACHE_HOME/plugsky.")
MIRRORS: Final = Variable(
    "PLUGSKY_MIRRORS", "PREFIX=MIRROR pairs of addresses: where a build fetches https files instead."
)
HOST: Final = Variable("PLUGSKY_HOST", "The address the gateway listens on, as --host. Default: 127.0.0.1.")
PORT: Final = Variable("PLUGSKY_PORT", "The port the gateway listens on, as --port. Default: 8080.")
DATABASE: Final = Variable(
    "PLUGSKY_DATABASE",
    "The PostgreSQL database of a site, as postgresql://USER@HOST/NAME. Default: a file of the site.",
)
TLS_CERTIFICATE: Final = Variable(
    "PLUGSKY_TLS_CERTIFICATE",
    "The gateway's certificate with its chain, in PEM. Default: none, HTTP on loopback.",
)
TLS_KEY: Final = Variable("PLUGSKY_TLS_KEY", "The file with that certificate's key, without a passphrase, mode 0600.")
TLS_CLIENTS: Final = Variable(
    "PLUGSKY_TLS_CLIENTS", "Certificates of authorities, in PEM: only clients that they vouch for may connect."
)
LOG_FORMAT: Final = Variable("PLUGSKY_LOG_FORMAT", "How processes write their logs: text or json. Default: text.")
LOGINS: Final = Variable(
    "PLUGSKY_LOGINS",
    "Whether people must log in to administer a site: optional or required. Default: optional.",
)
LDAP_URL: Final = Variable(
    "PLUGSKY_LDAP_URL", "The site's directory: ldaps://HOST, or ldap://HOST to begin TLS there. Default: none."
)
LDAP_BIND: Final = Variable(
    "PLUGSKY_LDAP_BIND", "As whom a person binds to the directory, such as uid={name},ou=people,dc=example."
)
LDAP_BASE: Final = Variable("PLUGSKY_LDAP_BASE", "Where the directory's people are, such as ou=people,dc=example.")
LDAP_FILTER: Final = Variable(
    "PLUGSKY_LDAP_FILTER", "The filter that finds a person who may log in. Default: (uid={name})."
)
LDAP_AUTHORITIES: Final = Variable(
    "PLUGSKY_LDAP_AUTHORITIES", "Certificates of the authorities of the directory's certificate, in PEM."
)
OIDC_ISSUER: Final = Variable(
    "PLUGSKY_OIDC_ISSUER", "The site's OpenID provider, as its tokens name it. Default: none."
)
OIDC_CLIENT: Final = Variable("PLUGSKY_OIDC_CLIENT", "What the site is called at that provider.")
OIDC_CLAIM: Final = Variable("PLUGSKY_OIDC_CLAIM", "Which claim of its tokens names a person. Default: sub.")
OIDC_KEYS: Final = Variable("PLUGSKY_OIDC_KEYS", "A file with its public keys, as a JWK Set.")
SESSION: Final = Variable("PLUGSKY_SESSION", "The session that `plugsky login begin` wrote.", secret=True)
THREADS: Final = Variable(
    "PLUGSKY_THREADS", "Cores an engine may use, as --threads. Default: the host's physical cores."
)
CONTEXT: Final = Variable("PLUGSKY_CONTEXT", "KV cells of an engine, as --context. Default: 4096.")
IDLE_EXIT: Final = Variable(
    "PLUGSKY_IDLE_EXIT", "Seconds without a request after which an engine ends, as --idle-exit. Default: 0, never."
)
BATCH: Final = Variable("PLUGSKY_BATCH", "Tokens that an engine computes at once at most. Default: 256.")
KV_TYPE: Final = Variable("PLUGSKY_KV_TYPE", "How engines keep keys and values: f16, q8_0 or q4_0. Default: f16.")
GPU_LAYERS: Final = Variable(
    "PLUGSKY_GPU_LAYERS", "Layers that an engine puts on GPUs, or auto for as many as fit. Default: auto."
)
NUMA: Final = Variable(
    "PLUGSKY_NUMA", "How engines use several NUMA nodes: off, distribute, isolate or numactl. Default: off."
)
CONFIG: Final = Variable("PLUGSKY_CONFIG", "The user's settings file. Default: $XDG_CONFIG_HOME/plugsky/plugsky.toml.")
TRACEBACK: Final = Variable("PLUGSKY_TRACEBACK", "Set to anything: unforeseen errors show where they happened.")
HTTPS_PROXY: Final = Variable("HTTPS_PROXY", "The proxy for a build's downloads.")
HTTP_PROXY: Final = Variable("HTTP_PROXY", "The same for addresses without TLS.")
ALL_PROXY: Final = Variable("ALL_PROXY", "The same for every address.")
NO_PROXY: Final = Variable("NO_PROXY", "Hosts that a build asks without a proxy.")
SSL_CERT_FILE: Final = Variable("SSL_CERT_FILE", "The authorities that a build trusts. Default: the system's.")
SSL_CERT_DIR: Final = Variable("SSL_CERT_DIR", "The same as a directory.")
REQUESTS_CA_BUNDLE: Final = Variable("REQUESTS_CA_BUNDLE", "The same as SSL_CERT_FILE, which beats it.")
NETRC: Final = Variable("NETRC", "The file with a build's passwords by host. Default: ~/.netrc.")
PIP_INDEX_URL: Final = Variable("PIP_INDEX_URL", "The Python package index of a build, as for pip.")
UV_DEFAULT_INDEX: Final = Variable("UV_DEFAULT_INDEX", "The same for `bundle lock`, which it beats there.")
HF_ENDPOINT: Final = Variable("HF_ENDPOINT", "The Hugging Face mirror of a build. Default: https://huggingface.co.")
HF_TOKEN: Final = Variable("HF_TOKEN", "The token for gated models. Default: that of `hf auth login`.", secret=True)
HF_HUB_DISABLE_TELEMETRY: Final = Variable("HF_HUB_DISABLE_TELEMETRY", "Always on: a build tells nobody what it does.")
XDG_RUNTIME_DIR: Final = Variable("XDG_RUNTIME_DIR", "Where an unprivileged site keeps its sockets.")
XDG_CACHE_HOME: Final = Variable("XDG_CACHE_HOME", "The user's cache directory. Default: ~/.cache.")
XDG_CONFIG_HOME: Final = Variable("XDG_CONFIG_HOME", "The user's settings directory. Default: ~/.config.")
NO_COLOR: Final = Variable("NO_COLOR", "Set to anything: no colour anywhere (no-color.org).")
TERM: Final = Variable("TERM", "The terminal's type; `dumb` gives plain output.")
COLORTERM: Final = Variable("COLORTERM", "`truecolor` when the terminal shows 24-bit colour.")
SSH_TTY: Final = Variable("SSH_TTY", "Set by sshd; the console then redraws less often.")

LISTEN_FDS: Final = Variable("LISTEN_FDS", "How many listening sockets systemd or the supervisor passes, from 3 on.")
LISTEN_FDNAMES: Final = Variable("LISTEN_FDNAMES", "The names of those sockets, with colons between them.")
LISTEN_PID: Final = Variable("LISTEN_PID", "The process those sockets are meant for.")
NOTIFY_SOCKET: Final = Variable("NOTIFY_SOCKET", "Where systemd hears from a service that it is ready and alive.")
EVENTS: Final = Variable("PLUGSKY_EVENTS", "The descriptor on which a run of a playbook tells what it does.")
GOMP_SPINCOUNT: Final = Variable("GOMP_SPINCOUNT", "How long an engine's idle worker threads spin. Default: 3000.")

ALL: Final = tuple(value for value in dict(globals()).values() if isinstance(value, Variable))


def for_child(listeners: int = 0, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process we start: ours without secrets, with ``listeners`` sockets from descriptor 3 on."""
    source = os.environ if environ is None else environ
    kept_back = {variable.name for variable in ALL if variable.secret}
    kept_back |= {LISTEN_FDS.name, LISTEN_FDNAMES.name, LISTEN_PID.name, NOTIFY_SOCKET.name}
    kept_back.add("GGML_BACKEND_PATH")  # ggml would load code from anywhere
    child = {name: value for name, value in source.items() if name not in kept_back}
    if listeners:
        child[LISTEN_FDS.name] = str(listeners)
    return child


def set_default(variable: Variable, value: str) -> None:
    """Set ``variable`` for a C library that this process loads later, unless somebody has set it."""
    os.environ.setdefault(variable.name, value)
