"""Generations: complete or not there, switched in one step, and never taken down by an installation that fails."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from bundles import forge
from bundles.forge import FILES, NOW, Forge
from bundles.gguf_forge import Forge as GgufForge
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.fleet import evidence, generations
from plugsky.models import catalogue
from plugsky_builder import model_parts
from plugsky_builder.cache import Cache
from plugsky_builder.recipe import LocalFile, ModelRecipe
from plugsky_bundles.errors import (
    ChunksUnknown,
    DigestMismatch,
    InstallError,
    MalformedMetadata,
    NotFound,
    Revoked,
    SiteExposed,
)
from plugsky_bundles.format import CUSTODY, Chunk, content_id, encode_chunk_list
from plugsky_bundles.media import open_bundle
from plugsky_bundles.plan import plan_install
from plugsky_bundles.progress import silent
from plugsky_bundles.state import Revocations, TrustState
from plugsky_bundles.store_index import list_path
from plugsky_bundles.verify import verify_metadata
from plugsky_bundles.walk import Listed

MODEL = GgufForge().build()


def model_files(base: Path, model_id: str = "small") -> dict[str, bytes]:
    """A model as the builder puts it into a bundle."""
    weights, licence = base / "small.gguf", base / "LICENSE"
    weights.write_bytes(MODEL)
    licence.write_bytes(b"MIT\n")
    pinned = LocalFile(weights, hashlib.sha256(MODEL).hexdigest())
    text = LocalFile(licence, hashlib.sha256(b"MIT\n").hexdigest())
    entry = ModelRecipe(model_id, "Small", "generate", 128, "MIT", ("en", "ar"), "-", pinned, text, health=False)
    parts = model_parts.gather(entry, Cache(base / "cache"), silent)
    return {part.path: part.content if isinstance(part.content, bytes) else part.content.read_bytes() for part in parts}


class Site:
    """A forge of bundles and the site that they are installed on."""

    def __init__(self, base: Path) -> None:
        self.forge = Forge(base)
        self.paths = SitePaths.at(base / "site", base / "run")
        self.files = model_files(base) | {path: data for path, data in FILES.items() if path.startswith("p")}
        self.state: TrustState | str = self.forge.fingerprint

    def bundle(self, **changes: bytes) -> Path:
        files = self.files | {path.replace("__", "/"): data for path, data in changes.items()}
        return self.forge.sealed(files=files, now=NOW)

    def verify(self, bundle: Path):
        return verify_metadata(open_bundle(bundle), self.state, now=NOW + timedelta(hours=1))

    def install(self, bundle: Path, *, activate: bool = True, progress=silent) -> generations.Generation:
        verified = self.verify(bundle)
        plan = plan_install(verified, generations.facts(self.paths))
        generation = generations.make(verified, plan, self.paths, progress=progress)
        if activate:
            self.state = verified.state
            generations.activate(self.paths, generation.number, revocations=Revocations())
        return generation

    def snapshot(self) -> dict[str, object]:
        """Everything on the site by path: link targets, and inode with modification time for files."""
        found: dict[str, object] = {}
        for path in sorted(self.paths.root.rglob("*")):
            status = path.lstat()
            found[str(path)] = str(path.readlink()) if path.is_symlink() else (status.st_ino, status.st_size)
        return found


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_an_installed_bundle_becomes_generation_1_and_then_current(site):
    assert generations.current(site.paths) is None
    bundle = site.bundle()
    generation = site.install(bundle, activate=False)
    assert generation.number == 1
    assert generations.current(site.paths) is None
    generations.activate(site.paths, 1, revocations=Revocations())
    assert generations.current(site.paths) == generation
    assert site.paths.current.readlink() == Path("generations/1")
    verified = site.verify(bundle)
    assert (generation.bundle_id, generation.content_id) == (verified.bundle_id, verified.content_id)
    assert generation.files == {path: entry.sha256 for path, entry in verified.entries.items()}
    assert (generation.path / "evidence" / "custody.jsonl").read_bytes() == (
        bundle / "evidence/custody.jsonl"
    ).read_bytes()


def test_files_of_a_generation_are_the_stores_own_and_read_only(site):
    generation = site.install(site.bundle())
    model = generation.path / "models" / "small" / "small.gguf"
    stored = site.paths.store / f"sha256-{generation.files['models/small/small.gguf']}"
    assert model.read_bytes() == MODEL
    assert model.stat().st_ino == stored.stat().st_ino
    assert model.stat().st_mode & 0o777 == 0o440
    assert (generation.path / "playbooks" / "preflight.yml").is_file()
    assert not (generation.path / "python").exists(), "wheels stay in the store"


def test_installing_the_same_bundle_again_writes_nothing(site):
    bundle = site.bundle()
    first = site.install(bundle)
    before = site.snapshot()
    verified = site.verify(bundle)
    plan = plan_install(verified, generations.facts(site.paths))
    assert plan.installed
    assert generations.make(verified, plan, site.paths) == first
    assert site.snapshot() == before


def test_a_later_bundle_shares_what_it_can_and_the_old_generation_stays(site):
    first = site.install(site.bundle())
    second = site.install(site.bundle(playbooks__preflight=b"---\n"))
    assert [g.number for g in generations.complete(site.paths)] == [1, 2]
    assert generations.current(site.paths) == second
    model = "models/small/small.gguf"
    assert (first.path / model).stat().st_ino == (second.path / model).stat().st_ino
    generations.activate(site.paths, 1, revocations=Revocations())
    assert generations.current(site.paths) == first


def test_a_changed_byte_leaves_the_site_as_it_was(site):
    site.install(site.bundle())
    bundle = site.bundle(playbooks__new=b"- hosts: new\n")
    verified = site.verify(bundle)
    plan = plan_install(verified, generations.facts(site.paths))
    (new,) = plan.copied
    (bundle / "blobs" / new.sha256[:2] / f"sha256-{new.sha256}").write_bytes(b"- hosts: xyz\n")
    before = site.snapshot()
    with pytest.raises(DigestMismatch):
        generations.make(verified, plan, site.paths)
    assert {path: seen for path, seen in site.snapshot().items() if "staging" not in path} == before


def test_changed_evidence_is_refused_and_leaves_nothing(site):
    bundle = site.bundle()
    verified = site.verify(bundle)
    plan = plan_install(verified, generations.facts(site.paths))
    custody = bundle / "evidence" / "custody.jsonl"
    custody.write_bytes(custody.read_bytes().replace(b"bundle", b"bungle", 1))
    with pytest.raises(DigestMismatch, match=r"custody\.jsonl was changed"):
        generations.make(verified, plan, site.paths)
    assert list(site.paths.generations.iterdir()) == list(site.paths.store.iterdir()) == []


def test_python_parts_without_pip_are_refused_and_leave_nothing(site):
    lock = {"python/requirements.txt": b""}
    bundle = site.forge.sealed(files=site.files | lock, now=NOW)
    verified = site.verify(bundle)
    facts = generations.facts(site.paths)
    entry = verified.entries["python/requirements.txt"]
    entry.custom.update(python=facts.python, machine=facts.machine)
    with pytest.raises(InstallError, match="no wheel of pip"):
        generations.make(verified, plan_install(verified, facts), site.paths)
    assert list(site.paths.generations.iterdir()) == list(site.paths.store.iterdir()) == []
    assert not site.paths.staging.exists()


@pytest.mark.parametrize("stage", ["copy", "sync"])
def test_an_interrupted_installation_is_completed_by_the_next_one(site, stage):
    site.install(site.bundle())
    bundle = site.bundle(playbooks__new=b"- hosts: new\n")

    def interrupt(event):
        if event.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.install(bundle, progress=interrupt)
    assert [g.number for g in generations.complete(site.paths)] == [1]
    current = generations.current(site.paths)
    assert current is not None
    assert current.number == 1
    assert site.install(bundle).number == 2


def test_the_remains_of_a_killed_installation_are_removed_by_the_next_one(site):
    remains = site.paths.generations / "1"
    (remains / "venv").mkdir(parents=True)
    site.paths.staging.mkdir()
    (site.paths.staging / "part").write_bytes(b"half a file")
    (site.paths.staging / "wheels").mkdir()
    site.paths.store.mkdir()
    generation = site.install(site.bundle())
    assert generation.number == 1
    assert not (remains / "venv").exists()
    assert not site.paths.staging.exists()
    assert {path.name for path in site.paths.store.iterdir()} == {f"sha256-{d}" for d in generation.files.values()}


def test_a_generation_that_is_not_complete_cannot_be_activated(site):
    site.install(site.bundle())
    (site.paths.generations / "2").mkdir()
    for number in (2, 3):
        with pytest.raises(NotFound) as caught:
            generations.activate(site.paths, number, revocations=Revocations())
        assert caught.value.exit_code == 7
    current = generations.current(site.paths)
    assert current is not None
    assert current.number == 1


def test_a_revoked_bundle_or_file_cannot_be_activated(site):
    generation = site.install(site.bundle())
    with pytest.raises(Revoked):
        generations.activate(site.paths, 1, revocations=Revocations(bundles=frozenset({generation.bundle_id})))
    model = generation.files["models/small/small.gguf"]
    with pytest.raises(Revoked, match=r"small\.gguf"):
        generations.activate(site.paths, 1, revocations=Revocations(digests=frozenset({model})))


@pytest.fixture
def in_chunks(monkeypatch):
    """Bundles carry the model in two chunks."""
    monkeypatch.setitem(forge.CUT, "models/small/small.gguf", (100, len(MODEL) - 100))


def test_a_generation_with_a_revoked_chunk_of_a_file_cannot_be_activated(site, in_chunks):
    bundle = site.bundle()
    entry = site.verify(bundle).entries["models/small/small.gguf"]
    site.install(bundle)
    revoked = Revocations(digests=frozenset({entry.chunks[1].sha256}))
    with pytest.raises(Revoked, match=r"small\.gguf"):
        generations.activate(site.paths, 1, revocations=revoked)
    assert generations.load(site.paths, 1).lists == {
        path: hashlib.sha256(encode_chunk_list(e.chunks)).hexdigest()
        for path, e in site.verify(bundle).entries.items()
        if e.chunks
    }


def cut_list(path):
    path.chmod(0o640)
    path.write_bytes(path.read_bytes()[:-36])


def other_list(path):
    path.chmod(0o640)
    path.write_bytes(encode_chunk_list([Chunk("1" * 64, 1), Chunk("2" * 64, 1)]))


@pytest.mark.parametrize("harm", [Path.unlink, cut_list, other_list], ids=["gone", "cut", "another"])
def test_what_cannot_be_asked_for_revoked_chunks_is_not_activated_until_it_is_repaired(site, in_chunks, harm):
    bundle = site.bundle()
    entry = site.verify(bundle).entries["models/small/small.gguf"]
    site.install(bundle)
    harm(list_path(site.paths.store, entry.sha256))
    unrelated = Revocations(digests=frozenset({"f" * 64}))
    with pytest.raises(ChunksUnknown, match="--repair"):
        generations.activate(site.paths, 1, revocations=unrelated)
    generations.activate(site.paths, 1, revocations=Revocations())
    verified = site.verify(bundle)
    facts = replace(generations.facts(site.paths), damaged=frozenset({1}))
    generations.make(verified, plan_install(verified, facts), site.paths)
    for number in (1, 2):
        generations.activate(site.paths, number, revocations=unrelated)


def test_large_evidence_stays_on_the_media_and_is_named(site, monkeypatch):
    bundle = site.bundle()
    (log,) = [e for name, e in site.verify(bundle).evidence.items() if name == CUSTODY]
    others = {f"evidence/{n}.json": Listed(n, str(n) * 64) for n in (1, 2)}
    verified = site.verify(bundle)
    verified = replace(verified, evidence={**others, **verified.evidence})
    monkeypatch.setattr(evidence, "MAX_ALL", log.length + 2)
    taken, left = evidence.choose(verified)
    assert ([e.path for e in taken], [e.path for e in left]) == ([CUSTODY, "evidence/1.json"], ["evidence/2.json"])
    monkeypatch.setattr(evidence, "MAX_FILE", log.length - 1)
    assert [e.path for e in evidence.choose(verified)[1]] == [CUSTODY]
    generation = site.install(bundle)
    assert [(e.path, e.sha256) for e in generation.on_media] == [(CUSTODY, log.sha256)]
    assert not (generation.path / CUSTODY).exists()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"schema":"plugsky.generation/9"}', b"[1]", b"\xff"])
def test_a_damaged_provenance_is_refused(site, content):
    generation = site.install(site.bundle())
    (generation.path / "bundle.json").unlink()
    (generation.path / "bundle.json").write_bytes(content)
    with pytest.raises(MalformedMetadata, match=r"bundle\.json"):
        generations.load(site.paths, 1)


def test_the_catalogue_knows_the_models_of_the_current_generation(site):
    assert catalogue.models(site.paths) == ()
    generation = site.install(site.bundle())
    (entry,) = catalogue.models(site.paths)
    assert entry == catalogue.find(site.paths, "small")
    assert (entry.id, entry.title, entry.mode, entry.context) == ("small", "Small", "generate", 128)
    assert (entry.licence, entry.languages, entry.origin) == ("MIT", ("en", "ar"), "file:small.gguf")
    assert (entry.architecture, entry.quantisation, entry.parameters) == ("llama", "F32", 133)
    assert entry.path == generation.path / "models" / "small" / "small.gguf"
    assert (entry.size, entry.path.read_bytes()) == (len(MODEL), MODEL)
    assert entry.sha256 == generation.files["models/small/small.gguf"]


def test_a_model_that_is_not_there_is_named_with_those_that_are(site):
    site.install(site.bundle())
    with pytest.raises(PlugskyError) as caught:
        catalogue.find(site.paths, "gpt-9")
    assert caught.value.kind is ErrorKind.MODEL_NOT_FOUND
    assert "small" in caught.value.why


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "plugsky.model/2"},
        {"mode": "dream"},
        {"context": "128"},
        {"languages": "en"},
        {"languages": [1]},
        {"id": "other"},
        {"file": "../../../etc/passwd"},
        {"extra": 1},
        {"licence": None},
    ],
)
def test_a_damaged_catalogue_entry_is_refused(site, change):
    generation = site.install(site.bundle())
    path = generation.path / "models" / "small" / "model.json"
    values = json.loads(path.read_bytes()) | change
    path.unlink()
    path.write_text(json.dumps(values))
    with pytest.raises(PlugskyError) as caught:
        catalogue.models(site.paths)
    assert caught.value.kind is ErrorKind.TAMPERED


def test_a_site_that_cannot_be_written_says_so(site, tmp_path):
    bundle = site.bundle()
    shutil.rmtree(site.paths.root, ignore_errors=True)
    (tmp_path / "file").write_text("in the way")
    site.paths = SitePaths.at(tmp_path / "file" / "site", tmp_path / "run")
    with pytest.raises(generations.SiteUnwritable):
        site.install(bundle)


def test_files_for_other_hosts_are_listed_and_together_give_the_content_that_was_signed(site):
    verified = site.verify(site.bundle())
    plan = plan_install(verified, generations.facts(site.paths))
    mine = tuple(file for file in plan.files if file.path != "playbooks/preflight.yml")
    generation = generations.make(verified, replace(plan, files=mine), site.paths)
    assert [entry.path for entry in generation.elsewhere] == ["playbooks/preflight.yml"]
    assert "playbooks/preflight.yml" not in generation.files
    assert content_id((*generation.entries, *generation.elsewhere)) == generation.content_id


def a_link(path):
    path.symlink_to(path.rename(path.with_name("elsewhere")))


EXPOSED = {
    "a link": (a_link, "no directory of its own"),
    "open to a group": (lambda path: path.chmod(0o775), "Others can write"),
    "open to all": (lambda path: path.chmod(0o1777), "Others can write"),
    "somebody else's": (lambda path: os.chown(path, 4711, -1), "belongs to user 4711"),
}


@pytest.mark.parametrize("which", ["root", "trust", "store"])
@pytest.mark.parametrize(("harm", "why"), EXPOSED.values(), ids=EXPOSED)
def test_nothing_is_put_where_somebody_else_could_change_it(site, which, harm, why):
    if harm is EXPOSED["somebody else's"][0] and os.geteuid() != 0:
        pytest.skip("only root gives a directory away")
    bundle = site.bundle()
    place = getattr(site.paths, which)
    place.mkdir(parents=True)
    harm(place)
    before = site.snapshot()
    with pytest.raises(SiteExposed, match=why):
        site.install(bundle)
    assert site.snapshot() == before
