"""The evidence of a bundle with Debian packages, built for real from a small signed archive on this machine."""

import json
import os
import shutil

import pytest

from bundles.deb_forge import BASIC, NOW, PASSPHRASE, Archive, served
from plugsky_builder import build as building
from plugsky_builder import recipe as recipes
from plugsky_builder.debs import releases, renewal
from plugsky_builder.evidence.gathering import Asked
from plugsky_bundles import ceremony
from plugsky_bundles.errors import VulnerabilitiesUnchecked
from plugsky_bundles.progress import silent

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("apt-get", "gpg", "gpgv")), reason="needs apt, gpg and gpgv"
    ),
]
KNOWN = {
    "python3": {"CVE-2026-7": {"releases": {"trixie": {"status": "open", "urgency": "medium"}}}},
    "libc6": {"CVE-2026-8": {"releases": {"trixie": {"status": "resolved", "fixed_version": "0.9"}}}},
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Builds a bundle with the packages that a bare host needs, anew each time."""
    base = tmp_path_factory.mktemp("operator")
    archive = Archive(base)
    ceremony.init(base / "trust", PASSPHRASE, now=NOW)
    with pytest.MonkeyPatch.context() as patch, served(archive.root) as address:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "PLUGSKY_MIRRORS"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        patch.setitem(releases.DEBIAN, "debian-13", archive.release)
        archive.publish(BASIC)
        (base / "lab.toml").write_text(
            f"""
            channel = "lab"
            [[target]]
            os = "debian-13"
            [debs]
            mirror = "{address}/debian"
            security-mirror = "{address}/debian-security"
            [rehearsal]
            skip = "the packages are empty"
            """
        )
        recipe = recipes.load(base / "lab.toml")
        renewal.renew(recipe, base / "cache", now=NOW, progress=silent)

        def run(out: str, **options) -> building.Built:
            known = {"cache": base / "cache", "wheelhouse": base, "now": NOW, "passphrase": lambda: PASSPHRASE}
            return building.build(recipe, base / out, base / "trust", **known, **options)

        yield run


@pytest.fixture
def tracker(tmp_path):
    data = tmp_path / "tracker.json"
    data.write_text(json.dumps(KNOWN))
    os.utime(data, (1_790_000_000, 1_790_000_000))
    return data


def test_packages_are_listed_proven_and_looked_up(build, tracker):
    built = build("one", vulnerabilities=Asked(tracker, required=True))
    evidence = built.path / "evidence"
    components = json.loads((evidence / "sbom.cdx.json").read_bytes())["components"]
    assert "pkg:deb/debian/python3@1:3.13.5-1?arch=amd64&distro=debian-13" in [one.get("purl") for one in components]
    record = json.loads((evidence / "vulnerabilities.json").read_bytes())["debian"]
    assert [(one["name"], one["id"]) for one in record["found"]] == [("python3", "CVE-2026-7")]
    assert record["database"]["as_of"] == "2026-09-21T14:13:20Z"
    assert "1 known vulnerabilities in 1 Debian packages: see evidence/vulnerabilities.json" in built.warnings
    resolved = json.loads((evidence / "provenance.json").read_bytes())["predicate"]["buildDefinition"]
    for one in resolved["resolvedDependencies"]:
        proof = built.path / one["annotations"]["vouched-for-in"]
        assert list(proof.glob("*.InRelease")), one
    assert [one["name"] for one in resolved["internalParameters"]["locks"]] == ["debs-debian-13-amd64.txt"]


def test_without_the_trackers_data_it_is_recorded_said_and_refused_where_it_is_demanded(build):
    built = build("two")
    record = json.loads((built.path / "evidence" / "vulnerabilities.json").read_bytes())["debian"]
    assert record["checked"] is False
    assert any("the Debian packages were not checked" in warning for warning in built.warnings)
    with pytest.raises(VulnerabilitiesUnchecked, match="no data of Debian's security tracker was given"):
        build("three", vulnerabilities=Asked(required=True))
