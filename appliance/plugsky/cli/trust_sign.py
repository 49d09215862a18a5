"""``plugsky trust sign|merge``: signatures of people on copies of a bundle, a root or a statement, and joined again."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from securesystemslib.signer import Signer

from plugsky.cli.options import PassphraseFile, TrustOption, fingerprint_text, passphrase, path, trust_directory
from plugsky.cli.output import JsonFlag, say, tell, tell_json
from plugsky.cli.trust_options import (
    HsmOption,
    HsmPinFile,
    KeyNames,
    KeysOption,
    holder,
    say_changes,
    say_vouched,
    tell_fingerprint,
    waiting_json,
)
from plugsky.core import settings
from plugsky.core.commands import command_line, given
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky_bundles import reset, rotation, signing, waiting
from plugsky_bundles.errors import KeyUnusable, PassphraseError
from plugsky_bundles.fingerprint_words import to_words
from plugsky_bundles.key_cards import Holder
from plugsky_bundles.reset import Reset
from plugsky_bundles.signing import Signed, ToSign
from plugsky_bundles.times import stamp
from plugsky_bundles.trustdir import KEYS, ROOTS, TrustDir, open_trust
from plugsky_bundles.waiting import WaitingRoot
from plugsky_bundles.walk import fingerprint

app = typer.Typer(add_completion=False, rich_markup_mode=None)

PlaceArgument = Annotated[
    Path,
    typer.Argument(
        parser=path,
        metavar="PATH",
        help="A bundle that waits for signatures, a root that does (or a copy of its waiting/), or a reset request.",
    ),
]


@app.command()
def sign(
    place: PlaceArgument,
    key: KeyNames = None,
    keys: KeysOption = None,
    pin: Annotated[
        str | None,
        typer.Option(
            "--pin",
            parser=fingerprint_text,
            metavar="FINGERPRINT",
            help="The root that the bundle must be built under, from the paper: hex or words.",
        ),
    ] = None,
    hsm: HsmOption = None,
    hsm_pin_file: HsmPinFile = None,
    trust: TrustOption = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Sign a bundle, a root or a reset request with the keys that open here.

    With --keys, your own keys sign a copy on your own machine; the copy goes back and is joined by plugsky trust merge.
    Without it, the keys in the trust directory sign. Of a bundle it says first what they vouch for, the content id and
    the SHA-256 of install.sh: compare both with what the other signers read on their machines before the copy goes
    back, and later with what bundle seal prints for the paper.

    Example: plugsky trust sign /media/usb/plugsky-demo-1 --keys ~/plugsky-keys --pin "lusab-babad-…"
    """
    _check_there(place)
    own = None if keys is None else holder(keys, passphrase_file, hsm, hsm_pin_file)
    show = signing.unseen if as_json else _say_what_is_signed
    secret = cache(lambda: passphrase(passphrase_file))
    if _is_reset(place):
        asked = reset.read(place)
        if not as_json:
            _say_reset(asked)
        signed_reset = asked.signed_by(_reset_signers(asked, own, key, trust, secret))
        reset.write(place, signed_reset)
        _tell_reset(place, signed_reset, as_json)
    elif waiting.is_waiting(place) or place.is_file():
        _sign_root(place, own, key, secret, as_json)
    elif own is not None:
        signed = signing.sign_as_holder(place, own, key, pin=pin, show=show)
        _tell_signed(place, signed, trust, passphrase_file, own, as_json)
    else:
        signed = signing.sign(place, trust_directory(trust), secret(), key, show=show)
        _tell_signed(place, signed, trust, passphrase_file, None, as_json)


@app.command()
def merge(
    place: PlaceArgument,
    copies: Annotated[
        list[Path] | None, typer.Argument(parser=path, metavar="[COPY]...", help="Signed copies that came back.")
    ] = None,
    trust: TrustOption = None,
    passphrase_file: PassphraseFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Join the signatures of copies into PATH, after checking every one; finish a root that is complete.

    A copy of something else, an unknown signature, one that does not fit: refused by name, and nothing is taken. Only
    the trust directory in which a root was begun finishes it; its fingerprint is told then and never changes.

    Example: plugsky trust merge /secure/trust /media/amal/waiting /media/boris/waiting
    """
    found = copies or []
    _check_there(place, *found)
    if _is_reset(place):
        joined = reset.merge(reset.read(place), {str(copy): reset.read(copy) for copy in found})
        reset.write(place, joined)
        _tell_reset(place, joined, as_json)
    elif waiting.is_waiting(place):
        _merge_root(place, found, cache(lambda: passphrase(passphrase_file)), as_json)
    elif (place / ROOTS / "1.root.json").is_file() and (place / KEYS).is_dir():
        waiting.refuse_more(place, found)
        _tell_finished(open_trust(place), "was finished before; nothing to add", as_json)
    else:
        chosen = settings.load({"trust": trust}).values.trust
        opened = None if chosen is None else open_trust(chosen)
        ask = cache(lambda: passphrase(passphrase_file))
        signed = signing.merge(place, found, opened, ask, datetime.now(UTC))
        _tell_signed(place, signed, trust, passphrase_file, None, as_json)


def _check_there(*places: Path) -> None:
    """A path that was mistyped is said to be one, whatever it was to be: a bundle, a root or a request."""
    for place in places:
        if not place.exists():
            raise PlugskyError(
                ErrorKind.NOT_FOUND, f"{place} is not there.", why="nothing has that name", next="check it"
            )


def _is_reset(place: Path) -> bool:
    """Whether a file is a statement rather than a root: roots have names like 1.root.json."""
    return place.is_file() and not place.name.endswith(".root.json")


def _sign_root(
    place: Path, own: Holder | None, names: Sequence[str] | None, secret: Callable[[], bytes], as_json: bool
) -> None:
    found = waiting.find(place)
    if not as_json:
        say_changes(found)
    if own is not None:
        signers: Sequence[Signer] = own.signers(found.keyids, names)
    else:
        signers = rotation.at_hand(place, found, secret(), names)
        if not signers:
            raise KeyUnusable(
                f"No key that may sign root {found.version} opens in {place / KEYS}",
                f"{', '.join(found.missing) or 'nobody'} may still sign",
                "Name the directory of your own keys by --keys",
            )
    added = waiting.sign(found, signers)
    if found.complete and own is None and (done := _finished(place, secret())) is not None:
        _tell_finished(done, "is finished", as_json)
        return
    _tell_waiting(place, found, added, as_json)


def _finished(place: Path, secret: bytes) -> TrustDir | None:
    """The trust directory with its new root, where its keys lie and open with the same passphrase; else it waits."""
    try:
        return waiting.finish(place, secret, datetime.now(UTC))
    except (KeyUnusable, PassphraseError):
        return None


def _merge_root(place: Path, copies: Sequence[Path], secret: Callable[[], bytes], as_json: bool) -> None:
    found = waiting.find(place)
    if not (place / KEYS).is_dir() and (trusts := [copy for copy in copies if (copy / KEYS).is_dir()]):
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            f"{trusts[0]} is a trust directory, and no copy.",
            why="signatures are joined into what is named first",
            next=command_line("trust", "merge", trusts[0], place, *(copy for copy in copies if copy not in trusts)),
        )
    added = waiting.merge(found, copies)
    if found.complete and (place / ROOTS).is_dir():
        _tell_finished(waiting.finish(place, secret(), datetime.now(UTC)), "is finished", as_json)
        return
    _tell_waiting(place, found, added, as_json)


def _tell_waiting(place: Path, found: WaitingRoot, added: Sequence[str], as_json: bool) -> None:
    if as_json:
        tell_json("plugsky.trust.sign-root/1", {"added": added, **waiting_json(found)})
        return
    by = f"signed by {', '.join(found.signers) or 'nobody'}" + ("" if added else "; nothing was added")
    tell(f"{place}: root {found.version} {by}: {found.explain()}")
    say("It has no fingerprint yet: that is told where it is finished.")
    if found.complete:
        say("next: carry it back; there: plugsky trust merge TRUST COPY")
    else:
        say(f"{', '.join(found.missing)} may still sign.")


def _tell_finished(trust: TrustDir, how: str, as_json: bool) -> None:
    pin = fingerprint(trust.root_bytes)
    if as_json:
        body = {"path": str(trust.path), "version": trust.root.version, "finished": True}
        tell_json("plugsky.trust.root/1", {**body, "root_fingerprint": pin, "words": to_words(pin)})
        return
    say(f"Root {trust.root.version} of {trust.path} {how}. It takes no further signature.")
    say("Write this on the paper that travels apart from the media, as digits, as words, or both:")
    tell_fingerprint(pin)


def _say_reset(asked: Reset) -> None:
    change = asked.change
    say(f"statement {change.serial} of site {change.site[:16]}: {change};")
    say(f"  an installation there needs {change.approvals_required} approvals from then on;")
    say(f"  it can be applied until {stamp(asked.expires)};")
    may = ", ".join(sorted(keyid[:16] for keyid in asked.people))
    say(f"  {asked.threshold} must sign of the root that the site trusts, perhaps an older one, with keys {may}")


def _reset_signers(
    asked: Reset, own: Holder | None, names: Sequence[str] | None, trust: Path | None, secret: Callable[[], bytes]
) -> Sequence[Signer]:
    """The keys at hand that the root of the site names."""
    if own is not None:
        return own.signers(asked.people.keys(), names)
    opened = open_trust(trust_directory(trust)).open_keys("root", secret(), names)
    known = [signer for signer in opened if signer.public_key.keyid in asked.people]
    if not known:
        raise KeyUnusable(
            "No root key here may sign this",
            "the site trusts an older root, or another one, whose people have other keys",
            "Have those sign whose keys were said",
        )
    return known


def _tell_reset(place: Path, found: Reset, as_json: bool) -> None:
    if as_json:
        body = {"path": str(place), "signers": list(found.joint.signatures), "threshold": found.threshold}
        tell_json("plugsky.trust.sign-reset/1", {**body, "missing": found.missing})
        return
    tell(f"{place}: {len(found.joint.signatures)} of {found.threshold} signatures")
    if not found.missing:
        say("next: carry it back; there: plugsky trust reset apply STATEMENT --root SITE")


def _say_what_is_signed(found: ToSign) -> None:
    say(f"This signs {found.channel} {found.version}. Read both numbers to whoever else signs it, and wait for theirs:")
    say("they must read the same on their own machine, and sealing must print the same for the paper.")
    say_vouched(found)


def _tell_signed(
    bundle: Path, signed: Signed, trust: Path | None, passphrase_file: Path | None, own: Holder | None, as_json: bool
) -> None:
    if as_json:
        tell_json("plugsky.trust.sign/1", dataclasses.asdict(signed))
        return
    by = f"signed by {', '.join(signed.signers) or 'nobody'}"
    tell(f"{os.fspath(bundle)}: {by}" + ("" if signed.added else " before; nothing to add"))
    if own is not None:
        say(f"It was built under root {signed.root_fingerprint}; compare with the paper:")
        say(f"  {to_words(signed.root_fingerprint)}")
    if signed.missing:
        say(f"{signed.missing} more must sign before sealing; {', '.join(signed.missing_signers)} may.")
        if own is not None:
            say("next: carry it to one of them, or back to where it is sealed; there: plugsky trust merge BUNDLE COPY")
    elif own is None:
        say(f"next: {command_line('bundle', 'seal', bundle, *given(trust=trust, passphrase_file=passphrase_file))}")
    else:
        say("next: carry it back to where it is sealed; there: plugsky trust merge BUNDLE COPY")
