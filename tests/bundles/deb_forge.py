"""A maker of small .debs, right and wrong, and of a signed archive that serves them over HTTP."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import lzma
import shutil
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

from plugsky_builder.debs.openpgp import RepositoryKey
from plugsky_builder.debs.releases import DEBIAN, DebianRelease
from plugsky_bundles import ceremony
from plugsky_bundles.trustdir import open_trust

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PASSPHRASE = b"correct horse"


def ar(members: Sequence[tuple[str, bytes]]) -> bytes:
    out = b"!<arch>\n"
    for name, content in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


def tar(members: Sequence[tarfile.TarInfo | tuple[str, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member, io.BytesIO(b"x" * member.size))
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "", size: int = 0
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.size = kind, mode, link, size
    return info


@dataclass(frozen=True)
class Fake:
    """A package to be made; `fields` are further control fields."""

    name: str
    version: str = "1.0"
    architecture: str = "amd64"
    fields: Mapping[str, str] = field(default_factory=dict)
    scripts: Mapping[str, bytes] = field(default_factory=dict)
    data: Sequence[tarfile.TarInfo] = (entry("./", tarfile.DIRTYPE, 0o755), entry("./usr", tarfile.DIRTYPE, 0o755))

    @property
    def control(self) -> str:
        fields = {"Package": self.name, "Version": self.version, "Architecture": self.architecture, **self.fields}
        fields |= {"Maintainer": "Nobody <nobody@example.org>", "Description": f"{self.name}\n A package."}
        return "".join(f"{key}: {value}\n" for key, value in fields.items())

    @property
    def file(self) -> str:
        return f"{self.name}_{self.version.split(':')[-1]}_{self.architecture}.deb"

    def build(self) -> bytes:
        control = tar([("./control", self.control.encode()), *((f"./{n}", c) for n, c in self.scripts.items())])
        return ar(
            [
                ("debian-binary", b"2.0\n"),
                ("control.tar.xz", lzma.compress(control)),
                ("data.tar.xz", lzma.compress(tar(self.data))),
            ]
        )


BASIC = (
    Fake("libc6", fields={"Depends": "libgcc-s1"}),
    Fake("libgcc-s1", fields={"Depends": "libc6"}),
    Fake("libgomp1", fields={"Depends": "libc6"}),
    Fake("python3-minimal", fields={"Depends": "libc6", "Pre-Depends": "libc6"}),
    Fake(
        "python3",
        version="1:3.13.5-1",
        fields={"Depends": "interpreter", "Pre-Depends": "python3-minimal", "Recommends": "never-asked"},
        scripts={"postinst": b"#!/bin/sh\nexit 0\n"},
    ),
    Fake("python3-core", architecture="all", fields={"Provides": "interpreter", "Depends": "tzdata | debconf"}),
    Fake("tzdata", architecture="all"),
    Fake("never-asked", architecture="all"),
    Fake(
        "sudo",
        fields={"Depends": "libc6"},
        scripts={"preinst": b"#!/bin/sh\ndpkg-divert --add /x\n"},
        data=(entry("./usr/bin/sudo", mode=0o4755, size=3), entry("./usr/bin/as", tarfile.SYMTYPE, link="sudo")),
    ),
)


class Archive:
    """Debian's archive, small and signed by a key of ours: the folder that a web server serves."""

    def __init__(self, base: Path, codename: str = "trixie") -> None:
        self.root = base / "archive"
        self.codename = codename
        ceremony.init(base / "archive-trust", PASSPHRASE, now=NOW)
        self._key = RepositoryKey(open_trust(base / "archive-trust"), lambda: PASSPHRASE, NOW)
        self.keyring = base / "archive-keyring.gpg"
        self.keyring.write_bytes(dearmoured(self._key.public()))
        lines = (base / "archive-trust" / "custody.jsonl").read_text().splitlines()
        made = [json.loads(line)["record"] for line in lines if "debs.key" in line]
        self.fingerprint = made[0]["openpgp_fingerprint"]
        self._signed: dict[str, bytes] = {}
        self.publish(BASIC)

    def publish(
        self, packages: Sequence[Fake], *, date: datetime = NOW - timedelta(hours=1), valid_days: int = 7
    ) -> None:
        """Serve these packages, and none in the other suites."""
        shutil.rmtree(self.root, ignore_errors=True)
        stanzas = []
        for fake in packages:
            data = fake.build()
            path = self.root / "debian" / "pool" / "main" / fake.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            stanzas.append(
                f"{fake.control}Filename: pool/main/{fake.file}\nSize: {len(data)}\n"
                f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
            )
        for archive, suite in (
            ("debian", self.codename),
            ("debian", f"{self.codename}-updates"),
            ("debian-security", f"{self.codename}-security"),
        ):
            text = "\n".join(stanzas) if suite == self.codename else ""
            self._suite(archive, suite, lzma.compress(text.encode()), date, valid_days)

    def _suite(self, archive: str, suite: str, index: bytes, date: datetime, valid_days: int) -> None:
        folder = self.root / archive / "dists" / suite
        place = folder / "main" / "binary-amd64" / "by-hash" / "SHA256"
        place.mkdir(parents=True)
        digest = hashlib.sha256(index).hexdigest()
        (place / digest).write_bytes(index)
        release = (
            f"Codename: {suite}\nDate: {format_datetime(date)}\n"
            f"Valid-Until: {format_datetime(date + timedelta(days=valid_days))}\n"
            f"SHA256:\n {digest} {len(index)} main/binary-amd64/Packages.xz\n"
        )
        if release not in self._signed:
            self._signed[release] = self._key.clearsign(release.encode(), date)
        (folder / "InRelease").write_bytes(self._signed[release])

    @property
    def release(self) -> DebianRelease:
        """What `releases` shall know of it."""
        return DebianRelease(self.codename, DEBIAN["debian-13"].suites, frozenset({self.fingerprint}), self.keyring)


def dearmoured(armoured: bytes) -> bytes:
    """An armoured key as gpgv wants it."""
    body = armoured.decode("ascii").split("\n\n", 1)[1]
    return base64.b64decode("".join(line for line in body.splitlines() if line[:1] not in ("=", "-")))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on this machine; gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the library
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
