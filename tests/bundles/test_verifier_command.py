"""The verifier as an auditor meets it: one file, the standard library, a few options, telling exit codes."""

import ast
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bootstrap import plugsky_verify as verifier
from bundles.forge import FILES
from plugsky.core.paths import data_directory
from plugsky_bundles.fingerprint_words import read_fingerprint, to_words
from pseudo_terminal import Terminal

FILE = data_directory("bootstrap") / "plugsky_verify.py"
NOW = datetime.now(UTC).replace(microsecond=0)
MAX_LINES = 1340


@pytest.fixture(scope="module")
def right(forge) -> Path:
    return forge.sealed(now=NOW, expires=NOW + timedelta(days=1))


@pytest.fixture
def bundle(right, tmp_path) -> Path:
    return Path(shutil.copytree(right, tmp_path / "a bundle"))


def run(*arguments, code=0):
    """The file alone, in an empty directory, by an interpreter without site packages."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", FILE, *map(str, arguments)], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_it_imports_the_standard_library_only_and_reads_on_python_3_9():
    tree = ast.parse(FILE.read_text(encoding="ascii"), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names
    assert not imported & {"subprocess", "socket", "ssl", "urllib", "ctypes", "pickle", "importlib", "shutil"}
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not calls & {"eval", "exec", "compile", "__import__"}


def test_it_stays_short_enough_to_be_read():
    assert len(FILE.read_text().splitlines()) <= MAX_LINES


def test_a_right_bundle_by_the_digits_or_the_words_on_the_paper(forge, bundle):
    for pin in (forge.fingerprint, forge.fingerprint.upper(), to_words(forge.fingerprint)):
        said = run(bundle, "--pin", pin).stdout
        assert "ok  targets and each role under it are signed" in said
        assert forge.fingerprint in said


def test_as_json_it_says_the_same(forge, bundle):
    said = json.loads(run(bundle, "--pin", forge.fingerprint, "--all", "--json").stdout)
    assert said["schema"] == "plugsky.verifier/1"
    assert said["verified"]
    assert said["all"]
    assert (said["channel"], said["version"]) == ("demo", 1)


def test_exit_codes_are_the_appliances(forge, bundle, tmp_path):
    run(bundle, "--pin", "x", code=2)
    run(bundle, "--no-such-option", code=2)
    run(code=2)
    run(tmp_path / "nothing", "--pin", forge.fingerprint, code=7)
    run(bundle, "--site", tmp_path, code=7)
    assert "nobody has said whom to trust" in run(bundle, code=5).stderr
    (bundle / "README.txt").write_text("other")
    error = json.loads(run(bundle, "--pin", forge.fingerprint, "--json", code=5).stderr)
    assert error["schema"] == "plugsky.error/1"
    assert error["error"]["code"] == "digest_mismatch"


def test_a_wrong_word_of_the_pin_is_named_as_the_appliance_names_it(bundle):
    words = to_words("5a" * 32)  # of some fingerprints, a slip in another word would explain the last one as well
    wrong = words[:-1] + ("z" if words[-1] != "z" else "b")
    said = run(bundle, "--pin", wrong, code=2).stderr
    assert said == (
        "error: The fingerprint given with --pin is none\n"
        f"  why:  word 17, {wrong[-5:]!r}, seems to have a wrong letter: compare it with the paper\n"
        "  next: Compare it with the paper, word by word, and run it again\n"
    )
    told = json.loads(run(bundle, "--pin", wrong, "--json", code=2).stderr)["error"]
    assert (told["code"], told["why"]) == ("usage", said.splitlines()[1].removeprefix("  why:  "))
    with pytest.raises(ValueError, match=re.escape(told["why"])):
        read_fingerprint(wrong)


@pytest.mark.integration
@pytest.mark.parametrize("columns", [80, 40])
def test_on_a_terminal_its_progress_is_one_line_within_the_width(columns):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import plugsky_verify as v\n"
        "p = v.Progress(silent=False); p.pause, p.total = -1.0, 5 * 10**9\n"
        "for _ in range(50): p.add(10**8, 'blobs/00/sha256-' + '0' * 64)\n"
        "p.end()"
    )
    terminal = Terminal([sys.executable, "-I", "-B", "-c", script, str(FILE.parent)], {}, columns=columns)
    assert terminal.exit_code() == 0
    *written, last = terminal.written.decode().split("\r\x1b[2K")
    assert last == "", "it is taken away at the end"
    assert len(written) == 51
    assert {len(line) for line in written[1:]} == {columns - 1}
    assert written[-1].startswith("  5000.0 of 5000.0 MB, ")


def test_without_all_it_reads_everything_but_models_and_debian_packages(forge, bundle):
    verified = run(bundle, "--pin", forge.fingerprint)
    assert "every byte of python, playbooks, policy" in verified.stdout
    blobs = {path: digest_of(FILES[path]) for path in ("models/tiny/LICENSE", "python/plugsky-0.1.0-py3-none-any.whl")}
    for path, digest in blobs.items():
        blob = bundle / f"blobs/{digest[:2]}/sha256-{digest}"
        blob.write_bytes(bytes(len(FILES[path])))
        run(bundle, "--pin", forge.fingerprint, "--all", code=5)
        run(bundle, "--pin", forge.fingerprint, code=0 if path.startswith("models/") else 5)


def digest_of(data: bytes) -> str:
    return verifier.hashlib.sha256(data).hexdigest()


def test_what_it_copies_is_what_it_verified(forge, bundle, tmp_path):
    run(bundle, "--pin", forge.fingerprint, "--copy", "python", tmp_path / "copy")
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == {
        "plugsky-0.1.0-py3-none-any.whl": FILES["python/plugsky-0.1.0-py3-none-any.whl"]
    }
    assert (
        "File exists" in run(bundle, "--pin", forge.fingerprint, "--copy", "python", tmp_path / "copy", code=1).stderr
    )
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/plugsky-0.1.0-py3-none-any.whl").symlink_to(tmp_path / "elsewhere")
    run(bundle, "--pin", forge.fingerprint, "--copy", "python", tmp_path / "linked", code=1)
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_a_copy_that_cannot_be_written_whole_is_an_error(forge, bundle, tmp_path):
    """The file is smaller than any buffer, so only closing it finds out."""
    command = [
        sys.executable,
        "-I",
        "-B",
        FILE,
        bundle,
        "--pin",
        forge.fingerprint,
        "--copy",
        "python",
        tmp_path / "copy",
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY)),
    )
    assert done.returncode == 1, done.stderr
    assert "File too large" in done.stderr


def test_names_on_the_media_cannot_speak_to_the_terminal(forge, bundle):
    (bundle / "evil\x1b[2J\u202e\n").write_bytes(b"")
    said = run(bundle, "--pin", forge.fingerprint, code=5).stderr
    assert "\\x1b" in said
    assert "\x1b" not in said
    assert "\u202e" not in said


def test_it_writes_nothing_and_follows_no_link(forge, bundle, tmp_path):
    before = sorted(bundle.rglob("*"))
    outside = tmp_path / "outside"
    shutil.copy(bundle / "README.txt", outside)
    run(bundle, "--pin", forge.fingerprint, "--all")
    assert sorted(bundle.rglob("*")) == before
    (bundle / "README.txt").unlink()
    (bundle / "README.txt").symlink_to(outside)
    run(bundle, "--pin", forge.fingerprint, code=5)


def test_a_file_swapped_for_a_link_or_a_pipe_after_listing_is_not_followed(forge, bundle, tmp_path):
    for swap in (lambda path: path.symlink_to(tmp_path / "aside"), os.mkfifo):
        copy = Path(shutil.copytree(bundle, tmp_path / f"copy-{swap.__name__}"))
        media = verifier.Media(str(copy))
        (copy / "README.txt").replace(tmp_path / "aside")
        swap(copy / "README.txt")
        with pytest.raises(verifier.Refused) as caught:
            verifier.Bundle(media, forge.fingerprint, verifier.NO_SITE, NOW).check_bytes(
                (), verifier.Progress(silent=True), None
            )
        assert caught.value.code == "unlisted_file"


def test_media_that_cannot_be_read_are_named_so(forge, bundle, monkeypatch):
    media = verifier.Media(str(bundle))

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(verifier.os, "read", broken)
    with pytest.raises(verifier.Refused) as caught:
        verifier.Bundle(media, forge.fingerprint, verifier.NO_SITE, NOW)
    assert caught.value.code == "media_unreadable"


def test_long_reads_say_how_far_they_are_how_fast_and_how_long_it_takes(monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr(verifier.sys, "stderr", said)
    progress = verifier.Progress(silent=False)
    progress.pause, progress.total = -1.0, 4_000_000
    for _ in range(4):
        progress.add(1_000_000, "blobs/x")
    lines = said.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("  1.0 of 4.0 MB, ")
    assert "MB/s" in lines[0]
    assert lines[-1].endswith(" 0 s left  blobs/x")


@pytest.mark.integration
@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13"])
def test_other_pythons_say_the_same(forge, bundle, version):
    found = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    python = next((path for path in found if path is not None and subprocess.run([path, "-V"]).returncode == 0), None)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    for pin, code in ((forge.fingerprint, 0), ("0" * 64, 5)):
        done = subprocess.run([python, "-I", "-B", FILE, bundle, "--pin", pin, "--all"], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
