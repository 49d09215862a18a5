"""Azure's paths and header as its unmodified client uses them."""

import json
import tempfile
from pathlib import Path

import openai
import pytest

from appliance.api_site import MODEL, ApiSite

ASKED = [{"role": "user", "content": "how wide is it"}]


@pytest.fixture
async def site(tmp_path):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as running:
            yield running


def azure(site, **options):
    endpoint = f"http://127.0.0.1:{site.port}/azure"
    given = {"azure_endpoint": endpoint, "api_version": "2024-10-21", "api_key": site.key, "max_retries": 0, **options}
    client = openai.AsyncAzureOpenAI(**given)
    site.clients.append(client)
    return client


@pytest.mark.parametrize("options", [{}, {"azure_deployment": MODEL}])
async def test_a_chat_goes_to_the_deployment_that_the_path_names(site, options):
    answer = await azure(site, **options).chat.completions.create(model=MODEL, messages=ASKED)
    assert answer.choices[0].message.content == "The sea is wide."
    assert site.rows()[0].model == MODEL


async def test_the_path_names_the_model_even_where_the_body_names_another_or_none(site):
    client = azure(site, azure_deployment=MODEL)
    assert (await client.chat.completions.create(model="gpt-4o", messages=ASKED)).model == MODEL
    body = json.dumps({"messages": ASKED}).encode()
    status, _, answer = await site.post(body, f"/azure/openai/deployments/{MODEL}/chat/completions?api-version=1")
    assert (status, json.loads(answer)["model"]) == (200, MODEL)


async def test_a_deployment_that_is_not_there_is_a_404(site):
    with pytest.raises(openai.NotFoundError):
        await azure(site, azure_deployment="nobody").chat.completions.create(model="x", messages=ASKED)


async def test_what_has_no_deployment_is_there_too(site):
    client = azure(site)
    assert [model.id async for model in await client.models.list()] == [MODEL, "other-2b", "vector-1b"]
    assert (await client.responses.create(model=MODEL, input="hi")).output_text == "The sea is wide."


async def test_a_wrong_key_in_azures_header_is_refused_as_any_other(site):
    with pytest.raises(openai.AuthenticationError):
        await azure(site, api_key="psk_wrong").models.list()
