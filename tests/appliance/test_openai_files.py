"""Files of tenants through the SDK: kept whole or not at all, seen by their tenant only, and bounded."""

import asyncio
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from appliance.api_site import LIMITS, ApiSite
from plugsky.core.errors import PlugskyError

LIMITED = replace(LIMITS, max_file_bytes=200_000, max_stored_bytes=300_000, max_files=5)


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), LIMITED) as running:
            yield running


def on_disk(site):
    return sorted(path.name for path in site.paths.files.iterdir())


async def upload(site, content=b'{"a": 1}\n', name="in.jsonl", client=None, **options):
    return await (client or site.client).files.create(file=(name, content), purpose="batch", **options)


async def multipart(site, *parts, ending=b"--x--\r\n", headers=()):
    """Post these very parts, given as (headers, content)."""
    body = b"".join(b"--x\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts) + ending
    kind = "Content-Type: multipart/form-data; boundary=x"
    return await site.post(body, "/v1/files", headers or (kind,))


FILE = (b'Content-Disposition: form-data; name="file"; filename="a"', b"{}")
PURPOSE = (b'Content-Disposition: form-data; name="purpose"', b"batch")


async def test_a_file_comes_back_as_it_was_sent_and_is_gone_once_deleted(site):
    content = bytes(range(256)) * 500
    made = await upload(site, content, name="Fragen über Öl.jsonl")
    assert (made.filename, made.bytes) == ("Fragen über Öl.jsonl", 128_000)
    assert (made.purpose, made.status) == ("batch", "processed")
    assert (await site.client.files.retrieve(made.id)) == made
    assert (await site.client.files.content(made.id)).content == content
    assert (site.paths.files / made.id).stat().st_mode & 0o777 == 0o600
    gone = await site.client.files.delete(made.id)
    assert (gone.id, gone.deleted) == (made.id, True)
    assert on_disk(site) == []
    with pytest.raises(openai.NotFoundError):
        await site.client.files.retrieve(made.id)


async def test_every_change_is_in_the_audit_trail_without_the_files_name(site):
    made = await upload(site, name="layoffs.jsonl")
    await site.client.files.delete(made.id)
    for action in ("file.create", "file.delete"):
        (record,) = site.records(action)
        assert record.subject == made.id
        assert record.fields["tenant"] == "acme"
        assert "layoffs" not in str(record)


async def test_files_are_listed_in_pages(site):
    made = [(await upload(site, name=f"{number}")).id for number in range(4)]
    assert [file.id async for file in site.client.files.list()] == made[::-1]
    page = await site.client.files.list(limit=3, order="asc")
    assert [file.id for file in page.data] == made[:3]
    assert page.has_more
    assert [file.id async for file in site.client.files.list(limit=1, order="asc")] == made
    assert (await site.client.files.list(purpose="assistants")).data == []


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1000000", "order=up", "color=red"])
async def test_a_list_refuses_what_it_does_not_know(site, query):
    status, _, _ = await site.get(f"/v1/files?{query}", headers=(f"Authorization: Bearer {site.key}",))
    assert status == 400


async def test_another_tenant_finds_no_file(site):
    made = await upload(site)
    other = site.sdk(site.keys.create("umbrella").secret)
    assert (await other.files.list()).data == []
    for ask in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError, match="no file of that id"):
            await ask(made.id)
    assert on_disk(site) == [made.id]


@pytest.mark.parametrize("name", ["..%2Fplugsky.db", ".upload-1", "file-", "%00", "a" * 3000])
async def test_an_id_that_is_none_reaches_no_path(site, name):
    status, _, _ = await site.get(f"/v1/files/{name}/content", headers=(f"Authorization: Bearer {site.key}",))
    assert status == 404


async def test_a_key_without_the_scope_may_not(site):
    client = site.sdk(site.keys.create("acme", endpoints=("chat",)).secret)
    with pytest.raises(openai.PermissionDeniedError, match="endpoint files"):
        await upload(site, client=client)
    assert (await site.get("/v1/files"))[0] == 401


async def test_a_file_over_the_limit_is_refused_and_leaves_nothing(site):
    with pytest.raises(openai.APIStatusError) as refused:
        await upload(site, b"x" * 200_001)
    assert refused.value.status_code == 413
    assert on_disk(site) == []


async def test_a_tenant_has_room_for_so_much_and_no_more(site):
    first = await upload(site, b"x" * 200_000)
    with pytest.raises(openai.RateLimitError, match="300000 bytes"):
        await upload(site, b"x" * 100_001)
    assert on_disk(site) == [first.id]
    for _ in range(4):
        await upload(site)
    with pytest.raises(openai.RateLimitError, match="5 files"):
        await upload(site)


async def test_a_client_that_hangs_up_in_the_middle_leaves_nothing(site):
    head = f"POST /v1/files HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer {site.key}\r\nContent-Length: 100000\r\n"
    kind = "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    begun = b"--x\r\n" + FILE[0] + b"\r\n\r\n" + b"y" * 1000
    await site.raw((head + kind).encode() + begun, read=False)
    async with asyncio.timeout(10):
        while on_disk(site) or site.gateway.storage._uploads:  # noqa: ASYNC110 - it watches what has no event
            await asyncio.sleep(0.01)


async def test_a_tenant_sends_four_files_at_a_time(site):
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(upload(site, b"x" * 50_000))
    storage = site.gateway.storage
    storage._uploads["acme"] = 4
    with pytest.raises(openai.RateLimitError) as refused:
        await upload(site)
    assert refused.value.response.headers["retry-after"] == "5"
    storage._uploads.clear()


async def test_a_file_lives_as_long_as_it_was_asked_to(site):
    made = await upload(site, expires_after={"anchor": "created_at", "seconds": 7200})
    assert made.expires_at == made.created_at + 7200
    site.clock.now = lambda real=site.clock.now: real().replace(year=real().year + 1)
    with pytest.raises(PlugskyError, match="no file"):
        site.gateway.storage.files.get("acme", made.id)
    site.gateway.storage.files.sweep()
    assert on_disk(site) == []


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((FILE,), "purpose"),
        ((PURPOSE,), "file"),
        ((FILE, FILE, PURPOSE), "one file"),
        ((PURPOSE, PURPOSE, FILE), "twice"),
        ((PURPOSE, (FILE[0].replace(b'"file"', b'"data"'), b"{}")), "in the field `file`"),
        ((FILE, (PURPOSE[0], b"assistants")), "purpose"),
        ((FILE, (PURPOSE[0], b"\xff")), "UTF-8"),
        ((FILE, (PURPOSE[0], b"x" * 2000)), "1024 bytes"),
        ((FILE, (b"X-Long: " + b"x" * 2000, b"")), "1024 bytes"),
        ((FILE, (b"Content-Type: text/plain", b"")), "no name"),
        ((FILE, PURPOSE, (b'Content-Disposition: form-data; name="color"', b"red")), "color"),
        ((FILE, *((b'Content-Disposition: form-data; name="%d"' % number, b"") for number in range(20))), "16 parts"),
        ((FILE, PURPOSE, (b'Content-Disposition: form-data; name="expires_after[anchor]"', b"now")), "created_at"),
        ((FILE, PURPOSE, (b'Content-Disposition: form-data; name="expires_after[seconds]"', b"5")), "created_at"),
    ],
)  # fmt: skip
async def test_a_body_that_is_no_upload_is_refused_with_its_reason_and_leaves_nothing(site, parts, why):
    status, _, body = await multipart(site, *parts)
    assert status == 400
    assert why in body.decode()
    assert on_disk(site) == []


async def test_a_body_that_ends_early_or_has_no_boundary_is_refused(site):
    status, _, body = await multipart(site, FILE, PURPOSE, ending=b"")
    assert (status, "ends before its end" in body.decode()) == (400, True)
    for kind in ("Content-Type: application/json", "Content-Type: multipart/form-data", "X-None: 1"):
        status, _, _ = await multipart(site, FILE, PURPOSE, headers=(kind,))
        assert status == 400
    assert on_disk(site) == []


async def test_what_a_killed_process_left_is_swept_an_hour_later(site):
    kept = await upload(site)
    files = site.gateway.storage.files
    for name in (".upload-dead", "file-without-a-row"):
        (site.paths.files / name).write_bytes(b"x")
    files.sweep()
    assert len(on_disk(site)) == 3
    for name in on_disk(site):
        path = site.paths.files / name
        os.utime(path, (0, 0))
    files.sweep()
    assert on_disk(site) == [kept.id]


async def test_a_disk_that_fails_is_a_503_without_the_hosts_paths(site, monkeypatch, caplog):
    def full(*_arguments):
        raise OSError(28, "No space left on device", str(site.paths.files))

    monkeypatch.setattr("plugsky.batches.files.Upload.write", full)
    with pytest.raises(openai.InternalServerError) as failed:
        await upload(site)
    assert failed.value.status_code == 503
    assert str(site.paths.files) not in str(failed.value)
    assert "No space left" in caplog.text
    assert on_disk(site) == []
