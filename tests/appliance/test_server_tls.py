"""TLS at the gateway: what is spoken, who may connect, and certificates that are replaced while it runs."""

import asyncio
import contextlib
import ssl
import tempfile
from pathlib import Path

import httpx2
import pytest

from appliance.api_site import MODEL, ApiSite
from appliance.certificates import Authority
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.policy import EffectivePolicy
from plugsky.core.settings import load
from plugsky.server.gateway import check_listener
from plugsky.server.tls import Tls, TlsFiles


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@contextlib.asynccontextmanager
async def serving(tmp_path, tls):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), tls=tls) as site:
            yield site


def trusting(authority, client=None, **limits):
    """The client's side: it believes the authority, and shows a certificate if it has one."""
    context = ssl.create_default_context(cafile=authority.path)
    for name, value in limits.items():
        setattr(context, name, value)
    if client is not None:
        context.load_cert_chain(*client)
    return context


async def status(site, context):
    """How a request over TLS is answered, and what was spoken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=context)
    writer.write(f"GET /v1/models HTTP/1.1\r\nHost: s\r\nx-api-key: {site.key}\r\nConnection: close\r\n\r\n".encode())
    secure = writer.get_extra_info("ssl_object")
    try:
        reply = await reader.read()
    finally:
        writer.close()
    return int(reply.split()[1]), secure.version(), secure.cipher()[0], secure.getpeercert()["subject"][0][0][1]


async def test_the_sdk_streams_over_tls_and_trusts_the_sites_authority_alone(tmp_path, authority):
    async with serving(tmp_path, Tls(TlsFiles(*authority.sign("site")))) as site:
        base = f"https://127.0.0.1:{site.port}/v1"
        async with httpx2.AsyncClient(verify=trusting(authority)) as http:
            reply = await http.get(f"{base}/models", headers={"x-api-key": site.key})
            assert (reply.status_code, reply.http_version) == (200, "HTTP/1.1")
        stranger = Authority(tmp_path, "stranger")
        with pytest.raises(ssl.SSLCertVerificationError):
            await status(site, trusting(stranger))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_what_is_spoken_has_forward_secrecy_and_authenticates(tmp_path, authority, version):
    async with serving(tmp_path, Tls(TlsFiles(*authority.sign("site")))) as site:
        code, spoken, cipher, _ = await status(site, trusting(authority, maximum_version=version))
        assert (code, spoken) == (200, version.name.replace("_", "."))
        assert cipher.startswith(("ECDHE-", "TLS_"))
        assert "GCM" in cipher or "CHACHA20" in cipher


async def test_old_versions_and_plain_http_get_no_answer(tmp_path, authority):
    async with serving(tmp_path, Tls(TlsFiles(*authority.sign("site")))) as site:
        weak = trusting(authority)
        weak.set_ciphers("AES128-SHA:AES256-SHA@SECLEVEL=0")
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await status(site, weak)
        assert b"HTTP" not in await site.raw(b"GET /v1/models HTTP/1.1\r\nHost: s\r\n\r\n")


async def test_with_authorities_of_clients_only_theirs_get_in(tmp_path, authority):
    files = TlsFiles(*authority.sign("site"), clients=authority.path)
    stranger = Authority(tmp_path, "stranger")
    async with serving(tmp_path, Tls(files)) as site:
        assert (await status(site, trusting(authority, authority.sign("program"))))[0] == 200
        for client in (None, stranger.sign("other")):
            with pytest.raises((ssl.SSLError, ConnectionError, IndexError)):
                await status(site, trusting(authority, client))


async def test_a_new_certificate_is_taken_by_new_connections_while_others_go_on(tmp_path, authority):
    files = TlsFiles(*authority.sign("site"))
    tls = Tls(files)
    async with serving(tmp_path, tls) as site:
        site.with_engine(hold_after=2)
        async with httpx2.AsyncClient(verify=trusting(authority), timeout=20) as http:
            body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}
            url, headers = f"https://127.0.0.1:{site.port}/v1/chat/completions", {"x-api-key": site.key}
            async with http.stream("POST", url, json=body, headers=headers) as reply:
                lines = reply.aiter_lines()
                await anext(lines)
                for new, old in zip(authority.sign("renewed"), (files.certificate, files.key), strict=True):
                    new.replace(old)
                tls.reload()
                assert (await status(site, trusting(authority)))[3] == "renewed"
                site.engine.release.set()
                assert [line async for line in lines if line][-1] == "data: [DONE]"


async def test_a_new_certificate_that_cannot_be_used_changes_nothing(tmp_path, authority):
    files = TlsFiles(*authority.sign("site"))
    tls = Tls(files)
    async with serving(tmp_path, tls) as site:
        authority.sign("other")[0].replace(files.certificate)
        with pytest.raises(PlugskyError, match="cannot be used"):
            tls.reload()
        assert (await status(site, trusting(authority)))[3] == "site"


def broken(tmp_path, authority, how):
    certificate, key = authority.sign("site")
    clients = None
    match how:
        case "no key":
            key.unlink()
        case "no certificate":
            certificate.unlink()
        case "an open key":
            key.chmod(0o644)
        case "another's key":
            authority.sign("other")[1].replace(key)
        case "a key under a passphrase":
            certificate, key = authority.sign("sealed", b"secret")
        case "no PEM":
            certificate.write_bytes(b"nothing")
        case "no authorities":
            clients = tmp_path / "nowhere.pem"
        case "empty authorities":
            clients = tmp_path / "empty.pem"
            clients.write_bytes(b"")
    return TlsFiles(certificate, key, clients)


@pytest.mark.parametrize(
    ("how", "file", "why"),
    [
        ("no key", "site.key", "No such file"),
        ("no certificate", "site.pem", "No such file"),
        ("an open key", "site.key", "others can read it"),
        ("another's key", "site.pem", "another certificate"),
        ("a key under a passphrase", "sealed.pem", "together"),
        ("no PEM", "site.pem", "together"),
        ("no authorities", "nowhere.pem", "No such file"),
        ("empty authorities", "empty.pem", ""),
    ],
)
def test_files_that_cannot_be_used_are_named_with_the_reason(tmp_path, authority, how, file, why):
    with pytest.raises(PlugskyError) as refused:
        Tls(broken(tmp_path, authority, how))
    assert refused.value.kind is ErrorKind.BAD_REQUEST
    assert file in refused.value.what
    assert why in refused.value.why


def test_beyond_loopback_only_what_is_encrypted_is_served():
    class Listener:
        def getsockname(self):
            return ("192.0.2.1", 443)

    with pytest.raises(PlugskyError, match="may not listen"):
        check_listener(Listener(), EffectivePolicy())
    check_listener(Listener(), EffectivePolicy(), encrypted=True)


def test_half_of_the_settings_is_refused_with_the_other_half():
    from plugsky.cli.tls import tls_files

    both = {"PLUGSKY_TLS_CERTIFICATE": "/c", "PLUGSKY_TLS_KEY": "/k"}
    assert tls_files(load(environ=both).values) == TlsFiles(Path("/c"), Path("/k"))
    assert tls_files(load(environ={}).values) is None
    for name in both:
        with pytest.raises(PlugskyError, match="certificate and its key") as refused:
            tls_files(load(environ={name: "/x"}).values)
        (other,) = set(both) - {name}
        assert other in refused.value.next
