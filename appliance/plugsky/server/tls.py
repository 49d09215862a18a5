"""TLS at the gateway's listener: 1.2 and 1.3, forward secrecy and authenticated ciphers only; mutual where asked for.

The certificate, its key and the authorities of clients are files that may be replaced while the gateway runs:
:meth:`Tls.reload` takes them for the connections that come, and keeps the former ones where the new cannot be used.
"""

import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky.core.errors import ErrorKind, PlugskyError

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; those of 1.3 are all of that kind (BCP 195, RFC 9325 section 4.2)."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the certificate with its chain, its key, and the authorities whose clients alone may connect."""

    certificate: Path
    key: Path
    clients: Path | None = None


class Tls:
    """The TLS of one listener."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises BAD_REQUEST that names the file that cannot be used."""
        self._files = files
        self.context = _context(files)

    def reload(self) -> None:
        """Take the files as they are now, for the connections that come. Raises BAD_REQUEST and changes nothing."""
        _context(self._files)
        _load(self.context, self._files)


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    if files.clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    try:
        if stat.S_IMODE(files.key.stat().st_mode) & 0o077:
            raise _unusable(files.key, "others can read it", f"chmod 600 {files.key}")
    except OSError as error:
        raise _unusable(files.key, error.strerror or type(error).__name__) from None
    try:
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except ssl.SSLError as error:
        why = "the key belongs to another certificate" if error.reason == "KEY_VALUES_MISMATCH" else str(error.reason)
        raise _unusable(files.certificate, f"it and its key cannot be used together: {why}") from None
    except (OSError, ValueError) as error:
        raise _unusable(files.certificate, getattr(error, "strerror", None) or str(error)) from None
    if files.clients is not None:
        try:
            context.load_verify_locations(files.clients)
        except (OSError, ssl.SSLError) as error:
            raise _unusable(files.clients, error.strerror or "it holds no certificate") from None


def _unusable(path: Path, why: str, advice: str = "") -> PlugskyError:
    return PlugskyError(
        ErrorKind.BAD_REQUEST,
        f"{path} cannot be used for TLS",
        why=why,
        next=advice or "give a certificate with its chain and its key without a passphrase, both in PEM",
    )
