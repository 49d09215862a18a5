"""The site's own signing key, ``trust/site-key.pem``: ed25519, PKCS#8, mode 0600, made the first time it is needed.

It signs the site's audit chains, and stands for the site towards anyone who enrolled its fingerprint.
"""

from typing import Final

from securesystemslib.signer import CryptoSigner

from plugsky.core.paths import SitePaths
from plugsky.state.secrets import read_or_make, read_secret
from plugsky_bundles import keys

_NAME: Final = "site-key.pem"


def site_key(paths: SitePaths) -> CryptoSigner:
    """The site's key. Raises PlugskyError where others could read the file, BundleError where it holds no key."""
    path = paths.trust / _NAME
    read_or_make(path, lambda: keys.private_pem(keys.generate(), None))
    return keys.load(path, None)


def known_site_keyid(paths: SitePaths) -> str | None:
    """The id of the site's key, None before it was made. Makes nothing."""
    if read_secret(paths.trust / _NAME) is None:
        return None
    return keys.load(paths.trust / _NAME, None).public_key.keyid
