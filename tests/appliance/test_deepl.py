"""DeepL's dialect as the unmodified ``deepl`` package speaks it."""

import asyncio
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import deepl
import pytest
from deepl.api_data import MultilingualGlossaryDictionaryEntries
from deepl.util import convert_tsv_to_dict

from appliance.api_site import MODEL, ApiSite, until


@pytest.fixture
async def site(tmp_path, where):
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), where=where) as running:
            running.aliases.set("deepl", MODEL)
            running.with_engine(n_ctx=600, pieces=("Das Meer ", "ist weit."))
            deepl.http_client.max_network_retries = 0
            yield running
            deepl.http_client.max_network_retries = 5


def client_of(site, key=None):
    return deepl.DeepLClient(key or site.key, server_url=f"http://127.0.0.1:{site.port}/deepl/")


async def ask(act, *arguments, **options):
    """Call the package, which waits, beside the event loop."""
    return await asyncio.to_thread(act, *arguments, **options)


async def test_texts_come_back_translated_in_their_order_and_are_billed(site):
    client = client_of(site)
    texts = ["The sea is wide.", "", "  ", "How wide?"]
    results = await ask(client.translate_text, texts, source_lang="EN", target_lang="DE", formality="more")
    assert [result.text for result in results] == ["Das Meer ist weit.", "", "  ", "Das Meer ist weit."]
    assert {result.detected_source_lang for result in results} == {"EN"}
    assert [result.billed_characters for result in results] == [16, 0, 2, 9]
    system, user = site.engine.prepares[0].messages
    assert "from English to German" in system.content
    assert "formal" in system.content
    assert user.content == "The sea is wide."
    await site.settled()
    assert [row.requested_model for row in site.rows()] == ["deepl", "deepl"]
    assert {record.fields["endpoint"] for record in site.records("request.done")} == {"deepl.translate"}


async def test_the_language_of_a_text_is_asked_of_the_model_by_a_grammar_of_codes(site):
    site.engine.script.turns = [("FR",), ("Das Meer",)]
    result = await ask(client_of(site).translate_text, "la mer", target_lang="DE")
    assert (result.text, result.detected_source_lang) == ("Das Meer", "FR")
    assert '"FR"' in site.engine.prepares[0].grammar
    assert "from French" in site.engine.prepares[1].messages[0].content


async def test_tags_and_terms_are_kept(site):
    client = client_of(site)
    glossary = await ask(client.create_glossary, "words", "EN", "DE", {"sea": "See"})
    site.engine.script.turns = [
        (
            "Weit ist die ⟦1⟧",
            "⟦2⟧⟦3⟧.",
        )
    ]
    result = await ask(
        client.translate_text, "The <b>sea</b> is wide.", source_lang="EN", target_lang="DE",
        glossary=glossary, tag_handling="xml",
    )  # fmt: skip
    assert result.text == "Weit ist die <b>See</b>."


async def test_a_term_that_is_lost_is_asked_for_again_and_then_named(site):
    client = client_of(site)
    glossary = await ask(client.create_glossary, "words", "EN", "DE", {"sea": "See"})
    options = {"source_lang": "EN", "target_lang": "DE", "glossary": glossary}
    site.engine.script.turns = [("Meer",), ("⟦1⟧ und ⟦1⟧",), ("Die ⟦1⟧",)]
    assert (await ask(client.translate_text, "The sea", **options)).text == "Die See"
    assert [submit.params.temperature for submit in site.engine.submits] == [0.0, 0.5, 0.5]
    site.engine.script.turns = [("Meer",)] * 3
    with pytest.raises(deepl.DeepLException, match="lost 'sea'"):
        await ask(client.translate_text, "The sea", **options)
    assert len(site.engine.submits) == 6


async def test_glossaries_of_the_second_version(site):
    client = client_of(site)
    made = await ask(client.create_glossary, "words", "en", "de", {"sea": "See", "wide": "weit"})
    assert (made.name, made.ready, made.entry_count) == ("words", True, 2)
    assert (made.source_lang, made.target_lang) == ("EN", "DE")
    assert (await ask(client.get_glossary, made.glossary_id)).creation_time == made.creation_time
    assert [one.glossary_id for one in await ask(client.list_glossaries)] == [made.glossary_id]
    assert await ask(client.get_glossary_entries, made) == {"sea": "See", "wide": "weit"}
    csv = await ask(client.create_glossary_from_csv, "csv", "en", "de", 'sea,See,en,de\n"a, b","c ""d"""\n')
    assert await ask(client.get_glossary_entries, csv) == {"sea": "See", "a, b": 'c "d"'}
    await ask(client.delete_glossary, made)
    with pytest.raises(deepl.GlossaryNotFoundException):
        await ask(client.get_glossary, made.glossary_id)
    assert [record.outcome for record in site.records("glossary.create")] == ["ok", "ok"]
    assert len(site.records("glossary.delete")) == 1


async def test_glossaries_of_the_third_version(site):
    client = client_of(site)
    entries = MultilingualGlossaryDictionaryEntries
    made = await ask(
        client.create_multilingual_glossary, "words",
        [entries("EN", "DE", {"sea": "See"}), entries("EN", "FR", {"sea": "mer"})],
    )  # fmt: skip
    assert [(each.source_lang, each.target_lang, each.entry_count) for each in made.dictionaries] == [
        ("EN", "DE", 1), ("EN", "FR", 1),
    ]  # fmt: skip
    assert (await ask(client.update_multilingual_glossary_name, made, "terms")).name == "terms"
    await ask(client.update_multilingual_glossary_dictionary, made, entries("EN", "DE", {"wide": "weit"}))
    found = await ask(client.get_multilingual_glossary_entries, made, "EN", "DE")
    assert convert_tsv_to_dict(found.dictionaries[0].entries) == {"sea": "See", "wide": "weit"}
    await ask(client.replace_multilingual_glossary_dictionary, made, entries("EN", "DE", {"hill": "Berg"}))
    found = await ask(client.get_multilingual_glossary_entries, made, "EN", "DE")
    assert convert_tsv_to_dict(found.dictionaries[0].entries) == {"hill": "Berg"}
    await ask(client.delete_multilingual_glossary_dictionary, made, source_lang="EN", target_lang="FR")
    (left,) = await ask(client.list_multilingual_glossaries)
    assert [(each.source_lang, each.target_lang) for each in left.dictionaries] == [("EN", "DE")]
    await ask(client.delete_multilingual_glossary, made)
    assert await ask(client.list_multilingual_glossaries) == []


async def test_another_tenant_finds_no_glossary(site):
    made = await ask(client_of(site).create_glossary, "words", "en", "de", {"sea": "See"})
    other = client_of(site, site.keys.create("umbrella").secret)
    assert await ask(other.list_glossaries) == []
    with pytest.raises(deepl.GlossaryNotFoundException):
        await ask(other.delete_glossary, made.glossary_id)
    with pytest.raises(deepl.DeepLException, match="no glossary of that id"):
        await ask(other.translate_text, "sea", source_lang="EN", target_lang="DE", glossary=made.glossary_id)


async def test_languages_and_pairs_are_told(site):
    client = client_of(site)
    sources = {language.code for language in await ask(client.get_source_languages)}
    targets = {language.code for language in await ask(client.get_target_languages)}
    assert {"DE", "EN", "AR", "MS"} <= sources
    assert {"EN-GB", "PT-BR"} <= targets
    assert not {"EN-GB", "PT-BR"} & sources
    pairs = await ask(client.get_glossary_languages)
    assert ("en", "de") in {(pair.source_lang, pair.target_lang) for pair in pairs}


async def test_usage_is_the_tenants_month_and_an_end_of_it_is_456(site):
    client = client_of(site)
    await ask(client.translate_text, "The sea is wide.", source_lang="EN", target_lang="DE")
    await site.settled()
    usage = await ask(client.get_usage)
    (row,) = site.rows()
    assert usage.character.count == row.prompt_tokens + row.completion_tokens
    assert not usage.any_limit_reached
    site.tenants.set("acme", lambda terms: replace(terms, monthly_tokens=10))
    await asyncio.sleep(0.6)
    assert (await ask(client.get_usage)).any_limit_reached
    with pytest.raises(deepl.QuotaExceededException):
        await ask(client.translate_text, "The sea is wide.", source_lang="EN", target_lang="DE")


async def test_a_wrong_key_is_an_authorisation_failure(site):
    with pytest.raises(deepl.AuthorizationException):
        await ask(client_of(site, "psk_wrong").get_usage)


async def test_a_site_with_many_models_and_no_alias_says_which_command_names_one(site):
    site.aliases.remove("deepl")
    await asyncio.sleep(0.6)
    with pytest.raises(deepl.DeepLException, match="plugsky alias set deepl MODEL"):
        await ask(client_of(site).translate_text, "sea", source_lang="EN", target_lang="DE")
    only = site.keys.create("acme", models=(MODEL,)).secret
    assert (await ask(client_of(site, only).translate_text, "sea", source_lang="EN", target_lang="DE")).text


async def test_a_client_that_hangs_up_ends_what_is_being_translated(site):
    site.with_engine(hold_after=1)
    body = json.dumps({"text": ["sea"], "source_lang": "EN", "target_lang": "DE"}).encode()
    head = f"POST /v2/translate HTTP/1.1\r\nHost: s\r\nx-api-key: {site.key}\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(head.encode() + body)
    await until(lambda: site.engine.submits)
    writer.close()
    await until(lambda: site.engine.cancels == 1)
    await site.settled()
    del reader


@pytest.mark.parametrize(
    "change",
    [
        {"target_lang": "XX"}, {"source_lang": "EN-GB"}, {"text": []}, {"text": ["x"] * 51}, {"text": "x"},
        {"formality": "rude"}, {"tag_handling": "json"}, {"ignore_tags": ["b"]}, {"style_id": "s"}, {"color": "red"},
        {"glossary_id": "none", "source_lang": None}, {"glossary_ids": ["a"]}, {"custom_instructions": ["x" * 301]},
        {"tag_handling": "xml", "ignore_tags": ["<"]}, {"tag_handling": "xml", "text": ["<a>" * 600]},
    ],
)  # fmt: skip
async def test_what_cannot_be_honoured_is_a_400_and_reaches_no_engine(site, change):
    given = {"text": ["sea"], "source_lang": "EN", "target_lang": "DE", **change}
    status, _, body = await site.post(json.dumps(given).encode(), "/v2/translate")
    assert (status, set(json.loads(body))) == (400, {"message"})
    assert site.engine.submits == []


async def test_too_much_text_is_413(site):
    given = {"text": ["x" * 70_000] * 2, "source_lang": "EN", "target_lang": "DE"}
    roomy = replace(site.policy.limits, max_body_bytes=1 << 20)
    site.gateway.policy = replace(site.policy, limits=roomy)
    status, _, _ = await site.post(json.dumps(given).encode(), "/v2/translate")
    assert status == 413


async def test_a_form_is_read_as_well_and_what_has_no_effect_is_told(site):
    form = b"text=The+sea&text=A+hill&source_lang=en&target_lang=de&split_sentences=0&show_billed_characters=1"
    kind = "Content-Type: application/x-www-form-urlencoded"
    status, headers, body = await site.post(form, "/v2/translate", (kind,))
    assert status == 200
    assert headers["x-plugsky-ignored"] == "split_sentences"
    assert [each["billed_characters"] for each in json.loads(body)["translations"]] == [7, 6]


@pytest.mark.parametrize(
    "given",
    [
        {"name": "", "entries": "a\tb"}, {"name": "n", "entries": ""}, {"name": "n", "entries": "a"},
        {"name": "n", "entries": "a\tb\nc\td\na\te"}, {"name": "n", "entries": "a\t\x01"},
        {"name": "n", "entries": "a\tb", "target_lang": "en"}, {"name": "n", "entries": "a\tb", "source_lang": "xx"},
        {"name": "n", "entries": 'a,"b', "entries_format": "csv"}, {"name": "n", "entries": "a\tb", "color": "red"},
        {"name": "n", "entries": "a,b,fr,de", "entries_format": "csv"}, {"name": "n", "entries": "a" * 2000 + "\tb"},
    ],
)  # fmt: skip
async def test_a_glossary_that_cannot_be_is_refused(site, given):
    body = json.dumps({"source_lang": "en", "target_lang": "de", **given}).encode()
    assert (await site.post(body, "/v2/glossaries"))[0] == 400
    assert await ask(client_of(site).list_glossaries) == []
