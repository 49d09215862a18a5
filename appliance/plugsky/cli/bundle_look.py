"""``plugsky bundle verify|inspect``: who signed a bundle, what is in it, and whether every byte is as signed."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from plugsky.cli.bundle_options import BundleArgument, PinOption, anchor, identity
from plugsky.cli.options import RootOption, TrustOption
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, size, table, tell, tell_json
from plugsky_bundles.entries import read_blob
from plugsky_bundles.format import Chunk
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import open_bundle
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.verify import verify_metadata

app = typer.Typer(rich_markup_mode=None)


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
    verified = verify_metadata(open_bundle(bundle), anchor(bundle, pin, trust, root), now=datetime.now(UTC))
    verify_payload(verified, progress(progress_style))
    checks = [*verified.checks, "every byte of every file is the one that was signed"]
    if as_json:
        tell_json("plugsky.bundle.verify/1", {"verified": True, **identity(verified), "checks": checks})
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
    verified = verify_metadata(open_bundle(bundle), anchor(bundle, pin, trust, root), now=datetime.now(UTC))
    models = [_model(verified, path) for path in verified.entries if path.endswith("/model.json")]
    by_role = _by_role(verified)
    if as_json:
        entries = [{"path": e.path, "length": e.length, "sha256": e.sha256} for e in verified.entries.values()]
        tell_json(
            "plugsky.bundle.inspect/1", {**identity(verified), "models": models, "contents": by_role, "files": entries}
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
