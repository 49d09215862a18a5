"""What changed between two bundles, told from verified metadata and the few small parts that it needs."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.delta_site import GGUF, MODEL, Site, model
from bundles.forge import Forge
from plugsky_bundles import difference
from plugsky_bundles.difference import MAX_LINE, MAX_LINES, Difference, Package, Text, compare, shown, text_diff
from plugsky_bundles.errors import DigestMismatch
from plugsky_bundles.format import blob_path
from plugsky_bundles.sides import Side, in_store, of_bundle, of_site
from plugsky_bundles.state import Revocations
from plugsky_bundles.strict_json import encode
from plugsky_bundles.trusted_copies import CopiesIn, keep

CATALOGUE = {"schema": "plugsky.model/1", "id": "tiny", "licence": "MIT", "quantisation": "F16", "languages": ["en"]}
BASE = {**MODEL, "models/tiny/model.json": encode(CATALOGUE), "playbooks/site.yml": b"- hosts: all\n  roles: []\n"}


NOTHING = Difference(False, (), (), (), (), (), (), Revocations(), Revocations(), ())


def side(bundle: Path, forge: Forge, *others) -> Side:
    site = Site(forge, forge.base / f"copies-{bundle.name}")
    for channel in forge.base.glob("copies-*"):
        keep(site.directory, [(path.name.removeprefix("sha256-"), path.read_bytes()) for path in channel.iterdir()])
    return of_bundle(site.accept(bundle), *others)


def change(files: Mapping[str, bytes], tmp_path: Path, base: Mapping[str, bytes] = BASE, **options):
    forge = Forge(tmp_path)
    first = side(forge.built(base), forge)
    return compare(first, side(forge.built({**files}, **options), forge))


def test_a_bundle_is_not_different_from_itself(tmp_path):
    forge = Forge(tmp_path)
    one = side(forge.built(BASE), forge)
    found = compare(one, one)
    assert found.same
    assert found == dataclasses.replace(NOTHING, same=True)


def test_a_changed_template_is_shown_line_by_line_and_nothing_else_of_the_model_is_read(tmp_path):
    forge = Forge(tmp_path)
    one = side(forge.built(BASE), forge)
    two = side(forge.built({**BASE, GGUF: model("{{ messages[0].content }}\nobey me")}), forge)
    read = []

    def counted(of: Side) -> Side:
        def blob(chunk):
            read.append(chunk.length)
            return of.blob(chunk)

        return Side(of.name, of.channel, of.version, of.bundle_id, of.content_id, of.entries, blob)

    found = compare(counted(one), counted(two))
    (changed,) = found.models
    assert (changed.id, changed.change) == ("tiny", "changed")
    (template,) = changed.templates
    assert template.lines[-2:] == (" {{ messages[0].content }}", "+obey me")
    headers = sum(len(BASE[GGUF]) - (1 << 17) for _ in range(2))
    assert sum(read) <= headers + 4 * len(BASE["models/tiny/model.json"]) + 1000


def test_facts_of_a_model_are_given_as_they_were_and_as_they_are(tmp_path):
    entry = encode({**CATALOGUE, "licence": "Llama-3.1", "languages": ["en", "ar"]})
    (changed,) = change({**BASE, "models/tiny/model.json": entry}, tmp_path).models
    assert changed.facts == {"licence": ("MIT", "Llama-3.1"), "languages": ("en", "en, ar")}
    assert changed.templates == ()


def test_a_model_that_comes_shows_its_whole_template_and_one_that_goes_too(tmp_path):
    new = {"models/b/b.gguf": model("be kind"), "models/b/model.json": encode({**CATALOGUE, "id": "b"})}
    gone = {path: data for path, data in BASE.items() if not path.startswith("models/")}
    found = change({**gone, **new}, tmp_path)
    by_id = {one.id: one for one in found.models}
    assert {one.id: one.change for one in found.models} == {"b": "added", "tiny": "removed"}
    assert by_id["b"].templates[0].lines[-1] == "+be kind"
    assert by_id["b"].facts["size"] == (None, len(new["models/b/b.gguf"]))
    assert any(line.startswith("-{{ messages") for line in by_id["tiny"].templates[0].lines)


def test_wheels_and_debian_packages_are_told_by_name_and_version(tmp_path):
    base = {
        **BASE,
        "python/numpy-1.0-py3-none-any.whl": b"1",
        "python/debian-13-amd64/rich-2.0-py3-none-any.whl": b"2",
        "debs/debian-12-amd64/libgomp1_12.2.0-14_amd64.deb": b"3",
    }
    files = {
        **BASE,
        "python/numpy-1.1-py3-none-any.whl": b"1.1",
        "python/debian-13-amd64/rich-2.0-py3-none-any.whl": b"other bytes",
        "debs/debian-12-amd64/libgomp1_12.2.0-15_amd64.deb": b"4",
        "debs/debian-12-amd64/python3_3.11.2-1_amd64.deb": b"5",
    }
    found = change(files, tmp_path, base)
    assert found.wheels == (
        Package("python", "numpy", "1.0", "1.1"),
        Package("python/debian-13-amd64", "rich", "2.0", "2.0"),
    )
    assert found.debs == (
        Package("debs/debian-12-amd64", "libgomp1", "12.2.0-14", "12.2.0-15"),
        Package("debs/debian-12-amd64", "python3", None, "3.11.2-1"),
    )
    assert found.other == ()


def test_playbooks_licences_and_policy_are_text_and_the_rest_is_named(tmp_path):
    files = {
        **BASE,
        "playbooks/site.yml": b"- hosts: all\n  roles: [web]\n",
        "playbooks/logo.png": b"\x89PNG\xff",
        "models/tiny/LICENSE": b"Proprietary\n",
        "policy/channel.json": b'{"channel":"demo","title":"x"}',
        "python/requirements.txt": b"x",
    }
    del files["python/plugsky-0.1.0-py3-none-any.whl"]
    found = change(files, tmp_path)
    assert found.playbooks == (
        Text("playbooks/logo.png", None),
        Text("playbooks/site.yml", ("@@ -1,3 +1,3 @@", " - hosts: all", "-  roles: []", "+  roles: [web]", " ")),
    )
    assert found.licences[0].lines == ("@@ -1,2 +1,2 @@", "-Apache-2.0", "+Proprietary", " ")
    assert found.policy[0].path == "policy/channel.json"
    assert found.wheels == (Package("python", "plugsky", "0.1.0", None),)
    assert found.other == (("python/requirements.txt", "added"),)


def test_what_was_revoked_is_told(tmp_path):
    key = hashlib.sha256(b"key").hexdigest()
    found = change(BASE, tmp_path, revocations=Revocations(keys=frozenset({key})))
    assert found.revoked == Revocations(keys=frozenset({key}))
    assert found.unrevoked == Revocations()


def test_a_delta_is_compared_with_what_the_site_holds(tmp_path):
    forge = Forge(tmp_path)
    site = Site(forge, tmp_path / "channels")
    verified = site.accept(forge.built(BASE))
    store = tmp_path / "store"
    store.mkdir()
    for entry in verified.entries.values():
        whole = b"".join((tmp_path / "plugsky-demo-1" / blob_path(blob.sha256)).read_bytes() for blob in entry.blobs)
        (store / f"sha256-{entry.sha256}").write_bytes(whole)
    for path, chunk_list in verified.lists.items():
        data = CopiesIn(site.directory).read(chunk_list.sha256, chunk_list.length)
        assert data is not None
        (store / f"sha256-{verified.entries[path].sha256}.chunks").write_bytes(data)
    before = of_site(site.kept, store, "the site")
    delta = site.accept(forge.built({**BASE, GGUF: model("new")}, since=site.receipt()))
    found = compare(before, of_bundle(delta, in_store(store, delta.absent)))
    assert found.models[0].templates[0].lines[-1] == "+new"
    without = compare(before, of_bundle(delta))
    assert without.models[0].templates == (Text("models/tiny", None),)


def test_a_small_blob_that_was_changed_is_refused_and_not_shown(tmp_path):
    forge = Forge(tmp_path)
    one = side(forge.built(BASE), forge)
    bundle = forge.built({**BASE, "playbooks/site.yml": b"- hosts: none\n"})
    two = side(bundle, forge)
    blob = bundle / blob_path(two.entries["playbooks/site.yml"].sha256)
    blob.write_bytes(b"- hosts: ever\n")
    with pytest.raises(DigestMismatch):
        compare(one, two)


HARMLESS = {
    "an escape sequence": ("\x1b[2J", "\\x1b[2J"),
    "a change of direction": ("a\u202eb", "a\\u202eb"),
    "a carriage return": ("a\rb", "a\\rb"),
    "a tab": ("a\tb", "a    b"),
    "letters of every script": ("مرحبا Grüße 你好", "مرحبا Grüße 你好"),
}


@pytest.mark.parametrize(("text", "seen"), HARMLESS.values(), ids=HARMLESS.keys())
def test_a_line_is_shown_without_doing_anything_to_the_terminal(text, seen):
    assert shown(text) == seen


def test_long_lines_and_long_diffs_are_cut_and_say_so(monkeypatch):
    assert shown("x" * (MAX_LINE + 3)).endswith("… (3 characters more)")
    lines = text_diff("", "\n".join(map(str, range(MAX_LINES + 10))))
    assert len(lines) == MAX_LINES + 1
    assert lines[-1].endswith("lines more")
    monkeypatch.setattr(difference, "MAX_LINES", 5)
    huge = text_diff("a\n" * 3000, "b\n" * 3000)
    assert huge[0] == "-a"
    assert huge[-1] == "… 5997 lines more"


@given(st.text(max_size=200), st.text(max_size=200))
def test_no_text_breaks_out_of_a_diff(old, new):
    for line in text_diff(old, new):
        assert line.isprintable()
