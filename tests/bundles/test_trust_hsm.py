"""Keys in a hardware security module, on Debian's SoftHSM2: the same PKCS#11 that a real one speaks."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bundles.forge import NOW, PASSPHRASE, Forge
from plugsky_bundles import ceremony, sealing, signing, waiting
from plugsky_bundles.errors import ExistsError, HsmUnavailable, KeyUnusable, NotFound, PassphraseError
from plugsky_bundles.hsm import Module
from plugsky_bundles.key_cards import Holder, read_card
from plugsky_bundles.keys import P256
from plugsky_bundles.media import open_bundle
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.verify import verify_metadata

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        shutil.which("softhsm2-util") is None or not LIBRARY.is_file(), reason="softhsm2 is not installed"
    ),
]
PIN = "648219"


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    """A SoftHSM2 of this module's own with one token, `amal`."""
    place = tmp_path_factory.mktemp("softhsm")
    (place / "tokens").mkdir()
    (place / "softhsm2.conf").write_text(f"directories.tokendir = {place / 'tokens'}\nlog.level = ERROR\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(place / "softhsm2.conf")
    command = ["softhsm2-util", "--init-token", "--free", "--label", "amal", "--pin", PIN, "--so-pin", "12345678"]
    subprocess.run(command, check=True, capture_output=True)
    yield "amal"
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture
def module(token):
    return Module(LIBRARY, lambda: PIN)


def no_passphrase():
    pytest.fail("a key in a module needs no passphrase")


def test_a_key_in_a_module_signs_a_root_and_a_bundle_that_a_site_accepts(tmp_path, module, token):
    card = module.make_key("amal", tmp_path / "amal", token)
    assert card.key.scheme == P256
    assert read_card(tmp_path / "amal/amal.card.json") == card
    assert sorted(path.name for path in (tmp_path / "amal").iterdir()) == ["amal.card.json", "amal.hsm.json"]
    amal = Holder(tmp_path / "amal", no_passphrase, module.open)
    forge = Forge(tmp_path / "site")
    shutil.rmtree(forge.trust)
    ceremony.init(
        forge.trust, PASSPHRASE, root_cards=[card], root_keys=0, targets_cards=[card], targets_keys=0, now=NOW
    )
    found = waiting.find(forge.trust)
    assert waiting.sign(found, amal.signers(found.keyids)) == ("amal",)
    trust = waiting.finish(forge.trust, PASSPHRASE, NOW)
    bundle = forge.draft()
    assert signing.sign_as_holder(bundle, amal).signers == ("amal",)
    sealed = sealing.seal(bundle, forge.trust, PASSPHRASE, NOW)
    assert verify_metadata(open_bundle(bundle), sealed.root_fingerprint, now=NOW).signers["models"][0].name == "amal"
    assert open_trust(forge.trust).root_bytes == trust.root_bytes


def test_a_wrong_pin_is_said_and_is_no_key(tmp_path, module, token):
    card = module.make_key("amal-pin", tmp_path, token)
    wrong = Module(LIBRARY, lambda: "000000")
    with pytest.raises(PassphraseError, match="the PIN is wrong"):
        Holder(tmp_path, no_passphrase, wrong.open).signers([card.keyid])
    with pytest.raises(PassphraseError) as caught:
        wrong.make_key("another", tmp_path, token)
    assert "000000" not in str(caught.value)


def test_a_key_that_is_on_another_token_than_its_card_says_is_not_used(tmp_path, module, token):
    first = module.make_key("first", tmp_path, token)
    module.make_key("second", tmp_path, token)
    shutil.copy(tmp_path / "second.hsm.json", tmp_path / "first.hsm.json")
    with pytest.raises(KeyUnusable, match="another key"):
        Holder(tmp_path, no_passphrase, module.open).signers([first.keyid])


def test_a_module_that_nobody_named_is_asked_for(tmp_path, module, token):
    card = module.make_key("unnamed", tmp_path, token)
    with pytest.raises(KeyUnusable, match="no module was named"):
        Holder(tmp_path, no_passphrase).signers([card.keyid])


def test_no_key_is_made_over_one_that_is_there(tmp_path, module, token):
    module.make_key("once", tmp_path, token)
    with pytest.raises(ExistsError):
        module.make_key("once", tmp_path, token)


def test_a_token_or_a_library_that_is_not_there_is_named(tmp_path, module, token):
    with pytest.raises(HsmUnavailable, match="boris"):
        module.make_key("x", tmp_path, "boris")
    with pytest.raises(NotFound, match=r"nothing\.so"):
        Module(tmp_path / "nothing.so", lambda: PIN).make_key("x", tmp_path, token)
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(HsmUnavailable, match=r"text\.so"):
        Module(tmp_path / "text.so", lambda: PIN).make_key("x", tmp_path, token)
