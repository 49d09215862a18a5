"""The site's own signing key, ``trust/site-key.pem``: ed25519, PKCS#8, mode 0600, made the first time it is needed.

It signs the site's audit chains, and stands for the site towards anyone who enrolled its fingerprint. A site that has
chains has had a key: a lost one is never made again in silence, but restored, or replaced by the root's people
(``plugsky trust reset``). The keys that were replaced so stay enrolled as the site's own: they signed the chains of
their time.
"""

from collections.abc import Iterator
from typing import Final

from securesystemslib.signer import CryptoSigner, SSlibKey

from plugsky.audit.trail import CHAIN_FILE, chain_names
from plugsky.core.commands import command_line
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.state.secrets import read_or_make, read_secret
from plugsky_bundles import enrolment, keys
from plugsky_bundles.chain_lines import MAX_LINE, read_genesis, read_line
from plugsky_bundles.errors import VerificationError

NEW_KEY: Final = "site-key.new.pem"
_NAME: Final = "site-key.pem"


def site_key(paths: SitePaths) -> CryptoSigner:
    """The site's key. Raises PlugskyError where it is lost or others could read the file, BundleError for no key."""
    path = paths.trust / _NAME
    if read_secret(path) is None and _has_trail(paths):
        raise PlugskyError(
            ErrorKind.TAMPERED,
            f"the site's key {path} is gone",
            why="the site has audit chains that it signed, and another key in its place would be another site",
            next=f"restore {paths.trust} from the backup; without one, "
            + command_line("trust", "reset", "request", "--role", "site", "--name", "NAME", "--root", paths.root),
        )
    read_or_make(path, lambda: keys.private_pem(keys.generate(), None))
    return keys.load(path, None)


def known_site_keyid(paths: SitePaths) -> str | None:
    """The id of the site's key, None before it was made. Makes nothing."""
    if read_secret(paths.trust / _NAME) is None:
        return None
    return keys.load(paths.trust / _NAME, None).public_key.keyid


def former_site_keyids(paths: SitePaths) -> frozenset[str]:
    """The ids of the keys that the site had before, each replaced by a statement of the root's people."""
    return frozenset(enrolment.load(paths.trust).site_keys())


def site_key_of_trail(paths: SitePaths, keyid: str | None) -> SSlibKey | None:
    """The public key of that id which began a chain of the site; without an id, one that was not replaced."""
    former = former_site_keyids(paths)
    for key in _beginners(paths):
        if key.keyid == keyid or (keyid is None and key.keyid not in former):
            return key
    return None


def _has_trail(paths: SitePaths) -> bool:
    """Whether any chain of the site was begun, readable or not: then the site had a key."""
    return any((paths.audit / name / CHAIN_FILE).stat().st_size for name in chain_names(paths.audit))


def _beginners(paths: SitePaths) -> Iterator[SSlibKey]:
    """The keys in the first lines of the site's chains; a damaged chain names none."""
    for name in chain_names(paths.audit):
        try:
            with (paths.audit / name / CHAIN_FILE).open("rb") as file:
                yield read_genesis(read_line(file.readline(MAX_LINE + 1)))[0]
        except VerificationError:
            continue
