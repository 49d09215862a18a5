"""Real servers for tests of the builder's downloads: TLS with a CA of their own, and a proxy that tunnels.

A `Site` answers by path with what a test put there: a `Reply`, or a function that gets the request's headers and gives
one. It keeps every request it saw. Nothing is faked on the client's side.
"""

import base64
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Reply:
    """An answer. `declared` is its Content-Length, None for none; only the first `cut` bytes of the body are sent."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    declared: int | str | None = "right"
    cut: int | None = None
    endless: bool = False


Answer = Reply | Callable[[Mapping[str, str]], Reply]


class Authority:
    """A certificate authority that lives as long as a test session."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        certificate = self._sign(self._name, self._key.public_key(), ca=True)
        self.bundle = folder / "ca.pem"
        self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._folder = folder

    def server_context(self) -> ssl.SSLContext:
        """A context for a server at 127.0.0.1 and localhost."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        certificate = self._sign(name, key.public_key(), ca=False)
        chain = self._folder / "server.pem"
        private = serialization.PrivateFormat.PKCS8
        chain.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return context

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        else:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


class Site:
    """A server at 127.0.0.1, over TLS when it has a context."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        site = self
        self.pages: dict[str, Answer] = {}
        self.seen: list[tuple[str, str, Mapping[str, str]]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                headers = {name.lower(): text for name, text in self.headers.items()}
                site.seen.append((self.command, self.path, headers))
                answer = site.pages.get(self.path.partition("?")[0], Reply(b"not here", 404))
                reply = answer if isinstance(answer, Reply) else answer({**headers, ":method": self.command})
                self.close_connection = True
                self.send_response(reply.status)
                for name, text in reply.headers.items():
                    self.send_header(name, text)
                length = len(reply.body) if reply.declared == "right" else reply.declared
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.send_header("Connection", "close")
                self.end_headers()
                if self.command == "HEAD":
                    return
                self.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])
                while reply.endless:
                    self.wfile.write(bytes(1 << 16))

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True  # the client had enough

            def log_message(self, *_args: object) -> None:
                """Tests are quiet."""

        for command in ("GET", "HEAD", "POST"):
            setattr(Handler, f"do_{command}", Handler.answer)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:
                try:
                    wrapped = context.wrap_socket(request, server_side=True) if context else request
                except OSError:
                    return  # a client that does not trust us
                super().finish_request(wrapped, client_address)
                wrapped.close()

            def handle_error(self, *_args: object) -> None:
                """Tests are quiet."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self.scheme = "https" if context else "http"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def with_ranges(body: bytes, tag: str = '"one"', cuts: list[int] | None = None) -> Callable[[Mapping[str, str]], Reply]:
    """A page that serves ranges as RFC 9110 says; each answer but the last is cut after the next of `cuts` bytes."""
    waiting = list(cuts or [])

    def answer(headers: Mapping[str, str]) -> Reply:
        cut = waiting.pop(0) if waiting else None
        wanted = headers.get("range", "")
        if not wanted or headers.get("if-range", tag) != tag:
            return Reply(body, headers={"ETag": tag}, cut=cut)
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(body):
            return Reply(b"", 416, {"Content-Range": f"bytes */{len(body)}"})
        told = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}", "ETag": tag}
        return Reply(body[start:], 206, told, cut=cut)

    return answer


class Proxy:
    """A proxy that tunnels CONNECT to where it is told, and asks for a password when it has one."""

    def __init__(self, login: str | None = None) -> None:
        self.tunnels: list[str] = []
        self._login = login
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            place = head.split()[1].decode()
            if self._login is not None and base64.b64encode(self._login.encode()) not in head:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            self.tunnels.append(place)
            host, _, port = place.rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                pairs = {client: server, server: client}
                while True:
                    for ready in select.select(list(pairs), [], [])[0]:
                        data = ready.recv(1 << 16)
                        if not data:
                            return
                        pairs[ready].sendall(data)


@contextmanager
def serving(context: ssl.SSLContext | None = None):
    site = Site(context)
    try:
        yield site
    finally:
        site.close()
