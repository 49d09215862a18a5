"""Wheels: what is right passes and is reported; every way of being two things at once, or too much, is refused."""

import hashlib
import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bundles.wheel_forge import recorded, wheel_files, with_record, write_wheel, zipped
from plugsky_builder import wheel_lint, zip_layout
from plugsky_builder.targets import Target
from plugsky_builder.wheel_lint import lint
from plugsky_bundles.errors import WheelError

BOOKWORM = Target("debian-12", "amd64", "3.11")
TAGS = BOOKWORM.tags()
NAME = "tiny_part-1.0-py3-none-any.whl"
INFO = "tiny_part-1.0.dist-info"
FILES = {"tiny_part/__init__.py": b"x = 1\n", "tiny_part/data.bin": bytes(range(256)) * 40}


def members(**changes):
    return with_record(wheel_files("tiny_part", "1.0", FILES, **changes))


def report(path: Path, name: str = NAME, tags=TAGS):
    return lint(path, name, tags)


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def method(request):
    return request.param


def test_a_right_wheel_is_read_and_reported(tmp_path, method):
    about = "Requires-Python: >=3.11\nRequires-Dist: other>=2 ; sys_platform == 'linux'\n"
    points = b"[console_scripts]\ntiny = tiny_part:main\n"
    wheel = members(about=about, info={"entry_points.txt": points})
    found = report(zipped(tmp_path / "w", wheel, method))
    assert (found.name, str(found.version), found.members) == ("tiny-part", "1.0", 6)
    assert found.unpacked == sum(map(len, wheel.values()))
    assert [str(requirement) for requirement in found.requires] == ['other>=2; sys_platform == "linux"']
    assert str(found.requires_python) == ">=3.11"
    assert (found.programs, found.startup, found.libraries) == (("tiny",), (), ())


def test_what_runs_by_itself_and_what_lands_among_the_programs_is_listed(tmp_path):
    data = {
        "tiny.pth": b"import tiny_part\n",
        "tiny_part/inner.pth": b"no matter\n",
        "sitecustomize.py": b"",
        "tiny_part-1.0.data/purelib/more.pth": b"",
        "tiny_part-1.0.data/scripts/tiny-tool": b"#!python\n",
        "tiny_part-1.0.data/data/bin/tiny-other": b"#!/bin/sh\n",
        "tiny_part-1.0.data/data/share/doc.txt": b"",
    }
    found = report(zipped(tmp_path / "w", with_record(wheel_files("tiny_part", "1.0", {**FILES, **data}))))
    assert found.startup == ("more.pth", "sitecustomize.py", "tiny.pth")
    assert found.programs == ("tiny-other", "tiny-tool")
    assert "more.pth" in found.installed
    assert not any(name.endswith("doc.txt") for name in found.installed)


def test_streamed_archives_with_data_descriptors_are_read(tmp_path):
    """What a writer makes that cannot seek back: lengths behind the data."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members().items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    path = tmp_path / "w"
    path.write_bytes(pipe.data)
    assert report(path).members == 5


def test_an_archive_with_zip64_headers_is_read(tmp_path):
    path = tmp_path / "w"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members().items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as out:
                out.write(data)
    assert report(path).members == 5


NAMES = {
    "a source package": ("tiny_part-1.0.tar.gz", "source package"),
    "no wheel's name": ("tiny.whl", "name is not a wheel's"),
    "another package": ("other_part-1.0-py3-none-any.whl", "which its file name does not say"),
    "another version": ("tiny_part-1.1-py3-none-any.whl", "which its file name does not say"),
    "other tags": ("tiny_part-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", "has the tags py3-none-any"),
    "another Python": ("tiny_part-1.0-cp313-cp313-manylinux_2_17_x86_64.whl", "do not fit the target"),
    "another processor": ("tiny_part-1.0-cp311-cp311-manylinux_2_17_aarch64.whl", "do not fit the target"),
    "a newer glibc": ("tiny_part-1.0-cp311-cp311-manylinux_2_39_x86_64.whl", "do not fit the target"),
    "another system": ("tiny_part-1.0-cp311-cp311-win_amd64.whl", "do not fit the target"),
    "no promise": ("tiny_part-1.0-py3-none-linux_x86_64.whl", "do not fit the target"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_that_does_not_fit_is_refused(tmp_path, name):
    file_name, reason = NAMES[name]
    with pytest.raises(WheelError, match=reason) as caught:
        report(zipped(tmp_path / "w", members()), file_name)
    assert caught.value.exit_code == 5
    assert file_name in caught.value.what


def without(name):
    return {member: data for member, data in members().items() if member != name}


def record(lines):
    return {**wheel_files("tiny_part", "1.0", FILES), f"{INFO}/RECORD": "\n".join([*lines, ""]).encode()}


def lines(**changes):
    """The lines of the right RECORD, some of them changed by file name; None drops one."""
    rows = {
        name: f"{name},{recorded(data)},{len(data)}" for name, data in wheel_files("tiny_part", "1.0", FILES).items()
    }
    rows[f"{INFO}/RECORD"] = f"{INFO}/RECORD,,"
    return [row for row in {**rows, **changes}.values() if row is not None]


INIT = "tiny_part/__init__.py"
POINTS = "entry_points.txt"


def scripted(text):
    return members(info={POINTS: text.encode()})


def with_files(**files):
    return with_record(wheel_files("tiny_part", "1.0", {**FILES, **files}))


CONTENTS = {
    "no RECORD": (without(f"{INFO}/RECORD"), "has no RECORD"),
    "no METADATA": (without(f"{INFO}/METADATA"), "has no METADATA"),
    "no WHEEL": (without(f"{INFO}/WHEEL"), "has no WHEEL"),
    "no dist-info at all": ({INIT: b""}, "0 .dist-info folders"),
    "two dist-info folders": ({**members(), "x-1.dist-info/METADATA": b""}, "2 .dist-info folders"),
    "a data folder of another": (with_files(**{"x-1.data/scripts/x": b""}), "is not its own"),
    "a data folder of an unknown kind": (with_files(**{"tiny_part-1.0.data/etc/x": b""}), "unknown kind"),
    "a format of the future": (
        with_record(wheel_files("tiny_part", "1.0", FILES) | {f"{INFO}/WHEEL": b"Wheel-Version: 2.0\n"}),
        "not version 1",
    ),
    "a file that RECORD does not list": (record(lines(**{INIT: None})), "does not list 'tiny_part/__init__.py'"),
    "a file in RECORD that is not there": (record([*lines(), "gone.py,sha256=x,1"]), "which it does not have"),
    "a file outside, in RECORD": (record([*lines(), "../../etc/passwd,sha256=x,1"]), "which it does not have"),
    "an absolute file in RECORD": (record([*lines(), "/etc/passwd,sha256=x,1"]), "which it does not have"),
    "a line twice": (record([*lines(), lines()[0]]), "twice"),
    "another hash in RECORD": (record(lines(**{INIT: f"{INIT},{recorded(b'!')},6"})), "another hash or length"),
    "another length in RECORD": (
        record(lines(**{INIT: f"{INIT},{recorded(FILES[INIT])},7"})),
        "another hash or length",
    ),
    "a weak hash in RECORD": (record(lines(**{INIT: f"{INIT},md5=x,6"})), "another hash or length"),
    "no hash in RECORD": (record(lines(**{INIT: f"{INIT},,"})), "another hash or length"),
    "a RECORD that is no table": (record(["x"]), "three columns"),
    "a program called python": (scripted("[console_scripts]\npython3 = x:y\n"), "would stand in for Python's"),
    "a program called Python": (scripted("[gui_scripts]\nPython = x:y\n"), "would stand in for Python's"),
    "a program called pip": (scripted("[console_scripts]\npip = x:y\n"), "would stand in for pip's"),
    "a program of Ansible": (scripted("[console_scripts]\nansible-playbook = x:y\n"), "stand in for ansible-core's"),
    "a program of ours": (scripted("[console_scripts]\nplugsky = x:y\n"), "would stand in for plugsky's"),
    "a script called activate": (
        with_files(**{"tiny_part-1.0.data/scripts/activate": b""}),
        "would stand in for Python's",
    ),
    "a program in the data": (
        with_files(**{"tiny_part-1.0.data/data/bin/python": b""}),
        "would stand in for Python's",
    ),
    "a program that is a path": (scripted("[console_scripts]\n../../x = x:y\n"), "not a plain name"),
    "entry points twice": (scripted("[console_scripts]\na = x:y\na = x:z\n"), "entry points cannot be read"),
    "the environment's configuration": (
        with_files(**{"tiny_part-1.0.data/data/pyvenv.cfg": b""}),
        "into the environment itself",
    ),
    "a module past its own place": (
        with_files(**{"tiny_part-1.0.data/data/lib/python3.11/site-packages/os.py": b""}),
        "into the environment itself",
    ),
    "a requirement that names nothing": (members(about="Requires-Dist: ???\n"), "names no package"),
    "a Python that is none": (members(about="Requires-Python: three\n"), "names no versions"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_contents_that_are_not_plain_are_refused(tmp_path, name):
    content, reason = CONTENTS[name]
    with pytest.raises(WheelError, match=reason):
        report(zipped(tmp_path / "w", content))


def test_the_owner_of_a_reserved_program_may_install_it(tmp_path):
    wheel = with_record(
        wheel_files("pip", "26.0", {"pip/__init__.py": b""}, info={POINTS: b"[console_scripts]\npip3 = pip:main\n"})
    )
    path = zipped(tmp_path / "w", wheel)
    assert lint(path, "pip-26.0-py3-none-any.whl", TAGS).programs == ("pip3",)


BAD_NAMES = {
    "an absolute name": "/etc/passwd",
    "a name that climbs": "../evil.py",
    "a name that climbs later": "tiny_part/../../evil.py",
    "a dot": "./evil.py",
    "an empty part": "tiny_part//evil.py",
    "a backslash": "tiny_part\\evil.py",
    "a drive": "C:evil.py",
    "a newline": "tiny\npart.py",
    "a very long name": "x" * 2000,
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    path = tmp_path / "w"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members().items():
            archive.writestr(zipfile.ZipInfo(member), data)
        info = zipfile.ZipInfo("placeholder")
        info.filename = BAD_NAMES[name]
        archive.writestr(info, b"")
    with pytest.raises(WheelError, match=r"leads outside|no wheel needs"):
        report(path)


def raw_archive(*entries, between=b"", central=None, tail=b"", start=b""):
    """An archive byte by byte: `entries` are (name, data); `central` are the entries that the directory lists."""
    data, places = bytearray(start), {}
    for name, content in entries:
        places[len(places)] = (name, content, len(data))
        data += struct.pack(
            "<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(content), len(content), len(content), len(name), 0
        )
        data += name + content
    data += between
    begin = len(data)
    listed = [places[number] for number in (range(len(entries)) if central is None else central)]
    for name, content, at in listed:
        data += struct.pack(
            "<4s6H3L5H2L",
            b"PK\1\2",
            20,
            20,
            0,
            0,
            0,
            0,
            zlib.crc32(content),
            len(content),
            len(content),
            len(name),
            0,
            0,
            0,
            0,
            0,
            at,
        )
        data += name
    data += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(listed), len(listed), len(data) - begin, begin, 0)
    return bytes(data) + tail


ONE, TWO = (b"one.py", b"1"), (b"two.py", b"22")
RAW = {
    "an entry twice": (raw_archive(ONE, ONE), "occurs twice"),
    "a file that is also a folder": (raw_archive((b"one", b"1"), (b"one/two.py", b"")), "both a file and a directory"),
    "a local header that nobody lists": (raw_archive(ONE, TWO, central=[0]), "between the entries and"),
    "a local header in front that nobody lists": (raw_archive(ONE, TWO, central=[1]), "bytes before it that nobody"),
    "an entry listed twice": (raw_archive(ONE, central=[0, 0]), "overlaps the entry before"),
    "bytes in front": (raw_archive(ONE, start=b"#!/bin/sh\n"), "bytes before it that nobody"),
    "bytes before the directory": (raw_archive(ONE, between=b"hidden"), "between the entries and"),
    "bytes behind the end": (raw_archive(ONE, tail=b"!"), "does not end with its end record"),
    "an archive behind the end": (raw_archive(ONE) + raw_archive(TWO), "not where its end record says"),
    "nothing": (b"", "too few for a ZIP"),
    "a web page": (b"<html>" * 20, "does not end with its end record"),
}


@pytest.mark.parametrize("name", RAW)
def test_archives_that_say_two_things_are_refused(name):
    data, reason = RAW[name]
    with pytest.raises(WheelError, match=reason):
        zip_layout.read(io.BytesIO(data), len(data))


def patched(offset, layout, *values, at=b"PK\1\2"):
    """A right archive of one entry with some bytes changed, counted from the first `at`."""
    data = bytearray(raw_archive(ONE))
    struct.pack_into(layout, data, data.index(at) + offset, *values)
    return bytes(data)


PATCHED = {
    "an encrypted entry": (patched(8, "<H", 1), "is encrypted"),
    "an unknown method": (patched(10, "<H", 12), "packed by method 12"),
    "an entry on another disk": (patched(34, "<H", 1), "on another disk"),
    "a local header with another name": (patched(30, "<6s", b"two.py", at=b"PK\3\4"), "another name or kind"),
    "a local header with another length": (patched(22, "<L", 9, at=b"PK\3\4"), "another length, checksum or method"),
    "a local header with another checksum": (patched(14, "<L", 9, at=b"PK\3\4"), "another length, checksum"),
    "a local header with another method": (patched(8, "<H", 8, at=b"PK\3\4"), "another length, checksum or method"),
    "a local header that announces a descriptor": (patched(6, "<H", 8, at=b"PK\3\4"), "another name or kind"),
    "an offset that leads nowhere": (patched(42, "<L", 3), "bytes before it that nobody"),
    "a name that is no text": (patched(46, "<1s", b"\xff"), "not in the encoding"),
    "a length without its ZIP64 field": (patched(24, "<L", 0xFFFFFFFF), "lacks its ZIP64 field"),
    "fewer entries than announced": (patched(8, "<2H", 2, 2, at=b"PK\5\6"), "fewer entries than announced"),
    "more entries than announced": (patched(8, "<2H", 0, 0, at=b"PK\5\6"), "more than the announced"),
    "a million entries": (patched(8, "<2H", 65535, 65535, at=b"PK\5\6"), "ZIP64 records are"),
    "a directory elsewhere": (patched(16, "<L", 1, at=b"PK\5\6"), "not where its end record says"),
    "a second disk": (patched(4, "<H", 1, at=b"PK\5\6"), "several disks"),
    "a comment": (patched(20, "<H", 1, at=b"PK\5\6"), "has a comment"),
}


@pytest.mark.parametrize("name", PATCHED)
def test_headers_that_lie_are_refused(name):
    data, reason = PATCHED[name]
    with pytest.raises(WheelError, match=reason):
        zip_layout.read(io.BytesIO(data), len(data))


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFDIR], ids=["link", "device", "pipe", "folder"]
)
def test_an_entry_that_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / "w"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("one.py")
        info.create_system, info.external_attr = 3, (kind | 0o755) << 16
        archive.writestr(info, b"/etc/passwd")
    with pytest.raises(WheelError, match=r"a link or a device|a file or a directory"):
        zip_layout.read(io.BytesIO(path.read_bytes()), path.stat().st_size)


def zip64_archive(**changes):
    """An archive of one entry: the directory has its offset in a ZIP64 field, and the end records are wide."""
    values = {"field": struct.pack("<2HQ", 1, 8, 0), "record": None, "place": None, "count": 1} | changes
    name, content = ONE
    crc, length = zlib.crc32(content), len(content)
    data = bytearray(
        struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0, crc, length, length, len(name), 0) + name + content
    )
    begin = len(data)
    extra = values["field"]
    data += struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 0, 0, 0, crc, length, length, len(name), len(extra), 0, 0, 0, 0, 0xFFFFFFFF
    )
    data += name + extra
    size, at = len(data) - begin, len(data)
    count = values["count"]
    data += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, begin)
    data += struct.pack("<4sLQL", b"PK\6\7", 0, at if values["place"] is None else values["place"], 1)
    data += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, size, 0xFFFFFFFF, 0)
    return bytes(data)


def test_wide_records_are_read():
    data = zip64_archive()
    (member,) = zip_layout.read(io.BytesIO(data), len(data))
    assert (member.name, member.length, member.start) == ("one.py", 1, 36)


ZIP64 = {
    "an offset that is not the right one": ({"field": struct.pack("<2HQ", 1, 8, 1)}, "bytes before it that nobody"),
    "a field that is too long": ({"field": struct.pack("<2HQQ", 1, 16, 0, 0)}, "does not fit"),
    "a field twice": ({"field": struct.pack("<2HQ", 1, 8, 0) * 2}, "malformed extra"),
    "a field that is cut off": ({"field": struct.pack("<2H", 2, 8)}, "malformed extra"),
    "a locator that points elsewhere": ({"place": 1}, "not where they should be"),
    "another number of entries": ({"count": 2}, "disagree"),
}


@pytest.mark.parametrize("name", ZIP64)
def test_wide_records_that_disagree_are_refused(name):
    changes, reason = ZIP64[name]
    data = zip64_archive(**changes)
    with pytest.raises(WheelError, match=reason):
        zip_layout.read(io.BytesIO(data), len(data))


def deflated(data):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


PACKED = {
    "bytes behind the compressed data": (deflated(b"hello") + b"!!", 5, zlib.crc32(b"hello"), "bytes behind"),
    "more than it says": (deflated(b"hello"), 4, zlib.crc32(b"hello"), "longer than its 4"),
    "less than it says": (deflated(b"hello"), 6, zlib.crc32(b"hello"), "another length or checksum"),
    "another checksum": (deflated(b"hello"), 5, 1, "another length or checksum"),
    "no compressed data at all": (b"\xff" * 9, 5, 0, "does not unpack"),
    "compressed data that ends early": (deflated(b"hello" * 99)[:-3], 495, zlib.crc32(b"hello" * 99), "another length"),
    "a bomb": (deflated(bytes(1 << 24)), 1000, 0, "longer than its 1000"),
}


@pytest.mark.parametrize("name", PACKED)
def test_compressed_data_that_is_not_what_it_says_is_refused(name):
    packed, length, crc, reason = PACKED[name]
    member = zip_layout.Member("x", 8, crc, len(packed), length, 0, is_directory=False)
    with pytest.raises(WheelError, match=reason):
        for _ in zip_layout.content(io.BytesIO(packed), member):
            pass


def test_a_wheel_of_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(wheel_lint, "MAX_UNPACKED", 1000)
    with pytest.raises(WheelError, match="the limit is 1000"):
        report(zipped(tmp_path / "w", members()))


def test_two_wheels_that_install_one_file_are_refused(tmp_path):
    one = write_wheel(tmp_path, "one", "1.0", {"shared.py": b"1"})
    two = write_wheel(tmp_path, "two", "1.0", {"two-1.0.data/purelib/shared.py": b"2"})
    reports = [(path.name, lint(path, path.name, TAGS)) for path in (one, two)]
    with pytest.raises(WheelError, match=r"installs 'shared\.py', and so does one-1\.0"):
        wheel_lint.check_apart(reports)
    wheel_lint.check_apart(reports[:1])


@pytest.mark.parametrize(
    ("at", "value"), [(6, 64), (7, 1), (8, 1 << 5)], ids=["version", "version's high byte", "patch"]
)
def test_an_entry_that_needs_a_newer_reader_is_refused(tmp_path, at, value):
    """Offsets are those of the central header (APPNOTE 4.3.12): the version needed, and the general purpose flags."""
    path = zipped(tmp_path / "w", members(), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + at] = value
    path.write_bytes(data)
    with pytest.raises(WheelError, match="needs something of its reader"):
        report(path)


@given(st.integers(min_value=0), st.integers(0, 255))
@example(1300, 64)  # the version needed to unpack
def test_no_change_of_one_byte_gives_another_wheel_that_passes(tmp_path_factory, place, value):
    """Whatever byte changes, the wheel is refused or installs the very same files."""
    folder = tmp_path_factory.mktemp("w")
    path = zipped(folder / "w", members(), zipfile.ZIP_DEFLATED)
    before = report(path)
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(data)
    try:
        after = report(path)
    except WheelError:
        return
    assert after == before
    with zipfile.ZipFile(path) as archive:
        assert {n: hashlib.sha256(archive.read(n)).digest() for n in archive.namelist()} == {
            n: hashlib.sha256(d).digest() for n, d in members().items()
        }
