"""Python parts for hosts that are not the build machine: markers, tags, glibc, completeness, and locks that drifted."""

import hashlib
import platform
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from bundles.wheel_forge import wheel_files, with_record, write_wheel, zipped
from plugsky_builder import compiled, elf_needs, locks, offline, recipe, resolve, wheels
from plugsky_builder.cache import Cache
from plugsky_builder.fit import fit_of
from plugsky_builder.recipe import PythonRecipe
from plugsky_builder.targets import RELEASES, Target
from plugsky_bundles.errors import DigestMismatch, NotCached, RecipeError, SourceError, SourceUnreachable, WheelError
from plugsky_bundles.progress import silent

BOOKWORM = Target("debian-12", "amd64", "3.11")
TRIXIE = Target("debian-13", "amd64", "3.13")
ARM = Target("debian-13", "arm64", "3.13")
HASH = "a" * 64


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(target, **kwargs):
    return {str(tag) for tag in target.tags(**kwargs)}


TAGS = [
    ("cp311-cp311-manylinux_2_36_x86_64", BOOKWORM, True),
    ("cp311-cp311-manylinux_2_37_x86_64", BOOKWORM, False),
    ("cp313-cp313-manylinux_2_41_x86_64", TRIXIE, True),
    ("cp313-cp313-manylinux_2_42_x86_64", TRIXIE, False),
    ("cp311-abi3-manylinux2014_x86_64", TRIXIE, True),
    ("cp313-abi3-manylinux2014_x86_64", BOOKWORM, False),
    ("cp311-cp311-manylinux1_x86_64", BOOKWORM, True),
    ("cp313-cp313-manylinux2014_aarch64", ARM, True),
    ("cp313-cp313-manylinux_2_12_aarch64", ARM, False),
    ("cp313-cp313-manylinux_2_28_x86_64", ARM, False),
    ("cp313-cp313-musllinux_1_2_x86_64", TRIXIE, False),
    ("cp313-cp313t-manylinux_2_28_x86_64", TRIXIE, False),
    ("py3-none-any", BOOKWORM, True),
    ("py3-none-manylinux_2_17_x86_64", TRIXIE, True),
    ("py3-none-linux_x86_64", TRIXIE, False),
    ("cp311-cp311-win_amd64", BOOKWORM, False),
]


@pytest.mark.parametrize(("tag", "target", "fits"), TAGS, ids=[f"{tag} on {target.folder}" for tag, target, _ in TAGS])
def test_a_wheel_fits_by_python_processor_and_glibc(tag, target, fits):
    assert (tag in names(target)) is fits


def test_a_compiled_wheel_may_have_its_machines_plain_tag():
    assert "py3-none-linux_x86_64" in names(TRIXIE, compiled=True)
    assert "py3-none-linux_aarch64" not in names(TRIXIE, compiled=True)


MARKERS = [
    ("python_version < '3.12'", BOOKWORM, True),
    ("python_version < '3.12'", TRIXIE, False),
    ("python_full_version < '3.11.3'", BOOKWORM, True),
    ("python_full_version < '3.11.3'", TRIXIE, False),
    ("sys_platform == 'win32'", BOOKWORM, False),
    ("platform_machine == 'aarch64'", ARM, True),
    ("platform_machine == 'aarch64'", TRIXIE, False),
    ("platform_python_implementation != 'PyPy' and os_name == 'posix'", TRIXIE, True),
    ("extra == 'tests'", BOOKWORM, False),
]


@pytest.mark.parametrize(("marker", "target", "applies"), MARKERS)
def test_markers_are_read_for_the_target_and_not_for_this_machine(marker, target, applies):
    assert locks.Pin("x", "1", marker, (HASH,)).applies(target.environment()) is applies


def test_a_marker_that_is_none_is_refused():
    with pytest.raises(RecipeError, match="marker of x cannot be read"):
        locks.Pin("x", "1", "python_verison < '3'", (HASH,)).applies(BOOKWORM.environment())


def test_every_release_knows_its_own_python():
    for name, release in RELEASES.items():
        target = Target(name, "amd64", ".".join(release.python.split(".")[:2]))
        assert target.environment()["python_version"] == target.python
        assert target.facts()["glibc"] == ".".join(map(str, release.glibc))
    assert [name for name, release in RELEASES.items() if release.tested] == ["debian-12", "debian-13"]


GOOD = """
channel = "lab"
[[target]]
os = "debian-12"
[[target]]
os = "debian-13"
python = "3.13"
arch = "arm64"
accelerator = "cuda-13"
[python]
lock = "lock.txt"
requirements = ["tools.in"]
"""


def load(tmp_path, text):
    (tmp_path / "lab.toml").write_text(text)
    return recipe.load(tmp_path / "lab.toml")


def test_targets_are_read_with_what_can_be_left_out(tmp_path):
    lab = load(tmp_path, GOOD)
    assert lab.targets == (BOOKWORM, Target("debian-13", "arm64", "3.13", "cuda-13"))
    assert [target.lock_path for target in lab.targets] == [
        "python/debian-12-amd64/requirements.txt",
        "python/debian-13-arm64/requirements.txt",
    ]
    assert lab.python is not None
    assert lab.python.requirements == (tmp_path / "tools.in",)


BAD = {
    "an unknown system": ('"debian-12"', '"debain-12"', "did you mean 'debian-12'"),
    "a Python that the system does not have": ('"3.13"', '"3.12"', "debian-13 comes with Python 3.13"),
    "an unknown processor": ('"arm64"', '"x86_64"', "not one of amd64, arm64"),
    "an unknown accelerator": ('"cuda-13"', '"rocm"', "not one of cpu"),
    "a target twice": (
        '[[target]]\nos = "debian-13"\npython = "3.13"\narch = "arm64"',
        '[[target]]\nos = "debian-12"',
        "twice",
    ),
    "an unknown key": ('accelerator = "cuda-13"', 'acelerator = "cuda-13"', "did you mean 'accelerator'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_target_is_refused_with_the_reason(tmp_path, name):
    old, new, reason = BAD[name]
    assert old in GOOD
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert reason in str(caught.value)


@pytest.mark.parametrize("part", ["requirements", "debs"])
def test_parts_that_are_for_one_system_need_a_target(tmp_path, part):
    text = GOOD[: GOOD.index("[[target]]")] + GOOD[GOOD.index("[python]") :]
    if part == "debs":
        text = text.replace('requirements = ["tools.in"]', "[debs]\npackages = []")
    with pytest.raises(RecipeError, match=rf"{part} needs at least one \[\[target\]\]"):
        load(tmp_path, text)


class Index:
    """A folder that pip takes for the package index, and the lock of what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []

    def add(self, name: str, version: str, *, tag: str = "py3-none-any", about: str = "", marker: str = "") -> Path:
        path = write_wheel(self.folder, name, version, {f"{name}.py": version.encode()}, tag=tag, about=about)
        self.lines.append(f"{name}=={version}{f' ; {marker}' if marker else ''} --hash=sha256:{sha256(path)}")
        return path

    def also(self, path: Path) -> None:
        """Let the last line allow one more file."""
        self.lines[-1] += f" --hash=sha256:{sha256(path)}"

    def lock(self, name: str = "lock.txt") -> Path:
        path = self.folder.parent / name
        path.write_text("".join(f"{line}\n" for line in self.lines))
        return path


@pytest.fixture
def index(index):
    return Index(index)


def plain(lock: Path, **changes) -> PythonRecipe:
    return PythonRecipe(lock, (), appliance=False, **changes)


def gathered(lock, tmp_path, cache, target, **changes):
    return [wheel.file for wheel in wheels.gather(plain(lock, **changes), tmp_path / "house", cache, silent, target)]


@pytest.mark.integration
def test_each_target_gets_its_own_wheels_and_markers(index, cache, tmp_path):
    index.add("native", "1.0", tag="cp311-cp311-manylinux_2_17_x86_64")
    index.also(
        write_wheel(index.folder, "native", "1.0", {"native.py": b"13"}, tag="cp313-cp313-manylinux_2_17_x86_64")
    )
    index.add("backport", "2.0", marker="python_version < '3.12'")
    index.add("forked", "1.0", marker="python_version < '3.12'")
    index.add("forked", "2.0", marker="python_version >= '3.12'")
    lock = index.lock()
    assert gathered(lock, tmp_path, cache, BOOKWORM) == [
        "backport-2.0-py3-none-any.whl",
        "forked-1.0-py3-none-any.whl",
        "native-1.0-cp311-cp311-manylinux_2_17_x86_64.whl",
    ]
    assert gathered(lock, tmp_path, cache, TRIXIE) == [
        "forked-2.0-py3-none-any.whl",
        "native-1.0-cp313-cp313-manylinux_2_17_x86_64.whl",
    ]


@pytest.mark.integration
def test_the_targets_glibc_decides_between_two_wheels(index, cache, tmp_path):
    index.add("native", "1.0", tag="cp311-abi3-manylinux_2_40_x86_64")
    index.also(
        write_wheel(index.folder, "native", "1.0", {"native.py": b"old"}, tag="cp311-abi3-manylinux_2_17_x86_64")
    )
    lock = index.lock()
    assert gathered(lock, tmp_path, cache, BOOKWORM) == ["native-1.0-cp311-abi3-manylinux_2_17_x86_64.whl"]
    assert gathered(lock, tmp_path, cache, TRIXIE) == ["native-1.0-cp311-abi3-manylinux_2_40_x86_64.whl"]


@pytest.mark.integration
def test_a_package_without_a_wheel_for_the_target_is_refused(index, cache, tmp_path):
    index.add("native", "1.0", tag="cp311-cp311-manylinux_2_40_x86_64")
    with pytest.raises(SourceError, match="native"):
        gathered(index.lock(), tmp_path, cache, BOOKWORM)


@pytest.mark.integration
def test_a_damaged_wheel_in_the_cache_is_found_and_fetched_anew(index, cache, tmp_path):
    path = index.add("part", "1.0")
    lock = index.lock()
    gathered(lock, tmp_path, cache, BOOKWORM)
    stored = cache.file(sha256(path))
    stored.write_bytes(b"damaged" + stored.read_bytes()[7:])
    assert gathered(lock, tmp_path, cache, BOOKWORM) == [path.name]
    assert stored.read_bytes() == path.read_bytes()


@pytest.mark.integration
def test_offline_the_missing_wheels_of_all_targets_are_named_at_once(index, cache, tmp_path):
    index.add("part", "1.0")
    index.lock()
    (tmp_path / "tools.in").write_text("part\n")
    shutil.copyfile(tmp_path / "lock.txt", tmp_path / "tools.debian-12-amd64.txt")
    shutil.copyfile(tmp_path / "lock.txt", tmp_path / "tools.debian-13-arm64.txt")
    lab = load(tmp_path, GOOD.replace("[python]", "[python]\nappliance = false"))
    off = Cache(cache.root, offline=True)
    with pytest.raises(NotCached) as caught:
        offline.require(lab, off)
    assert "1 wheels for debian-12 on amd64" in caught.value.why
    assert "1 wheels for debian-13 on arm64" in caught.value.why
    for target in lab.targets:
        wheels.gather(lab.python, tmp_path, cache, silent, target)
    offline.require(lab, off)
    (tmp_path / "index").rename(tmp_path / "gone")
    for target in lab.targets:
        assert wheels.gather(lab.python, tmp_path, off, silent, target)


DRIFT = {
    "a dependency that is not locked": (
        ("top", "1.0", "Requires-Dist: other>=1\n"),
        "top 1.0 needs other>=1, which is not",
    ),
    "a dependency in a version that is too old": (
        ("top", "1.0", "Requires-Dist: base>=2\n"),
        "top 1.0 needs base>=2, the lock has 1.0",
    ),
    "a dependency that only this target needs": (
        ("top", "1.0", "Requires-Dist: backport ; python_version < '3.12'\n"),
        "top 1.0 needs backport, which is not in the lock",
    ),
    "a dependency of an extra": (
        ("top", "1.0", "Requires-Dist: base[fast]\n"),
        "base 1.0 needs speed, which is not in the lock",
    ),
    "another Python": (("top", "1.0", "Requires-Python: >=3.12\n"), "top 1.0 is for Python >=3.12"),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", DRIFT)
def test_a_lock_that_drifted_is_refused_for_the_target(index, cache, tmp_path, name):
    (package, version, about), reason = DRIFT[name]
    index.add("base", "1.0", about="Provides-Extra: fast\nRequires-Dist: speed ; extra == 'fast'\n")
    if "Python" not in about:
        index.add(package, version, about=about)
        with pytest.raises(RecipeError, match="does not fit debian-12 on amd64") as caught:
            gathered(index.lock(), tmp_path, cache, BOOKWORM)
    else:
        path = write_wheel(index.folder, package, version, {"top.py": b""}, about=about)
        report = wheels.wheel_lint.lint(path, path.name, BOOKWORM.tags())
        with pytest.raises(RecipeError) as caught:
            resolve.check(plain(index.lock()), [report], fit_of(BOOKWORM))
    assert reason in caught.value.why
    assert "plugsky bundle lock" in caught.value.next


@pytest.mark.integration
def test_a_dependency_that_only_another_target_needs_is_no_drift(index, cache, tmp_path):
    index.add("top", "1.0", about="Requires-Dist: backport ; python_version < '3.12'\n")
    assert gathered(index.lock(), tmp_path, cache, TRIXIE) == ["top-1.0-py3-none-any.whl"]


def write_tools(tmp_path, text, *lines):
    (tmp_path / "tools.in").write_text(text)
    (tmp_path / "tools.debian-12-amd64.txt").write_text("".join(f"{line}\n" for line in lines))
    return (tmp_path / "tools.in",)


@pytest.mark.integration
def test_further_requirements_travel_from_their_own_lock(index, cache, tmp_path):
    index.add("base", "1.0")
    lock = index.lock()
    index.lines.clear()
    index.add("tool", "2.0", about="Requires-Dist: base\n")
    tools = write_tools(tmp_path, "# what we also want\ntool>=1  # any\n\nbase\n", *index.lines)
    assert gathered(lock, tmp_path, cache, BOOKWORM, requirements=tools) == [
        "base-1.0-py3-none-any.whl",
        "tool-2.0-py3-none-any.whl",
    ]


REQUIREMENTS = {
    "a version that the lock does not have": ("tool>=3\n", RecipeError, "tools.in needs tool>=3, the lock has 2.0"),
    "a package that the lock does not have": ("other\n", RecipeError, "tools.in needs other, which is not in the lock"),
    "an option": ("-r more.in\n", RecipeError, "'-r more.in' is no requirement"),
    "an address": ("tool @ https://example.org/tool.whl\n", RecipeError, "tool comes from an address"),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", REQUIREMENTS)
def test_requirements_that_their_lock_does_not_fulfil_are_refused(index, cache, tmp_path, name):
    text, error, reason = REQUIREMENTS[name]
    index.add("tool", "2.0")
    tools = write_tools(tmp_path, text, *index.lines)
    index.lines.clear()
    with pytest.raises(error) as caught:
        gathered(index.lock(), tmp_path, cache, BOOKWORM, requirements=tools)
    assert reason in str(caught.value)


def test_two_locks_with_two_versions_are_refused(index, tmp_path):
    index.lines.append(f"base==1.0 --hash=sha256:{HASH}")
    tools = write_tools(tmp_path, "base\n", f"base==2.0 --hash=sha256:{HASH}")
    with pytest.raises(RecipeError, match=r"has base 2\.0, another lock has 1\.0"):
        resolve.pins(plain(index.lock(), requirements=tools), fit_of(BOOKWORM))


def test_a_lock_that_was_never_made_is_not_found(index, tmp_path):
    (tmp_path / "tools.in").write_text("base\n")
    with pytest.raises(Exception, match="debian-12-amd64"):
        resolve.pins(plain(index.lock(), requirements=(tmp_path / "tools.in",)), fit_of(BOOKWORM))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A real shared library that asks for a few symbols of this machine's glibc."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("library")
    (folder / "x.c").write_text("#include <stdlib.h>\nlong answer(const char *text) { return strtol(text, 0, 10); }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libx.so", folder / "x.c"], check=True)
    return (folder / "libx.so").read_bytes()


def test_a_library_says_what_it_needs(library):
    needs = elf_needs.read(library, "libx.so")
    assert needs.machine == platform.machine()
    assert "libc.so.6" in needs.libraries
    assert any(version.startswith("GLIBC_2.") for version in needs.versions)
    elf_needs.check(needs, "libx.so", TRIXIE, ())


def needing(library="libc.so.6", version="GLIBC_2.17", machine="x86_64"):
    return elf_needs.Needs(machine, frozenset({library}), frozenset({version}))


NEEDS = {
    "a newer glibc": (needing(version="GLIBC_2.38"), BOOKWORM, "needs GLIBC 2.38, debian-12 has 2.36"),
    "a newer libstdc++": (needing(version="GLIBCXX_3.4.32"), BOOKWORM, "needs GLIBCXX 3.4.32, debian-12 has 3.4.30"),
    "another processor": (needing(machine="aarch64"), TRIXIE, "is for aarch64, not x86_64"),
    "a library that nobody brings": (needing("libopenblas.so.0"), TRIXIE, "needs libopenblas.so.0, which neither"),
    "CUDA on a host without": (needing("libcudart.so.13"), TRIXIE, "needs libcudart.so.13, which neither"),
}


@pytest.mark.parametrize("name", NEEDS)
def test_a_library_that_would_not_load_on_the_target_is_refused(name):
    needs, target, reason = NEEDS[name]
    with pytest.raises(WheelError) as caught:
        elf_needs.check(needs, "libx.so", target, {"libown.so"})
    assert reason in caught.value.why


def test_what_the_target_or_the_wheel_has_is_no_fault():
    elf_needs.check(needing(version="GLIBC_2.38"), "x", TRIXIE, ())
    elf_needs.check(needing("libown.so"), "x", BOOKWORM, {"libown.so"})
    elf_needs.check(needing("libcudart.so.13"), "x", Target("debian-13", "amd64", "3.13", "cuda-13"), ())
    elf_needs.check(needing(version="GCC_3.0"), "x", BOOKWORM, ())


@pytest.mark.parametrize("cut", [0, 10, 64, 500, 2000])
def test_a_damaged_library_is_refused(library, cut):
    with pytest.raises(WheelError):
        elf_needs.read(library[:cut], "libx.so")


class House:
    """A wheelhouse with compiled wheels."""

    def __init__(self, folder: Path, library: bytes) -> None:
        self.folder, self.library = folder, library

    def add(self, tag: str, below: str = "", data: bytes | None = None) -> Path:
        folder = self.folder / below
        folder.mkdir(parents=True, exist_ok=True)
        files = {"native/libx.so": self.library if data is None else data}
        return zipped(folder / f"native-1.0-{tag}.whl", with_record(wheel_files("native", "1.0", files, tag=tag)))


@pytest.fixture
def house(tmp_path, library):
    if platform.machine() != "x86_64":
        pytest.skip("the targets of these tests are for x86-64")
    return House(tmp_path / "house", library)


def compiled_recipe(tmp_path, **changes):
    lock = tmp_path / "lock.txt"
    lock.write_text(f"native==1.0 --hash=sha256:{HASH}\n")
    return PythonRecipe(lock, ("native",), appliance=False, **changes)


@pytest.mark.integration
def test_one_compiled_wheel_of_no_python_serves_every_target(house, cache, tmp_path):
    path = house.add("py3-none-linux_x86_64")
    for target in (BOOKWORM, TRIXIE, None):
        (wheel,) = wheels.gather(compiled_recipe(tmp_path), house.folder, cache, silent, target)
        assert (wheel.file, wheel.sha256) == (path.name, sha256(path))


@pytest.mark.integration
def test_a_compiled_wheel_of_one_python_serves_its_target_alone(house, cache, tmp_path):
    path = house.add("cp313-cp313-linux_x86_64")
    (wheel,) = wheels.gather(compiled_recipe(tmp_path), house.folder, cache, silent, TRIXIE)
    assert wheel.file == path.name
    with pytest.raises(SourceError, match="no wheel of native") as caught:
        wheels.gather(compiled_recipe(tmp_path), house.folder, cache, silent, BOOKWORM)
    assert f"{path.name} is not for debian-12" in caught.value.why


@pytest.mark.integration
def test_a_compiled_wheel_that_needs_a_newer_glibc_is_refused(house, cache, tmp_path, library):
    names = sorted(elf_needs.read(library, "x").versions)
    newer = library.replace(
        names[-1].encode() + b"\0", b"GLIBC_2.99"[: len(names[-1])].ljust(len(names[-1]), b"9") + b"\0"
    )
    house.add("py3-none-linux_x86_64", data=newer)
    with pytest.raises(WheelError, match="needs GLIBC") as caught:
        wheels.gather(compiled_recipe(tmp_path), house.folder, cache, silent, BOOKWORM)
    assert "Compile it on debian-12" in caught.value.next


@pytest.mark.integration
def test_an_accelerators_wheel_comes_from_its_own_folder(house, cache, tmp_path):
    house.add("py3-none-linux_x86_64")
    cuda = house.add("py3-none-linux_x86_64", below="cuda-13", data=house.library + b"\0")
    target = Target("debian-13", "amd64", "3.13", "cuda-13")
    (wheel,) = wheels.gather(compiled_recipe(tmp_path), house.folder, cache, silent, target)
    assert wheel.path == cuda


@pytest.mark.parametrize("there", [False, True], ids=["without nvcc", "with nvcc"])
def test_a_missing_wheel_for_an_accelerator_says_what_is_missing(tmp_path, monkeypatch, there):
    monkeypatch.setattr(compiled.shutil, "which", lambda _: "/usr/bin/nvcc" if there else None)
    target = Target("debian-13", "amd64", "3.13", "cuda-13")
    with pytest.raises(SourceError, match=r"no wheel of native 1\.0 in .*/cuda-13") as caught:
        compiled.find(locks.Pin("native", "1.0", "", (HASH,)), tmp_path, fit_of(target))
    assert ("nvcc" in caught.value.why) is not there
    assert "cuda-13" in caught.value.next


BACKEND = """
import os, pathlib, subprocess, sys, zipfile, hashlib, base64

try:
    import tool
    uses = tool.__doc__
except ImportError:
    uses = "no tool"

def build_wheel(folder, config_settings=None, metadata_directory=None):
    flags = os.environ["CFLAGS"].split()
    subprocess.run(["gcc", "-shared", "-fPIC", *flags, "-o", "libx.so", "x.c"], check=True)
    info = "native-1.0.dist-info"
    files = {
        "native/libx.so": pathlib.Path("libx.so").read_bytes(),
        "native/flags.txt": " ".join(flags).encode(),
        "native/uses.txt": uses.encode(),
        f"{info}/METADATA": b"Metadata-Version: 2.1\\nName: native\\nVersion: 1.0\\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\\nTag: py3-none-linux_x86_64\\n",
    }
    digests = {n: base64.urlsafe_b64encode(hashlib.sha256(d).digest()).rstrip(b"=").decode() for n, d in files.items()}
    rows = [f"{n},sha256={digests[n]},{len(d)}" for n, d in files.items()]
    name = "native-1.0-py3-none-linux_x86_64.whl"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as archive:
        for member, data in files.items():
            archive.writestr(zipfile.ZipInfo(member), data)
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "\\n".join([*rows, f"{info}/RECORD,,", ""]))
    return name
"""


def write_sdist(
    folder: Path, tmp_path: Path, source: str = "int answer(void) { return 42; }\n", needs: str = ""
) -> Path:
    """A source package whose own build backend needs a compiler, and the tools of `needs`."""
    tree = tmp_path / "native-1.0"
    tree.mkdir()
    (tree / "pyproject.toml").write_text(
        f'[build-system]\nrequires = [{needs}]\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "native"\nversion = "1.0"\n'
    )
    (tree / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: native\nVersion: 1.0\n")
    (tree / "backend.py").write_text(BACKEND)
    (tree / "x.c").write_text(source)
    path = folder / "native-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tree, "native-1.0")
    return path


def sdist_recipe(tmp_path, path, **changes):
    lock = tmp_path / "lock.txt"
    lock.write_text(f"native==1.0 --hash=sha256:{sha256(path)}\n")
    return PythonRecipe(lock, (), appliance=False, sdists=("native",), **changes)


@pytest.mark.integration
def test_a_source_package_is_compiled_once_for_the_oldest_processor_and_then_kept(house, index, cache, tmp_path):
    path = write_sdist(index.folder, tmp_path)
    (wheel,) = wheels.gather(sdist_recipe(tmp_path, path), tmp_path, cache, silent, BOOKWORM)
    with zipfile.ZipFile(wheel.path) as archive:
        assert archive.read("native/flags.txt") == b"-O2 -march=x86-64 -mtune=generic"
    path.unlink()
    for target in (TRIXIE, BOOKWORM):
        (again,) = wheels.gather(sdist_recipe_of(tmp_path), tmp_path, Cache(cache.root, offline=True), silent, target)
        assert again.sha256 == wheel.sha256
    assert list((cache.root / "work").iterdir()) == []


def sdist_recipe_of(tmp_path):
    return PythonRecipe(tmp_path / "lock.txt", (), appliance=False, sdists=("native",))


def write_tool(index, version):
    return write_wheel(index.folder, "tool", version, {"tool.py": f'"""tool {version}"""'.encode()})


def build_lock(tmp_path, wheel, name="build.txt"):
    path = tmp_path / name
    path.write_text(f"tool=={wheel.name.split('-')[1]} --hash=sha256:{sha256(wheel)}\n")
    return path


def used(wheel):
    with zipfile.ZipFile(wheel.path) as archive:
        return archive.read("native/uses.txt").decode()


@pytest.mark.integration
def test_a_source_package_is_compiled_with_the_locked_tools_and_anew_with_others(house, index, cache, tmp_path):
    path = write_sdist(index.folder, tmp_path, needs='"tool"')
    first, second = write_tool(index, "1.0"), write_tool(index, "2.0")
    for tool, version in ((first, "1.0"), (second, "2.0"), (first, "1.0")):
        lab = sdist_recipe(tmp_path, path, build_lock=build_lock(tmp_path, tool))
        (wheel,) = wheels.gather(lab, tmp_path, cache, silent, BOOKWORM)
        assert used(wheel) == f"tool {version}"
    assert wheels.missing(lab, cache, BOOKWORM) == []
    assert list((cache.root / "work").iterdir()) == []


@pytest.mark.integration
@pytest.mark.parametrize("locked", [False, True], ids=["no lock", "a lock of an older one"])
def test_a_tool_that_is_not_locked_never_runs(house, index, cache, tmp_path, locked):
    path = write_sdist(index.folder, tmp_path, needs='"tool>=2"')
    lock = build_lock(tmp_path, write_tool(index, "1.0")) if locked else None
    write_tool(index, "2.0")
    with pytest.raises(SourceError, match=r"^native-1\.0\S* is .* not locked: some .*tool>=2\W*\. Name .*`build-lock`"):
        wheels.gather(sdist_recipe(tmp_path, path, build_lock=lock), tmp_path, cache, silent, BOOKWORM)


@pytest.mark.integration
def test_a_tool_with_another_hash_never_runs(house, index, cache, tmp_path):
    path = write_sdist(index.folder, tmp_path, needs='"tool"')
    lock = build_lock(tmp_path, write_tool(index, "1.0"))
    lock.write_text(lock.read_text()[:-65] + HASH + "\n")
    with pytest.raises(DigestMismatch, match="tool"):
        wheels.gather(sdist_recipe(tmp_path, path, build_lock=lock), tmp_path, cache, silent, BOOKWORM)


def test_a_lock_of_tools_without_anything_to_compile_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="build-lock"):
        load(tmp_path, GOOD.replace("[python]", '[python]\nbuild-lock = "build.txt"'))


@pytest.mark.integration
def test_a_source_package_with_another_hash_is_not_compiled(house, index, cache, tmp_path):
    path = write_sdist(index.folder, tmp_path)
    lab = sdist_recipe(tmp_path, path)
    with path.open("ab") as file:
        file.write(b"!")
    with pytest.raises(DigestMismatch):
        wheels.gather(lab, tmp_path, cache, silent, BOOKWORM)


@pytest.mark.integration
def test_a_source_package_that_does_not_compile_says_so(house, index, cache, tmp_path):
    path = write_sdist(index.folder, tmp_path, source="this is not C\n")
    with pytest.raises(SourceError, match="native"):
        wheels.gather(sdist_recipe(tmp_path, path), tmp_path, cache, silent, BOOKWORM)


@pytest.mark.integration
def test_nothing_is_compiled_for_another_processor(house, index, cache, tmp_path):
    path = write_sdist(index.folder, tmp_path)
    with pytest.raises(SourceError, match="cannot be compiled for debian-13 on arm64"):
        wheels.gather(sdist_recipe(tmp_path, path), tmp_path, cache, silent, ARM)


@pytest.mark.integration
@pytest.mark.parametrize("target", [BOOKWORM, TRIXIE], ids=str)
def test_the_appliances_own_lock_is_complete_for_every_tested_target(target, tmp_path):
    """Against the real index: every package of the runtime lock has a wheel for the target, and they fit together."""
    root = Path(__file__).parents[2] / "bundles"
    cache = Cache(wheels_cache())
    python = PythonRecipe(root / "locks/runtime.txt", ("llama-cpp-python",), appliance=True)
    fit = fit_of(target)
    pins = [pin for pin in resolve.pins(python, fit) if pin.name != "llama-cpp-python"]
    try:
        found = wheels._from_index(pins, fit, cache, silent)
    except SourceUnreachable as error:
        pytest.skip(f"the package index cannot be reached: {error}")
    reports = [wheels.wheel_lint.lint(path, name, fit.tags) for name, path in found.items()]
    assert {report.name for report in reports} == {pin.name for pin in pins}
    resolve.check(plain(root / "locks/runtime.txt"), reports, fit)


def wheels_cache() -> Path:
    from plugsky.core import settings

    return settings.load({}).values.cache
