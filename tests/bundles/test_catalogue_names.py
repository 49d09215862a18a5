"""Names that lead elsewhere, look alike or speak to a terminal: refused wherever a name can stand, and none printed."""

import io
from pathlib import Path

import pytest

from bundles.gguf_forge import STRING, U32
from bundles.gguf_forge import Forge as GgufForge
from bundles.test_format import BAD_PATHS, COLLISIONS
from plugsky_bundles import dsse, errors, gguf, keys, ustar
from plugsky_bundles.errors import BundleError, MalformedMetadata, UnlistedFile, UnsafeName
from plugsky_bundles.format import check_channel, check_evidence_path, check_target_path
from plugsky_bundles.key_cards import check_name
from plugsky_bundles.media import open_bundle
from plugsky_bundles.state import Revocations, TrustState
from plugsky_bundles.strict_json import encode
from plugsky_bundles.volume_sets import Label

FURTHER = {
    "composed": "models/\u00e9",
    "decomposed": "models/e\u0301",
    "sharp s": "models/stra\u00dfe",
    "a dotless i": "models/f\u0131le",
    "a zero-width joiner": "models/a\u200db",
    "a Cyrillic a": "models/\u0430",
    "a tab": "models/a\tb",
    "an escape sequence": "models/\x1b[2Ja",
    "a delete": "models/a\x7f",
    "a next line": "models/a\u0085b",
    "a line separator": "models/a\u2028b",
    "a console device": "models/CONIN$",
    "a wildcard": "models/*",
    "a question mark": "models/a?",
    "a quote": 'models/a"b',
    "a dollar": "models/$HOME",
    "a back quote": "models/`id`",
    "a semicolon": "models/a;b",
}
NAMES = {name: path for name, path in (BAD_PATHS | FURTHER).items() if not any("\ud800" <= c < "\ue000" for c in path)}


@pytest.mark.parametrize("path", FURTHER.values(), ids=FURTHER.keys())
def test_further_names_that_mislead_are_refused(path):
    with pytest.raises(UnsafeName):
        check_target_path(path)


@pytest.mark.parametrize("path", NAMES.values(), ids=NAMES.keys())
def test_a_signed_name_that_misleads_changes_nothing(site, bundle, path):
    def add(signed):
        signed["targets"][path] = signed["targets"]["models/tiny/LICENSE"]

    site.forge.alter(bundle, "models", add)
    site.refuses(bundle, UnsafeName)


DISTINCT = {name: paths for name, paths in COLLISIONS.items() if len(set(paths)) == len(paths)}
"""An object has each key once: two equal names cannot even be signed."""


@pytest.mark.parametrize("paths", DISTINCT.values(), ids=DISTINCT.keys())
def test_signed_names_that_meet_on_some_file_system_change_nothing(site, bundle, paths):
    def add(signed):
        for path in paths:
            signed["targets"][path] = signed["targets"]["models/tiny/LICENSE"]

    site.forge.alter(bundle, "models", add)
    site.refuses(bundle, UnsafeName)


def test_a_short_alias_stands_for_no_blob(right):
    """FAT calls a long name `SHA256~1` too; a reader asks by the long name, and no listed name has that form."""
    for name in open_bundle(right).files:
        stem = Path(name).name.split(".")[0]
        assert "~" not in stem


UNLISTED = {
    "an escape sequence": "docs/\x1b]0;owned\x07",
    "a line break": "docs/a\nrefused: no",
    "a carriage return": "docs/a\rok",
    "a bidirectional override": "docs/\u202etxt.exe",
    "bidirectional isolates": "docs/\u2066a\u2069",
    "a zero-width space": "docs/\u200b",
    "bytes that are no text": "docs/\udcff",
    "a case twin": "metadata/TIMESTAMP.JSON",
    "a short alias": "metadata/TIMEST~1.JSO",
    "a decomposed letter": "docs/e\u0301",
    "a Kelvin sign": "docs/\u212a",
    "a device": "CON",
    "a trailing dot": "README.txt.",
    "a trailing space": "README.txt ",
    "a stream": "README.txt:evil",
    "a backslash": "docs\\a",
    "the rest of a copy": "metadata/.timestamp.json.part",
    "an option": "-rf",
}


@pytest.mark.parametrize("name", UNLISTED.values(), ids=UNLISTED.keys())
def test_a_file_on_the_media_under_an_odd_name_changes_nothing(site, bundle, name):
    path = bundle / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    site.refuses(bundle, UnlistedFile)


# What an attacker names must never reach a terminal or a log as it is.

HOSTILE = "a\x1b[2J\x1b]0;owned\x07\u202eb\u2066\nERROR c\r\u2028d\x00\u200b"


def tar_header() -> bytes:
    block = bytearray(ustar.header("metadata/1.root.json", 0))
    raw = HOSTILE.encode()[:60].ljust(100, b"\0")
    block[:100] = raw
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def key_of(keyid: str) -> dict[str, object]:
    return {"keytype": HOSTILE, "scheme": HOSTILE, "keyval": {"public": keyid}}


def state(**fields) -> bytes:
    members = {"schema": "plugsky.trust-state/1", "root": "", "floors": {}, "time": "2026-11-22T12:00:00Z"}
    return encode({**members, "revocations": {"bundles": [], "digests": [], "keys": []}, **fields})


def read(data: bytes) -> None:
    gguf.read(io.BytesIO(data), len(data))


def model(**changes) -> bytes:
    return GgufForge(**changes).build()


PATHS = {
    "a target": lambda: check_target_path(f"models/{HOSTILE}"),
    "a role": lambda: check_target_path(f"{HOSTILE}/x"),
    "a file beside the targets": lambda: check_evidence_path(f"docs/{HOSTILE}"),
    "a channel": lambda: check_channel(HOSTILE),
    "a name of a key": lambda: check_name(HOSTILE),
    "an id of a key": lambda: keys.check_key(HOSTILE, key_of(HOSTILE)),
    "a type of an envelope": lambda: dsse.keyid_of({"payload": "", "payloadType": HOSTILE, "signatures": []}, "x"),
    "a floor": lambda: TrustState.from_json(state(floors={HOSTILE: {}})),
    "a time": lambda: TrustState.from_json(state(time=HOSTILE)),
    "a revocation": lambda: Revocations.from_json(encode({"schema": HOSTILE})),
    "a member of a tar": lambda: ustar.parse(tar_header()),
    "a label": lambda: Label.from_json(encode({"bundle_id": HOSTILE}), HOSTILE),
    "a place": lambda: open_bundle(Path("/nonexistent") / HOSTILE.replace("\0", "")),
    "the beginning of a model": lambda: read(HOSTILE.encode() + bytes(40)),
    "a key of a model": lambda: read(model(keys=[(HOSTILE, U32, 1)])),
    "a key of a model, twice": lambda: read(model(keys=[(f"{HOSTILE}", STRING, HOSTILE)] * 2)),
    "a tensor of a model": lambda: read(model(tensors=[(HOSTILE, (8,), 99, 32)])),
    "a value of a model": lambda: read(GgufForge().with_key("llama.context_length", STRING, HOSTILE).build()),
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_no_name_speaks_through_an_error(path):
    with pytest.raises(BundleError) as caught:
        path()
    for text in (str(caught.value), caught.value.what, caught.value.why, caught.value.next, repr(caught.value)):
        assert text.isprintable()


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BundleError)]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_no_kind_of_error_lets_text_through_as_it_is(kind):
    place = {"seq": 1, "offset": 0} if kind is errors.ChainError else {}
    error = kind(HOSTILE, HOSTILE, HOSTILE * 1000, **place)
    assert str(error).isprintable()
    assert len(str(error)) < 3000
    assert error.code.isidentifier()
    assert error.exit_code in range(1, 9)


def test_a_role_file_that_says_what_it_is_in_odd_letters_is_refused(site, bundle):
    site.forge.alter(bundle, "models", lambda signed: signed.update(_type=HOSTILE))
    error = site.refuses(bundle, MalformedMetadata)
    assert "\\u202e" in error.why


def test_the_odd_name_is_shown_escaped_so_that_it_can_be_found(site, bundle):
    (bundle / "docs").mkdir(exist_ok=True)
    (bundle / "docs" / HOSTILE.replace("\0", "")).write_bytes(b"")
    error = site.refuses(bundle, UnlistedFile)
    assert "\\x1b[2J" in error.what
    assert "\\u202eb" in error.what
