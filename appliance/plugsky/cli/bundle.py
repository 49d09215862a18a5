"""``plugsky bundle``: recipe -> draft -> signed -> sealed -> verified -> plan -> generation."""

import dataclasses
import getpass
import json
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from plugsky.audit import AuditLog
from plugsky.cli.options import (
    PassphraseFile,
    RootOption,
    TrustOption,
    YesFlag,
    passphrase,
    path,
    site,
    trust_directory,
)
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, say, size, table, tell, tell_json
from plugsky.core import settings
from plugsky.core.clock import SystemClock
from plugsky.core.commands import command_line, given
from plugsky.core.errors import ErrorKind, ExitCode, PlugskyError
from plugsky.core.paths import SitePaths, checkout
from plugsky.fleet import installation, site_trust
from plugsky_bundles import sealing
from plugsky_bundles.entries import read_blob
from plugsky_bundles.errors import UntrustedRoot
from plugsky_bundles.format import MAX_ROOT, Chunk, is_sha256
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import open_bundle
from plugsky_bundles.plan import Plan
from plugsky_bundles.state import TrustState
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.verify import verify_metadata
from plugsky_bundles.walk import Anchor, fingerprint

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Build, seal, inspect, verify and install bundles.")


def _pin(text: str) -> str:
    """A fingerprint as the paper says it, in either case."""
    if not is_sha256(text.lower()):
        raise typer.BadParameter(f"{text!r} is no fingerprint: one has 64 hexadecimal digits.")
    return text.lower()


BundleArgument = Annotated[
    Path, typer.Argument(parser=path, metavar="BUNDLE", help="The bundle's directory, plugsky-CHANNEL-VERSION.")
]
PinOption = Annotated[
    str | None,
    typer.Option("--pin", parser=_pin, metavar="FINGERPRINT", help="The root's fingerprint, from the paper."),
]
WHEELHOUSE: Final = Path(".cache/wheels")
ROOT_METADATA: Final = "metadata/1.root.json"


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
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Obtain everything a recipe names, check it, and write a bundle that waits for signatures.

    The same recipe and lock give the same content id; a bundle that is there already is left alone.

    Example: plugsky bundle build bundles/recipes/demo.toml --out /media/usb --trust /secure/trust
    """
    # A site need not have the builder, nor what it imports: only this command does.
    from plugsky_builder import build as building
    from plugsky_builder import recipe as recipes

    chosen = settings.load({"cache": cache, "wheelhouse": wheelhouse}).values
    built = building.build(
        recipes.load(recipe),
        out,
        trust_directory(trust),
        cache=chosen.cache,
        wheelhouse=chosen.wheelhouse or (checkout() or chosen.cache) / WHEELHOUSE,
        now=datetime.now(UTC),
        progress=progress(progress_style),
    )
    state = "sealed" if built.sealed else "draft"
    if as_json:
        tell_json("plugsky.bundle.build/1", {**dataclasses.asdict(built), "state": state})
        return
    tell(f"{built.path}: {built.files} files, {size(built.bytes)}, content {built.content_id}")
    if built.unchanged:
        say("It was there already with the same content; nothing was written.")
    if not built.sealed:
        say(f"next: {command_line('trust', 'sign', built.path, *given(trust=trust))}")


@app.command()
def seal(
    bundle: BundleArgument,
    trust: TrustOption = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Seal a signed bundle: snapshot and timestamp. Refuses below the threshold of signatures.

    Example: plugsky bundle seal /media/usb/plugsky-demo-1 --trust /secure/trust
    """
    sealed = sealing.seal(bundle, trust_directory(trust), passphrase(passphrase_file), datetime.now(UTC))
    if as_json:
        tell_json("plugsky.bundle.seal/1", dataclasses.asdict(sealed))
        return
    tell(f"{sealed.path}: sealed as bundle {sealed.bundle_id}")
    say(f"next: carry it to the site, with root {sealed.root_fingerprint} on paper")


@app.command()
def verify(
    bundle: BundleArgument,
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Read every byte of a bundle and compare it with what trusted people signed.

    Trust comes from --pin (the fingerprint on paper), from the site (--root), or from the operator's --trust.

    Example: plugsky bundle verify /media/usb/plugsky-demo-1 --pin 3f2a…
    """
    verified = verify_metadata(open_bundle(bundle), _anchor(bundle, pin, trust, root), now=datetime.now(UTC))
    verify_payload(verified, progress(progress_style))
    checks = [*verified.checks, "every byte of every file is the one that was signed"]
    if as_json:
        tell_json("plugsky.bundle.verify/1", {"verified": True, **_identity(verified), "checks": checks})
        return
    for check in checks:
        tell(f"ok  {check}")
    tell(f"verified: bundle {verified.bundle_id}")


@app.command()
def inspect(
    bundle: BundleArgument,
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    files: Annotated[bool, typer.Option("--files", help="List every file.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show who signed a bundle and what is inside, from its verified metadata; payloads are not read.

    Example: plugsky bundle inspect /media/usb/plugsky-demo-1 --root /var/lib/plugsky
    """
    verified = verify_metadata(open_bundle(bundle), _anchor(bundle, pin, trust, root), now=datetime.now(UTC))
    models = [_model(verified, path) for path in verified.entries if path.endswith("/model.json")]
    by_role = _by_role(verified)
    if as_json:
        entries = [{"path": e.path, "length": e.length, "sha256": e.sha256} for e in verified.entries.values()]
        tell_json(
            "plugsky.bundle.inspect/1", {**_identity(verified), "models": models, "contents": by_role, "files": entries}
        )
        return
    tell(f"bundle   {verified.bundle_id}")
    tell(f"channel  {verified.channel}, version {verified.version}")
    tell(f"content  {verified.content_id}")
    tell(f"root     {verified.root_fingerprint}")
    tell(f"sealed   {verified.sealed_at:%Y-%m-%d %H:%M:%S} UTC, valid until {verified.expires:%Y-%m-%d}")
    for role, signers in verified.signers.items():
        tell(f"signed   {role:10} by {', '.join(signer.name or signer.keyid[:16] for signer in signers)}")
    tell("")
    table(("contents", "files", "size"), [(role, part["files"], size(part["size"])) for role, part in by_role.items()])
    if models:
        tell("")
        table(
            ("model", "size", "quantisation", "context", "licence", "languages"),
            [
                (m["id"], size(m["size"]), m["quantisation"], m["context"], m["licence"], ",".join(m["languages"]))
                for m in models
            ],
        )
    if files:
        tell("")
        table(
            ("file", "size", "sha256"),
            [(e.path, size(e.length), e.sha256) for _, e in sorted(verified.entries.items())],
        )


@app.command()
def install(
    bundle: BundleArgument,
    pin: PinOption = None,
    root: RootOption = None,
    yes: YesFlag = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Compare every byte, and make the generation anew.")] = False,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Install a bundle on this site: verify, show the plan, copy in one read, switch over.

    The first installation needs --pin, the fingerprint on paper; later ones trust what the site trusts. A bundle that
    is installed already is made anew when files of its generation are missing or have another length; --repair
    compares every byte and makes it anew in any case.

    Example: plugsky bundle install /media/usb/plugsky-demo-1 --root /srv/plugsky --pin 3f2a…
    """
    paths = site(root)
    verified = installation.verify_for(paths, bundle, pin)
    shown = progress(progress_style)
    plan = installation.plan_for(verified, paths, repair=repair, progress=shown)
    if dry_run and as_json:
        tell_json("plugsky.bundle.plan/1", {"plan": plan.to_json()})
        return
    _show(plan, verified, paths)
    if dry_run:
        return
    if not yes and plan.activates:
        _ask(bundle, paths, pin, repair=repair)
    generation = installation.install(
        verified, plan, paths, lambda: _trail(paths), f"user:{getpass.getuser()}", progress=shown
    )
    if as_json:
        done = {"installed": not plan.installed, "activated": plan.activates, "repaired": plan.repairs}
        tell_json("plugsky.bundle.install/1", {"generation": generation.number, **done, **_identity(verified)})
        return
    if not plan.activates:
        tell(f"bundle {verified.bundle_id[:16]} is generation {generation.number} already; nothing was written.")
        return
    tell(f"generation {generation.number} of {paths.root} is now current")
    say(f"next: {shlex.join([str(generation.command), 'serve', '--root', str(paths.root)])}")


def _trail(paths: SitePaths) -> AuditLog:
    return AuditLog.open(paths, "cli", SystemClock(), spare=True)


def _anchor(bundle: Path, pin: str | None, trust: Path | None, root: Path | None) -> Anchor:
    """Whom to believe: the paper, the site, or the operator's own root, in this order."""
    chosen = settings.load({"trust": trust, "root": root}).values
    if pin is not None:
        return pin
    if chosen.root is not None and (state := site_trust.load(SitePaths.at(chosen.root))) is not None:
        return state
    if chosen.trust is not None:
        return TrustState(open_trust(chosen.trust).root_bytes)
    found = open_bundle(bundle)
    claimed = fingerprint(found.read(ROOT_METADATA, limit=MAX_ROOT)) if ROOT_METADATA in found.files else "none"
    raise UntrustedRoot(
        f"Nobody has said whom to trust for {bundle}",
        f"the bundle itself claims root {claimed}, which proves nothing",
        "Compare that with the paper, then add --pin FINGERPRINT; or name --root SITE or --trust DIR",
    )


def _identity(verified: VerifiedBundle) -> dict[str, Any]:
    signers = {role: [{"keyid": s.keyid, "name": s.name} for s in who] for role, who in verified.signers.items()}
    return {
        "path": str(verified.bundle.path),
        "channel": verified.channel,
        "version": verified.version,
        "bundle_id": verified.bundle_id,
        "content_id": verified.content_id,
        "root_fingerprint": verified.root_fingerprint,
        "sealed_at": verified.sealed_at.isoformat(),
        "expires": verified.expires.isoformat(),
        "signers": signers,
    }


def _by_role(verified: VerifiedBundle) -> dict[str, dict[str, int]]:
    parts: dict[str, dict[str, int]] = {}
    for entry in verified.entries.values():
        part = parts.setdefault(entry.role, {"files": 0, "size": 0})
        part["files"] += 1
        part["size"] += entry.length
    return parts


def _model(verified: VerifiedBundle, path: str) -> dict[str, Any]:
    """A model's catalogue entry: the one kind of small payload that is read, and checked against its digest."""
    entry = verified.entries[path]
    raw = read_blob(verified.bundle, Chunk(entry.sha256, entry.length))
    model: dict[str, Any] = json.loads(raw)
    return model


def _show(plan: Plan, verified: VerifiedBundle, paths: SitePaths) -> None:
    """The plan, on stderr: what would change, before anyone is asked."""
    if not plan.activates:
        return
    verb = "is" if plan.installed else "becomes"
    say(
        f"plan {plan.digest[:16]}: {verified.channel} version {verified.version}"
        f" {verb} generation {plan.generation} of {paths.root}"
    )
    if plan.repairs is not None:
        say(f"  generation {plan.repairs} of the same bundle is made anew; its good files are used again")
    if plan.replaces not in (None, plan.generation):
        say(f"  generation {plan.replaces} is current until then, and is kept")
    if plan.installed:
        say("  nothing is copied: it was installed before")
        return
    held = len(plan.files) - len(plan.copied)
    say(f"  copy {len(plan.copied)} files, {size(plan.read_bytes)}; {held} are in the store, every byte compared")
    if spoiled := [file.path for file in plan.copied if file.spoiled]:
        say(f"  of these the store holds damaged ones, which are replaced: {', '.join(spoiled)}")
    say(f"  unpack the environment, about {size(plan.venv_bytes)}; {size(plan.need_bytes)} of free space needed in all")


def _ask(bundle: Path, paths: SitePaths, pin: str | None, *, repair: bool) -> None:
    repairing = ("--repair",) if repair else ()
    if not sys.stdin.isatty():
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "The plan waits for a yes and nobody is there to give it.",
            why="standard input is no terminal",
            next=command_line("bundle", "install", bundle, "--root", paths.root, *given(pin=pin), *repairing, "--yes"),
        )
    if not typer.confirm("Install it?", err=True):
        raise typer.Exit(ExitCode.DECLINED)
