"""Keys in a hardware security module, through PKCS#11: made there, used there, never anywhere else.

* Scheme `ecdsa-sha2-nistp256` only: what such modules have in common. The payload is hashed here (SHA-256) and the
  digest signed there (CKM_ECDSA); the two numbers come back as DER, as TUF writes them.
* A key is made sensitive and not extractable, so that a copy of the module's backup is all that could be stolen.
* The library of the module is named by whoever runs the command, never by a file that travelled: it is native code.
* The PIN is asked for each signature and sent once: a wrong one is an error at once, because modules lock themselves.

A key is found by token label and object id, kept as `<name>.hsm.json` beside its card:
`{"id":"<hex>","schema":"plugsky.hsm-key/1","token":"<label>"}`.
"""

from __future__ import annotations

import hashlib
import importlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from securesystemslib.signer import Key, SecretsHandler, Signature, Signer, SSlibKey

from plugsky_bundles.atomic import out_of_space, write_file
from plugsky_bundles.errors import HsmUnavailable, KeyUnusable, NotFound, PassphraseError
from plugsky_bundles.key_cards import HSM, KeyCard, check_free, write_card
from plugsky_bundles.strict_json import encode, malformed, parse_object

HSM_SCHEMA: Final = "plugsky.hsm-key/1"
P256_OID: Final = bytes.fromhex("06082a8648ce3d030107")
"""The curve as CKA_EC_PARAMS wants it: DER of the object identifier 1.2.840.10045.3.1.7."""
POINT_BYTES: Final = 65
_MAX_FILE: Final = 4096
AskPin = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Module:
    """A PKCS#11 library, and how to ask for the PIN of a token in it."""

    library: Path
    pin: AskPin

    def make_key(self, name: str, out: Path, token: str) -> KeyCard:
        """Make a key pair on `token`; keep in `out` where it is, and its card.

        Raises HsmUnavailable, PassphraseError (the PIN), ExistsError, UnsafeName or NoSpace.
        """
        check_free(name, out)
        api, identifier = _api(), secrets.token_bytes(8)
        common = [(api.CKA_TOKEN, api.CK_TRUE), (api.CKA_ID, tuple(identifier)), (api.CKA_LABEL, name)]
        public = [*common, (api.CKA_VERIFY, api.CK_TRUE), (api.CKA_EC_PARAMS, tuple(P256_OID))]
        private = [
            *common,
            (api.CKA_PRIVATE, api.CK_TRUE),
            (api.CKA_SENSITIVE, api.CK_TRUE),
            (api.CKA_EXTRACTABLE, api.CK_FALSE),
            (api.CKA_SIGN, api.CK_TRUE),
        ]
        with self._session(token, write=True) as session:
            session.generateKeyPair(public, private, mecha=api.Mechanism(api.CKM_EC_KEY_PAIR_GEN, None))
            key = _public_key(session, identifier)
        with out_of_space(out):
            out.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = {"schema": HSM_SCHEMA, "token": token, "id": identifier.hex()}
        write_file(out / f"{name}{HSM}", encode(place), mode=0o600)
        return write_card(out, KeyCard(name, key))

    def open(self, place: Path, key: SSlibKey) -> Signer:
        """The key that the file at `place` describes; it must be `key`. See `key_cards.OpenHsm`."""
        token, identifier = _read_place(place)
        with self._session(token) as session:
            found = _public_key(session, identifier)
        if found.keyid != key.keyid:
            raise KeyUnusable(
                f"The token {token!r} holds another key than the card of {place.name.removesuffix(HSM)}",
                f"it is {found.keyid}, the card says {key.keyid}",
                "Use the token that the key was made on",
            )
        return HsmSigner(self, token, identifier, key)

    def sign(self, token: str, identifier: bytes, digest: bytes) -> bytes:
        """r and s, 32 bytes each, over a SHA-256 digest."""
        api = _api()
        with self._session(token) as session:
            objects = session.findObjects([(api.CKA_CLASS, api.CKO_PRIVATE_KEY), (api.CKA_ID, tuple(identifier))])
            if len(objects) != 1:
                raise _no_key(token, len(objects))
            return bytes(session.sign(objects[0], digest, api.Mechanism(api.CKM_ECDSA, None)))

    @contextmanager
    def _session(self, token: str, *, write: bool = False) -> Iterator[Any]:
        """A session with `token`, logged in. What the library refuses becomes an error of ours."""
        api = _api()
        try:
            library = _load(self.library)
            slot = _slot(library, token)
            session = library.openSession(slot, api.CKF_SERIAL_SESSION | (api.CKF_RW_SESSION if write else 0))
            try:
                session.login(self.pin())
                yield session
                session.logout()
            finally:
                session.closeSession()
        except api.PyKCS11Error as error:
            raise _refused(api, error, token) from None


class HsmSigner(Signer):
    """One key of one token."""

    def __init__(self, module: Module, token: str, identifier: bytes, key: SSlibKey) -> None:
        self._module, self._token, self._identifier, self._key = module, token, identifier, key

    @property
    def public_key(self) -> SSlibKey:
        return self._key

    def sign(self, payload: bytes) -> Signature:
        raw = self._module.sign(self._token, self._identifier, hashlib.sha256(payload).digest())
        half = len(raw) // 2
        numbers = int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
        return Signature(self._key.keyid, encode_dss_signature(*numbers).hex())

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> Signer:
        """Required by the base class; a key is opened by `Module.open`, which compares it with its card."""
        del public_key, secrets_handler
        raise ValueError(f"{priv_key_uri!r}: a key in a module is named by the file beside its card")


def _api() -> Any:
    """PyKCS11, which only those who sign with a module need to have installed."""
    try:
        return importlib.import_module("PyKCS11")
    except ImportError:
        raise HsmUnavailable(
            "PKCS#11 cannot be used here", "the Python package PyKCS11 is not installed", "Install plugsky[hsm]"
        ) from None


@cache
def _load(library: Path) -> Any:
    """A library is loaded once per process: PKCS#11 initialises it globally."""
    api = _api()
    if not library.is_file():
        raise NotFound(f"There is no PKCS#11 library at {library}", "the file does not exist", "Check --hsm")
    loaded = api.PyKCS11Lib()
    try:
        loaded.load(str(library))
    except api.PyKCS11Error as error:
        raise HsmUnavailable(f"{library} cannot be used as a PKCS#11 library", f"{error}", "Check --hsm") from None
    return loaded


def _slot(library: Any, token: str) -> Any:
    labels = {slot: str(library.getTokenInfo(slot).label).strip("\0 ") for slot in library.getSlotList(True)}
    slots = [slot for slot, label in labels.items() if label == token]
    if len(slots) != 1:
        raise HsmUnavailable(
            f"There is no token {token!r}" if not slots else f"{len(slots)} tokens are called {token!r}",
            f"the library shows {', '.join(sorted(filter(None, labels.values()))) or 'none'}",
            "Plug in the token, or check its label",
        )
    return slots[0]


def _public_key(session: Any, identifier: bytes) -> SSlibKey:
    api = _api()
    objects = session.findObjects([(api.CKA_CLASS, api.CKO_PUBLIC_KEY), (api.CKA_ID, tuple(identifier))])
    if len(objects) != 1:
        raise _no_key("", len(objects))
    (value,) = session.getAttributeValue(objects[0], [api.CKA_EC_POINT])
    point = bytes(value)
    if len(point) == POINT_BYTES + 2 and point[:2] == bytes((4, POINT_BYTES)):
        point = point[2:]  # wrapped as a DER OCTET STRING, as PKCS#11 says; some modules leave the wrapping out
    try:
        return SSlibKey.from_crypto(EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point))
    except ValueError:
        raise KeyUnusable(
            "The key on the token is not of an allowed scheme", "it is no P-256 key", "Make one by `plugsky trust key`"
        ) from None


def _read_place(path: Path) -> tuple[str, bytes]:
    with path.open("rb") as file:
        members = parse_object(file.read(_MAX_FILE + 1), f"{path}", limit=_MAX_FILE)
    try:
        if set(members) == {"schema", "token", "id"} and members["schema"] == HSM_SCHEMA:
            return str(members["token"]), bytes.fromhex(members["id"])
    except (TypeError, ValueError):
        pass
    raise malformed(f"{path}", f"it is not a {HSM_SCHEMA}")


def _no_key(token: str, found: int) -> HsmUnavailable:
    return HsmUnavailable(
        f"The key is not on the token {token}".rstrip(), f"it holds {found} objects of that id", "Use the right token"
    )


def _refused(api: Any, error: Any, token: str) -> PassphraseError | HsmUnavailable:
    pins = (api.CKR_PIN_INCORRECT, api.CKR_PIN_INVALID, api.CKR_PIN_LEN_RANGE)
    if error.value in pins:
        return PassphraseError(
            f"The token {token!r} does not open", "the PIN is wrong", "Try again with care: tokens lock themselves"
        )
    if error.value == api.CKR_PIN_LOCKED:
        return PassphraseError(f"The token {token!r} is locked", "too many wrong PINs", "Ask its security officer")
    return HsmUnavailable(f"The token {token!r} refused", f"{error}", "Check the module with its own tools")
