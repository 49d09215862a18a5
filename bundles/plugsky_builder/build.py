"""Recipe -> bundle: everything a recipe names, cut into chunks, with metadata that waits for signatures.

In this order: obtain every part (cached by hash); read the models' headers and templates; find out what can be taken
over from the bundle that the channel sealed last: chunks, and role files with their signatures (`role_reuse`);
rehearse the installation (`rehearsal`), unless such a bundle lies there already; then write what is new (`work`).
With the receipt of a site only what that site lacks is written: a delta.
`build_revocations` writes nothing but what was revoked.

An interrupted build leaves a cache to go on from and no half bundle, and building the same thing twice changes nothing.
Same recipe and same lock, same content id.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from plugsky_builder import bootstrap
from plugsky_builder.basis import base_of_receipt, sealed_last
from plugsky_builder.cache import Cache
from plugsky_builder.debs import parts
from plugsky_builder.debs.fetching import Mirror
from plugsky_builder.debs.openpgp import Passphrase, RepositoryKey, no_passphrase
from plugsky_builder.debs.releases import mirrors
from plugsky_builder.evidence import gathering
from plugsky_builder.gather import gather
from plugsky_builder.offline import require as require_cached
from plugsky_builder.pack import Material
from plugsky_builder.prepare import plan, plan_revocations
from plugsky_builder.recipe import Recipe
from plugsky_builder.rehearsal import Rehearsal, rehearse
from plugsky_builder.work import Built, carry_out
from plugsky_bundles.atomic import out_of_space
from plugsky_bundles.errors import DigestMismatch
from plugsky_bundles.locks import locked
from plugsky_bundles.progress import Progress, silent
from plugsky_bundles.trustdir import TrustDir, open_trust

__all__ = ["Built", "build", "build_revocations"]

NOTHING_ASKED: Final = gathering.Asked()


def build(
    recipe: Recipe,
    out: Path,
    trust_dir: Path,
    *,
    cache: Path,
    wheelhouse: Path,
    now: datetime,
    since: bytes | None = None,
    passphrase: Passphrase = no_passphrase,
    require_rehearsal: bool = False,
    vulnerabilities: gathering.Asked = NOTHING_ASKED,
    offline: bool = False,
    progress: Progress = silent,
) -> Built:
    """Build `recipe` into a new directory below `out`; with `since`, the receipt of a site, a delta for that site.

    An `offline` build opens no connection: everything comes from the cache. `passphrase` is asked only where a
    repository of Debian packages is signed for the first time.
    Raises RecipeError, SourceError, SourceUnreachable, NotFound, DigestMismatch, GgufError, RehearsalFailed, NoSpace,
    VulnerabilitiesUnchecked, PassphraseError, KeyUnusable, ExistsError or Busy, and the VerificationError of a receipt
    that cannot be built on; nothing new lies in `out` then.
    """
    trust = open_trust(trust_dir)
    if since is not None:
        base_of_receipt(since, trust, sealed_last(trust, recipe.channel), recipe.channel, ())
    store = Cache(cache, offline=offline)
    with (
        _output(out),
        locked(cache, f"The builder's cache {cache} is in use", "another build is running"),
    ):
        made = partial(
            _build,
            recipe,
            out,
            trust,
            store,
            wheelhouse,
            now,
            since,
            passphrase,
            require_rehearsal,
            vulnerabilities,
            progress,
        )
        try:
            return made()
        except DigestMismatch:
            if not store.forgotten:
                raise
        return made()  # a copy in the cache was damaged; what is fetched anew is hashed as it comes


def _build(
    recipe: Recipe,
    out: Path,
    trust: TrustDir,
    store: Cache,
    wheelhouse: Path,
    now: datetime,
    since: bytes | None,
    passphrase: Passphrase,
    require_rehearsal: bool,
    vulnerabilities: gathering.Asked,
    progress: Progress,
) -> Built:
    """One try, which a damaged copy in the cache can make fail."""
    if store.offline:
        require_cached(recipe, store)
    materials = gather(recipe, wheelhouse, store, progress)
    debs = None
    if recipe.debs is not None:
        mirror = Mirror(store, mirrors(recipe.debs), progress)
        key = RepositoryKey(trust, passphrase, now)
        debs = parts.gather(recipe.debs, recipe.targets, mirror, key, progress)
        materials = [*materials, *debs.materials]
    expires = now + timedelta(days=recipe.valid_days)
    work = plan(trust, recipe.channel, materials, now=now, expires=expires, since=since, progress=progress)
    rehearsed: list[Rehearsal] = []
    warnings: list[str] = []

    def evidence() -> list[Material]:
        rehearsed.append(
            rehearse(
                materials,
                recipe.targets,
                debs,
                store,
                progress,
                off=recipe.no_rehearsal,
                required=require_rehearsal,
            )
        )
        top = bootstrap.materials(
            recipe.channel,
            work.version,
            recipe.title,
            [material.entry for material in materials],
            delta=work.base is not None,
            contact=recipe.contact,
        )
        made = gathering.gather(
            recipe,
            work.materials,
            top,
            debs,
            version=work.version,
            content_id=work.content_id,
            base=work.base,
            cache=store,
            asked=vulnerabilities,
            now=now,
            progress=progress,
        )
        warnings.extend(made.warnings)
        return [*top, *rehearsed[0].evidence(), *(debs.evidence if debs else ()), *made.materials]

    built = carry_out(replace(work, evidence=evidence), out, store)
    missing = tuple(f"{one.target}: {one.why}" for rehearsal in rehearsed for one in rehearsal.missing)
    return replace(built, not_rehearsed=missing, warnings=tuple(warnings))


def build_revocations(
    channel: str, valid_days: int, out: Path, trust_dir: Path, *, now: datetime, progress: Progress = silent
) -> Built:
    """Build what the channel sealed last with nothing new in it but the list of what was revoked since.

    Raises BaseMissing where no copies of that were kept, ExistsError when nothing was revoked since.
    """
    trust = open_trust(trust_dir)
    expires = now + timedelta(days=valid_days)
    with _output(out):
        return carry_out(plan_revocations(trust, channel, now=now, expires=expires, progress=progress), out, None)


@contextmanager
def _output(out: Path) -> Iterator[None]:
    with out_of_space(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out, f"The output directory {out} is in use", "another build is running"):
        yield
