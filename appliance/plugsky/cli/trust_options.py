"""What the commands on trust share: someone's own keys, and how a root is shown."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from tuf.api.metadata import Root

from plugsky.cli.options import fingerprint_text, passphrase, path, token_pin
from plugsky.cli.output import say, table, tell
from plugsky.core import env
from plugsky_bundles.errors import UnsafeName
from plugsky_bundles.fingerprint_words import to_words
from plugsky_bundles.hsm import Module
from plugsky_bundles.key_cards import Holder, check_name
from plugsky_bundles.metadata import key_names
from plugsky_bundles.signing import ToSign
from plugsky_bundles.sizes import size
from plugsky_bundles.waiting import WaitingRoot


def key_name(text: str) -> str:
    """The name of a key, as an argument."""
    try:
        return check_name(text)
    except UnsafeName as error:
        raise typer.BadParameter(f"{error.what}: {error.why}.") from None


FingerprintOption = Annotated[
    str,
    typer.Option(
        "--fingerprint",
        parser=fingerprint_text,
        metavar="FINGERPRINT",
        help="The card's fingerprint, as its holder reads it out: hex or words.",
    ),
]
KeysOption = Annotated[
    Path | None,
    typer.Option("--keys", parser=path, metavar="PATH", help="The directory of your own keys (plugsky trust key)."),
]
KeyNames = Annotated[list[str] | None, typer.Option("--key", help="Only this key, for example targets-2.")]
HsmOption = Annotated[
    Path | None,
    typer.Option(
        "--hsm",
        parser=path,
        metavar="PATH",
        help="The PKCS#11 library of the hardware module that holds the key. [env: PLUGSKY_HSM]",
    ),
]
HsmPinFile = Annotated[
    Path | None,
    typer.Option(
        "--hsm-pin-file",
        parser=path,
        metavar="PATH",
        help="A file whose first line is the token's PIN. [env: PLUGSKY_HSM_PIN_FILE]",
    ),
]


def hsm_module(library: Path | None, pin_file: Path | None) -> Module | None:
    """The hardware module that the flag or the environment names. Its PIN is asked for once, when it is needed."""
    named = library or (Path(text) if (text := env.HSM.read()) else None)
    return None if named is None else Module(named, cache(lambda: token_pin(pin_file)))


def holder(keys: Path, passphrase_file: Path | None, hsm: Path | None, hsm_pin_file: Path | None) -> Holder:
    """Someone's own keys; the passphrase is asked for once, when a key needs it."""
    module = hsm_module(hsm, hsm_pin_file)
    return Holder(keys, cache(lambda: passphrase(passphrase_file)), None if module is None else module.open)


def tell_fingerprint(fingerprint: str) -> None:
    """A fingerprint on stdout, as hex and as words: what is written on paper and read out."""
    tell(fingerprint)
    tell(to_words(fingerprint))


def role_table(root: Root) -> dict[str, dict[str, Any]]:
    """The roles of a root as JSON: threshold, and keyids by the names that people gave them."""
    names = key_names(root, "The root")
    return {
        name: {"threshold": role.threshold, "keys": {names.get(keyid, keyid): keyid for keyid in role.keyids}}
        for name, role in root.roles.items()
    }


def tell_roles(root: Root) -> None:
    rows = [
        (name, f"{role['threshold']} of {len(role['keys'])}", key, keyid)
        for name, role in role_table(root).items()
        for key, keyid in role["keys"].items()
    ]
    table(("role", "threshold", "key", "keyid"), rows)


def waiting_json(found: WaitingRoot) -> dict[str, Any]:
    """A root that waits, as JSON. It has no fingerprint yet, and says so."""
    return {
        "version": found.version,
        "expires": found.root.expires,
        "root_fingerprint": None,
        "complete": found.complete,
        "signers": found.signers,
        "missing": found.missing,
        "signatures": [{"root": t.version, "signed": t.signed, "threshold": t.threshold} for t in found.tallies],
        "roles": role_table(found.root),
    }


def say_vouched(found: ToSign) -> None:
    """What a signature on a release vouches for."""
    say(f"  content    {found.content_id}")
    say(f"  install.sh {found.install_sha256 or 'none'}")
    say(f"  {found.files} files of {size(found.bytes)}, and {found.beside} beside them")
    if found.taken_over:
        say(f"  signed before and unchanged: {', '.join(found.taken_over)}")


def say_changes(found: WaitingRoot) -> None:
    """What a signer should look at before signing: every role of the new root, and what is new or gone."""
    before = {} if found.before is None else role_table(found.before)
    say(f"root {found.version}, valid until {found.root.expires:%Y-%m-%d}:")
    for name, role in role_table(found.root).items():
        keys, old = role["keys"], before.get(name, {"keys": {}, "threshold": 0})
        new = {key for key, keyid in keys.items() if keyid not in old["keys"].values()}
        gone = [key for key, keyid in old["keys"].items() if keyid not in keys.values()]
        shown = [f"{key} ({'new, ' if before and key in new else ''}{keyid[:16]})" for key, keyid in keys.items()]
        say(f"  {name}: {role['threshold']} of {', '.join(shown)}" + (f"; no longer {', '.join(gone)}" if gone else ""))
