"""Fuzzes the small formats that cross the gap: the first byte of an input chooses the reader of the rest.

Whatever is accepted must be written back as the same bytes: then nothing has two readings.

`python -m fuzz.fuzz_decoders [libFuzzer flags] CORPUS`
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzz.harness import instrumented, run

with instrumented():
    from plugsky_bundles import dsse, enrolment, receipt
    from plugsky_bundles.chain_lines import START, Position, genesis, read_line, write_line
    from plugsky_bundles.errors import VerificationError
    from plugsky_bundles.format import Chunk, decode_chunk_list, encode_chunk_list
    from plugsky_bundles.key_cards import KeyCard
    from plugsky_bundles.since import decode_absent, encode_absent, since_of
    from plugsky_bundles.state import Revocations, TrustState
    from plugsky_bundles.strict_json import encode, parse
    from plugsky_bundles.volume_sets import Label

from bundles.forge import NOW, Forge, sha256


def _chunk_list(data: bytes) -> None:
    assert encode_chunk_list(decode_chunk_list(data)) == data


def _absent(data: bytes) -> None:
    assert encode_absent(decode_absent(data)) == data


def _label(data: bytes) -> None:
    assert Label.from_json(data, "a label").to_json() == data


def _card(data: bytes) -> None:
    assert KeyCard.from_json(data).to_json() == data


def _receipt(data: bytes) -> None:
    """What a site says, by a key that is enrolled: as it is, and as what that key signed."""
    receipt.read(data, SITES)


def _signed_receipt(data: bytes) -> None:
    envelope = encode(dsse.sign(SITE, receipt.PAYLOAD_TYPE, data))
    assert receipt.make(receipt.read(envelope, SITES), SITE) == envelope


def _state(data: bytes) -> None:
    TrustState.from_json(data).to_json()


def _revocations(data: bytes) -> None:
    Revocations.from_json(data).to_json()


def _enrolled(data: bytes) -> None:
    enrolment.Enrolled.from_json(data).to_json()


def _since(data: bytes) -> None:
    members = parse(data, "a field", limit=1 << 16)
    if (since := since_of(members, "a field")) is not None:
        assert since.to_dict() == members


def _line(data: bytes) -> None:
    line = read_line(data)
    assert write_line(Position(line.seq - 1, line.prev), line.kind, line.body)[0] == data


READERS: tuple[Callable[[bytes], None], ...] = (
    _chunk_list,
    _absent,
    _label,
    _card,
    _receipt,
    _signed_receipt,
    _state,
    _revocations,
    _enrolled,
    _since,
    _line,
)


def one_input(data: bytes) -> None:
    if data:
        READERS[data[0] % len(READERS)](data[1:])


def seeds() -> Iterator[bytes]:
    digests = [sha256(bytes([number])) for number in range(3)]
    said = receipt.Receipt(
        site=SITE.public_key.keyid,
        at=NOW,
        channel="demo",
        version=3,
        bundle_id=digests[0],
        content_id=digests[1],
        generation=1,
        root_fingerprint=digests[2],
        roles={"models": receipt.Held(1, digests[0])},
        python="3.11",
        machine="x86_64",
        blobs=frozenset(digests),
    )
    made = receipt.make(said, SITE)
    payload = dsse.verify(parse(made, "a receipt", limit=1 << 20), SITE.public_key, receipt.PAYLOAD_TYPE)
    line, _ = write_line(START, "genesis", genesis(SITE.public_key, "site"))
    each: dict[Callable[[bytes], None], bytes] = {
        _chunk_list: encode_chunk_list([Chunk(digest, 9) for digest in digests]),
        _absent: encode_absent(digests),
        _label: Label(digests[0], 1, 2, 4096).to_json(),
        _card: KeyCard("mona", SITE.public_key).to_json(),
        _receipt: made,
        _signed_receipt: payload,
        _state: TrustState((TRUST / "metadata/1.root.json").read_bytes()).to_json(),
        _revocations: Revocations(keys=frozenset(digests[:1])).to_json(),
        _enrolled: enrolment.load(TRUST).to_json(),
        _since: encode({"bundle_id": digests[0], "roles": ["debs"], "absent": {"length": 48, "sha256": digests[1]}}),
        _line: line,
    }
    for number, reader in enumerate(READERS):
        yield bytes([number]) + each[reader]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        forge = Forge(Path(folder))
        SITE, TRUST = forge.enrolled_site(), forge.trust
        SITES = enrolment.load(TRUST).site_keys()
        examples = list(seeds())
    run(one_input, (VerificationError,), examples)
