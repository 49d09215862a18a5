"""install.sh and README.txt: what the builder writes, and what the script refuses before anything of a stick runs."""

import os
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bundles.forge import PASSPHRASE, sha256
from plugsky_builder import bootstrap
from plugsky_builder.bootstrap import materials
from plugsky_bundles import sealing, signing
from plugsky_bundles.errors import SourceError
from plugsky_bundles.fingerprint_words import to_words
from plugsky_bundles.format import MAX_CHUNK, FileEntry

NOW = datetime.now(UTC).replace(microsecond=0)
HERE = {"machine": os.uname().machine, "python": "3.11"}
LOCK = b"cryptography==50.0.2 --hash=sha256:00\npip==26.3 --hash=sha256:01\nplugsky==0.1.0 --hash=sha256:02\n"


def entry(path, custom=None, length=10):
    return FileEntry(path, length, sha256(path.encode()), (), custom or {})


def parts_for(folder, facts):
    names = ("pip-26.3-py3-none-any.whl", "plugsky-0.1.0-py3-none-any.whl")
    return [entry(f"{folder}/requirements.txt", facts), *(entry(f"{folder}/{name}") for name in names)]


BOOKWORM = parts_for("python/debian-12-amd64", {"os": "debian-12", "machine": "x86_64", "python": "3.11"})
TRIXIE = parts_for("python/debian-13-amd64", {"os": "debian-13", "machine": "x86_64", "python": "3.13"})
DEBS = [
    entry("debs/debian-12-amd64/python3_3.11.2-1+b1_amd64.deb", {"bootstrap": [1, 0]}),
    entry("debs/debian-12-amd64/libgomp1_12.2.0_amd64.deb", {"bootstrap": [0, 1]}),
    entry("debs/debian-12-amd64/libc6_2.36_amd64.deb", {"bootstrap": [0, 0]}),
    entry("debs/debian-12-amd64/nftables_1.0.6_amd64.deb"),
]


def written(entries, **options):
    made = materials("demo", 7, "Riyadh clinic", entries, **options)
    return {material.path: material.content.decode("ascii") for material in made}


def test_a_bundle_for_bare_hosts_has_all_three_files():
    files = written([*BOOKWORM, *TRIXIE, *DEBS])
    assert sorted(files) == ["README.txt", "install.sh", "tools/plugsky_verify.py"]
    script = files["install.sh"].splitlines()
    assert "target debian-12-amd64 debian-12 x86_64 3.11" in script
    assert "target debian-13-amd64 debian-13 x86_64 3.13" in script
    assert [line.split()[2:5:2] for line in script if line.startswith("deb ")] == [
        ["0", "libc6_2.36_amd64.deb"],
        ["0", "libgomp1_12.2.0_amd64.deb"],
        ["1", "python3_3.11.2-1+b1_amd64.deb"],
    ]
    assert f"verifier_sha256='{sha256(files['tools/plugsky_verify.py'].encode())}'" in script


def test_the_same_content_gives_the_same_bytes_in_any_order():
    assert written([*BOOKWORM, *DEBS]) == written([*reversed(DEBS), *reversed(BOOKWORM)])


def test_the_readme_is_plain_ascii_of_eighty_columns_and_says_what_to_compare():
    text = written([*BOOKWORM, *TRIXIE, *DEBS], contact="operations@example.org\u202e \u0641")["README.txt"]
    assert max(len(line) for line in text.splitlines()) < 80
    assert "Debian 12 on x86_64, with or without Python" in text
    assert "Debian 13 on x86_64, with Python 3.13 and libgomp1" in text
    assert "sha256sum" in text
    assert "Riyadh clinic" in text
    assert "Questions: operations@example.org" in text
    assert "@" not in text.replace("operations@example.org", "")


def test_the_readme_has_nobody_run_a_verifier_that_the_paper_does_not_lead_to(tmp_path):
    files = written([*BOOKWORM, *TRIXIE, *DEBS])
    text = files["README.txt"]
    assert "python3 -I tools/" not in text
    assert sha256(files["tools/plugsky_verify.py"].encode()) not in text
    for name in ("install.sh", "tools/plugsky_verify.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(files[name])
    (tmp_path / "home").mkdir()
    lines = [line.strip() for line in text.splitlines() if line.startswith("       ")]
    shown = [line for line in lines if line.split(" ")[0] in ("cp", "sha256sum", "grep")]
    script, digest, named = subprocess.run(
        ["sh", "-e", "-c", "\n".join(shown)],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert script.split()[0] == sha256(files["install.sh"].encode())
    assert named == f"verifier_sha256='{digest.split()[0]}'"


@pytest.mark.parametrize(
    ("entries", "delta"),
    [([], False), ([*BOOKWORM[:2], *DEBS], False), ([*BOOKWORM, *DEBS], True)],
    ids=["no Python parts", "no appliance", "a delta"],
)
def test_what_a_bare_host_cannot_use_has_a_readme_that_says_so(entries, delta):
    files = written(entries, delta=delta)
    assert list(files) == ["README.txt"]
    assert "runs Plugsky already" in files["README.txt"]


def test_a_package_that_is_no_single_blob_is_refused_at_build():
    large = FileEntry("debs/debian-12-amd64/x_1_amd64.deb", MAX_CHUNK + 1, "0" * 64, (), {"bootstrap": [0, 0]})
    with pytest.raises(SourceError, match="too long"):
        materials("demo", 1, "x", [*BOOKWORM, large])


def test_every_placeholder_is_filled_and_nothing_filled_in_is_looked_at_again():
    files = written([*BOOKWORM, *DEBS], contact="@verifier@ @nothing@")
    assert re.findall(r"@[a-z_]+@", files["install.sh"]) == []
    assert "@verifier@ @nothing@" in files["README.txt"]


def test_packages_that_are_not_needed_to_install_are_packages_of_the_lock():
    lock = (Path(bootstrap.__file__).parents[1] / "locks/runtime.txt").read_text()
    assert {f"\n{name}==" in f"\n{lock}" for name in bootstrap.NOT_NEEDED} == {True}


# The script


@pytest.fixture(scope="module")
def right(forge) -> Path:
    """A sealed bundle for this machine, whose wheels are none: nothing in it can be run."""
    files = {"python/requirements.txt": LOCK, "policy/channel.json": b"{}"}
    files |= {f"python/{name}-1-py3-none-any.whl": name.encode() for name in ("pip", "plugsky", "cryptography")}
    facts = {**HERE, "python": ".".join(map(str, os.sys.version_info[:2]))}
    described = [
        FileEntry(path, len(data), sha256(data), (), facts if path.endswith(".txt") else {})
        for path, data in files.items()
    ]
    beside = {material.path: material.content for material in materials("demo", 1, "test", described)}
    bundle = forge.draft(files=files, beside=beside, now=NOW, expires=NOW + timedelta(days=1))
    signing.sign(bundle, forge.trust, PASSPHRASE, now=NOW)
    sealing.seal(bundle, forge.trust, PASSPHRASE, NOW)
    return bundle


@pytest.fixture
def stick(right, tmp_path) -> Path:
    return Path(shutil.copytree(right, tmp_path / "it's a stick"))


def run(stick, *arguments, code, cwd="/"):
    done = subprocess.run(
        ["sh", stick / "install.sh", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_the_script_is_plain_posix_shell(stick, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    posix = ("--posix",) if shell == "bash" else ()
    done = subprocess.run([shell, *posix, "-n", stick / "install.sh"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert not re.search(r"\[\[|\blocal\b|\$'|\bfunction\b|<<<|&>|curl|wget", (stick / "install.sh").read_text())


def test_it_explains_itself_and_refuses_what_it_does_not_understand(stick, forge, tmp_path):
    done = subprocess.run(["sh", stick / "install.sh", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "channel demo, version 1" in done.stdout
    pinned = ("--pin", forge.fingerprint)
    assert "no option" in run(stick, "--faster", code=2)
    assert "fingerprint" in run(stick, "--root", tmp_path / "site", code=2)
    assert "needs a value" in run(stick, "--pin", code=2)
    assert "no bundle" in run(stick, *pinned, "--root", tmp_path / "site", "--bundle", "/", code=7)
    assert "no directory" in run(stick, *pinned, "--root", tmp_path / "site", "--bundle", "/nowhere", code=7)
    assert not (tmp_path / "site").exists()


def test_where_nobody_can_be_asked_it_says_what_to_type(stick, forge, tmp_path):
    said = run(stick, "--pin", forge.fingerprint, "--root", tmp_path / "site", code=2)
    command = said.split("next: Run: ", 1)[1].strip()
    assert command.endswith(" --yes")
    again = subprocess.run(["sh", "-c", command + " --help"], capture_output=True, text=True, cwd="/")
    assert again.returncode == 0, again.stderr
    assert not (tmp_path / "site").exists()


@pytest.mark.integration
def test_nothing_of_the_stick_runs_before_it_was_compared(stick, forge, tmp_path):
    """Each file of the stick in turn: the site's directory is as it was, and the false verifier never ran."""
    site = tmp_path / "a site"
    arguments = ("--pin", forge.fingerprint, "--root", site, "--yes")
    (stick / "tools/plugsky_verify.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "tools/plugsky_verify.py was changed" in run(stick, *arguments, code=5)
    shutil.copy(bootstrap.data_directory("bootstrap") / "plugsky_verify.py", stick / "tools")
    for path in sorted(path for path in stick.rglob("*") if path.is_file() and path.name != "install.sh"):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + b"!")
        run(stick, *arguments, code=5)
        path.write_bytes(data)
    assert not (tmp_path / "ran").exists()
    assert not site.exists()


@pytest.mark.integration
def test_a_false_pin_and_a_changed_script_are_refused_by_the_signatures(stick, forge, tmp_path):
    arguments = ("--root", tmp_path / "site", "--yes")
    assert "Compare with --pin" in run(stick, "--pin", "0" * 64, *arguments, code=5)
    said = run(stick, "--pin", f"{to_words(forge.fingerprint)[:-5]}tozuk", *arguments, code=2)
    assert "error: The fingerprint given with --pin is none\n  why:  " in said
    assert "tozuk" in said
    assert "plugsky_verify.py" not in said
    assert not (tmp_path / "site").exists()
    with (stick / "install.sh").open("a") as script:
        script.write("# more\n")
    assert "install.sh" in run(stick, "--pin", forge.fingerprint, *arguments, code=5)


@pytest.mark.integration
def test_what_fails_later_leaves_the_directory_as_it_was(stick, forge, tmp_path):
    """These wheels are signed and no wheels: making the environment fails."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/mine").write_text("x")
    said = run(stick, "--pin", forge.fingerprint, "--root", "site", "--yes", code=1, cwd=tmp_path)
    assert "making a small Python environment" in said
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["mine"]


def as_link(path, elsewhere):
    path.symlink_to(elsewhere)


def open_to_all(path, _):
    path.mkdir()
    path.chmod(0o1777)


def given_away(path, _):
    path.mkdir()
    os.chown(path, 4711, -1)


TAKEN = {
    "a link": (as_link, "no directory of its own"),
    "open to all": (open_to_all, "Others can write"),
    "somebody else's": (given_away, "belongs to someone else"),
}


@pytest.mark.integration
@pytest.mark.parametrize("which", ["site", "site/", "site/bootstrap"])
@pytest.mark.parametrize(("taken", "why"), TAKEN.values(), ids=TAKEN)
def test_a_directory_that_somebody_else_prepared_is_refused_and_left_as_it_is(
    stick, forge, tmp_path, which, taken, why
):
    if taken is given_away and os.geteuid() != 0:
        pytest.skip("only root gives a directory away")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("x")
    (tmp_path / which).parent.mkdir(exist_ok=True)
    taken(tmp_path / which, tmp_path / "precious")
    said = run(
        stick, "--pin", forge.fingerprint, "--root", f"{tmp_path}/{which.replace('/bootstrap', '')}", "--yes", code=1
    )
    assert why in said
    assert (tmp_path / "precious/file").read_text() == "x"
    assert sorted(path.name for path in (tmp_path / "precious").iterdir()) == ["file"]
    assert [path.name for path in (tmp_path / "site").iterdir()] in ([], ["bootstrap"], ["file"])


@pytest.mark.integration
@pytest.mark.parametrize("how", ["open to all", "somebody else's"])
def test_a_place_that_others_can_rename_directories_in_is_refused(stick, forge, tmp_path, how):
    place = tmp_path / "place"
    place.mkdir()
    if how == "open to all":
        place.chmod(0o777)
    elif os.geteuid() == 0:
        os.chown(place, 4711, -1)
    else:
        pytest.skip("only root gives a directory away")
    said = run(stick, "--pin", forge.fingerprint, "--root", place / "deeper/site", "--yes", code=1)
    assert f"they can change {place}" in said
    assert list(place.iterdir()) == []


@pytest.mark.integration
@pytest.mark.parametrize("what", ["a link", "a pipe", "a directory"])
def test_only_a_regular_file_of_the_stick_is_copied(stick, forge, tmp_path, what):
    verifier = stick / "tools/plugsky_verify.py"
    if what == "a link":
        verifier.symlink_to(verifier.rename(stick / "elsewhere"))
    else:
        verifier.unlink()
        os.mkfifo(verifier) if what == "a pipe" else verifier.mkdir()
    said = run(
        stick, "--pin", forge.fingerprint, "--root", tmp_path / "site", "--yes", code=5 if what == "a link" else 7
    )
    assert "is no file" in said or "no tools/plugsky_verify.py" in said
    assert not (tmp_path / "site").exists()


@pytest.mark.integration
def test_two_at_a_time_are_one_too_many(stick, forge, tmp_path):
    (tmp_path / "site/bootstrap").mkdir(parents=True)
    lock = subprocess.Popen(["flock", tmp_path / "site/bootstrap", "sleep", "60"])
    try:
        while subprocess.run(["flock", "-n", tmp_path / "site/bootstrap", "true"]).returncode == 0:
            assert lock.poll() is None
        assert "Another install.sh" in run(
            stick, "--pin", forge.fingerprint, "--root", tmp_path / "site", "--yes", code=8
        )
    finally:
        lock.kill()
        lock.wait()


@pytest.mark.integration
def test_a_host_that_the_bundle_is_not_for_is_told_what_it_is_for(forge, right, tmp_path):
    copy = Path(shutil.copytree(right, tmp_path / "stick"))
    script = (copy / "install.sh").read_text()
    (copy / "install.sh").write_text(
        script.replace("target . any", "target . haiku-1").replace(os.uname().machine, "vax")
    )
    said = run(copy, "--pin", forge.fingerprint, "--root", tmp_path / "site", "--yes", code=1)
    assert "haiku-1/vax" in said
