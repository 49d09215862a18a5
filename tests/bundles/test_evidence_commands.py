"""Evidence as people meet it: summed up in `bundle inspect`, taken out by `bundle evidence`, refused when changed."""

import pytest

from appliance.desk import desk
from bundles.evidence_parts import sha256, wheel
from plugsky.core.errors import ExitCode
from plugsky_bundles.format import MIB

__all__ = ["desk"]


def test_inspect_sums_the_evidence_up_in_a_line(desk):
    bundle = desk.sealed()
    (line,) = [line for line in desk.run("bundle", "inspect", bundle).out.splitlines() if line.startswith("evidence")]
    assert line == "evidence 0 components, 1 models, every licence text; vulnerabilities: no packages to look up"
    summary = desk.json("bundle", "inspect", bundle)["evidence"]
    assert (summary["models"], summary["without_licence"], summary["checks"]) == (1, 0, [])


def test_evidence_is_listed_and_taken_out_as_it_was_sealed(desk):
    bundle, out = desk.sealed(), desk.place / "review"
    listed = desk.json("bundle", "evidence", bundle, "--out", out)["evidence"]
    assert {"docs/index.html", "evidence/ml-bom.cdx.json", "evidence/provenance.json"} <= {
        one["path"] for one in listed
    }
    taken = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {path: sha256(data) for path, data in taken.items()} == {one["path"]: one["sha256"] for one in listed}
    assert taken["docs/index.html"] == (bundle / "docs" / "index.html").read_bytes()


def test_a_changed_file_of_the_evidence_is_refused(desk):
    bundle = desk.sealed()
    path = bundle / "evidence" / "ml-bom.cdx.json"
    path.write_bytes(path.read_bytes().replace(b"tiny", b"huge", 1))
    for words in (("inspect", bundle), ("evidence", bundle, "--out", desk.place / "review")):
        error = desk.error("bundle", *words, expect=ExitCode.VERIFICATION_FAILED)
        assert error["code"] == "digest_mismatch"
        assert "evidence/ml-bom.cdx.json was changed" in error["what"]
    assert not (desk.place / "review" / "evidence" / "ml-bom.cdx.json").exists()


def test_a_folder_that_is_not_empty_is_left_alone(desk):
    bundle, out = desk.sealed(), desk.place / "review"
    out.mkdir()
    (out / "mine").write_text("notes")
    desk.run("bundle", "evidence", bundle, "--out", out, expect=ExitCode.FAILED)
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_the_evidence_of_a_stream_and_of_volumes_is_read_where_it_lies(desk):
    bundle = desk.sealed()
    desk.run("bundle", "stream", bundle, "--out", desk.place / "b.tar")
    assert "1 models" in desk.run("bundle", "inspect", desk.place / "b.tar").out
    assert desk.json("bundle", "evidence", desk.place / "b.tar")["evidence"]
    (desk.place / "volumes").mkdir()
    desk.run("bundle", "split", bundle, "--size", 16 * MIB, "--out", desk.place / "volumes")
    (volume,) = (desk.place / "volumes").iterdir()
    assert "1 models" in desk.run("bundle", "inspect", volume).out


def test_two_builds_in_different_places_have_the_same_evidence(desk):
    first, second = desk.build(out="one"), desk.build(out="two")
    ours = [path.relative_to(first) for path in first.rglob("*") if path.is_file() and "metadata" not in path.parts]
    assert len(ours) > 20
    assert [path for path in ours if (first / path).read_bytes() != (second / path).read_bytes()] == []


@pytest.mark.integration
def test_what_could_not_be_checked_is_said_and_fails_a_build_that_demands_it(desk, index, monkeypatch):
    pinned = wheel(index, texts={})
    monkeypatch.setenv("PLUGSKY_MIRRORS", "https://api.osv.dev/=http://127.0.0.1:9/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (desk.place / "lock.txt").write_text(f"tiny==1.0 --hash=sha256:{pinned.sha256}\n")
    text = desk.place / "lab.toml"
    text.write_text('channel = "lab"\n[python]\nlock = "lock.txt"\nappliance = false\n[rehearsal]\nskip = "a test"\n')
    words = ("bundle", "build", text, "--out", desk.place / "media")
    error = desk.error(*words, "--require-vulnerability-check", expect=ExitCode.FAILED)
    assert error["code"] == "vulnerabilities_unchecked"
    assert [path for path in (desk.place / "media").iterdir() if path.is_dir()] == []
    told = desk.run(*words).err
    assert "warning: known vulnerabilities of the Python packages were not checked: http://127.0.0.1:9/" in told
    assert "warning: 1 components carry no licence text: python/tiny-1.0-py3-none-any.whl" in told
    bundle = desk.place / "media" / "plugsky-lab-1"
    desk.run("trust", "sign", bundle)
    desk.run("bundle", "seal", bundle)
    (check,) = desk.json("bundle", "inspect", bundle)["evidence"]["checks"]
    assert (check["kind"], check["checked"]) == ("python", False)
    told = desk.run("bundle", "inspect", bundle).out
    assert "evidence 1 components, 0 models, 1 without licence text; vulnerabilities: python not checked" in told
