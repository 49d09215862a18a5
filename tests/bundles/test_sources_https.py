"""Files from a web server: fetched once, resumed after any break, and nothing but the pinned bytes ever kept."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from bundles.web_server import Authority, Proxy, Reply, with_ranges
from plugsky_builder import https, sources
from plugsky_builder.cache import Cache
from plugsky_builder.file_sources import HttpsFile
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

BODY = bytes(range(256)) * 12_289
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def site(tls):
    return tls


def source(url: str, size: int | None = None, sha256: str = SHA256) -> HttpsFile:
    return HttpsFile(url, sha256, size, "model.gguf")


def leftovers(cache: Cache) -> list[str]:
    return sorted(path.name for folder in ("work", "files") for path in (cache.root / folder).iterdir())


def test_a_file_is_fetched_once_and_then_cached(site, cache):
    site.pages["/m.gguf"] = Reply(BODY)
    wanted = source(site.url("/m.gguf"))
    assert sources.obtain(wanted, cache, silent).read_bytes() == BODY
    assert sources.obtain(wanted, cache, silent).read_bytes() == BODY
    assert len(site.seen) == 1
    assert leftovers(cache) == [f"sha256-{SHA256}"]
    assert site.seen[0][2]["accept-encoding"] == "identity"


def test_a_connection_that_drops_is_taken_up_where_it_broke(site, cache):
    site.pages["/m.gguf"] = with_ranges(BODY, cuts=[1_000_000, 1_500_000])
    heard = []
    assert sources.obtain(source(site.url("/m.gguf")), cache, heard.append).read_bytes() == BODY
    asked = [headers.get("range") for _, _, headers in site.seen]
    assert asked == [None, "bytes=1000000-", "bytes=2500000-"]
    assert [headers.get("if-range") for _, _, headers in site.seen] == [None, '"one"', '"one"']
    done = [event.done for event in heard]
    assert done == sorted(done)
    assert done[-1] == len(BODY)


def test_a_killed_download_goes_on_in_the_next_build_and_is_hashed_again(site, cache):
    site.pages["/m.gguf"] = with_ranges(BODY)

    def killed(event):
        if event.done > 2_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sources.obtain(source(site.url("/m.gguf")), cache, killed)
    (part,) = (cache.root / "work").glob("*.download")
    kept = part.stat().st_size
    assert 0 < kept < len(BODY)
    assert sources.obtain(source(site.url("/m.gguf")), Cache(cache.root), silent).read_bytes() == BODY
    assert site.seen[-1][2]["range"] == f"bytes={kept}-"
    assert leftovers(cache) == [f"sha256-{SHA256}"]


def test_a_part_that_was_damaged_on_disk_is_found_and_fetched_anew(site, cache):
    site.pages["/m.gguf"] = with_ranges(BODY)
    (cache.root / "work" / f"{SHA256}.download").write_bytes(b"x" + BODY[1:1000])
    assert sources.obtain(source(site.url("/m.gguf")), cache, silent).read_bytes() == BODY
    assert [headers.get("range") for _, _, headers in site.seen] == ["bytes=1000-", None]


def test_a_part_that_is_whole_needs_no_server(cache):
    (cache.root / "work" / f"{SHA256}.download").write_bytes(BODY)
    assert sources.obtain(source("https://127.0.0.1:9/m.gguf"), cache, silent).read_bytes() == BODY


def test_a_file_that_changed_on_the_server_is_fetched_anew(site, cache):
    site.pages["/m.gguf"] = with_ranges(BODY[:-1] + b"!", tag='"old"', cuts=[1_000_000])
    with pytest.raises(DigestMismatch):
        sources.obtain(source(site.url("/m.gguf")), cache, silent)
    site.pages["/m.gguf"] = with_ranges(b"!" + BODY[1:], tag='"old"', cuts=[1_000_000, 0, 0, 0])
    with pytest.raises(SourceUnreachable):
        sources.obtain(source(site.url("/m.gguf")), cache, silent)
    site.pages["/m.gguf"] = with_ranges(BODY, tag='"new"')
    assert sources.obtain(source(site.url("/m.gguf")), cache, silent).read_bytes() == BODY


def test_a_server_without_ranges_is_read_from_the_start_again(site, cache):
    replies = [Reply(BODY, cut=1_000_000), Reply(BODY)]
    site.pages["/m.gguf"] = lambda _headers: replies.pop(0)
    assert sources.obtain(source(site.url("/m.gguf")), cache, silent).read_bytes() == BODY


def moved(target):
    return Reply(b"", 302, {"Location": target})


REFUSED = {
    "wrong bytes": (Reply(b"!" + BODY[1:]), None, DigestMismatch, "not what the recipe pins"),
    "a web page": (Reply(b"<html>Sign in</html>"), None, DigestMismatch, "not what the recipe pins"),
    "another length than pinned": (Reply(BODY), len(BODY) + 1, DigestMismatch, "the recipe says"),
    "a body longer than pinned": (Reply(BODY, declared=None), 1000, DigestMismatch, "longer than"),
    "an endless body": (Reply(BODY, declared=None, endless=True), len(BODY), DigestMismatch, "longer than"),
    "no length at all": (Reply(BODY, declared=None), None, SourceError, "does not say how long"),
    "a length beyond every file": (Reply(BODY, declared=1 << 60), None, SourceError, "the limit is"),
    "a body that stops early": (Reply(BODY, cut=0), None, SourceUnreachable, "download"),
    "401": (Reply(b"", 401), None, SourceForbidden, "does not let us"),
    "403": (Reply(b"", 403), None, SourceForbidden, "does not let us"),
    "404": (Reply(b"", 404), None, SourceMissing, "does not have it"),
    "418": (Reply(b"", 418), None, SourceError, "answered 418"),
    "500": (Reply(b"", 500), None, SourceUnreachable, "answered 500"),
    "an unwished compression": (Reply(BODY, headers={"Content-Encoding": "gzip"}), None, SourceError, "encodes it"),
    "a redirect to plain HTTP": (moved("http://example.org/m.gguf"), None, SourceError, "is not HTTPS"),
    "a redirect to a file": (moved("file:///etc/passwd"), None, SourceError, "is not HTTPS"),
    "a redirect to nowhere": (moved(""), None, SourceError, "is not HTTPS"),
    "a redirect in a circle": (moved("/m.gguf"), None, SourceError, "redirects more than"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_whatever_else_a_server_does_is_refused_by_name_and_leaves_nothing(site, cache, name):
    answer, size, error, reason = REFUSED[name]
    site.pages["/m.gguf"] = answer
    with pytest.raises(error, match=reason) as caught:
        sources.obtain(source(site.url("/m.gguf?token=hunter2"), size), cache, silent)
    assert type(caught.value) is error
    assert "hunter2" not in str(caught.value)
    assert leftovers(cache) == []


def test_a_range_of_other_bytes_is_not_glued_on(site, cache):
    (cache.root / "work" / f"{SHA256}.download").write_bytes(BODY[:1000])
    site.pages["/m.gguf"] = lambda headers: (
        Reply(BODY[5:], 206, {"Content-Range": f"bytes 5-{len(BODY) - 1}/{len(BODY)}"})
        if "range" in headers
        else Reply(BODY)
    )
    assert sources.obtain(source(site.url("/m.gguf")), cache, silent).read_bytes() == BODY


def test_redirects_over_https_are_followed(site, cache):
    site.pages |= {"/a": moved("/b"), "/b": moved(site.url("/m.gguf?signed=1", "localhost")), "/m.gguf": Reply(BODY)}
    assert sources.obtain(source(site.url("/a")), cache, silent).read_bytes() == BODY


def test_a_password_comes_from_netrc_and_goes_to_its_own_host_alone(site, cache, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    site.pages |= {"/a": moved(site.url("/m.gguf", "localhost")), "/m.gguf": Reply(BODY)}
    sources.obtain(source(site.url("/a")), cache, silent)
    first, second = (headers.get("authorization") for _, _, headers in site.seen)
    assert first == "Basic bWU6aHVudGVyMg=="
    assert second is None


def test_a_netrc_that_cannot_be_read_is_named(site, cache, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me passwort hunter2\n")
    with pytest.raises(SourceError, match="line 1 is wrong") as caught:
        sources.obtain(source(site.url("/a")), cache, silent)
    assert "hunter2" not in str(caught.value)


def test_a_header_of_ours_goes_to_the_first_host_alone(site, cache):
    site.pages |= {"/a": moved(site.url("/m.gguf", "localhost")), "/m.gguf": Reply(BODY)}
    wanted = https.Wanted(site.url("/a"), SHA256, None, "m.gguf", headers={"authorization": "Bearer hunter2"})
    https.fetch(wanted, cache, silent)
    assert [headers.get("authorization") for _, _, headers in site.seen] == ["Bearer hunter2", None]


def test_the_proxy_of_the_machine_is_used_but_not_for_its_exceptions(site, cache, monkeypatch):
    site.pages["/m.gguf"] = Reply(BODY)
    proxy = Proxy(login="me:hunter2")
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:hunter2@127.0.0.1:{proxy.port}")
    sources.obtain(source(site.url("/m.gguf")), cache, silent)
    assert proxy.tunnels == [f"127.0.0.1:{site.port}"]
    cache.discard(SHA256)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    sources.obtain(source(site.url("/m.gguf")), cache, silent)
    assert len(proxy.tunnels) == 1
    proxy.close()


def test_a_proxy_that_refuses_is_named_without_its_password(site, cache, monkeypatch):
    proxy = Proxy(login="me:right")
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:hunter2@127.0.0.1:{proxy.port}")
    with pytest.raises(SourceUnreachable, match="407") as caught:
        sources.obtain(source(site.url("/m.gguf")), cache, silent)
    assert "hunter2" not in str(caught.value)
    assert "HTTPS_PROXY" in caught.value.next
    proxy.close()


def test_a_proxy_that_is_no_address_is_named(site, cache, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "gopher://me:hunter2@proxy")
    with pytest.raises(SourceError, match="proxy cannot be used") as caught:
        sources.obtain(source(site.url("/m.gguf")), cache, silent)
    assert "hunter2" not in str(caught.value)


def test_a_server_of_an_unknown_authority_is_refused(site, cache, monkeypatch, tmp_path):
    other = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(other.bundle))
    with pytest.raises(SourceUnreachable, match="CERTIFICATE_VERIFY_FAILED") as caught:
        sources.obtain(source(site.url("/m.gguf")), cache, silent)
    assert "SSL_CERT_FILE" in caught.value.next


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_the_authorities_of_the_machine_can_be_named_in_the_usual_ways(site, cache, monkeypatch, authority, variable):
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv(variable, str(authority.bundle))
    site.pages["/m.gguf"] = Reply(BODY)
    assert sources.obtain(source(site.url("/m.gguf")), cache, silent).read_bytes() == BODY


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "no certificate"])
def test_a_bundle_of_authorities_that_cannot_be_read_is_named(site, cache, monkeypatch, tmp_path, content):
    path = tmp_path / "corporate.pem"
    if content:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(SourceError, match=r"corporate\.pem cannot be read"):
        sources.obtain(source(site.url("/m.gguf")), cache, silent)


def test_a_mirror_is_asked_instead(site, cache, monkeypatch):
    site.pages["/mirror/m.gguf"] = Reply(BODY)
    monkeypatch.setenv("PLUGSKY_MIRRORS", f"https://other.example/=/x/ https://models.example/={site.url('/mirror/')}")
    assert sources.obtain(source("https://models.example/m.gguf"), cache, silent).read_bytes() == BODY
    monkeypatch.setenv("PLUGSKY_MIRRORS", "https://models.example=https://mirror.example")
    cache.discard(SHA256)
    with pytest.raises(SourceError, match="PLUGSKY_MIRRORS cannot be used"):
        sources.obtain(source("https://models.example/m.gguf"), cache, silent)


def test_a_server_that_does_not_answer_is_unreachable(site, cache):
    with pytest.raises(SourceUnreachable) as caught:
        sources.obtain(source("https://127.0.0.1:9/m.gguf"), cache, silent)
    assert caught.value.exit_code == 8


def test_offline_nothing_is_asked(site, tmp_path):
    offline = Cache(tmp_path / "cache", offline=True)
    with pytest.raises(NotCached):
        sources.obtain(source(site.url("/m.gguf")), offline, silent)
    assert site.seen == []


def test_two_files_of_one_name_do_not_meet_in_the_cache(site, cache):
    site.pages |= {"/one": with_ranges(BODY, cuts=[1000, 0, 0, 0]), "/two": Reply(BODY + b"!")}
    with pytest.raises(SourceUnreachable):
        sources.obtain(source(site.url("/one")), cache, silent)
    two = replace(source(site.url("/two")), sha256=hashlib.sha256(BODY + b"!").hexdigest())
    assert sources.obtain(two, cache, silent).read_bytes() == BODY + b"!"
    assert isinstance(sources.obtain(source(site.url("/one")), cache, silent), Path)
