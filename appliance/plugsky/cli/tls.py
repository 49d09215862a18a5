"""The TLS of a site's gateway as its settings have it."""

from plugsky.core import env
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.settings import Settings
from plugsky.server.tls import TlsFiles


def tls_files(chosen: Settings) -> TlsFiles | None:
    """The files that the settings name; None where they name none. Raises BAD_REQUEST for half of them."""
    certificate, key, clients = chosen.tls_certificate, chosen.tls_key, chosen.tls_clients
    if certificate is not None and key is not None:
        return TlsFiles(certificate, key, clients)
    if certificate is key is clients is None:
        return None
    missing = env.TLS_KEY if certificate is not None else env.TLS_CERTIFICATE
    raise PlugskyError(
        ErrorKind.BAD_REQUEST,
        "TLS needs a certificate and its key.",
        why=f"{missing.name} is not set, and another of the TLS settings is",
        next=f"set {missing.name}, or none of them",
    )
