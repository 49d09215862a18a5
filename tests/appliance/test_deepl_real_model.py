"""Translation by a real model: the mechanism, not the quality, which a small model has none of."""

import asyncio
import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

import deepl
import pytest

from appliance.api_site import LIMITS, ApiSite
from plugsky.engine.life.supervisor import EngineSpec, EngineSupervisor
from plugsky.server.deepl.languages import SOURCES
from plugsky.server.deps import ServedModel

PATIENT = replace(LIMITS, load_wait_s=120.0, request_timeout_s=240.0)


@pytest.mark.integration
async def test_a_real_model_translates_detects_and_keeps_a_term_or_names_it(tmp_path, chat_model):
    digest = hashlib.sha256(chat_model.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run), PATIENT) as site:
            site.gateway.models["smol"] = ServedModel("smol", digest, 1024)
            site.aliases.set("deepl", "smol")
            spec = EngineSpec("smol", chat_model, digest, "generate", 1024, 2)
            supervisor = EngineSupervisor(spec, site.paths.engine_socket("smol"), log=tmp_path / "engine.log")
            await supervisor.start()
            client = deepl.DeepLClient(site.key, server_url=f"http://127.0.0.1:{site.port}")
            try:
                plain = await asyncio.to_thread(client.translate_text, "The sea is wide.", target_lang="FR")
                assert plain.text.strip()
                assert plain.detected_source_lang in SOURCES
                glossary = await asyncio.to_thread(client.create_glossary, "words", "EN", "FR", {"sea": "océan"})
                await term_is_kept_or_named(client, glossary)
            finally:
                await supervisor.stop()
            assert site.ledger.report().open_reservations == 0
            assert all(row.completion_tokens for row in site.rows())


async def term_is_kept_or_named(client, glossary):
    options = {"source_lang": "EN", "target_lang": "FR", "glossary": glossary}
    try:
        kept = await asyncio.to_thread(client.translate_text, "The sea", **options)
    except deepl.DeepLException as failure:
        if not any(named in str(failure) for named in ("lost 'sea'", "lost 'its end'")):
            raise
    else:
        assert "océan" in kept.text
