"""The site's own signing key, ``trust/site-key.pem``: ed25519, PKCS#8, mode 0600, made the first time it is needed.

It signs the site's audit chains, and stands for the site towards anyone who enrolled its fingerprint.
"""

from securesystemslib.signer import CryptoSigner

from plugsky.core.paths import SitePaths
from plugsky.state.secrets import read_or_make
from plugsky_bundles import keys


def site_key(paths: SitePaths) -> CryptoSigner:
    """The site's key. Raises PlugskyError where others could read the file, BundleError where it holds no key."""
    path = paths.trust / "site-key.pem"
    read_or_make(path, lambda: keys.private_pem(keys.generate(), None))
    return keys.load(path, None)
