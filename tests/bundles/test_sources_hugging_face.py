"""Files of a model repository: huggingface_hub itself, against a small hub that speaks the endpoints it calls."""

import hashlib
import json

import pytest

from bundles.web_server import Reply, with_ranges
from plugsky_builder import sources
from plugsky_builder.cache import Cache
from plugsky_builder.file_sources import HuggingFaceFile
from plugsky_bundles.errors import (
    DigestMismatch,
    NotCached,
    SourceError,
    SourceForbidden,
    SourceMissing,
    SourceUnreachable,
)
from plugsky_bundles.progress import silent

pytestmark = pytest.mark.integration

BODY = b"GGUF" + bytes(range(256)) * 5000
SHA256 = hashlib.sha256(BODY).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "some/model"
SOURCE = HuggingFaceFile(REPO, COMMIT, "gguf/model.gguf", SHA256, None)
TOKEN = "hf_hunter2"


class Hub:
    """A repository with one large file, kept on another host as the real hub does; gated when told to be."""

    def __init__(self, site, *, store="localhost"):
        self.site, self.gated, self.commit, self.etag = site, False, COMMIT, f'"{SHA256}"'
        self.licence, self.store = "apache-2.0", store
        site.pages[f"/api/models/{REPO}/revision/{COMMIT}"] = self.info
        site.pages[f"/{REPO}/resolve/{COMMIT}/gguf/model.gguf"] = self.resolve
        site.pages["/store/blob"] = with_ranges(BODY)

    def refusal(self, headers):
        if self.gated and headers.get("authorization") != f"Bearer {TOKEN}":
            return Reply(b"{}", 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        return None

    def info(self, _headers):
        told = {"id": REPO, "sha": COMMIT, "gated": "manual" if self.gated else False, "tags": [], "siblings": []}
        told["cardData"] = {"license": self.licence}
        return Reply(json.dumps(told).encode(), headers={"Content-Type": "application/json"})

    def resolve(self, headers):
        place = self.site.url("/store/blob?Signature=hunter3", self.store)
        told = {"X-Repo-Commit": self.commit, "X-Linked-Etag": self.etag, "X-Linked-Size": str(len(BODY))}
        return self.refusal(headers) or Reply(b"", 302, {**told, "Location": place})


@pytest.fixture
def hub(tls, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_ENDPOINT", tls.url(""))
    return Hub(tls)


def test_a_file_is_fetched_from_the_mirror_once_with_its_terms(hub, cache):
    assert sources.obtain(SOURCE, cache, silent).read_bytes() == BODY
    assert sources.obtain(SOURCE, Cache(cache.root, offline=True), silent).read_bytes() == BODY
    assert sum("/store/" in path for _, path, _ in hub.site.seen) == 1
    assert sources.facts(SOURCE, cache) == {
        "origin": f"hugging-face:some/model@{COMMIT}#gguf/model.gguf",
        "gated": "no",
        "licence": "apache-2.0",
    }


def test_nothing_is_told_beyond_what_was_asked(hub, cache):
    sources.obtain(SOURCE, cache, silent)
    assert {path.partition("?")[0] for _, path, _ in hub.site.seen} == {
        f"/api/models/{REPO}/revision/{COMMIT}",
        f"/{REPO}/resolve/{COMMIT}/gguf/model.gguf",
        "/store/blob",
    }
    for _, _, headers in hub.site.seen:
        assert "session_id" not in headers["user-agent"]
        assert "torch" not in headers["user-agent"]


def test_a_broken_download_of_a_repository_is_taken_up(hub, cache):
    hub.site.pages["/store/blob"] = with_ranges(BODY, cuts=[700_000])
    assert sources.obtain(SOURCE, cache, silent).read_bytes() == BODY
    assert [headers.get("range") for _, path, headers in hub.site.seen if "/store/" in path] == [None, "bytes=700000-"]


def test_a_gated_model_without_a_token_says_how_to_get_it(hub, cache):
    hub.gated = True
    with pytest.raises(SourceForbidden, match="gated: there is no token") as caught:
        sources.obtain(SOURCE, cache, silent)
    assert caught.value.exit_code == 4
    assert "https://huggingface.co/some/model" in caught.value.next
    assert "HF_TOKEN" in caught.value.next


@pytest.mark.parametrize("way", ["the environment", "hf auth login"])
def test_a_gated_model_comes_with_a_token_that_the_hub_alone_sees(hub, cache, monkeypatch, tmp_path, way):
    hub.gated = True
    if way == "the environment":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    else:
        (tmp_path / "token").write_text(TOKEN)
    assert sources.obtain(SOURCE, cache, silent).read_bytes() == BODY
    assert sources.facts(SOURCE, cache)["gated"] == "manual"
    for _, path, headers in hub.site.seen:
        assert ("authorization" in headers) is ("/store/" not in path)
    everything = "".join(path.read_text(errors="replace") for path in cache.root.rglob("*") if path.is_file())
    assert "hunter" not in everything


def test_a_token_that_is_not_let_in_is_not_shown(hub, cache, monkeypatch):
    hub.gated = True
    monkeypatch.setenv("HF_TOKEN", "hf_other_hunter2")
    with pytest.raises(SourceForbidden, match="does not let this token in") as caught:
        sources.obtain(SOURCE, cache, silent)
    assert "hunter2" not in str(caught.value)


def coded(status, code):
    return Reply(b"{}", status, {"X-Error-Code": code, "X-Error-Message": "no"})


REFUSED = {
    "a repository that is not there": (401, "RepoNotFound", SourceMissing, "or is private"),
    "a commit that is not there": (404, "RevisionNotFound", SourceMissing, "no such commit"),
    "a file that is not there": (404, "EntryNotFound", SourceMissing, "no such file"),
    "a hub in trouble": (500, "", SourceUnreachable, "answered 500"),
    "a hub that forbids": (403, "", SourceForbidden, "answered 403"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_hub_refuses_is_named(hub, cache, name):
    status, code, error, reason = REFUSED[name]
    hub.site.pages[f"/{REPO}/resolve/{COMMIT}/gguf/model.gguf"] = coded(status, code)
    with pytest.raises(error, match=reason) as caught:
        sources.obtain(SOURCE, cache, silent)
    assert type(caught.value) is error
    assert list((cache.root / "files").iterdir()) == []


def test_a_file_that_the_hub_knows_to_be_another_is_refused_before_it_is_read(hub, cache):
    hub.etag = f'"{"a" * 64}"'
    with pytest.raises(DigestMismatch, match="the hub has SHA-256 aaaa"):
        sources.obtain(SOURCE, cache, silent)
    assert not any("/store/" in path for _, path, _ in hub.site.seen)


def test_wrong_bytes_in_the_hubs_store_are_refused(hub, cache):
    hub.site.pages["/store/blob"] = with_ranges(BODY[:-1] + b"!")
    with pytest.raises(DigestMismatch, match="not what the recipe pins") as caught:
        sources.obtain(SOURCE, cache, silent)
    assert "hunter" not in str(caught.value)


def test_a_hub_that_answers_with_another_commit_is_refused(hub, cache):
    hub.commit = "f" * 40
    with pytest.raises(SourceMissing, match="answers with commit ffff"):
        sources.obtain(SOURCE, cache, silent)


def test_a_mirror_over_plain_http_is_refused(hub, cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    with pytest.raises(SourceError, match="must begin with https"):
        sources.obtain(SOURCE, cache, silent)


def test_a_hub_that_does_not_answer_is_unreachable(hub, cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://127.0.0.1:9")
    with pytest.raises(SourceUnreachable):
        sources.obtain(SOURCE, cache, silent)


def test_offline_the_hub_is_not_asked(hub, tmp_path):
    with pytest.raises(NotCached):
        sources.obtain(SOURCE, Cache(tmp_path / "cache", offline=True), silent)
    assert hub.site.seen == []
