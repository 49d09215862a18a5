"""Debian's signed state for a release: the one that a lock was made from, or the one that the mirror has now.

A lock names the state that answered it by hash, and the cache keeps that. Where the cache has lost it, the mirror's
present state serves as evidence just as well, as long as it still vouches for every locked package: which one it was
says the evidence, and what travels does not depend on it. The cache then remembers that one.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from datetime import datetime

from plugsky_builder.cache import Cache
from plugsky_builder.debs import closure, upstream
from plugsky_builder.debs.closure import VerifiedIndex
from plugsky_builder.debs.fetching import RENEW, WORK, Mirror, Wanted
from plugsky_builder.debs.lock import BARE, DebLock, LockedSuite
from plugsky_builder.debs.releases import COMPONENT, Suite, release_of
from plugsky_builder.debs.upstream import MAX_INRELEASE, Package, SignedSuite
from plugsky_builder.targets import Target
from plugsky_bundles.errors import DigestMismatch, SourceError


def newest(target: Target, mirror: Mirror, valid_at: datetime | None) -> list[VerifiedIndex]:
    """What the mirror has now, verified and kept in the cache, by the order of the suites.

    Raises SourceUnreachable, NotCached, DigestMismatch for what Debian did not sign, or SourceError for a state that
    says of itself that it does not count any more at `valid_at`, where that is given.
    """
    release = release_of(target.os)
    found = []
    for suite in release.suites:
        inrelease = mirror.newest(f"{suite.folder}/InRelease", MAX_INRELEASE)
        signed = upstream.verify(inrelease, suite, release, target.arch)
        if valid_at is not None and signed.valid_until is not None and signed.valid_until < valid_at:
            raise SourceError(
                f"The mirror's {suite} is out of date",
                f"it was valid until {signed.valid_until:%Y-%m-%d}, so security updates may be missing",
                "Use another mirror, or say check-valid-until = false for a snapshot",
            )
        digest = hashlib.sha256(inrelease).hexdigest()
        mirror.cache.receive(io.BytesIO(inrelease), digest, MAX_INRELEASE, f"InRelease of {suite}", lambda _: None)
        found.append(_with_index(signed, inrelease, target, mirror))
    return found


def of_lock(lock: DebLock, target: Target, mirror: Mirror) -> list[VerifiedIndex]:
    """A state that vouches for the lock: its own or the one of the last build, from the cache, else the mirror's.

    Verified again in any case. Raises as `newest` does, and DigestMismatch for a damaged file of the cache.
    """
    kept = cached(lock, mirror.cache)
    if kept is None:
        found = newest(target, mirror, None)
        digests = [(hashlib.sha256(index.inrelease).hexdigest(), index.signed.index_sha256) for index in found]
        mirror.cache.keep_note(_note(lock), digests)
        return found
    found = []
    for suite, inrelease_sha256 in zip(release_of(target.os).suites, kept, strict=True):
        with mirror.cache.file(inrelease_sha256).open("rb") as file:
            inrelease = file.read(MAX_INRELEASE + 1)
        _check_cached(mirror, inrelease_sha256, hashlib.sha256(inrelease).hexdigest())
        signed = upstream.verify(inrelease, suite, release_of(target.os), target.arch)
        found.append(_with_index(signed, inrelease, target, mirror))
    return found


def cached(lock: DebLock, cache: Cache) -> list[str] | None:
    """The InRelease files of a state that vouches for the lock, by SHA-256; None where the cache has no whole one."""
    own = [(suite.inrelease_sha256, suite.index_sha256) for suite in lock.suites]
    for state in (own, cache.note(_note(lock)) or []):
        if len(state) == len(own) and all(cache.has(digest) for pair in state for digest in pair):
            return [inrelease for inrelease, _ in state]
    return None


def _note(lock: DebLock) -> str:
    pins = " ".join((lock.target, *(deb.sha256 for deb in lock.debs)))
    return f"debs-state-{hashlib.sha256(pins.encode()).hexdigest()[:32]}"


def prove(debs: Iterable[Package], indexes: Sequence[VerifiedIndex]) -> dict[str, Suite]:
    """Which suite vouches for each package, by its SHA-256. Raises SourceError where none does."""
    wanted = {deb.sha256: deb for deb in debs}
    names = {deb.name for deb in wanted.values()}
    proven: dict[str, Suite] = {}
    for index in indexes:
        for package, _ in upstream.entries(index.path, index.signed.suite, names.__contains__):
            if wanted.get(package.sha256) == package:
                proven.setdefault(package.sha256, index.signed.suite)
    missing = sorted(deb.name for digest, deb in wanted.items() if digest not in proven)
    if missing:
        raise SourceError(
            "Debian does not vouch for every locked package any more",
            f"no signed index has {', '.join(missing[:10])} as locked",
            RENEW,
        )
    return proven


def make_lock(
    target: Target, packages: Sequence[str], status: bytes | None, indexes: Sequence[VerifiedIndex], mirror: Mirror
) -> DebLock:
    """Resolve `packages` for hosts with that package status (None: a bare host) against a state."""
    name = f"{WORK}-closure"
    mirror.cache.drop_work(name)
    work = mirror.cache.work(name)
    try:
        debs = closure.resolve(indexes, target.arch, packages, status or b"", work)
    finally:
        mirror.cache.drop_work(name)
    if not debs:
        raise SourceError(
            f"Nothing is missing on {target.folder}",
            "the package status has every package of the recipe, in its newest version",
            "Leave out [debs], or its status",
        )
    prove(debs, indexes)
    suites = tuple(
        LockedSuite(
            index.signed.suite,
            index.signed.date,
            hashlib.sha256(index.inrelease).hexdigest(),
            len(index.inrelease),
            index.signed.index_sha256,
            index.signed.index_length,
        )
        for index in indexes
    )
    digest = BARE if status is None else hashlib.sha256(status).hexdigest()
    return DebLock(target.folder, tuple(packages), digest, suites, tuple(debs))


def _with_index(signed: SignedSuite, inrelease: bytes, target: Target, mirror: Mirror) -> VerifiedIndex:
    suite = signed.suite
    by_hash = f"{suite.folder}/{COMPONENT}/binary-{target.arch}/by-hash/SHA256/{signed.index_sha256}"
    mirror.obtain([Wanted(signed.index_sha256, signed.index_length, by_hash)])
    path = mirror.cache.file(signed.index_sha256)
    with path.open("rb") as file:
        _check_cached(mirror, signed.index_sha256, hashlib.file_digest(file, "sha256").hexdigest())
    return VerifiedIndex(signed, inrelease, path)


def _check_cached(mirror: Mirror, wanted: str, found: str) -> None:
    if found != wanted:
        mirror.cache.discard(wanted)
        raise DigestMismatch("The cache held a damaged file", f"SHA-256 {found}, not {wanted}", "Run it again")
