"""``plugsky bundle copy|split|stream|repair``: a sealed bundle on its way, verified before and compared after."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from plugsky.cli.bundle_options import EncryptTo, MediaArgument, PinOption, asking, judge
from plugsky.cli.custody import signed_by_holder
from plugsky.cli.options import PassphraseFile, RootOption, TrustOption, path
from plugsky.cli.output import JsonFlag, ProgressFlag, ProgressStyle, progress, say, tell, tell_json
from plugsky.cli.trust_options import KeysOption
from plugsky.core.commands import command_line, given
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky_bundles import carrying, mending, streaming, volume_sets
from plugsky_bundles import custody as custody_log
from plugsky_bundles.format import bundle_dirname
from plugsky_bundles.media import Bundle, open_media
from plugsky_bundles.readback import ReadBack
from plugsky_bundles.returns import returns_of
from plugsky_bundles.sizes import size
from plugsky_bundles.splitting import split_volume
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.volumes import Volumes

STDOUT = Path("-")
app = typer.Typer(add_completion=False, rich_markup_mode=None)


def _size(text: str) -> int:
    count = volume_sets.parse_size(text)
    if not count:
        raise typer.BadParameter(f"{text!r} is no size; one is written like 25G, 4.7G or 700M.")
    return count


@app.command("copy")
def copy_bundle(
    bundle: MediaArgument,
    destination: Annotated[
        Path, typer.Argument(parser=path, metavar="DEST", help="Where the copy goes: a mounted stick, for example.")
    ],
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    keys: KeysOption = None,
    passphrase_file: PassphraseFile = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Copy a bundle to a stick, and read the copy back from the stick itself.

    Every byte is compared with what was signed while it is copied, and once more as the stick gives it back, past the
    kernel's cache where the file system allows that; how it was read is said. A copy that was cut short is finished by
    the same command: what is right on the stick already is not copied again. The source is never changed. What was
    recorded of its custody goes along; with --keys, the holder records there that this copy was written.

    Example: plugsky bundle copy /srv/out/plugsky-demo-1 /media/usb --trust /secure/trust
    """
    media = open_media(bundle, asking("bundle", "copy", bundle, destination, *given(pin=pin, trust=trust, root=root)))
    verified = judge(media, pin, trust, root)
    shown = progress(progress_style)
    if isinstance(media, Volumes):
        done = split_volume(verified, media.label.number, media.label.size, destination, shown)
    else:
        target = destination / bundle_dirname(verified.channel, verified.version)
        done = carrying.copy([media], verified.contents, verified.contents.parts, target, shown)
    log = returns_of(done.path) / custody_log.FOLDER
    custody_log.carry(returns_of(verified.bundle.path) / custody_log.FOLDER, log, verified)
    signed_by_holder(verified, log, "bundle.write", keys, passphrase_file, {"medium": done.path.parent.name or "/"})
    if as_json:
        tell_json("plugsky.bundle.copy/1", {"bundle_id": verified.bundle_id, **_copied(done)})
        return
    _tell_copied(done, verified)


@app.command()
def split(
    bundle: MediaArgument,
    volume_size: Annotated[
        int, typer.Option("--size", parser=_size, metavar="SIZE", help="Free bytes of each medium: 25G, 4.7G, 700M.")
    ],
    out: Annotated[
        Path, typer.Option("--out", parser=path, metavar="DIR", help="Where the volumes' directories are written.")
    ],
    volume: Annotated[int | None, typer.Option("--volume", min=1, help="Write this one volume only.")] = None,
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Split a bundle into volumes for several sticks or discs.

    Each volume can be verified by itself. What lies on which is computed from the signed metadata and the size alone,
    so the same command writes the same volumes again, now or on another day. `plugsky bundle install` takes any of
    them and asks for the others.

    Example: plugsky bundle split plugsky-demo-1 --size 25G --out /srv/volumes --trust /secure/trust
    """
    verified = judge(open_media(bundle), pin, trust, root)
    count = len(volume_sets.assign(verified.contents, volume_size))
    if volume is not None and volume > count:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            f"There is no volume {volume}.",
            why=f"in volumes of {volume_size} bytes this bundle has {count}",
            next=command_line(
                "bundle",
                "split",
                bundle,
                *("--size", volume_size, "--out", out),
                *given(pin=pin, trust=trust, root=root),
            ),
        )
    shown = progress(progress_style)
    numbers = range(1, count + 1) if volume is None else [volume]
    done = [split_volume(verified, number, volume_size, out, shown) for number in numbers]
    if as_json:
        volumes = [_copied(one) for one in done]
        tell_json("plugsky.bundle.split/1", {"bundle_id": verified.bundle_id, "of": count, "volumes": volumes})
        return
    for one in done:
        _tell_copied(one, verified)
    say(f"next: write each of the {count} to its medium, then {command_line('bundle', 'install', done[0].path)}")


@app.command()
def stream(
    bundle: MediaArgument,
    out: Annotated[
        Path, typer.Option("--out", parser=path, metavar="FILE", help="The file to write; - is standard output.")
    ] = STDOUT,
    encrypt_to: EncryptTo = None,
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
) -> None:
    """Write a bundle as one uncompressed tar stream, for data diodes and pipes.

    The stream of a bundle is always the same, byte for byte. `plugsky bundle install -` and `verify -` read it forward
    once; a plain `tar xf` gives the directory back. With --encrypt-to, `age -d` decrypts it.

    Example: plugsky bundle stream plugsky-demo-1 --trust /secure/trust | send-through-diode
    """
    verified = judge(open_media(bundle), pin, trust, root)
    shown = progress(progress_style)
    if encrypt_to:
        # A site need not have the builder, nor what it imports: only this option does.
        from plugsky_builder.encrypted import encrypt, encrypted_length

        length = encrypted_length(verified, len(encrypt_to))

        def write(file: BinaryIO) -> None:
            encrypt(verified, encrypt_to, file, shown)
    else:
        length = streaming.stream_length(verified)

        def write(file: BinaryIO) -> None:
            file.writelines(streaming.stream(verified, shown))

    if out == STDOUT:
        if sys.stdout.isatty():
            raise PlugskyError(
                ErrorKind.BAD_REQUEST,
                "A bundle is not written to a terminal.",
                why="standard output is one",
                next=command_line("bundle", "stream", bundle, "--out", "FILE", *given(pin=pin, trust=trust, root=root)),
            )
        with os.fdopen(os.dup(1), "wb") as file:
            write(file)
        return
    streaming.save(write, length, out)
    say(f"{out}: {size(out.stat().st_size)}, bundle {verified.bundle_id}")


@app.command()
def repair(
    bundle: Annotated[Path, typer.Argument(parser=path, metavar="BAD", help="The damaged copy of a bundle.")],
    other: Annotated[
        Path, typer.Option("--from", parser=path, metavar="GOOD", help="Another copy; it may be damaged elsewhere.")
    ],
    to: Annotated[
        Path | None,
        typer.Option("--to", parser=path, metavar="DIR", help="Leave BAD as it is, and make a whole copy in DIR."),
    ] = None,
    remove_unlisted: Annotated[
        bool, typer.Option("--remove-unlisted", help="Remove files of BAD that no signed list names.")
    ] = False,
    pin: PinOption = None,
    trust: TrustOption = None,
    root: RootOption = None,
    progress_style: ProgressFlag = ProgressStyle.AUTO,
    as_json: JsonFlag = False,
) -> None:
    """Repair a damaged copy: read all of it, and take only what is wrong or missing from another copy.

    Example: plugsky bundle repair /media/usb/plugsky-demo-1 --from /srv/out/plugsky-demo-1 --trust /secure/trust
    """
    shown = progress(progress_style)

    def verify(media: Bundle) -> VerifiedBundle:
        return judge(media, pin, trust, root)

    if to is not None:
        copies = [mending.survey(place)[0] for place in (bundle, other)]
        verified = mending.verify_either(copies[0], copies[1], verify)
        target = to / bundle_dirname(verified.channel, verified.version)
        done = carrying.copy(copies, verified.contents, verified.contents.parts, target, shown)
        if as_json:
            tell_json("plugsky.bundle.copy/1", {"bundle_id": verified.bundle_id, **_copied(done)})
            return
        _tell_copied(done, verified)
        return
    mended = mending.repair(bundle, other, verify, remove_unlisted=remove_unlisted, progress=shown)
    if as_json:
        tell_json("plugsky.bundle.repair/1", dataclasses.asdict(mended))
        return
    for what in mended.mended:
        tell(f"repaired  {what}")
    for what in mended.removed:
        tell(f"removed   {what}")
    tell(f"{mended.path}: whole, bundle {mended.bundle_id}")


def _copied(done: carrying.Copied) -> dict[str, object]:
    return {**dataclasses.asdict(done), "proves_medium": done.read_back.proves_medium}


def _tell_copied(done: carrying.Copied, verified: VerifiedBundle) -> None:
    tell(f"{done.path}: bundle {verified.bundle_id}, {size(done.written)} copied, {size(done.kept)} there already")
    for part in done.spared:
        tell(f"  from the other copy: {verified.contents.whose(part)}")
    say(f"  {_how(done.read_back)}")


def _how(read: ReadBack) -> str:
    """How the copy was read back, claiming no more than is known."""
    if read.cached:
        return (
            f"read back {size(read.total)}, of which {size(read.cached)} came from memory and prove nothing about the"
            " medium: take it out, put it back, and run `plugsky bundle verify` on it"
        )
    ways = [f"{size(read.direct)} past the page cache (O_DIRECT)"] if read.direct else []
    ways += [f"{size(read.dropped)} after dropping it from the page cache"] if read.dropped else []
    return f"read back {' and '.join(ways) or 'nothing: all of it was empty'}, and compared"
