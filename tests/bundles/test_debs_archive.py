"""A .deb is read without unpacking it, and whatever no honest package has is refused."""

import contextlib
import gzip
import lzma
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundles.deb_forge import Fake, ar, entry, tar
from plugsky_builder.debs import archive
from plugsky_bundles.errors import SourceError

CONTROL = ("control.tar.xz", lzma.compress(tar([("./control", Fake("good").control.encode())])))
DATA = ("data.tar.xz", lzma.compress(tar([entry("./usr", tarfile.DIRTYPE, 0o755)])))
BINARY = ("debian-binary", b"2.0\n")


def read(tmp_path, data):
    path = tmp_path / "a.deb"
    path.write_bytes(data)
    return archive.read(path, "a.deb")


def with_data(*members):
    return ar([BINARY, CONTROL, ("data.tar.xz", lzma.compress(tar(members)))])


def test_it_says_what_is_inside(tmp_path):
    long = "./usr/share/" + "a" * 150
    fake = Fake(
        "sudo",
        version="1:2.0-3",
        scripts={"postinst": b"#!/bin/sh\n", "config": b"#!/bin/sh\n"},
        data=(
            entry("./usr/bin/sudo", mode=0o4755, size=5000),
            entry("./usr/bin/mail", mode=0o2755),
            entry(long, size=10),
            entry("./usr/bin/as", tarfile.SYMTYPE, link="../../etc/sudo"),
            entry("./usr/bin/alias", tarfile.LNKTYPE, link="./usr/bin/sudo"),
        ),
    )
    deb = read(tmp_path, fake.build())
    assert (deb.control["Package"], deb.control["Version"]) == ("sudo", "1:2.0-3")
    assert list(deb.scripts) == ["config", "postinst"]
    assert deb.setuid == {"usr/bin/sudo": 0o4755, "usr/bin/mail": 0o2755}
    assert deb.members == 5


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("packing", [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)], ids=lambda p: p[0])
def test_every_form_that_debians_tools_write_is_read(tmp_path, form, packing):
    suffix, pack = packing
    control = pack(tar([("./control", Fake("good").control.encode())], form))
    data = pack(tar([entry("./usr/bin/a", mode=0o4755)], form))
    deb = read(tmp_path, ar([BINARY, (f"control.tar{suffix}", control), (f"data.tar{suffix}", data)]))
    assert deb.setuid == {"usr/bin/a": 0o4755}


WRONG = {
    "no ar archive": b"PK\3\4",
    "empty": b"",
    "cut in a header": ar([BINARY, CONTROL, DATA])[:100],
    "cut in its data": ar([BINARY, CONTROL, DATA])[:-20],
    "something behind it": ar([BINARY, CONTROL, DATA]) + b"\n\n",
    "another member behind it": ar([BINARY, CONTROL, DATA, ("_gpgorigin", b"x")]),
    "another format": ar([("debian-binary", b"3.0\n"), CONTROL, DATA]),
    "no debian-binary": ar([CONTROL, DATA]),
    "data before control": ar([BINARY, DATA, CONTROL]),
    "a packing that Debian does not use": ar([BINARY, CONTROL, ("data.tar.zst", b"\x28\xb5\x2f\xfd" + b"\0" * 20)]),
    "a damaged xz stream": ar([BINARY, CONTROL, ("data.tar.xz", DATA[1][:40] + b"\0\0\0\0" + DATA[1][44:])]),
    "an xz stream that ends too early": ar([BINARY, CONTROL, ("data.tar.xz", DATA[1][:-30])]),
    "a gzip stream that ends too early": ar([BINARY, CONTROL, ("data.tar.gz", gzip.compress(tar([]))[:-12])]),
    "a second xz stream": ar([BINARY, CONTROL, ("data.tar.xz", DATA[1] + DATA[1])]),
    "no control file": ar([BINARY, ("control.tar.xz", lzma.compress(tar([("./postinst", b"x")]))), DATA]),
    "two control files": ar(
        [BINARY, ("control.tar.xz", lzma.compress(tar([("./control", b"A: b\n"), ("control", b"A: c\n")]))), DATA]
    ),
    "a script that is a link": ar(
        [
            BINARY,
            ("control.tar.xz", lzma.compress(tar([entry("./postinst", tarfile.SYMTYPE, link="/bin/sh")]))),
            DATA,
        ]
    ),
    "a path that leads outside": with_data(entry("./usr/../../etc/passwd")),
    "an absolute path": with_data(entry("/etc/passwd")),
    "a hard link that leads outside": with_data(entry("./usr/a", tarfile.LNKTYPE, link="../../etc/shadow")),
    "a device": with_data(entry("./dev/sda", tarfile.BLKTYPE)),
    "a pipe": with_data(entry("./run/pipe", tarfile.FIFOTYPE)),
    "a name that is far too long": with_data(entry("./" + "a" * 5000)),
    "a tar header with another sum": ar(
        [BINARY, CONTROL, ("data.tar", tar([entry("./usr/a")]).replace(b"0000644", b"0000645", 1))]
    ),
    "bytes behind the end of the tar": ar([BINARY, CONTROL, ("data.tar", tar([]) + b"hidden" + b"\0" * 506)]),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_it_is_refused(tmp_path, data):
    with pytest.raises(SourceError, match=r"a\.deb is not a package that can travel"):
        read(tmp_path, data)


def test_a_bomb_is_refused_before_it_unpacks(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_DATA", 1 << 20)
    with pytest.raises(SourceError, match="unpacks to more than"):
        read(tmp_path, with_data(entry("./usr/zeros", size=8 << 20)))


def test_one_that_takes_too_long_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "SECONDS", -1.0)
    with pytest.raises(SourceError, match="does not unpack within"):
        read(tmp_path, Fake("good").build())


def test_one_with_far_too_many_members_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    with pytest.raises(SourceError, match="more than 3 members"):
        read(tmp_path, with_data(*(entry(f"./{n}") for n in range(4))))


GOOD = Fake("good", scripts={"postinst": b"#!/bin/sh\n"}).build()


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_is_refused_or_harmless_but_never_a_crash(tmp_path, at, junk):
    damaged = GOOD[:at] + junk + GOOD[at + len(junk) :]
    with contextlib.suppress(SourceError):
        read(tmp_path, damaged)
