"""What the gateway tells of itself: complete, true, and readable where there is no internet."""

import json
import re
import tempfile
from pathlib import Path

import msgspec
import pytest

from appliance.api_site import ApiSite
from plugsky.server.app import routes
from plugsky.server.openai.fields import ChatFields


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


async def test_the_document_holds_every_route_and_every_parameter(site):
    status, headers, body = await site.get("/openapi.json")
    document = json.loads(body)
    assert (status, headers["content-type"], document["openapi"]) == (200, "application/json", "3.1.0")
    told = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    served = {(method, path.replace(":path}", "}")) for method, path, _ in routes(site.gateway)}
    assert told == served - {("GET", "/openapi.json"), ("GET", "/docs")}
    chat = document["paths"]["/v1/chat/completions"]["post"]
    schema = chat["requestBody"]["content"]["application/json"]["schema"]
    properties = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]["properties"]
    assert set(properties) == {field.name for field in msgspec.structs.fields(ChatFields)}
    assert all(operation["summary"] for each in document["paths"].values() for operation in each.values())


async def test_every_reference_in_the_document_leads_somewhere(site):
    _, _, body = await site.get("/openapi.json")
    document = json.loads(body)
    names = set(re.findall(r'"#/components/schemas/(\w+)"', body.decode()))
    assert names
    assert names <= document["components"]["schemas"].keys()


async def test_all_but_the_probes_say_that_they_need_a_key(site):
    _, _, body = await site.get("/openapi.json")
    paths = json.loads(body)["paths"]
    free = {path for path, each in paths.items() if not any(operation.get("security") for operation in each.values())}
    assert free == {"/health", "/v1/health/live", "/v1/health/ready"}
    for path in paths.keys() - free:
        for method in paths[path]:
            status, _, _ = await site.get(
                path.replace("{model}", "m").replace("{deployment}", "m"), method=method.upper()
            )
            deepl = path.startswith(("/v2/", "/v3/", "/deepl/"))  # whose word for it this is
            assert status == (403 if deepl else 401)


async def test_the_page_needs_nothing_from_elsewhere(site):
    status, headers, body = await site.get("/docs")
    text = body.decode()
    assert status == 200
    assert headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert not re.search(r"https?:|<script|<link|<img|@import|url\(", text)
    assert "POST /v1/chat/completions" in text
    assert "max_completion_tokens" in text
