"""The demo's own small files: whole, or not there at all."""

import os
import shutil
import stat

import pytest

from plugsky.cli import app as cli
from plugsky.cli import demo
from plugsky.cli.demo import _throwaway_passphrase
from plugsky.core.errors import ExitCode


def test_a_demo_that_ends_while_it_writes_its_passphrase_leaves_none_behind(tmp_path, monkeypatch):
    def killed(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        _throwaway_passphrase(tmp_path / "passphrase")
    assert list(tmp_path.iterdir()) == []


def test_its_passphrase_is_its_owners_alone_and_stays_the_same(tmp_path):
    path = tmp_path / "passphrase"
    _throwaway_passphrase(path)
    secret = path.read_text()
    assert len(secret.strip()) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    _throwaway_passphrase(path)
    assert path.read_text() == secret


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory where a demo stops after it has begun: its steps are not walked."""

    def walked(walk, _question):
        _throwaway_passphrase(walk.place / "passphrase")
        for name in ("trust/metadata", "trust/keys", "media", "site"):
            (walk.place / name).mkdir(parents=True, exist_ok=True)
        (walk.place / "trust/metadata/1.root.json").touch()
        return demo.Told("yes", 1, 1)

    monkeypatch.setattr(demo, "_steps", walked)
    return tmp_path / "my demo"


def run(place, *options):
    return cli.run(["demo", "--dir", str(place), *options])


def test_a_demo_never_writes_among_the_files_of_somebody_else(place, capsys):
    place.mkdir()
    (place / "thesis.txt").write_text("mine")
    assert run(place) == run(place, "--fresh") == ExitCode.FAILED
    assert "is not a demo's directory" in capsys.readouterr().err
    assert [entry.name for entry in place.iterdir()] == ["thesis.txt"]


def test_a_demo_is_finished_by_the_next_one(place):
    assert run(place) == run(place) == ExitCode.OK


@pytest.mark.parametrize("gone", ["trust", "trust/keys", "trust/metadata", "passphrase"])
def test_a_demo_that_was_deleted_in_part_says_so_and_begins_anew_when_asked(place, capsys, gone):
    assert run(place) == ExitCode.OK
    shutil.rmtree(place / gone) if (place / gone).is_dir() else (place / gone).unlink()
    assert run(place) == ExitCode.FAILED
    assert f"next: plugsky demo --dir '{place}' --fresh\n" in capsys.readouterr().err
    (place / "site/old").touch()
    assert run(place, "--fresh") == ExitCode.OK
    assert not (place / "site/old").exists()


@pytest.mark.parametrize("gone", ["media", "site"])
def test_what_a_demo_can_make_again_it_makes_again(place, gone):
    assert run(place) == ExitCode.OK
    shutil.rmtree(place / gone)
    assert run(place) == ExitCode.OK
