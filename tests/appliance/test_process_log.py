"""Logs: a line per event, text or JSON, with a request's id and nothing that a client wrote."""

import io
import json
import logging
import tempfile
from pathlib import Path

import pytest

from appliance.api_site import ApiSite
from plugsky.cli import process_log


@pytest.fixture
def written(monkeypatch):
    """What a process with a fresh root logger writes."""

    def write(form, act):
        stream = io.StringIO()
        root = logging.Logger("root")  # noqa: LOG001 - one that is nobody else's
        monkeypatch.setattr(logging, "root", root)
        monkeypatch.setattr(logging.Logger, "root", root)
        monkeypatch.setattr("sys.stderr", stream)
        process_log.log_to_stderr(form)
        act(root)
        return stream.getvalue()

    return write


def test_a_line_of_text_has_the_time_the_level_and_the_facts(written):
    line = written("text", lambda log: log.info("request", extra={"facts": {"status": 200, "route": "/v1/models"}}))
    time, level, rest = line.rstrip("\n").split(" ", 2)
    assert time.endswith("Z")
    assert (level, rest) == ("INFO", "root request status=200 route=/v1/models")


def test_a_line_of_json_is_one_object(written):
    text = written("json", lambda log: log.error("a\nb %s", "c", extra={"facts": {"status": 500}}))
    (line,) = text.splitlines()
    told = json.loads(line)
    assert (told["level"], told["message"], told["status"]) == ("ERROR", "a\nb c", 500)
    assert set(told) == {"time", "level", "logger", "message", "status"}


async def test_a_requests_line_leads_to_its_records_and_holds_nothing_a_client_wrote(tmp_path, caplog):
    caplog.set_level(logging.INFO, "plugsky.server.app")
    with tempfile.TemporaryDirectory(prefix="ps") as run:
        async with ApiSite(tmp_path, Path(run)) as site:
            await site.ask("layoffs on monday", user="mallory")
            await site.get("/v1/models/layoffs?q=layoffs", headers=(f"x-api-key: {site.key}",))
            await site.get("/layoffs", method="BREW")
            await site.settled()
            (row,) = site.rows()
    facts = [record.facts for record in caplog.records if hasattr(record, "facts")]
    assert [(each["route"], each["status"]) for each in facts] == [
        ("/v1/chat/completions", 200), ("/v1/models/{model:path}", 404), ("-", 404),
    ]  # fmt: skip
    assert (facts[0]["request_id"], facts[0]["key_id"], facts[0]["method"]) == (row.job, row.key_id, "POST")
    assert facts[2]["method"] == "-"
    assert "layoffs" not in str(facts)
    assert "mallory" not in str(facts)
