"""The site's own OpenID provider: whether an ID token of it says who somebody is. Nobody is asked for that.

Who logs in brings the token, from whatever speaks with the provider for them; the site has the provider's public keys
as a file (RFC 7517), read anew each time, so that keys are exchanged by exchanging it.

Guarantees, as OpenID Connect Core 1.0, section 3.1.3.7 asks: the token is signed by a key of the file, with a
public-key algorithm; its issuer and audience are those of the settings, and who got it is too (``azp``); it has not
expired, was not made in the future, and not longer than :data:`MAX_AGE_S` ago; nothing in it says that it is an access
token (RFC 9068, or a scope); the claim that the settings name is the login's subject.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from plugsky.core.clock import Clock, unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.settings import Settings

MAX_AGE_S: Final = 600
LEEWAY_S: Final = 30
LONGEST: Final = 16_384
MAX_KEYS: Final = 1 << 20
ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "Ed25519",
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provider:
    """The provider, what the site is called there, which claim names a person, and the file with the public keys."""

    issuer: str
    client: str
    claim: str
    keys: Path
    clock: Clock

    def knows(self, who: str, proof: str) -> bool:
        """Whether ``proof`` is a token that says ``who`` this is. Raises UNREACHABLE where the keys cannot be read."""
        if len(proof) > LONGEST or not proof.isascii():
            return False
        keys = self._keys()
        try:
            self._check(jwt.decode(proof.strip(), keys, ALGORITHMS), who)
        except (JoseError, ValueError) as error:
            _log.warning("an ID token was refused: %s", str(error) or type(error).__name__)
            return False
        return True

    def _check(self, token: jwt.Token, who: str) -> None:
        now = unix_us(self.clock.now()) // 1_000_000
        claims: dict[str, Any] = token.claims
        jwt.JWTClaimsRegistry(
            now, LEEWAY_S,
            iss={"essential": True, "value": self.issuer}, aud={"essential": True, "value": self.client},
            exp={"essential": True}, iat={"essential": True},
        ).validate(claims)  # fmt: skip
        if claims["iat"] < now - MAX_AGE_S:
            raise ValueError(f"it was made more than {MAX_AGE_S} seconds ago")
        if str(token.header.get("typ", "JWT")).upper() != "JWT" or claims.get("typ", "ID") != "ID" or "scope" in claims:
            raise ValueError("it is a token of another kind")
        if claims.get("azp", self.client) != self.client or (_several(claims["aud"]) and "azp" not in claims):
            raise ValueError("it was made for another program")
        if claims.get(self.claim) != who:
            raise ValueError(f"its {self.claim} is not the login's subject")

    def _keys(self) -> KeySet:
        try:
            with self.keys.open("rb") as file:
                return KeySet.import_key_set(json.loads(file.read(MAX_KEYS)))
        except (OSError, JoseError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise PlugskyError(
                ErrorKind.UNREACHABLE,
                "the provider's public keys cannot be read",
                why=f"{self.keys}: {error}",
                next="plugsky config show --origin",
            ) from error


def provider_of(settings: Settings, clock: Clock) -> Provider | None:
    """The provider that the settings name; None where they name none. Raises BAD_REQUEST for half of one."""
    parts = {
        "oidc_issuer": settings.oidc_issuer,
        "oidc_client": settings.oidc_client,
        "oidc_keys": settings.oidc_keys,
    }
    if not any(parts.values()):
        return None
    for name, value in parts.items():
        if not value:
            raise _bad(name, "it is not set, and a provider needs it")
    if settings.oidc_keys is None or not settings.oidc_keys.is_file():
        raise _bad("oidc_keys", f"{settings.oidc_keys} is no file")
    return Provider(settings.oidc_issuer, settings.oidc_client, settings.oidc_claim, settings.oidc_keys, clock)


def _several(audience: object) -> bool:
    return isinstance(audience, list) and len(audience) > 1


def _bad(name: str, why: str) -> PlugskyError:
    return PlugskyError(ErrorKind.BAD_REQUEST, f"the provider's {name} cannot be used", why=why, next=f"mend {name}")
