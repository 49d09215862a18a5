"""Nothing secret of the build machine gets into a bundle, and a recipe cannot hold it."""

import os
import socket

import pytest

from bundles.test_build import PASSPHRASE, Workshop
from bundles.test_recipe import GOOD, HASH, load
from plugsky_builder.file_sources import shown
from plugsky_builder.recipe import HttpsFile
from plugsky_bundles.errors import RecipeError

SECRETS = {
    "HF_TOKEN": "hf_veryPrivateToken0123456789",
    "PIP_INDEX_URL": "https://me:indexPassword77@pypi.example.org/simple",
    "HTTPS_PROXY": "http://me:proxyPassword77@proxy.example.org:3128",
    "AWS_SECRET_ACCESS_KEY": "cloudPassword77cloudPassword77",
    "PLUGSKY_PASSPHRASE": PASSPHRASE.decode(),
}


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle built where everything that a machine may know is set."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    shop = Workshop(tmp_path)
    built = shop.build()
    shop.seal(built)
    return shop, built.path


def test_no_secret_of_the_machine_is_in_any_file_of_a_bundle(bundle):
    shop, path = bundle
    words = ["veryPrivateToken", "indexPassword77", "proxyPassword77", "cloudPassword77", PASSPHRASE.decode()]
    words += ["PRIVATE KEY", str(shop.base), socket.gethostname() + ".", os.environ.get("HOME", "/root") + "/"]
    looked = 0
    for file in path.rglob("*"):
        if file.is_file():
            looked += 1
            data = file.read_bytes()
            for word in words:
                assert word.encode() not in data, f"{word} is in {file.relative_to(path)}"
    assert looked > 10


def test_no_key_of_the_trust_directory_is_in_a_bundle(bundle):
    shop, path = bundle
    held = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    for key in (shop.trust / "keys").iterdir():
        body = key.read_bytes().splitlines()[1]
        assert body not in held


@pytest.mark.parametrize(
    "url", ["https://me:secret@example.org/m.gguf", "https://token@example.org/m.gguf", "https://:x@example.org/m.gguf"]
)
def test_a_recipe_cannot_hold_a_user_or_a_password(tmp_path, url):
    old = 'source = "file", path = "models/tiny.gguf"'
    with pytest.raises(RecipeError, match="must not hold a user or password") as caught:
        load(tmp_path, GOOD.replace(old, f'source = "https", url = "{url}", size = 1'))
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_token_in_an_address_is_not_kept_as_the_origin():
    address = "https://example.org/m.gguf?token=secret#frag"
    assert shown(address) == "https://example.org/m.gguf"
    assert "secret" not in HttpsFile(address, HASH, 1, "m.gguf").origin
