"""The locks: read exactly, refused when they are not exact, and true to what pyproject.toml asks for."""

import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from setup import locks
from setup.errors import SetupError

ROOT = Path(__file__).resolve().parents[2]
ONE, TWO = "a" * 64, "b" * 64

PLACES = [
    {
        "python_full_version": f"{python}.1",
        "python_version": python,
        "platform_machine": machine,
        "sys_platform": system,
    }
    | {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    for python in ("3.11", "3.12", "3.13", "3.14", "3.15")
    for machine in ("x86_64", "aarch64")
    for system in ("linux", "darwin", "win32")
]

LOCK = f"""\
# a comment
alpha==1.0 \\
    --hash=sha256:{ONE} \\
    --hash=sha256:{TWO}
    # via beta
Beta_Gamma==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:{TWO}
"""


def test_a_lock_is_read_with_names_versions_markers_and_hashes():
    alpha, beta = locks.parse(LOCK)
    assert (alpha.name, alpha.version, alpha.marker, alpha.sha256) == ("alpha", "1.0", "", frozenset({ONE, TWO}))
    assert (beta.name, beta.version, beta.marker, beta.sha256) == (
        "beta-gamma",
        "2.5.5",
        "python_full_version >= '3.12'",
        frozenset({TWO}),
    )


def test_a_lock_without_one_package_still_holds_the_others_whole():
    rest = locks.without(locks.parse(LOCK), "Alpha")
    assert [(pin.name, pin.sha256) for pin in locks.parse(rest)] == [("beta-gamma", frozenset({TWO}))]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("alpha>=1.0 \\\n    --hash=sha256:" + ONE, id="a range"),
        pytest.param("alpha==1.0\n", id="no hash"),
        pytest.param("--hash=sha256:" + ONE, id="a hash of nothing"),
        pytest.param("https://example.invalid/alpha.whl \\\n    --hash=sha256:" + ONE, id="an address"),
        pytest.param("-r other.txt", id="another file"),
    ],
)
def test_a_line_that_pins_nothing_is_refused(text):
    with pytest.raises(SetupError, match="lock file"):
        locks.parse(text)


def test_a_package_that_is_not_locked_is_named():
    with pytest.raises(SetupError) as caught:
        locks.pin_of(locks.parse(LOCK), "delta")
    assert "delta" in caught.value.why


def test_no_two_lists_of_parts_share_a_digest():
    assert locks.digest("ab", "c") != locks.digest("a", "bc")


def asked_for(group: str) -> list[Requirement]:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lists = {"runtime": content["project"]["dependencies"], "dev": content["dependency-groups"]["dev"]}
    return [Requirement(line) for line in lists[group]]


@pytest.mark.parametrize(("lock", "group"), [("runtime.txt", "runtime"), ("dev.txt", "runtime"), ("dev.txt", "dev")])
def test_every_requirement_of_the_project_is_locked_at_a_version_it_allows(lock, group):
    pins = locks.read(ROOT / "bundles/locks" / lock)
    for requirement in asked_for(group):
        versions = [pin.version for pin in pins if pin.name == canonicalize_name(requirement.name)]
        assert versions, f"{requirement.name} is not in {lock}; run `make lock`"
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions)


def test_development_runs_with_exactly_the_packages_that_are_shipped():
    developed = {(pin.name, pin.version, pin.sha256): pin.marker for pin in locks.read(ROOT / "bundles/locks/dev.txt")}
    for pin in locks.read(ROOT / "bundles/locks/runtime.txt"):
        where = developed[pin.name, pin.version, pin.sha256]
        fewer = [place for place in PLACES if applies(pin.marker, place) and not applies(where, place)]
        assert not fewer, f"{pin.name} is shipped for, and not developed with in, {fewer[0]}"


def applies(marker: str, place: dict[str, str]) -> bool:
    return not marker or Marker(marker).evaluate(place)


def test_the_build_lock_holds_what_compiling_needs():
    names = {pin.name for pin in locks.read(ROOT / "bundles/locks/build.txt")}
    asked = [line for line in (ROOT / "bundles/locks/build.in").read_text().splitlines() if not line.startswith("#")]
    assert {canonicalize_name(Requirement(line).name) for line in asked} <= names
