"""``plugsky bundle build|seal``: recipe -> draft -> sealed."""

import dataclasses
import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from plugsky.cli.bundle_options import BundleArgument, EncryptTo, judge
from plugsky.cli.options import PassphraseFile, TrustOption, passphrase, path, trust_directory
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, say, tell, tell_json
from plugsky.cli.trust_options import say_vouched
from plugsky.core import settings
from plugsky.core.commands import command_line, given
from plugsky.core.paths import checkout
from plugsky_bundles import sealing, signing
from plugsky_bundles.drafting import read_draft
from plugsky_bundles.fingerprint_words import to_words
from plugsky_bundles.media import open_bundle, open_media
from plugsky_bundles.receipt import MAX_RECEIPT
from plugsky_bundles.sizes import size
from plugsky_bundles.trustdir import TrustDir, open_trust

if TYPE_CHECKING:
    from plugsky_builder.work import Built

WHEELHOUSE: Final = Path(".cache/wheels")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def build(
    recipe: Annotated[
        Path, typer.Argument(parser=path, metavar="RECIPE", help="The recipe (TOML): what the bundle holds.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=path, metavar="PATH", help="Where the bundle's directory goes, for example a mounted stick."
        ),
    ],
    trust: TrustOption = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", parser=path, metavar="PATH", help="Where downloads are kept.")
    ] = None,
    wheelhouse: Annotated[
        Path | None, typer.Option("--wheelhouse", parser=path, metavar="PATH", help="A folder with compiled wheels.")
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option("--since", parser=path, metavar="RECEIPT", help="Only what the site lacks that signed this."),
    ] = None,
    revocations_only: Annotated[
        bool,
        typer.Option("--revocations-only", help="What was sealed last, with nothing new but what was revoked since."),
    ] = False,
    require_rehearsal: Annotated[
        bool, typer.Option("--require-rehearsal", help="Fail where the installation cannot be rehearsed.")
    ] = False,
    debian_security_tracker: Annotated[
        Path | None,
        typer.Option(
            "--debian-security-tracker",
            parser=path,
            metavar="FILE",
            help="The data of Debian's security tracker, to look the Debian packages up in.",
        ),
    ] = None,
    require_vulnerability_check: Annotated[
        bool,
        typer.Option("--require-vulnerability-check", help="Fail where known vulnerabilities cannot be asked for."),
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Open no connection: take everything from the cache.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Obtain everything a recipe names, check it, and write a bundle that waits for signatures.

    The same recipe and lock give the same content id; a bundle that is there already is left alone. Before it is
    written, its installation is rehearsed where there is no network. It ends with what the signers will read, and who
    they are. The passphrase is asked for only where a repository of Debian packages is to be signed.

    With --since the bundle is a delta: a site leaves its receipt in plugsky-returns/ when it installs, and what it
    holds does not travel again. The site's key must be enrolled here. With --revocations-only nothing is obtained; the
    bundle serves every site that has the one sealed last.

    Example: plugsky bundle build bundles/recipes/demo.toml --out /media/usb --trust /secure/trust
    """
    # A site need not have the builder, nor what it imports: only this command does.
    from plugsky_builder import build as building
    from plugsky_builder import recipe as recipes
    from plugsky_builder.evidence import gathering

    if since is not None and revocations_only:
        raise typer.BadParameter("a bundle of revocations serves every site: leave --since out.")
    asked, operator, now = recipes.load(recipe), trust_directory(trust), datetime.now(UTC)
    if revocations_only:
        built = building.build_revocations(asked.channel, asked.valid_days, out, operator, now=now)
        _tell_built(built, operator, trust, as_json)
        return
    chosen = settings.load({"cache": cache, "wheelhouse": wheelhouse}).values
    built = building.build(
        asked,
        out,
        operator,
        cache=chosen.cache,
        wheelhouse=chosen.wheelhouse or (checkout() or chosen.cache) / WHEELHOUSE,
        now=now,
        since=None if since is None else _receipt(since),
        passphrase=functools.cache(lambda: passphrase(passphrase_file)),
        require_rehearsal=require_rehearsal,
        vulnerabilities=gathering.Asked(debian_security_tracker, require_vulnerability_check),
        offline=offline,
        progress=progress(progress_style),
    )
    _tell_built(built, operator, trust, as_json)


def _receipt(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(MAX_RECEIPT + 1)


def _tell_built(built: "Built", operator: Path, trust: Path | None, as_json: bool) -> None:
    state = "sealed" if built.sealed else "draft"
    if as_json:
        tell_json("plugsky.bundle.build/1", {**dataclasses.asdict(built), "state": state})
        return
    tell(f"{built.path}: {built.files} files, {size(built.bytes)}, content {built.content_id}")
    if built.since is not None:
        say(f"It is a delta since bundle {built.since}: {size(built.media_bytes)} of files are on the media.")
    if built.unchanged:
        say("It was there already with the same content; nothing was written.")
    for why in built.not_rehearsed:
        say(f"warning: the installation was not rehearsed: {why}")
    for warning in built.warnings:
        say(f"warning: {warning}")
    if not built.sealed:
        _tell_who_signs(built.path, open_trust(operator), trust)


def _tell_who_signs(draft: Path, operator: TrustDir, trust: Path | None) -> None:
    """What signers read on their own machines, so that people here can tell whether those have this draft."""
    say("Its signers read the same before they sign, each on their own machine, and compare it with each other:")
    say_vouched(signing.to_sign(read_draft(open_bundle(draft), operator.root)))
    others = operator.elsewhere()
    if not others:
        say(f"next: {command_line('trust', 'sign', draft, *given(trust=trust))}")
        return
    need = operator.root.roles["targets"].threshold
    say(f"{need} must sign, and not all of their keys lie here.")
    say(f"next: copy it to {', '.join(others)}, who run: plugsky trust sign COPY --keys DIR --pin PAPER")
    say(f"then: {command_line('trust', 'merge', draft, 'COPY...', *given(trust=trust))}")


@app.command()
def seal(
    bundle: BundleArgument,
    trust: TrustOption = None,
    passphrase_file: PassphraseFile = None,
    encrypt_to: EncryptTo = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Seal a signed bundle: snapshot and timestamp. Refuses below the threshold of signatures.

    Prints what belongs on the paper that travels apart from the media: the fingerprint of the root, and the SHA-256 of
    install.sh where the bundle has one. A signer compares that, and the content id, with what they read when signing.

    With --encrypt-to, an encrypted copy is written beside it, NAME.tar.age, which `age -d` decrypts.

    Example: plugsky bundle seal /media/usb/plugsky-demo-1 --trust /secure/trust
    """
    if encrypt_to:
        # A site need not have the builder, nor what it imports: only this option does.
        from plugsky_builder import encrypted as encryption

        encryption.check_recipients(encrypt_to)
    sealed = sealing.seal(bundle, trust_directory(trust), passphrase(passphrase_file), datetime.now(UTC))
    encrypted = bundle.absolute().with_name(f"{bundle.absolute().name}.tar.age") if encrypt_to else None
    if encrypt_to and encrypted is not None:
        verified = judge(open_media(bundle), sealed.root_fingerprint, trust, None)
        encryption.save(verified, encrypt_to, encrypted, progress(progress_style))
    if as_json:
        paper = {"root_words": to_words(sealed.root_fingerprint)}
        tell_json("plugsky.bundle.seal/1", {**dataclasses.asdict(sealed), **paper, "encrypted": encrypted})
        return
    say("Before it goes on paper, have one of its signers compare it with what they read on their own machine:")
    say(f"  content    {sealed.content_id}")
    say(f"  install.sh {'below' if sealed.install_sha256 else 'none'}")
    say("Write this on the paper that travels apart from the media, the root as digits, as words, or both:")
    if sealed.install_sha256 is not None:
        tell(f"install.sh {sealed.install_sha256}")
    tell(f"root       {sealed.root_fingerprint}")
    tell(f"           {to_words(sealed.root_fingerprint)}")
    tell(f"{sealed.path}: sealed as bundle {sealed.bundle_id}")
    if encrypted is not None:
        tell(f"{encrypted}: an encrypted copy for {len(encrypt_to or [])} recipients")
