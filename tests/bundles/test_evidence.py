"""What a bundle says of itself: lists by the official schema, licence texts, provenance; the same bytes each time."""

import json
import tarfile
from datetime import timedelta

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from bundles.deb_forge import Fake, entry
from bundles.evidence_parts import HEALTH, MIT, NOW, TEMPLATE, deb, gather, model, recipe, sha256, wheel
from plugsky_builder.evidence import cyclonedx_json, licence_terms
from plugsky_builder.pack import Material
from plugsky_bundles.drafting import Base
from plugsky_bundles.errors import RecipeError, SourceError, WheelError

DEP5 = (
    b"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"
    b"Files: *\nLicense: GPL-2+\n\nFiles: debian/*\nLicense: Expat\n Permission\n"
)
GIVEN = Fake("given", "1:2.0-1", data=(entry("./usr", tarfile.DIRTYPE), ("./usr/share/doc/given/copyright", DEP5)))
LINKED = Fake("linked", data=(entry("./usr/share/doc/linked", tarfile.SYMTYPE, link="given"),))
BARE = Fake("bare")
ABOUT = """License-Expression: MIT OR Apache-2.0
Requires-Dist: Other_One>=1; python_version > '3'
Requires-Dist: plugsky; extra == 'never'
"""


def parts(base):
    folder = base / "files"
    return [
        *model(folder),
        wheel(folder, about=ABOUT),
        wheel(folder, "other_one", "2.0", "License: Something of our own\n"),
        wheel(folder, "plugsky", "0.1.0", "License-Expression: Apache-2.0\n"),
        deb(folder, GIVEN),
        deb(folder, LINKED),
        deb(folder, BARE),
        Material.of_bytes("playbooks/site.yml", b"---\n"),
        Material.of_bytes("policy/channel.json", b"{}"),
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    base = tmp_path_factory.mktemp("one")
    materials = parts(base)
    return materials, *gather(base, materials)


def listed(files, path="evidence/sbom.cdx.json"):
    return {one["bom-ref"]: one for one in json.loads(files[path])["components"]}


@pytest.mark.parametrize("path", ["evidence/sbom.cdx.json", "evidence/ml-bom.cdx.json"])
def test_the_lists_are_strictly_cyclonedx_1_6(made, path):
    _, files, _ = made
    value = json.loads(files[path])
    assert (value["bomFormat"], value["specVersion"]) == ("CycloneDX", "1.6")
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(files[path].decode()) is None
    value["components"][0]["type"] = "novelty"
    assert validator.validate_str(json.dumps(value)) is not None


def test_the_software_list_has_every_part_with_its_digest(made):
    materials, files, _ = made
    found = listed(files)
    digests = {one.path: one.sha256 for one in materials} | {"install.sh": sha256(b"#!/bin/sh\n")}
    assert {path: one["hashes"] for path, one in found.items()} == {
        path: [{"alg": "SHA-256", "content": digest}]
        for path, digest in digests.items()
        if path.startswith(("python/", "debs/", "playbooks/")) or path == "install.sh"
    }
    assert found["python/tiny-1.0-py3-none-any.whl"]["purl"] == "pkg:pypi/tiny@1.0"
    assert found["debs/debian-12-amd64/given_2.0-1_amd64.deb"]["purl"] == (
        "pkg:deb/debian/given@1:2.0-1?arch=amd64&distro=debian-12"
    )
    assert found["python/plugsky-0.1.0-py3-none-any.whl"]["type"] == "application"


@pytest.mark.parametrize(
    ("path", "licences"),
    {
        "an expression": ("python/tiny-1.0-py3-none-any.whl", [{"expression": "MIT OR Apache-2.0"}]),
        "a name of its own": (
            "python/other_one-2.0-py3-none-any.whl",
            [{"license": {"name": "Something of our own"}}],
        ),
        "an identifier": ("playbooks/site.yml", [{"license": {"id": "Apache-2.0"}}]),
        "a machine-readable copyright file": (
            "debs/debian-12-amd64/given_2.0-1_amd64.deb",
            [{"license": {"name": "Expat"}}, {"license": {"name": "GPL-2+"}}],
        ),
    }.values(),
)
def test_terms_are_given_as(made, path, licences):
    assert listed(made[1])[path]["licenses"] == licences


def test_a_wheel_depends_on_what_its_metadata_asks_for_on_its_target(made):
    graph = {
        one["ref"]: one.get("dependsOn", []) for one in json.loads(made[1]["evidence/sbom.cdx.json"])["dependencies"]
    }
    assert graph["python/tiny-1.0-py3-none-any.whl"] == ["python/other_one-2.0-py3-none-any.whl"]
    assert graph["python/other_one-2.0-py3-none-any.whl"] == []
    assert set(graph["bundle"]) == graph.keys() - {"bundle"}


def test_a_model_has_a_card_with_what_was_signed_and_measured(made):
    one = listed(made[1], "evidence/ml-bom.cdx.json")["models/tiny"]
    assert one["type"] == "machine-learning-model"
    assert one["components"][0]["hashes"] == one["hashes"]
    card = one["modelCard"]
    assert card["modelParameters"]["modelArchitecture"] == "llama"
    (metric,) = card["quantitativeAnalysis"]["performanceMetrics"]
    assert metric["value"] == "3.150758"
    assert HEALTH["text_sha256"] in metric["slice"]
    facts = {one["name"]: one["value"] for one in card["properties"]}
    assert facts["plugsky:chat-template-sha256:default"] == sha256(TEMPLATE.encode())
    assert facts["plugsky:languages"] == "ar,en"
    assert facts["plugsky:context-tokens"] == "128"


def test_each_licence_text_travels_once_under_its_digest(made):
    _, files, _ = made
    texts = {path: data for path, data in files.items() if path.startswith("evidence/licences/")}
    assert all(path == f"evidence/licences/{sha256(data)}.txt" for path, data in texts.items())
    assert MIT in texts.values()
    assert DEP5 in texts.values()
    index = json.loads(files["evidence/licences.json"])
    named = {digest for one in index["components"] for digest in one["texts"].values()}
    assert {f"evidence/licences/{digest}.txt" for digest in named} == texts.keys()


def test_the_text_of_a_package_is_found_through_the_folder_that_it_shares(made):
    index = {one["name"]: one for one in json.loads(made[1]["evidence/licences.json"])["components"]}
    assert index["linked"]["texts"] == {"usr/share/doc/given/copyright": sha256(DEP5)}


def test_a_component_without_a_licence_text_is_named_aloud(made):
    _, files, warnings = made
    bare = "debs/debian-12-amd64/bare_1.0_amd64.deb"
    assert json.loads(files["evidence/licences.json"])["missing"] == [bare]
    assert f"1 components carry no licence text: {bare}" in warnings


def test_provenance_names_the_lock_of_the_tools_that_compile(tmp_path):
    for name in ("lock.txt", "build.txt"):
        (tmp_path / name).write_text("")
    more = '[python]\nlock = "lock.txt"\nsdists = ["x"]\nbuild-lock = "build.txt"\nappliance = false\n'
    files, _ = gather(tmp_path, model(tmp_path / "files"), more=more)
    resolved = json.loads(files["evidence/provenance.json"])["predicate"]["buildDefinition"]
    assert [one["name"] for one in resolved["internalParameters"]["locks"]] == ["build.txt", "lock.txt"]


def test_provenance_names_all_files_and_where_they_came_from(made, tmp_path):
    materials, files, _ = made
    statement = json.loads(files["evidence/provenance.json"])
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert {one["name"]: one["digest"]["sha256"] for one in statement["subject"]} == {
        one.path: one.sha256 for one in materials
    }
    definition = statement["predicate"]["buildDefinition"]
    again = recipe(tmp_path)
    assert definition["externalParameters"]["recipe"]["digest"]["sha256"] == sha256(again.source.read_bytes())
    found = {one["uri"]: one for one in definition["resolvedDependencies"]}
    assert found["pkg:pypi/tiny@1.0"]["digest"]["sha256"] == materials[3].sha256
    deb_uri = "pkg:deb/debian/bare@1.0?arch=amd64&distro=debian-12"
    assert found[deb_uri]["annotations"] == {"vouched-for-in": "evidence/debs/debian-12-amd64/"}
    assert found["file:tiny.gguf"]["digest"]["sha256"] == materials[0].sha256
    (builder,) = statement["predicate"]["runDetails"]["builder"]["builderDependencies"]
    assert builder["uri"] == "pkg:pypi/plugsky@0.1.0"


def test_a_comment_changes_the_digest_of_a_recipe_but_not_of_what_it_says(tmp_path):
    def said(more):
        files, _ = gather(tmp_path, model(tmp_path / "files"), more=more)
        parameters = json.loads(files["evidence/provenance.json"])["predicate"]["buildDefinition"]["externalParameters"]
        return parameters["recipe"]["digest"], parameters["recipe"]["says"]

    plain, commented = said(""), said("# why")
    assert plain[0] != commented[0]
    assert plain[1] == commented[1]


def test_the_same_parts_elsewhere_and_later_give_the_same_bytes_and_name_no_place(made, tmp_path):
    _, first, _ = made
    second, _ = gather(tmp_path, parts(tmp_path), now=NOW + timedelta(days=40))
    differing = {path for path in first.keys() | second.keys() if first.get(path) != second.get(path)}
    assert differing == {"evidence/vulnerabilities.json"}
    text = b"".join(data for path, data in second.items() if path.startswith("evidence/")).decode()
    assert str(tmp_path) not in text
    assert "/tmp" not in "".join(data.decode() for path, data in second.items() if path.endswith(".json"))  # noqa: S108 - a place that must not be named


def test_a_delta_brings_only_the_texts_of_what_its_sites_lack_and_no_pages(tmp_path):
    materials = [*model(tmp_path / "files"), wheel(tmp_path / "files", texts={"licenses/OWN": b"own terms\n"})]
    held = frozenset(one.sha256 for one in materials if one.path.startswith("models/"))
    files, _ = gather(tmp_path, materials, delta=Base("0" * 64, None, (), held, frozenset()))
    assert [path for path in files if path.startswith("docs/")] == []
    texts = [data for path, data in files.items() if path.startswith("evidence/licences/")]
    assert texts == [b"own terms\n"]
    assert len(json.loads(files["evidence/licences.json"])["components"]) == 2


def test_copyright_files_are_read_once_and_then_remembered_by_digest(tmp_path):
    package = deb(tmp_path / "files", GIVEN)
    first, _ = gather(tmp_path, [*model(tmp_path / "files"), package])
    package.content.write_bytes(b"not read again")
    second, _ = gather(tmp_path, [*model(tmp_path / "files"), package])
    assert first == second


@pytest.mark.parametrize(
    ("text", "terms"),
    {
        "an identifier": ("MIT", licence_terms.Terms("MIT")),
        "an expression": ("MIT AND (BSD-3-Clause OR Zlib)", licence_terms.Terms("MIT AND (BSD-3-Clause OR Zlib)")),
        "a name that only looks like one": ("Apache 2.0", licence_terms.Terms("", ("Apache 2.0",))),
        "a whole text": ("\n  Copyright us\nand more\n", licence_terms.Terms("", ("Copyright us",))),
        "what could fool a terminal": ("M\x1b[2JIT", licence_terms.Terms("", ("M[2JIT",))),
        "nothing": (" \n", licence_terms.Terms()),
    }.values(),
)
def test_terms_of(text, terms):
    assert licence_terms.of_text(text) == terms


def test_a_wheel_with_an_endless_licence_is_refused(tmp_path):
    big = wheel(tmp_path / "files", texts={"licenses/LICENSE": bytes(2 << 20)})
    with pytest.raises(WheelError, match="the limit is"):
        gather(tmp_path, [big])


def test_a_package_with_an_endless_copyright_is_refused(tmp_path):
    big = Fake("big", data=(("./usr/share/doc/big/copyright", bytes(5 << 20)),))
    with pytest.raises(SourceError, match="is longer than"):
        gather(tmp_path, [deb(tmp_path / "files", big)])


def test_a_list_that_the_schema_does_not_allow_is_not_written():
    bom = Bom()
    bom.components.add(Component(name="tiny", type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref="tiny"))
    cyclonedx_json.to_bytes(bom, {"tiny": {"modelParameters": {"task": "chat"}}})
    with pytest.raises(SourceError, match="would not be valid CycloneDX"):
        cyclonedx_json.to_bytes(bom, {"tiny": {"novelty": {}}})


def test_serial_numbers_follow_from_the_content_and_the_kind():
    assert cyclonedx_json.serial("sbom", "a") == cyclonedx_json.serial("sbom", "a")
    serials = {cyclonedx_json.serial(kind, content) for kind in ("sbom", "ml-bom") for content in ("a", "b")}
    assert len(serials) == 4


def test_a_recipe_can_demand_the_check_and_nothing_unknown(tmp_path):
    assert not recipe(tmp_path).require_vulnerability_check
    assert recipe(tmp_path, "[evidence]\nrequire-vulnerability-check = true").require_vulnerability_check
    with pytest.raises(RecipeError, match="require-vulnerability-checks"):
        recipe(tmp_path, "[evidence]\nrequire-vulnerability-checks = true")
