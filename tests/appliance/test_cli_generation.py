"""Generations and models from the command line, as people type it: what is told, asked, refused and recorded."""

import json

import pytest

from appliance.desk import LICENCE, desk
from bundles.small_llama import small_llama
from plugsky.core.errors import ExitCode

__all__ = ["desk"]


def generations(desk):
    return {one["number"]: one["called"] for one in desk.json("generation", "list")["generations"]}


@pytest.fixture
def two(desk):
    """A site with two generations; 2 is current."""
    desk.run("bundle", "install", desk.sealed(), "--pin", desk.pin, "--yes")
    recipe = desk.place / "lab.toml"
    recipe.write_text(recipe.read_text().replace('channel = "lab"', 'channel = "second"'))
    desk.run("bundle", "install", desk.sealed(), "--yes")
    return desk


def test_generations_are_listed_in_words_and_as_json(two):
    told = two.run("generation", "list")
    first, second = [line.split() for line in told.out.splitlines()[1:]]
    assert (first[:3], first[-1]) == (["1", "lab", "1"], "kept")
    assert (second[:3], second[-1]) == (["2", "second", "1"], "current")
    (one, _) = two.json("generation", "list")["generations"]
    assert (one["state"], one["current"], one["problem"]) == ("good", False, "")
    assert one["own_bytes"] > 0


def test_a_new_site_has_no_generations(desk):
    assert desk.json("generation", "list")["generations"] == []
    desk.run("generation", "activate", 1, expect=ExitCode.NOT_FOUND)
    desk.run("generation", "prune", "--yes", expect=ExitCode.NOT_FOUND)


def test_a_damaged_generation_is_listed_beside_the_others_and_verifying_the_trail_names_it(two):
    (two.place / "site/generations/1/bundle.json").unlink()
    assert generations(two) == {1: "damaged", 2: "current"}
    assert "bundle.json" in two.run("generation", "list").err
    told = two.run("audit", "verify", expect=ExitCode.VERIFICATION_FAILED)
    assert "generation 1 is damaged" in told.err
    assert "generation 2" in told.out
    two.run("generation", "prune", "--yes")
    two.run("audit", "verify")


def test_a_kept_generation_is_activated_and_recorded(two):
    told = two.run("generation", "activate", 1)
    assert "generation 1" in told.out
    assert generations(two) == {1: "current", 2: "kept"}
    assert "already" in two.run("generation", "activate", 1).out
    done = two.json("generation", "activate", 2)
    assert (done["activated"], done["health"]["models"]["tiny"]["state"]) == (True, "unchecked")
    two.run("generation", "activate", 9, expect=ExitCode.NOT_FOUND)
    records = two.json("audit", "search", "--action", "generation.activate")["records"]
    assert [record["subject"] for record in records] == ["generation-2", "generation-1"]
    two.run("audit", "verify")


def test_pruning_is_shown_asked_and_done(two, monkeypatch):
    shown = two.run("generation", "prune", "--keep", 1, "--dry-run")
    assert "generation 1 goes: kept, lab version 1" in shown.err
    assert "will be free again" in shown.err
    told = two.run("generation", "prune", "--keep", 1, expect=ExitCode.USAGE)
    assert f"plugsky generation prune --root {two.place / 'site'} --keep 1 --yes" in told.err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *_question, **_options: False)
    two.run("generation", "prune", "--keep", 1, expect=ExitCode.DECLINED)
    assert len(generations(two)) == 2
    monkeypatch.setattr("typer.confirm", lambda *_question, **_options: True)
    assert "removed 1 generation" in two.run("generation", "prune", "--keep", 1).out
    assert generations(two) == {2: "current"}
    assert "nothing to remove" in two.run("generation", "prune").err
    done = two.json("generation", "prune")
    assert (done["kept"], done["gone"], done["removed"]) == ([2], [], False)
    two.run("audit", "verify")


def test_a_first_key_can_be_made_after_generations_were_activated_and_pruned(two):
    two.run("generation", "activate", 1)
    two.run("generation", "prune", "--keep", 0, "--yes")
    assert two.json("key", "create", "--tenant", "demo")["secret"]


@pytest.mark.integration
def test_a_model_made_here_is_approved_imported_exported_and_removed(two):
    place = two.place
    (place / "tuned.gguf").write_bytes(small_llama())
    two.run("trust", "key", "amal", "--out", place / "amal")
    fingerprint = two.json("trust", "card", *place.glob("amal/*.card.json"))["fingerprint"]
    about = ("--id", "tuned", "--context", 256, "--licence", "MIT", "--licence-text", place / "LICENSE")
    approve = (
        "model",
        "approve",
        place / "tuned.gguf",
        *about,
        "--keys",
        place / "amal",
        "--out",
        place / "tuned.json",
    )
    told = two.run(*approve)
    assert "approved by amal" in told.out
    two.run(*approve, expect=ExitCode.FAILED)
    take = ("model", "import", place / "tuned.gguf", "--id", "tuned", "--approval", place / "tuned.json")
    take = (*take, "--licence-text", place / "LICENSE")
    two.run(*take, expect=ExitCode.REFUSED_BY_POLICY)
    two.run("trust", "enrol", *place.glob("amal/*.card.json"), "--role", "approver", "--fingerprint", fingerprint)
    done = two.json(*take)
    assert (done["generation"], done["approved_by"]) == (3, "amal")
    models = {model["id"]: model["local"] for model in two.json("model", "list")["models"]}
    assert models == {"tiny": False, "tuned": True}
    assert "local" in two.run("model", "list").out
    two.run(*take, expect=ExitCode.FAILED)
    two.run("model", "export", "tuned", "--out", place / "out")
    assert (place / "out/tuned.gguf").read_bytes() == small_llama()
    assert (place / "out/LICENSE").read_bytes() == LICENCE
    assert json.loads((place / "out/model.json").read_bytes())["health"]["tokens"] == 127
    two.run("model", "export", "tuned", "--out", place / "out", expect=ExitCode.FAILED)
    assert {one["check"]: one["state"] for one in two.json("doctor")["findings"]}["files"] == "ok"
    two.run("audit", "verify")
    two.run("model", "remove", "tuned")
    assert [model["id"] for model in two.json("model", "list")["models"]] == ["tiny"]
    two.run("model", "remove", "tiny", expect=ExitCode.NOT_FOUND)
    two.run("audit", "verify")


def test_a_model_that_is_none_is_not_approved(desk):
    (desk.place / "x.gguf").write_bytes(b"MZ")
    desk.run("trust", "key", "amal", "--out", desk.place / "amal")
    about = ("--id", "x", "--context", 8, "--licence", "MIT", "--keys", desk.place / "amal")
    desk.run("model", "approve", desk.place / "x.gguf", *about, expect=ExitCode.VERIFICATION_FAILED)
    desk.run("model", "approve", desk.place / "x.gguf", *about, "--mode", "paint", expect=ExitCode.USAGE)
