"""Models in several files: the parts of one set travel together under their names; any other set is refused by name."""

import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from appliance.engine_host import spec_of
from bundles.gguf_forge import STRING, Forge
from bundles.gguf_splitter import split
from bundles.recipe_text import local, one_model
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.engine.errors import EngineError
from plugsky.engine.loading import loading, model_file
from plugsky.engine.scheduling.plan import Chunk
from plugsky.models import catalogue
from plugsky_builder import model_parts, recipe
from plugsky_builder.cache import Cache
from plugsky_bundles import gguf, split_model
from plugsky_bundles.errors import GgufError, RecipeError
from plugsky_bundles.progress import silent


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def parts(tmp_path):
    """A small model in three parts of one tensor each."""
    whole = tmp_path / "whole.gguf"
    whole.write_bytes(Forge().build())
    return split(whole, tmp_path, "tiny", 3)


@pytest.fixture
def others(tmp_path):
    """Another model of the same shape in three parts."""
    whole = tmp_path / "other.gguf"
    forge = Forge().with_key("general.name", STRING, "Other")
    forge.tensors = [(f"other.{name}", *rest) for name, *rest in forge.tensors]
    whole.write_bytes(forge.build())
    (tmp_path / "others").mkdir()
    return split(whole, tmp_path / "others", "tiny", 3)


def check(paths):
    infos = [gguf.read(io.BytesIO(path.read_bytes()), path.stat().st_size) for path in paths]
    split_model.check_set([path.name for path in paths], infos)


def test_a_whole_set_is_accepted_and_its_names_follow_from_the_first(parts):
    check(parts)
    assert split_model.part_names(parts[0].name) == tuple(path.name for path in parts)
    assert split_model.part_names("whole.gguf") == ("whole.gguf",)


def test_the_digest_of_a_split_model_is_made_of_those_of_its_parts():
    digests = ["a" * 64, "b" * 64]
    assert split_model.digest_of(digests[:1]) == "a" * 64
    assert split_model.digest_of(digests) == hashlib.sha256(("a" * 64 + "b" * 64).encode()).hexdigest()


WRONG = {
    "a part missing": (lambda p, _: p[:2], "belongs to a model of 3 files, and here are 2"),
    "a part too many": (lambda p, o: [*p, o[2]], "belongs to a model of 3 files, and here are 4"),
    "two parts exchanged": (lambda p, _: [p[0], p[2], p[1]], "it is part 3 of 3, not 2 of 3"),
    "a part twice": (lambda p, _: [p[0], p[1], p[1]], "it is part 2 of 3, not 3 of 3"),
    "a part of a split of another count": (
        lambda p, o: [p[0], p[1], split(o[0].parent.parent / "other.gguf", o[0].parent, "tiny", 4)[2]],
        "it is part 3 of 4",
    ),
    "the first part of another model behind it": (lambda p, o: [p[0], o[0], p[2]], "it is part 1 of 3"),
    "a whole model behind the first part": (
        lambda p, _: [p[0], p[0].with_name("whole.gguf"), p[2]],
        "a whole model, not a part",
    ),
    "the last part alone": (lambda p, _: p[2:], "belongs to a model of 3 files, and here are 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mixed_or_incomplete_set_is_refused_by_name(parts, others, name):
    choose, reason = WRONG[name]
    with pytest.raises(GgufError, match=reason):
        check(choose(parts, others))


def test_parts_that_hold_the_same_tensor_are_refused(tmp_path, parts):
    forge = Forge()
    forge.tensors = [forge.tensors[0], forge.tensors[0], forge.tensors[0]]
    double = split_by_hand(tmp_path, forge)
    with pytest.raises(GgufError, match="is also in"):
        check([parts[0], double, parts[2]])


def split_by_hand(folder, forge):
    """The second of three parts, made of a model whose second tensor is its first one again."""
    forge.tensors = [("a", *forge.tensors[0][1:]), forge.tensors[1], ("c", *forge.tensors[2][1:])]
    whole = folder / "double.gguf"
    whole.write_bytes(forge.build())
    (folder / "double").mkdir()
    return split(whole, folder / "double", "tiny", 3)[1]


def test_parts_with_fewer_tensors_than_announced_are_refused(tmp_path, parts):
    forge = Forge()
    forge.tensors = forge.tensors[:2]
    whole = tmp_path / "fewer.gguf"
    whole.write_bytes(forge.build())
    (tmp_path / "fewer").mkdir()
    fewer = split(whole, tmp_path / "fewer", "tiny", 3)
    with pytest.raises(GgufError, match="of a model of 2 tensors, the first part of one of 3"):
        check([parts[0], fewer[1], parts[2]])


def test_a_first_part_must_name_its_architecture_and_a_later_one_need_not(parts):
    assert gguf.read(io.BytesIO(parts[1].read_bytes()), parts[1].stat().st_size).architecture == ""
    bare = Forge(keys=[]).build()
    with pytest.raises(GgufError, match="architecture"):
        gguf.read(io.BytesIO(bare), len(bare))


def write_recipe(folder, names, *, key="files"):
    listed = ", ".join(local(name, sha256(folder / name)) for name in names)
    (folder / "LICENSE").write_text("MIT\n")
    text = one_model(f"{key} = [{listed}]", local("LICENSE", sha256(folder / "LICENSE")))
    (folder / "lab.toml").write_text(text)
    return recipe.load(folder / "lab.toml")


def test_a_recipe_names_all_parts_and_each_travels_with_its_own_cut(tmp_path, parts):
    (model,) = write_recipe(tmp_path, [path.name for path in parts]).models
    materials = {m.path: m for m in model_parts.gather(model, Cache(tmp_path / "cache"), silent)}
    assert [path for path in materials if path.endswith(".gguf")] == [f"models/tiny/{path.name}" for path in parts]
    assert all(materials[f"models/tiny/{path.name}"].gguf is not None for path in parts)
    entry = json.loads(materials["models/tiny/model.json"].content)
    assert entry["file"] == parts[0].name
    assert entry["size"] == sum(path.stat().st_size for path in parts)
    assert entry["files"] == [{"name": p.name, "sha256": sha256(p), "size": p.stat().st_size} for p in parts]
    assert entry["sha256"] == split_model.digest_of([sha256(p) for p in parts])
    assert entry["architecture"] == "llama"


@pytest.mark.parametrize(
    ("choose", "reason"),
    [
        (lambda n: n[:2], "belongs: name all parts"),
        (lambda n: [n[0], n[2], n[1]], "belongs: name all parts"),
        (lambda n: n[1:], "the first of its parts would be"),
        (lambda n: [*n, "whole.gguf"], "which is none of its parts"),
        (lambda n: ["whole.gguf", *n], "which is none of its parts"),
        (lambda _: [], "must name every part"),
    ],
    ids=["one missing", "exchanged", "not from the first on", "one too many", "a whole model first", "none"],
)
def test_a_recipe_with_other_names_than_those_of_one_set_is_refused(tmp_path, parts, choose, reason):
    with pytest.raises(RecipeError, match=reason):
        write_recipe(tmp_path, choose([path.name for path in parts]))


def test_a_set_of_right_names_but_of_two_models_is_refused_by_the_build(tmp_path, parts, others):
    shutil.copyfile(others[0], parts[1])
    (model,) = write_recipe(tmp_path, [path.name for path in parts]).models
    with pytest.raises(GgufError, match=r"00002-of-00003\.gguf is not part of a whole set"):
        model_parts.gather(model, Cache(tmp_path / "cache"), silent)


@pytest.fixture
def site(tmp_path, parts):
    """A generation with the split model in it."""
    (model,) = write_recipe(tmp_path, [path.name for path in parts]).models
    paths = SitePaths(tmp_path / "site", tmp_path / "run")
    folder = paths.generations / "1" / "models" / "tiny"
    folder.mkdir(parents=True)
    for material in model_parts.gather(model, Cache(tmp_path / "cache"), silent):
        content = material.content
        (folder / Path(material.path).name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return paths


def test_the_catalogue_knows_every_file_of_a_split_model(site, parts):
    (entry,) = catalogue.models(site, 1)
    assert entry.path.name == parts[0].name
    assert [(file.path.name, file.size) for file in entry.files] == [(p.name, p.stat().st_size) for p in parts]
    assert entry.size == sum(file.size for file in entry.files)


CHANGES = {
    "a file missing": lambda e: e["files"].pop(),
    "files exchanged": lambda e: e["files"].reverse(),
    "a size that is not theirs": lambda e: e.update(size=1),
    "a digest that is not theirs": lambda e: e.update(sha256="a" * 64),
    "another first file": lambda e: e.update(file="tiny.gguf"),
    "a field too many": lambda e: e["files"][0].update(x=1),
    "a name that leads elsewhere": lambda e: e["files"][1].update(name="../tiny-00002-of-00003.gguf"),
    "no list": lambda e: e.update(files="tiny"),
    "an empty list": lambda e: e.update(files=[]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_catalogue_entry_with_other_files_is_damaged(site, name):
    path = site.generations / "1" / "models" / "tiny" / "model.json"
    entry = json.loads(path.read_bytes())
    CHANGES[name](entry)
    path.write_text(json.dumps(entry))
    with pytest.raises(PlugskyError) as caught:
        catalogue.models(site, 1)
    assert caught.value.kind is ErrorKind.TAMPERED


def test_an_engine_checks_every_part_and_names_the_one_that_is_wrong(parts):
    model_file.check_file(parts[0])
    digest = split_model.digest_of([sha256(path) for path in parts])
    fractions = []
    model_file.check_digest(parts[0], digest, lambda fraction: fractions.append(fraction) or True)
    assert fractions[-1] == 1.0
    data = bytearray(parts[2].read_bytes())
    data[-40] ^= 1
    parts[2].write_bytes(data)
    with pytest.raises(EngineError) as refusal:
        model_file.check_digest(parts[0], digest, lambda _: True)
    assert refusal.value.kind is ErrorKind.TAMPERED
    parts[1].unlink()
    with pytest.raises(EngineError, match=r"00002-of-00003\.gguf is missing"):
        model_file.check_file(parts[0])


def test_an_engine_is_not_given_a_later_part(parts):
    with pytest.raises(EngineError, match="no sound GGUF"):
        model_file.check_file(parts[1])


@pytest.mark.integration
def test_a_real_model_in_parts_loads_and_counts_as_the_whole_one(chat_model, tmp_path):
    files = split(chat_model, tmp_path, "smol", 3)
    digest = split_model.digest_of([sha256(path) for path in files])
    spec = replace(spec_of(files[0], n_ctx=256), digest=digest)
    loaded = loading.load(spec, lambda _: True)
    try:
        tokens = loaded.model.tokens("The capital of Saudi Arabia is Riyadh.", add_special=True)
        assert len(tokens) > 5
        rows = loaded.context.decode([Chunk(1, 0, 0, tokens, outputs=1)])
        assert np.isfinite(rows[0]).all()
    finally:
        loaded.close()
    files[2].unlink()
    with pytest.raises(EngineError) as refusal:
        loading.load(spec, lambda _: True)
    assert refusal.value.kind is ErrorKind.MODEL_NOT_FOUND
