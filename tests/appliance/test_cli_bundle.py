"""The operator's and the sysadmin's commands on a small bundle: what they print, refuse and leave behind."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from appliance.desk import desk
from bundles.gguf_forge import Forge
from plugsky.core.errors import ErrorKind, ExitCode, PlugskyError

__all__ = ["desk"]


def test_the_way_from_a_recipe_to_a_site(desk):
    bundle = desk.sealed()
    assert desk.json("bundle", "build", desk.place / "lab.toml", "--out", desk.place / "media")["state"] == "sealed"
    verdict = desk.json("bundle", "verify", bundle, "--pin", desk.pin)
    assert verdict["verified"] is True
    assert len(verdict["checks"]) > 5
    planned = desk.json("bundle", "install", bundle, "--pin", desk.pin, "--dry-run")["plan"]
    assert not (desk.place / "site").exists()
    assert planned["generation"] == 1
    installed = desk.json("bundle", "install", bundle, "--pin", desk.pin, "--yes")
    assert (installed["generation"], installed["installed"]) == (1, True)
    again = desk.json("bundle", "install", bundle, "--yes")
    assert again["installed"] is False
    (model,) = desk.json("model", "list")["models"]
    assert (model["id"], model["state"], model["licence"]) == ("tiny", "absent", "MIT")
    trail = desk.json("audit", "verify")
    assert trail["ok"], trail["problems"]
    assert any("trust init" in link for link in trail["links"])


def test_people_are_told_the_same_in_words(desk):
    bundle = desk.sealed()
    assert (
        f"verified: bundle {desk.json('bundle', 'verify', bundle)['bundle_id']}"
        in desk.run("bundle", "verify", bundle).out
    )
    inside = desk.run("bundle", "inspect", bundle, "--files").out
    for words in ("targets    by targets-1", "tiny", "MIT", "models/tiny/tiny.gguf"):
        assert words in inside
    told = desk.run("bundle", "install", bundle, "--pin", desk.pin, "--yes")
    assert "generation 1" in told.out
    assert "plan " in told.err
    assert "already" in desk.run("bundle", "install", bundle).out
    assert "root-1" in desk.run("trust", "show").out


def test_a_plan_without_anyone_to_ask_says_the_exact_command(desk):
    bundle = desk.sealed()
    told = desk.run("bundle", "install", bundle, "--pin", desk.pin, expect=ExitCode.USAGE)
    assert f"plugsky bundle install {bundle} --root {desk.place / 'site'} --pin {desk.pin} --yes" in told.err
    assert not (desk.place / "site").exists()


@pytest.fixture
def moved_on(desk):
    """A site that has accepted version 2 after version 1, whose bundle still lies there: that of version 1."""
    old = desk.sealed()
    desk.run("bundle", "install", old, "--pin", desk.pin, "--yes")
    recipe = desk.place / "lab.toml"
    recipe.write_text(recipe.read_text().replace("context = 128", "context = 64"))
    desk.run("bundle", "install", desk.sealed(), "--yes")
    return desk, old


@pytest.mark.parametrize("looking", ["bundle inspect", "bundle evidence", "custody show", "bundle diff"])
def test_what_a_site_has_moved_on_from_can_be_looked_at_with_a_warning(moved_on, looking):
    desk, old = moved_on
    told = desk.run(*looking.split(), old)
    assert "warning: This bundle is older than one accepted before" in told.err
    assert "would refuse to install it" in told.err
    seen = desk.json(*looking.split(), old)
    refused = (seen["new"] if looking == "bundle diff" else seen)["refused_here"]
    assert "this site has seen 2" in refused


def test_what_a_site_has_not_moved_on_from_is_looked_at_without_a_warning(desk):
    bundle = desk.sealed()
    desk.run("bundle", "install", bundle, "--pin", desk.pin, "--yes")
    assert "warning" not in desk.run("bundle", "inspect", bundle).err
    assert desk.json("bundle", "inspect", bundle)["refused_here"] is None


def test_what_a_site_has_moved_on_from_is_neither_verified_nor_carried_nor_installed(moved_on):
    desk, old = moved_on
    for words in (
        ("bundle", "verify", old),
        ("bundle", "copy", old, desk.place / "stick"),
        ("bundle", "split", old, "--size", "700M", "--out", desk.place / "volumes"),
        ("bundle", "approve", old, "--keys", desk.place / "keys"),
        ("bundle", "install", old, "--yes"),
    ):
        told = desk.run(*words, expect=ExitCode.VERIFICATION_FAILED)
        assert "older than one accepted before" in told.err, words


def test_where_a_copy_is_damaged_the_command_that_mends_it_is_named(desk):
    bundle, pin = desk.sealed(), desk.pin
    shutil.copytree(bundle, desk.place / "good" / bundle.name)
    blob = max((bundle / "blobs").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    blob.write_bytes(bytes(byte ^ 1 for byte in blob.read_bytes()))
    mend = f"plugsky bundle repair {bundle} --from GOOD --pin {pin}"
    for command in (("verify",), ("install", "--yes")):
        told = desk.run("bundle", *command, bundle, "--pin", pin, expect=ExitCode.VERIFICATION_FAILED)
        assert mend in told.err, told.err
    desk.run(*mend.replace("GOOD", str(desk.place / "good" / bundle.name)).split()[1:])
    desk.run("bundle", "verify", bundle, "--pin", pin)


def test_the_command_after_a_wrong_volume_or_a_terminal_trusts_as_the_typed_one_did(desk, monkeypatch):
    bundle, pin = desk.sealed(), desk.pin
    split = ("bundle", "split", bundle, "--size", "1G", "--out", desk.place / "volumes", "--volume", 9)
    told = desk.run(*split, "--pin", pin, expect=ExitCode.USAGE)
    assert f"--out {desk.place / 'volumes'} --pin {pin}" in told.err
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    told = desk.run("bundle", "stream", bundle, "--pin", pin, expect=ExitCode.USAGE)
    assert f"plugsky bundle stream {bundle} --out FILE --pin {pin}" in told.err


def test_evidence_that_is_taken_out_is_counted_and_not_listed(desk):
    bundle = desk.sealed()
    listed = desk.run("bundle", "evidence", bundle).out.splitlines()
    told = desk.run("bundle", "evidence", bundle, "--out", desk.place / "review")
    assert told.out == f"{desk.place / 'review'}: {len(listed) - 1} files, each the one that was sealed\n"


def test_every_time_in_json_is_written_one_way(desk):
    bundle = desk.sealed()
    inside, trust = desk.json("bundle", "inspect", bundle), desk.json("trust", "show")
    events = desk.json("custody", "show", bundle)["events"]
    for time in (inside["sealed_at"], inside["expires"], trust["expires"], *(event["at"] for event in events)):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", time), time


def test_a_no_changes_nothing(desk, monkeypatch):
    bundle = desk.sealed()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *_question, **_options: False)
    desk.run("bundle", "install", bundle, "--pin", desk.pin, expect=ExitCode.DECLINED)
    assert not (desk.place / "site").exists()


def test_nobody_to_trust_is_a_refusal_that_shows_what_to_compare(desk, monkeypatch):
    bundle, pin = desk.sealed(), desk.pin
    monkeypatch.delenv("PLUGSKY_TRUST")
    told = desk.run("bundle", "verify", bundle, expect=ExitCode.VERIFICATION_FAILED)
    assert pin in told.err
    assert "--pin" in told.err
    desk.run("bundle", "install", bundle, "--yes", expect=ExitCode.VERIFICATION_FAILED)
    desk.run("bundle", "install", bundle, "--yes", "--pin", "0" * 64, expect=ExitCode.VERIFICATION_FAILED)
    assert not (desk.place / "site").exists()


def test_a_bundle_below_its_threshold_is_not_sealed_and_not_installed(desk):
    bundle = desk.build()
    desk.run("bundle", "seal", bundle, expect=ExitCode.VERIFICATION_FAILED)
    desk.run("bundle", "install", bundle, "--pin", desk.pin, "--yes", expect=ExitCode.VERIFICATION_FAILED)
    assert not (desk.place / "site").exists()


@pytest.mark.parametrize("harm", ["a changed byte", "a missing blob", "an extra file", "a longer file"])
def test_a_harmed_bundle_is_refused_and_the_site_stays_as_it_was(desk, harm):
    first = desk.sealed()
    desk.run("bundle", "install", first, "--pin", desk.pin, "--yes")
    desk.write_recipe(other_model())
    bundle = desk.sealed()
    assert bundle != first
    held = {path.name for path in first.glob("blobs/*/*")}
    new = [path for path in bundle.glob("blobs/*/*") if path.name not in held]
    blob = max(new, key=lambda path: path.stat().st_size)
    blob.chmod(0o644)
    if harm == "a changed byte":
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 1
        blob.write_bytes(data)
    elif harm == "a missing blob":
        blob.unlink()
    elif harm == "an extra file":
        (bundle / "blobs/autorun.sh").write_text("echo")
    else:
        blob.write_bytes(blob.read_bytes() + b"!")
    before = {path: path.stat().st_mtime_ns for path in (desk.place / "site").rglob("*")}
    desk.run("bundle", "verify", bundle, expect=ExitCode.VERIFICATION_FAILED)
    desk.run("bundle", "install", bundle, "--yes", expect=ExitCode.VERIFICATION_FAILED)
    after = {path: path.stat().st_mtime_ns for path in (desk.place / "site").rglob("*") if path.is_file()}
    assert after == {path: time for path, time in before.items() if path in after}
    assert (desk.place / "site/current").readlink().name == "1"


def other_model():
    """A model that differs from the first in its bytes only."""
    model = bytearray(Forge().build())
    model[-1] ^= 1
    return bytes(model)


def test_a_model_that_is_no_gguf_is_refused_at_build_and_leaves_nothing(desk):
    desk.write_recipe(b"MZ this is no model" * 100)
    told = desk.run(
        "bundle", "build", desk.place / "lab.toml", "--out", desk.place / "media", expect=ExitCode.VERIFICATION_FAILED
    )
    assert "GGUF" in told.err
    assert list((desk.place / "media").iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        pytest.param("licence =", "license =", ExitCode.USAGE, "licence", id="an unknown key"),
        pytest.param('mode = "generate"', 'mode = "paint"', ExitCode.USAGE, "paint", id="an unknown mode"),
        pytest.param("[[model]]", "[[model", ExitCode.USAGE, "TOML", id="no TOML"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(desk, old, new, code, words):
    recipe = desk.place / "lab.toml"
    recipe.write_text(recipe.read_text().replace(old, new))
    told = desk.run("bundle", "build", recipe, "--out", desk.place / "media", expect=code)
    assert words in told.err
    assert not (desk.place / "media").exists() or list((desk.place / "media").iterdir()) == []


def test_a_wrong_hash_in_a_recipe_is_refused_and_leaves_nothing(desk):
    desk.write_recipe(Forge().build(), pin="0" * 64)
    told = desk.run(
        "bundle", "build", desk.place / "lab.toml", "--out", desk.place / "media", expect=ExitCode.VERIFICATION_FAILED
    )
    assert "0" * 64 in told.err
    assert list((desk.place / "media").iterdir()) == []


def test_a_wrong_passphrase_is_not_authorised(desk, monkeypatch):
    bundle = desk.build()
    monkeypatch.setenv("PLUGSKY_PASSPHRASE", "battery staple")
    told = desk.run("trust", "sign", bundle, expect=ExitCode.NOT_AUTHORISED)
    assert "targets-1.pem" in told.err
    assert "battery" not in told.err


def test_a_passphrase_is_asked_for_only_where_someone_can_answer(desk, monkeypatch):
    monkeypatch.delenv("PLUGSKY_PASSPHRASE")
    told = desk.run("trust", "init", "--out", desk.place / "other", expect=ExitCode.USAGE)
    assert "--passphrase-file" in told.err
    secret = desk.place / "secret"
    secret.write_text("from a file\nsecond line\n")
    desk.run("trust", "init", "--out", desk.place / "other", "--passphrase-file", secret)
    secret.write_text("\n")
    desk.run("trust", "init", "--out", desk.place / "third", "--passphrase-file", secret, expect=ExitCode.USAGE)
    assert not (desk.place / "third").exists()


def test_trust_begins_once(desk):
    desk.run("trust", "init", "--out", desk.place / "trust", expect=ExitCode.FAILED)
    desk.run("trust", "init", "--out", desk.place / "x", "--root-keys", 1, "--root-threshold", 2, expect=ExitCode.USAGE)


def test_keys_and_usage_work_without_a_running_site(desk):
    bundle = desk.sealed()
    desk.run("bundle", "install", bundle, "--pin", desk.pin, "--yes")
    key = desk.json("key", "create", "--tenant", "demo", "--name", "first", "--days", 30, "--model", "tiny")
    assert key["secret"].startswith("psk_")
    told = desk.run("key", "list").out
    assert key["id"] in told
    assert key["secret"] not in told
    assert desk.json("key", "revoke", key["id"])["revoked"]
    desk.run("key", "revoke", "nobody00", expect=ExitCode.NOT_FOUND)
    limited = desk.json("key", "create", "--tenant", "demo", "--endpoint", "chat", "--requests-per-minute", 5)
    assert desk.json("key", "rotate", limited["id"], "--overlap", 1)["tenant"] == "demo"
    assert "5 req/min" in desk.run("key", "list").out
    assert desk.json("tenant", "set", "demo", "--monthly-tokens", 500, "--concurrency", 2)["concurrency"] == 2
    assert desk.json("tenant", "set", "demo", "--monthly-tokens", "none")["monthly_tokens"] is None
    desk.run("tenant", "set", "demo", "--concurrency", "many", expect=ExitCode.USAGE)
    assert "2 at once" in desk.run("tenant", "list").out
    desk.json("alias", "set", "gpt-4o", "tiny", "--default", "temperature=0.3")
    desk.run("alias", "set", "tiny", "tiny", expect=ExitCode.FAILED)
    desk.run("alias", "set", "gpt-4o", "nobody", expect=ExitCode.NOT_FOUND)
    desk.run("alias", "set", "gpt-4o", "tiny", "--default", "temperature=hot", expect=ExitCode.USAGE)
    assert "temperature=0.3" in desk.run("alias", "list").out
    desk.run("alias", "remove", "gpt-4o")
    assert desk.json("alias", "list")["aliases"] == []
    assert desk.json("audit", "verify")["ok"]
    assert desk.json("usage", "report")["rows"] == []
    actions = [record["action"] for record in desk.json("audit", "search", "--limit", 50)["records"]]
    assert {
        "bundle.install",
        "key.create",
        "key.revoke",
        "key.rotate",
        "tenant.set",
        "alias.set",
        "alias.remove",
    } <= set(actions)
    assert key["secret"] not in (Path(desk.place) / "site").joinpath("state/plugsky.db").read_bytes().decode("latin-1")


def test_a_switch_back_to_a_kept_generation_is_asked_and_told(desk, monkeypatch):
    first = desk.sealed()
    desk.run("bundle", "install", first, "--pin", desk.pin, "--yes")
    other = desk.place / "lab.toml"
    other.write_text(other.read_text().replace('channel = "lab"', 'channel = "second"'))
    desk.run("bundle", "install", desk.sealed(), "--yes")
    told = desk.run("bundle", "install", first, expect=ExitCode.USAGE)
    assert "generation 2 is current until then" in told.err
    assert f"plugsky bundle install {first} --root {desk.place / 'site'} --yes" in told.err
    assert (desk.place / "site/current").readlink().name == "2"
    told = desk.run("bundle", "install", first, "--yes")
    assert f"generation 1 of {desk.place / 'site'} is now current" in told.out
    assert (desk.place / "site/current").readlink().name == "1"
    done = desk.json("bundle", "install", first)
    assert (done["installed"], done["activated"], done["repaired"]) == (False, False, None)


def test_a_damaged_model_is_repaired_as_the_doctor_says(desk):
    bundle = desk.sealed()
    desk.run("bundle", "install", bundle, "--pin", desk.pin, "--yes")
    (model,) = (desk.place / "site/current/models/tiny").glob("*.gguf")
    model.unlink()
    told = desk.run("doctor", expect=ExitCode.FAILED)
    assert "plugsky bundle install" in told.err
    told = desk.run("bundle", "install", bundle, expect=ExitCode.USAGE)
    assert "generation 1 of the same bundle is made anew" in told.err
    assert desk.json("bundle", "install", bundle, "--yes")["repaired"] == 1
    findings = {finding["check"]: finding["state"] for finding in desk.json("doctor")["findings"]}
    assert findings["model tiny"] == "ok"
    desk.run("bundle", "install", bundle)
    told = desk.run("bundle", "install", bundle, "--repair", expect=ExitCode.USAGE)
    assert told.err.rstrip().endswith("--repair --yes")


def test_a_pin_that_is_not_the_sites_root_is_refused(desk):
    bundle = desk.sealed()
    desk.run("bundle", "install", bundle, "--pin", desk.pin, "--yes")
    told = desk.run("bundle", "install", bundle, "--pin", "0" * 64, expect=ExitCode.VERIFICATION_FAILED)
    assert "another root" in told.err


def test_a_site_without_the_builder_still_verifies_and_installs(desk):
    """What a bundle's command imports on a site, in a Python that has no builder."""
    without = "import sys; sys.modules['plugsky_builder'] = None; import plugsky.cli.bundle"
    subprocess.run([sys.executable, "-c", without], check=True)
    assert desk.build()


def test_a_trail_that_was_edited_ends_with_the_code_for_it(desk):
    bundle = desk.sealed()
    desk.run("bundle", "install", bundle, "--pin", desk.pin, "--yes")
    (chain,) = (desk.place / "site/audit").glob("*/chain.jsonl")
    chain.write_bytes(chain.read_bytes().replace(b"bundle.install", b"bundle.instal1", 1))
    told = desk.run("audit", "verify", expect=ExitCode.VERIFICATION_FAILED)
    assert "BROKEN" in told.out
    assert "cannot be trusted" in told.err


def test_the_doctor_names_what_is_wrong(desk):
    bundle = desk.sealed()
    desk.run("bundle", "install", bundle, "--pin", desk.pin, "--yes")
    findings = {finding["check"]: finding for finding in desk.json("doctor")["findings"]}
    assert findings["generation"]["state"] == "ok"
    assert findings["running"]["state"] == "warning"
    (model,) = (desk.place / "site/current/models/tiny").glob("*.gguf")
    model.unlink()
    told = desk.run("doctor", expect=ExitCode.FAILED)
    assert "is not what was installed" in told.out
    shutil.rmtree(desk.place / "site/generations/1")
    assert "failed" in desk.run("doctor", expect=ExitCode.FAILED).out


def garbage(path):
    path.chmod(0o600)
    path.write_bytes(b"{")


def change_a_byte(path):
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def drop_a_table(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE ledgerentry")
        connection.commit()


def point_to(place):
    def turn(link):
        link.unlink()
        link.symlink_to(place)

    return turn


def lists_another_file(path):
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b'"path":"models/', b'"path":"model5/'))


DAMAGED = {
    "a model, of the same length": ("current/models/tiny/*.gguf", change_a_byte, "files"),
    "a policy file, gone": ("current/policy/channel.json", Path.unlink, "files"),
    "a policy file, a directory now": (
        "current/policy/channel.json",
        lambda path: (path.unlink(), path.mkdir()),
        "files",
    ),
    "the provenance, with other files": ("current/bundle.json", lists_another_file, "files"),
    "the mark of a complete generation": ("current/.complete", Path.unlink, "generation"),
    "the link, to a directory elsewhere": ("current", point_to("/etc"), "generation"),
    "the link, to a generation elsewhere": ("current", point_to("/srv/generations/1"), "generation"),
    "the link, to nothing": ("current", point_to("generations/7"), "generation"),
    "the link, a directory now": ("current", lambda path: (path.unlink(), path.mkdir()), "generation"),
    "the custody evidence, gone": ("current/evidence/custody.jsonl", Path.unlink, "custody"),
    "the custody evidence": ("current/evidence/custody.jsonl", change_a_byte, "custody"),
    "the site's key, gone": ("trust/site-key.pem", Path.unlink, "secrets"),
    "the pepper, gone": ("state/pepper", Path.unlink, "secrets"),
    "the pepper, cut": ("state/pepper", lambda path: path.write_bytes(b"p"), "secrets"),
    "the pepper, a link": ("state/pepper", lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "secrets"),
    "state/, open to all": ("state", lambda path: path.chmod(0o777), "secrets"),
    "trust/, open to its group": ("trust", lambda path: path.chmod(0o750), "secrets"),
    "the database, gone": ("state/plugsky.db", Path.unlink, "database"),
    "the database, emptied": ("state/plugsky.db", lambda path: path.write_bytes(b""), "database"),
    "the database without a table": ("state/plugsky.db", drop_a_table, "database"),
    "the trust state": ("trust/state.json", garbage, "trust"),
    "the trust state, gone": ("trust/state.json", Path.unlink, "trust"),
    "the site's key": ("trust/site-key.pem", garbage, "secrets"),
    "the site's key, open to its group": ("trust/site-key.pem", lambda path: path.chmod(0o640), "secrets"),
    "the pepper, open to its group": ("state/pepper", lambda path: path.chmod(0o640), "secrets"),
    "the database": ("state/plugsky.db", garbage, "database"),
    "the database, open to its group": ("state/plugsky.db", lambda path: path.chmod(0o640), "secrets"),
    "the provenance": ("current/bundle.json", garbage, "generation"),
    "the provenance, gone": ("current/bundle.json", Path.unlink, "generation"),
    "a catalogue entry": ("current/models/tiny/model.json", garbage, "models"),
    "a chain of the trail": ("audit/*/chain.jsonl", garbage, "trail"),
    "the whole trail": ("audit", shutil.rmtree, "trail"),
}


@pytest.fixture(scope="module")
def kept_site(tmp_path_factory):
    """Where a site lies once the first test that wants one has made it."""
    return tmp_path_factory.mktemp("kept") / "site"


@pytest.fixture
def used(desk, kept_site):
    """A desk with a site that has a bundle and a key."""
    if kept_site.exists():
        shutil.copytree(kept_site, desk.place / "site", symlinks=True)
    else:
        desk.run("bundle", "install", desk.sealed(), "--pin", desk.pin, "--yes")
        desk.run("key", "create", "--tenant", "demo")
        shutil.copytree(desk.place / "site", kept_site, symlinks=True)
    return desk


@pytest.mark.parametrize(("name", "harm", "check"), DAMAGED.values(), ids=DAMAGED)
def test_every_damaged_file_is_a_finding_beside_all_others(used, name, harm, check):
    before = {finding["check"] for finding in used.json("doctor")["findings"]}
    (place,) = (used.place / "site").glob(name)
    harm(place)
    findings = used.json("doctor", expect=ExitCode.FAILED)["findings"]
    failed = [finding for finding in findings if finding["state"] == "failed"]
    assert any(finding["check"].startswith(check) for finding in failed), failed
    assert all(finding["next"] for finding in failed)
    lost = {name.split()[0] for name in before} - {finding["check"].split()[0] for finding in findings}
    assert lost <= {"model", "duties", "trail"}, "nothing else went unlooked at"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["state", "state/plugsky.db", "trust/site-key.pem"])
def test_a_file_of_the_site_that_belongs_to_another_user_is_a_finding(used, name):
    os.chown(used.place / "site" / name, 65534, 65534)
    failed = [one for one in used.json("doctor", expect=ExitCode.FAILED)["findings"] if one["state"] == "failed"]
    assert [(one["check"], "belongs to user 65534" in one["text"]) for one in failed] == [("secrets", True)]


def test_a_quick_doctor_compares_sizes_and_says_so(desk):
    desk.run("bundle", "install", desk.sealed(), "--pin", desk.pin, "--yes")
    findings = {finding["check"]: finding for finding in desk.json("doctor")["findings"]}
    assert findings["files"]["text"].endswith("every byte as signed")
    (model,) = (desk.place / "site/current/models/tiny").glob("*.gguf")
    change_a_byte(model)
    findings = {finding["check"]: finding for finding in desk.json("doctor", "--quick")["findings"]}
    assert findings["files"]["text"].endswith("bytes were not compared")
    told = desk.run("doctor", "--progress", "plain", expect=ExitCode.FAILED)
    assert "its bytes are not those that were signed" in told.out
    assert "check" in told.err


def test_a_generation_that_is_not_complete_is_not_served(desk):
    desk.run("bundle", "install", desk.sealed(), "--pin", desk.pin, "--yes")
    (desk.place / "site/current/.complete").unlink()
    told = desk.run("serve", expect=ExitCode.NOT_FOUND)
    assert "no generation 1" in told.err


def test_a_running_site_that_answers_nonsense_is_a_finding(desk, monkeypatch):
    desk.run("bundle", "install", desk.sealed(), "--pin", desk.pin, "--yes")

    async def refuse(_paths):
        raise PlugskyError(ErrorKind.FORBIDDEN, "the site runs for another user", next="run as its owner")

    monkeypatch.setattr("plugsky.cli.doctor.is_running", refuse)
    told = desk.run("doctor", expect=ExitCode.FAILED)
    assert "the site runs for another user" in told.out
    assert "run as its owner" in told.err


def test_help_pages_tell_codes_variables_and_settings(desk):
    assert "verification failed" in desk.run("help", "exit-codes").out
    assert "PLUGSKY_ROOT" in desk.run("help", "environment").out
    assert desk.json("help", "exit-codes")["exit_codes"]["5"]
    assert desk.json("help", "environment")["variables"]["PLUGSKY_ROOT"]
    assert "PLUGSKY_ROOT" in desk.run("config", "show", "--origin").out
    assert desk.json("config", "show")["settings"]["trust"]["origin"] == "PLUGSKY_TRUST"
    assert str(desk.place / "trust") in desk.run("config", "show").out


@pytest.mark.parametrize(
    ("typed", "code"),
    [(["secret", "secret"], ExitCode.OK), (["secret", "sceret"], ExitCode.USAGE)],
    ids=["twice", "a slip"],
)
def test_a_passphrase_is_typed_twice_and_never_shown(desk, monkeypatch, typed, code):
    answers = iter(typed)
    monkeypatch.delenv("PLUGSKY_PASSPHRASE")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda _prompt: next(answers))
    told = desk.run("trust", "init", "--out", desk.place / "typed", expect=code)
    assert (desk.place / "typed").exists() is (code == ExitCode.OK)
    assert "secret" not in told.out + told.err
