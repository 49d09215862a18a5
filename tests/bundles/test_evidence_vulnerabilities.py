"""Known vulnerabilities: pip-audit for real against a service on this machine, Debian's data from a file, and what is
recorded when nobody could be asked.
"""

import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from bundles.evidence_parts import NOW, gather, model, sha256, wheel
from plugsky_builder.cache import Cache
from plugsky_builder.evidence import components, debian_tracker, gathering, vulnerabilities
from plugsky_builder.evidence.debian_tracker import Source
from plugsky_bundles.errors import NotFound, SourceError, VulnerabilitiesUnchecked

PATH = "evidence/vulnerabilities.json"
REQUIRED = gathering.Asked(required=True)
KNOWN = {
    "schema_version": "1.7.0",
    "id": "PYSEC-2026-1",
    "aliases": ["GHSA-aaaa", "CVE-2026-1"],
    "summary": "It answers too much",
    "affected": [
        {
            "package": {"name": "tiny", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class Osv:
    """A service that speaks OSV's query; it keeps what it was asked. `breaks` makes it answer something else."""

    def __init__(self) -> None:
        osv = self
        self.asked: list[tuple[str, str]] = []
        self.breaks: bytes | None = None

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                asked = (query["package"]["name"], query["version"])
                osv.asked.append(asked)
                answer = {"vulns": [KNOWN]} if asked == ("tiny", "1.0") else {}
                body = json.dumps(answer).encode() if osv.breaks is None else osv.breaks
                self.send_response(200 if self.path == "/v1/query" else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                """Tests are quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"


@contextmanager
def serving():
    osv = Osv()
    thread = threading.Thread(target=osv.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield osv
    finally:
        osv.server.shutdown()
        thread.join()
        osv.server.server_close()


@pytest.fixture
def osv(monkeypatch):
    with serving() as service:
        monkeypatch.setenv("PLUGSKY_MIRRORS", f"https://api.osv.dev/={service.url}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield service


def parts(base):
    return [wheel(base / "files"), wheel(base / "files", "other_one", "2.0"), *model(base / "files")]


def python_record(base, **options):
    files, warnings = gather(base, parts(base), offline=False, **options)
    return json.loads(files[PATH])["python"], warnings


@pytest.mark.integration
def test_what_the_service_knows_is_frozen_with_its_date(tmp_path, osv):
    record, warnings = python_record(tmp_path, asked=REQUIRED)
    assert sorted(osv.asked) == [("other-one", "2.0"), ("tiny", "1.0")]
    assert record["found"] == [
        {
            "name": "tiny",
            "version": "1.0",
            "id": "PYSEC-2026-1",
            "aliases": ["CVE-2026-1", "GHSA-aaaa"],
            "fixed": ["1.1"],
        }
    ]
    assert (record["checked"], record["at"], record["packages"]) == (True, "2026-11-22T12:00:00Z", 2)
    assert record["database"] == {"as_of": "2026-11-22T12:00:00Z", "service": "https://api.osv.dev/v1/query"}
    assert record["tool"].startswith("pip-audit ")
    assert "1 known vulnerabilities in 1 Python packages: see evidence/vulnerabilities.json" in warnings


@pytest.mark.integration
def test_two_versions_of_one_package_are_both_asked_about(tmp_path, osv):
    materials = [wheel(tmp_path / "files"), wheel(tmp_path / "files", version="2.0"), *model(tmp_path / "files")]
    files, _ = gather(tmp_path, materials, offline=False)
    assert sorted(osv.asked) == [("tiny", "1.0"), ("tiny", "2.0")]
    assert [one["version"] for one in json.loads(files[PATH])["python"]["found"]] == ["1.0"]


@pytest.mark.integration
@pytest.mark.parametrize(
    "broken", {"no JSON": b"hello", "another thing": b'{"vulns": 3}', "nothing": b""}.values(), ids=str
)
def test_an_answer_that_cannot_be_read_is_no_check(tmp_path, osv, broken):
    osv.breaks = broken
    record, _ = python_record(tmp_path)
    assert record["checked"] is False
    assert record["why"].startswith("pip-audit got no answer")


@pytest.mark.integration
def test_a_service_that_cannot_be_reached_is_recorded_and_said(tmp_path, monkeypatch):
    with serving() as gone:
        pass
    monkeypatch.setenv("PLUGSKY_MIRRORS", f"https://api.osv.dev/={gone.url}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    record, warnings = python_record(tmp_path)
    assert record == {"checked": False, "at": "2026-11-22T12:00:00Z", "why": record["why"]}
    assert "did not answer" in record["why"]
    assert f"known vulnerabilities of the Python packages were not checked: {record['why']}" in warnings
    with pytest.raises(VulnerabilitiesUnchecked, match="did not answer"):
        python_record(tmp_path, asked=REQUIRED)


def test_an_offline_build_asks_nobody_and_says_so(tmp_path):
    files, _ = gather(tmp_path, parts(tmp_path))
    assert json.loads(files[PATH]) == {
        "schema": "plugsky.vulnerabilities/1",
        "python": {"checked": False, "at": "2026-11-22T12:00:00Z", "why": "the build was offline"},
    }


def test_a_recipe_that_demands_the_check_does_not_build_offline(tmp_path):
    demand = "[evidence]\nrequire-vulnerability-check = true"
    with pytest.raises(VulnerabilitiesUnchecked, match="offline"):
        gather(tmp_path, parts(tmp_path), more=demand)


def test_a_bundle_without_packages_has_nothing_to_ask(tmp_path):
    files, warnings = gather(tmp_path, model(tmp_path / "files"), asked=REQUIRED)
    assert json.loads(files[PATH]) == {"schema": "plugsky.vulnerabilities/1"}
    assert warnings == ()


def test_the_appliance_itself_is_not_asked_about(tmp_path):
    own = wheel(tmp_path / "files", "plugsky", "0.1.0")
    found = components.find([own], [], (), Cache(tmp_path / "cache"))
    assert vulnerabilities.python(found, Cache(tmp_path / "cache"), NOW) is None


TRACKED = {
    "given": {
        "CVE-2026-1": {"releases": {"trixie": {"status": "open", "urgency": "high"}}},
        "CVE-2026-2": {"releases": {"trixie": {"status": "resolved", "fixed_version": "2.0-2", "urgency": "low"}}},
        "CVE-2026-3": {"releases": {"trixie": {"status": "resolved", "fixed_version": "1.9-1", "urgency": "low"}}},
        "CVE-2026-4": {"releases": {"trixie": {"status": "resolved", "fixed_version": "0"}}},
        "CVE-2026-5": {"releases": {"bookworm": {"status": "open", "urgency": "high"}}},
        "CVE-2026-6": {"releases": {"trixie": {"status": "undetermined"}}},
    }
}
SOURCES = [Source("trixie", "given", "2.0-1"), Source("trixie", "unknown", "1")]


def test_debian_packages_are_looked_up_in_the_data_that_was_brought(tmp_path):
    data = tmp_path / "json"
    data.write_text(json.dumps(TRACKED))
    record = debian_tracker.look_up(data, SOURCES, NOW)
    assert [(one["id"], one["fixed"], one["urgency"]) for one in record["found"]] == [
        ("CVE-2026-1", [], "high"),
        ("CVE-2026-2", ["2.0-2"], "low"),
    ]
    assert record["database"]["sha256"] == sha256(data.read_bytes())
    modified = datetime.fromtimestamp(int(data.stat().st_mtime), UTC)
    assert record["database"]["as_of"] == modified.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (record["checked"], record["packages"]) == (True, 2)


@pytest.mark.parametrize(
    "text",
    {
        "no JSON": "<html>",
        "a list": "[]",
        "a release without a status": '{"given":{"C":{"releases":{"trixie":{}}}}}',
    }.values(),
    ids=str,
)
def test_other_data_than_the_trackers_is_refused(tmp_path, text):
    data = tmp_path / "json"
    data.write_text(text)
    with pytest.raises(SourceError, match="is not the data of Debian's security tracker"):
        debian_tracker.look_up(data, SOURCES, NOW)


def test_data_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotFound, match="cannot be read"):
        debian_tracker.look_up(tmp_path / "missing", SOURCES, NOW)


def test_the_versions_that_count_are_those_of_the_source_packages():
    report = {"packages": [{"source": "gcc-14 (14.2.0-19)", "version": "1:2"}, {"source": "sudo", "version": "1.9"}]}
    with_report = SimpleNamespace(
        targets=[
            SimpleNamespace(
                target=SimpleNamespace(os="debian-13"),
                evidence=[gathering.Material.of_bytes("evidence/debs/x/packages.json", json.dumps(report).encode())],
            )
        ]
    )
    assert gathering._sources(with_report) == [Source("trixie", "gcc-14", "14.2.0-19"), Source("trixie", "sudo", "1.9")]
