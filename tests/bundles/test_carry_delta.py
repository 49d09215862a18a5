"""A delta is carried like any bundle: copied, split, streamed and repaired, with what it leaves out still left out."""

import os
from pathlib import Path

import pytest

from bundles.carriage import flip, tree
from bundles.delta_site import MODEL, NEW_TEMPLATE, Site
from bundles.forge import NOW, Forge
from plugsky_bundles import carrying, mending, streaming
from plugsky_bundles.errors import BaseMissing, VolumeTooSmall
from plugsky_bundles.forward_read import verify_forward
from plugsky_bundles.media import open_bundle, open_media
from plugsky_bundles.splitting import split_volume
from plugsky_bundles.trusted_copies import CopiesIn
from plugsky_bundles.verify import verify_metadata
from plugsky_bundles.volume_sets import CLUSTER, assign

BIG = os.urandom(2 << 20)


class Carrier:
    """A delta, and a site that accepted what it builds on."""

    def __init__(self, base: Path) -> None:
        self.forge = Forge(base)
        site = Site(self.forge, base / "channels")
        site.accept(self.forge.built(MODEL))
        self.anchor, self.copies = site.anchor, CopiesIn(base / "channels")
        self.path = self.forge.built({**NEW_TEMPLATE, "models/b/b.bin": BIG}, since=site.receipt())
        self.verified = self.verify(open_bundle(self.path))

    def verify(self, media):
        return verify_metadata(media, self.anchor, now=NOW, copies=self.copies)


@pytest.fixture(scope="module")
def carrier(tmp_path_factory):
    made = Carrier(tmp_path_factory.mktemp("delta"))
    assert made.verified.absent
    return made


def same(carrier, media) -> None:
    found = carrier.verify(media)
    assert (found.bundle_id, found.absent) == (carrier.verified.bundle_id, carrier.verified.absent)
    by_chunks = verify_forward(found)
    assert "models/tiny/tiny.gguf" in by_chunks
    assert "models/b/b.bin" not in by_chunks


def test_a_copy_of_a_delta_is_the_delta(carrier, tmp_path):
    contents = carrier.verified.contents
    carrying.copy([carrier.verified.bundle], contents, contents.parts, tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(carrier.path)
    same(carrier, open_media(tmp_path / "copy"))


def test_a_stream_of_a_delta_is_read_with_the_copies_that_the_site_kept(carrier, tmp_path):
    (tmp_path / "d.tar").write_bytes(b"".join(map(bytes, streaming.stream(carrier.verified))))
    same(carrier, open_media(tmp_path / "d.tar"))
    with pytest.raises(BaseMissing):
        verify_metadata(open_media(tmp_path / "d.tar"), carrier.anchor, now=NOW)


def test_volumes_of_a_delta_are_read_with_the_copies_that_the_site_kept(carrier, tmp_path):
    with pytest.raises(VolumeTooSmall) as caught:
        assign(carrier.verified.contents, CLUSTER)
    size = int(caught.value.next.rpartition(" ")[2])
    count = len(assign(carrier.verified.contents, size))
    assert count > 1
    paths = [split_volume(carrier.verified, number, size, tmp_path).path for number in range(1, count + 1)]
    same(carrier, open_media(paths[0]))


def test_a_damaged_delta_is_repaired_and_gets_nothing_that_it_left_out(carrier, tmp_path):
    contents = carrier.verified.contents
    carrying.copy([carrier.verified.bundle], contents, contents.parts, tmp_path / "bad")
    flip(tmp_path / "bad" / list(contents.payload_parts)[-1].name)
    mending.repair(tmp_path / "bad", carrier.path, carrier.verify)
    assert tree(tmp_path / "bad") == tree(carrier.path)
