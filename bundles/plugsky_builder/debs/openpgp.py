"""The key that signs our apt repositories, because apt wants OpenPGP: one per trust directory, made when first needed.

`keys/debs-repository.asc` is the secret key as gpg exports it, mode 0600, under the operator's passphrase;
`keys/debs-repository.pub.asc` is what travels. gpg works in a directory of its own, in memory where the machine has
a place for that, which is gone afterwards with its agent. The times in key and signatures are given and not read from
the clock, and Ed25519 draws no randomness, so the same repository signed with the same key is the same bytes.
The trust in a bundle never hangs on this key: whatever it signs is itself a signed target of the bundle.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from plugsky_builder import system_tools
from plugsky_builder.system_tools import Said
from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import KeyUnusable, PassphraseError
from plugsky_bundles.times import stamp
from plugsky_bundles.trustdir import KEYS, TrustDir

PRIVATE_FILE: Final = "debs-repository.asc"
PUBLIC_FILE: Final = "debs-repository.pub.asc"
NAME: Final = "Plugsky package repository"
BIRTH: Final = datetime(2020, 1, 1, tzinfo=UTC)
"""What the key says of its making: before any state of Debian that it will sign."""
SECONDS: Final = 120
MEMORY: Final = "/dev/shm"  # noqa: S108 - a private directory is made in it
AGENT: Final = "default-cache-ttl 0\nmax-cache-ttl 0\ns2k-count 65011712\n"
"""The agent forgets the passphrase at once; the given work factor, gpg's own default, saves measuring one."""

Passphrase = Callable[[], bytes]


def no_passphrase() -> bytes:
    """The passphrase of somebody who gave none."""
    raise PassphraseError(
        "The key of the package repository is locked", "no passphrase was given", "Give the operator's passphrase"
    )


class RepositoryKey:
    """The key of a trust directory. The passphrase is asked for when a secret is needed, and not before."""

    def __init__(self, trust: TrustDir, passphrase: Passphrase, now: datetime) -> None:
        self._trust = trust
        self._passphrase = passphrase
        self._now = now

    def public(self) -> bytes:
        """The public key, armoured; made with its secret where there is none yet, and logged in custody.

        Raises PassphraseError, KeyUnusable, or SourceError where gpg is missing.
        """
        path = self._path(PUBLIC_FILE)
        if not path.is_file():
            self._make()
        return path.read_bytes()

    def clearsign(self, text: bytes, when: datetime) -> bytes:
        """`text` with a signature of that time around it (RFC 4880, section 7). Raises as `public` does."""
        secret = self._path(PRIVATE_FILE)
        if not secret.is_file():
            raise KeyUnusable(
                f"{secret} is not there",
                "the public part lies beside it, so another machine may hold it",
                "Build where the repository key is kept",
            )
        with _home() as home:
            self._gpg(home, "--import", str(secret))
            (home / "text").write_bytes(text)
            options = ["--digest-algo", "SHA512", "--faked-system-time", _fixed(when), "--clearsign", "--output", "-"]
            return self._gpg(home, *options, str(home / "text")).out

    def _make(self) -> None:
        with _home() as home:
            options = ["--status-fd", "1", "--faked-system-time", _fixed(BIRTH)]
            made = self._gpg(home, *options, "--quick-generate-key", NAME, "ed25519", "sign", "never")
            (created,) = [line for line in made.out.decode("ascii").splitlines() if "KEY_CREATED" in line]
            fingerprint = created.split()[-1]
            secret = self._gpg(home, "--armor", "--export-secret-keys", fingerprint).out
            public = self._gpg(home, "--armor", "--export", fingerprint).out
        record = {"event": "debs.key", "at": stamp(self._now), "openpgp_fingerprint": fingerprint}
        self._trust.log(self._passphrase(), [record])
        write_file(self._path(PRIVATE_FILE), secret, mode=0o600)
        write_file(self._path(PUBLIC_FILE), public)

    def _gpg(self, home: Path, *arguments: str) -> Said:
        gpg = system_tools.find("gpg", "gpg")
        options = ["--homedir", str(home), "--batch", "--quiet", "--no-options", "--pinentry-mode", "loopback"]
        said = system_tools.run(
            [gpg, *options, "--passphrase-fd", "0", *arguments], seconds=SECONDS, stdin=self._passphrase() + b"\n"
        )
        if "ad passphrase" in said.err:
            raise PassphraseError(
                f"The key {self._path(PRIVATE_FILE)} does not open",
                "the passphrase is wrong",
                "Give the passphrase it was made with",
            )
        if said.code != 0:
            raise KeyUnusable(
                f"gpg could not use {self._path(PRIVATE_FILE)}", said.last, "Restore it from its copy, or repair gpg"
            )
        return said

    def _path(self, name: str) -> Path:
        return self._trust.path / KEYS / name


@contextmanager
def _home() -> Iterator[Path]:
    """A private gpg home that is gone afterwards, with its agent."""
    base = MEMORY if Path(MEMORY).is_dir() else None
    home = Path(tempfile.mkdtemp(prefix="plugsky-gpg-", dir=base))
    try:
        (home / "gpg-agent.conf").write_text(AGENT, encoding="ascii")
        yield home
    finally:
        system_tools.run(
            [system_tools.find("gpgconf", "gpgconf"), "--homedir", str(home), "--kill", "all"], seconds=SECONDS
        )
        shutil.rmtree(home, ignore_errors=True)


def _fixed(when: datetime) -> str:
    """A time at which gpg's clock stands still."""
    return f"{when:%Y%m%dT%H%M%S}!"
