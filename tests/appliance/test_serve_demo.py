"""The demo's own small files: whole, or not there at all."""

import os
import stat

import pytest

from plugsky.cli.demo import _throwaway_passphrase


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
