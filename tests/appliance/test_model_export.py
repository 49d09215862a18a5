"""Models out of the site as plain files, and models made in the facility into it: proven, recorded, and reversible."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.working_site import WorkingSite, model_files, working_site
from bundles.forge import NOW
from bundles.gguf_splitter import split
from bundles.small_llama import small_llama
from plugsky.audit.trail import search
from plugsky.core.errors import PlugskyError
from plugsky.fleet import enrolled, exporting, generations, health, importing, local_models, prune, switching
from plugsky.fleet.importing import Offered
from plugsky.fleet.survey import survey
from plugsky.models import catalogue, local
from plugsky_bundles import enrolment, keys
from plugsky_bundles.enrolment import APPROVER, Enrolled
from plugsky_bundles.errors import (
    DigestMismatch,
    ExistsError,
    GgufError,
    HealthCheckFailed,
    NotApproved,
    NotFound,
    Revoked,
    SignatureInvalid,
    UnsafeName,
)
from plugsky_bundles.key_cards import KeyCard
from plugsky_bundles.split_model import digest_of
from plugsky_bundles.state import Revocations

__all__ = ["working_site"]
TUNED = small_llama(seed=7)
AMAL = keys.generate()
SITE_KEY = "f" * 64
FILES = {"small.gguf", "model.json", "LICENSE"}


@pytest.fixture(autouse=True)
def checked(monkeypatch):
    """Health checks that pass at once; the test of a failing one asks for the real thing."""
    real = health.check
    good = health.Verdict("2026-11-22T12:00:00.000000Z", {"m": health.ModelHealth("ok", "")})
    monkeypatch.setattr(health, "check", lambda *_, **__: good)
    return real


@pytest.fixture
def site(working_site):
    """A site with a bundle and an enrolled approver."""
    working_site.install(working_site.bundle())
    people = Enrolled().enrol(KeyCard("amal", AMAL.public_key), APPROVER, NOW)
    enrolment.save(working_site.paths.trust, people)
    return working_site


def describe(path: Path, model_id: str = "tuned", context: int = 256) -> dict[str, object]:
    said = local.Description(model_id, "Tuned", "generate", context, "MIT", ("en",), "-")
    return local.describe(path, said, lambda _: None)


def offer(site: WorkingSite, weights: bytes = TUNED, signer=AMAL, licence: bytes | None = b"MIT\n", **said) -> Offered:
    path = site.base / "tuned.gguf"
    path.write_bytes(weights)
    return Offered(path, local.approve(describe(path, **said), licence, signer, "amal", NOW), licence)


def take(site: WorkingSite, offered: Offered, model_id: str = "tuned") -> generations.Generation:
    return importing.import_model(site.paths, offered, model_id, SITE_KEY, site.trail, "user:test")[0]


def ids(site: WorkingSite) -> list[str]:
    return [entry.id for entry in catalogue.models(site.paths)]


def export(site: WorkingSite, out: Path, model_id: str = "small") -> exporting.Exported:
    return exporting.export_model(site.paths, model_id, out, site.trail, "user:test")


def test_a_model_is_exported_as_plain_files_that_other_tools_can_check(site, tmp_path):
    done = export(site, tmp_path / "out")
    assert set(done.files) == FILES
    assert (tmp_path / "out/small.gguf").read_bytes() == small_llama()
    assert json.loads((tmp_path / "out/model.json").read_bytes())["id"] == "small"
    assert (tmp_path / "out/LICENSE").read_bytes() == b"MIT\n"
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout.count(": OK")) == (0, 3), checked
    (record,) = search(site.paths.audit, "", "model.export")
    assert record.subject == "small"


@pytest.mark.parametrize("name", ["small.gguf", "LICENSE", "SHA256SUMS"])
def test_an_export_overwrites_nothing(site, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(ExistsError, match=name):
        export(site, tmp_path / "out")
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {name: "mine"}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_damaged_file_is_not_exported_and_leaves_nothing(site, tmp_path, name):
    path = site.paths.current / "models/small" / name
    path.chmod(0o640)
    if name == "model.json":
        path.write_bytes(path.read_bytes().replace(b"Small", b"Smell"))
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DigestMismatch, match="is not the file that was installed"):
        export(site, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_is_not_there_is_not_exported(site, tmp_path):
    with pytest.raises(PlugskyError, match="gpt"):
        export(site, tmp_path / "out", "gpt")


def test_the_parts_of_a_split_model_are_joined(site, tmp_path):
    (tmp_path / "whole.gguf").write_bytes(TUNED)
    parts = {path.name: path.read_bytes() for path in split(tmp_path / "whole.gguf", tmp_path, "m", 3)}
    digests = [hashlib.sha256(data).hexdigest() for data in parts.values()]
    files = model_files(small_llama())
    entry = json.loads(files["models/small/model.json"]) | {
        "file": next(iter(parts)),
        "sha256": digest_of(digests),
        "size": sum(map(len, parts.values())),
        "files": [
            {"name": name, "sha256": digest, "size": len(parts[name])}
            for name, digest in zip(parts, digests, strict=True)
        ],
    }
    del files["models/small/small.gguf"]
    files |= {f"models/small/{name}": data for name, data in parts.items()}
    files["models/small/model.json"] = json.dumps(entry).encode()
    site.install(site.bundle_of(files))
    done = export(site, tmp_path / "out")
    assert done.joined
    assert (tmp_path / "out/m.gguf").read_bytes() == TUNED
    assert set(done.files) == {"m.gguf", "model.json", "LICENSE"}


def test_an_imported_model_is_there_is_local_and_outlives_its_bundle(site):
    bundle = site.bundle()
    second = take(site, offer(site))
    assert (second.number, site.current, ids(site)) == (2, 2, ["small", "tuned"])
    assert {entry.id: entry.local for entry in catalogue.models(site.paths)} == {"small": False, "tuned": True}
    entry = catalogue.find(site.paths, "tuned")
    assert entry.path.read_bytes() == TUNED
    assert entry.path.with_name("LICENSE").read_bytes() == b"MIT\n"
    assert entry.path.stat().st_ino == (site.paths.store / f"sha256-{entry.sha256}").stat().st_ino
    third = site.install(site.bundle(playbooks__new=b"- hosts: new\n"))
    assert (third.number, ids(site), third.local_ids) == (3, ["small", "tuned"], ("tuned",))
    (record,) = search(site.paths.audit, "", "model.import")
    assert (record.subject, record.fields["approved_by"], record.fields["generation"]) == ("tuned", "amal", 2)
    assert search(site.paths.audit, "", "bundle.install")[0].fields["local"] == "tuned"
    assert bundle.is_dir()


def test_installing_the_bundle_that_is_current_changes_nothing_after_an_import(site, tmp_path):
    bundle = site.bundle()
    site.install(bundle)
    number = take(site, offer(site)).number
    assert site.install(bundle).number == number == site.current


def test_pruning_keeps_the_files_of_imported_models(site):
    take(site, offer(site))
    plan = prune.plan(site.paths, 1)
    prune.prune(site.paths, plan, 1, site.trail, "user:test")
    digest = hashlib.sha256(TUNED).hexdigest()
    assert (site.paths.store / f"sha256-{digest}").is_file()
    importing.remove_model(site.paths, "tuned", site.trail, "user:test")
    prune.prune(site.paths, prune.plan(site.paths, 1), 1, site.trail, "user:test")
    assert not (site.paths.store / f"sha256-{digest}").exists()


def test_an_imported_model_can_be_removed_and_a_bundles_cannot(site):
    take(site, offer(site))
    third = importing.remove_model(site.paths, "tuned", site.trail, "user:test")
    assert (third.number, site.current, ids(site)) == (3, 3, ["small"])
    assert local_models.found(site.paths) == ()
    assert site.install(site.bundle(playbooks__new=b"---\n")).local_ids == ()
    (record,) = search(site.paths.audit, "", "model.remove")
    assert record.fields["sha256"] == hashlib.sha256(TUNED).hexdigest()
    for name in ("tuned", "small"):
        with pytest.raises(NotFound, match=name):
            importing.remove_model(site.paths, name, site.trail, "user:test")


def another(site: WorkingSite) -> Offered:
    return offer(site, signer=keys.generate())


def shorter(site: WorkingSite) -> Offered:
    offered = offer(site)
    offered.file.write_bytes(TUNED[:-32])
    return offered


def changed(site: WorkingSite) -> Offered:
    offered = offer(site)
    offered.file.write_bytes(TUNED[:-1] + b"\x55")
    return offered


def longer(site: WorkingSite) -> Offered:
    offered = offer(site)
    offered.file.write_bytes(TUNED + bytes(1 << 20))
    return offered


def licensed(site: WorkingSite) -> Offered:
    offered = offer(site)
    return Offered(offered.file, offered.approval, b"another licence\n")


def edited(site: WorkingSite) -> Offered:
    offered = offer(site)
    envelope = json.loads(offered.approval)
    other = json.loads(offer(site, context=255).approval)
    return Offered(offered.file, json.dumps(envelope | {"payload": other["payload"]}).encode(), b"MIT\n")


def by_the_importer(site: WorkingSite) -> Offered:
    people = Enrolled().enrol(KeyCard(next(iter(enrolled.installers())), AMAL.public_key), APPROVER, NOW)
    enrolment.save(site.paths.trust, people)
    return offer(site)


def with_revoked_key(site: WorkingSite) -> Offered:
    site.install(site.bundle(Revocations(keys=frozenset({AMAL.public_key.keyid})), playbooks__r=b"---\n"))
    return offer(site)


def revoked(site: WorkingSite) -> Offered:
    digest = hashlib.sha256(TUNED).hexdigest()
    site.install(site.bundle(Revocations(digests=frozenset({digest})), playbooks__r=b"---\n"))
    return offer(site)


WRONG = {
    "signed by a stranger": (another, NotApproved),
    "signed by the one who imports": (by_the_importer, NotApproved),
    "signed by a key that was revoked": (with_revoked_key, NotApproved),
    "an approval that was edited": (edited, SignatureInvalid),
    "a file with a changed byte": (changed, DigestMismatch),
    "a file that is shorter": (shorter, DigestMismatch),
    "a file that is longer": (longer, DigestMismatch),
    "another licence text": (licensed, DigestMismatch),
    "a model that was revoked": (revoked, Revoked),
}


@pytest.mark.parametrize(("made", "error"), WRONG.values(), ids=WRONG)
def test_a_model_that_was_not_approved_as_it_is_does_not_come_in(site, made, error):
    offered = made(site)
    current, store = site.current, {path.name for path in site.paths.store.iterdir()}
    with pytest.raises(error):
        take(site, offered)
    assert site.current == current
    assert {path.name for path in site.paths.store.iterdir()} == store
    assert not list(site.paths.staging.glob("*"))
    assert "tuned" not in ids(site)
    assert local_models.found(site.paths) == ()


def test_a_key_that_nobody_enrolled_is_to_be_enrolled_and_not_to_approve_again(site):
    with pytest.raises(NotApproved, match="not enrolled here") as refused:
        take(site, another(site))
    assert "plugsky trust enrol CARD --role approver" in refused.value.next


def test_the_sites_own_key_approves_nothing(site):
    with pytest.raises(NotApproved, match="does not count"):
        importing.import_model(site.paths, offer(site), "tuned", AMAL.public_key.keyid, site.trail, "user:test")


def test_an_id_is_used_once(site):
    take(site, offer(site))
    with pytest.raises(ExistsError, match="already"):
        take(site, offer(site))
    with pytest.raises(ExistsError, match="already"):
        take(site, offer(site, model_id="small"), "small")
    with pytest.raises(DigestMismatch, match="another model"):
        take(site, offer(site), "other")


def test_a_bundle_that_brings_a_model_under_the_id_of_a_local_one_is_refused(site):
    take(site, offer(site))
    bundle = site.bundle_of(model_files(small_llama(seed=3), "tuned"))
    with pytest.raises(ExistsError, match="plugsky model remove tuned"):
        site.install(bundle)
    assert site.current == 2
    importing.remove_model(site.paths, "tuned", site.trail, "user:test")
    site.install(bundle)
    assert ids(site) == ["tuned"]


def test_a_local_model_that_is_revoked_later_stays_behind(site):
    take(site, offer(site))
    digest = hashlib.sha256(TUNED).hexdigest()
    generation = site.install(site.bundle(Revocations(digests=frozenset({digest})), playbooks__r=b"---\n"))
    assert (generation.local_ids, ids(site)) == ((), ["small"])
    with pytest.raises(Revoked, match=r"tuned\.gguf"):
        switching.activate(site.paths, 2, site.trail, "user:test")


@pytest.mark.integration
def test_a_model_that_does_not_work_here_is_not_taken_on(site, checked, monkeypatch):
    monkeypatch.setattr(health, "check", checked)
    with pytest.raises(HealthCheckFailed, match="generation 1 stays current") as caught:
        take(site, offer(site, small_llama(silent=True)))
    assert "tuned" in caught.value.why
    assert (site.current, local_models.found(site.paths)) == (1, ())
    assert [one.state for one in survey(site.paths)] == ["good", "failed"]
    assert take(site, offer(site)).number == site.current == 3


STEPS = {
    "when the file is in the store": "plugsky.fleet.rebuilding.assemble",
    "when the generation is made": "plugsky.fleet.generations.check_revoked",
    "before the model is the site's own": "plugsky.fleet.local_models.write_file",
    "before the record": "plugsky.audit.log.AuditLog.record",
    "before the switch": "plugsky.fleet.generations.activate",
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("way", ["import", "remove"])
def test_a_change_that_is_cut_is_finished_by_running_it_again(site, monkeypatch, step, way):
    def run():
        if way == "import":
            take(site, offer(site))
        else:
            importing.remove_model(site.paths, "tuned", site.trail, "user:test")

    if way == "remove":
        take(site, offer(site))
        step = step.replace("local_models.write_file", "local_models.remove")
    current, numbers = site.current, generations.numbers(site.paths)
    with monkeypatch.context() as patch:
        patch.setattr(step, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run()
    assert site.current == current
    assert generations.numbers(site.paths) == numbers
    run()
    assert ids(site) == (["small", "tuned"] if way == "import" else ["small"])


def test_what_cannot_be_described_is_not_approved(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(TUNED)
    with pytest.raises(GgufError, match="context"):
        describe(path, context=10_000)
    for name in ("../up", "Upper", "", "a/b"):
        with pytest.raises(UnsafeName):
            describe(path, name)
    path.write_bytes(b"no model")
    with pytest.raises(GgufError):
        describe(path)
    (tmp_path / "whole.gguf").write_bytes(TUNED)
    with pytest.raises(GgufError, match="part of a split model"):
        describe(split(tmp_path / "whole.gguf", tmp_path, "m", 2)[0])


def test_an_approval_of_something_else_is_no_approval_of_a_model(site):
    offered = offer(site)
    envelope = json.loads(offered.approval) | {"payloadType": "application/vnd.plugsky.approval+json"}
    for data in (json.dumps(envelope).encode(), b"{}", b"", b"[]"):
        with pytest.raises(Exception, match=r"malformed|type|no envelope|other fields"):
            take(site, Offered(offered.file, data, offered.licence))


def test_a_list_of_local_models_that_is_damaged_is_an_error_and_no_empty_list(site):
    take(site, offer(site))
    path = site.paths.local / "tuned" / local_models.LIST
    path.chmod(0o640)
    for content in (b"", b"{}", path.read_bytes().replace(b"models/tuned", b"models/other")):
        path.write_bytes(content)
        with pytest.raises(Exception, match=r"local\.json"):
            local_models.found(site.paths)
    shutil.rmtree(site.paths.local)
    assert local_models.found(site.paths) == ()
