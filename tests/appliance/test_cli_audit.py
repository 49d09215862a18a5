"""The trail from the command line: searched by words, and exported whole."""

import hashlib
import json

import pytest

from appliance.admin_site import AdminSite
from appliance.desk import desk
from plugsky.audit.trail import CHAIN_FILE
from plugsky.cli import audit
from plugsky.core.errors import ExitCode
from plugsky.core.principal import Role

__all__ = ["desk"]


@pytest.fixture
def installed(desk):
    desk.run("bundle", "install", desk.sealed(), "--pin", desk.pin, "--yes")
    return desk


def test_the_trail_is_searched_by_words_and_by_time(installed):
    found = installed.json("audit", "search", "lab", "--action", "bundle.install")["records"]
    assert [record["action"] for record in found] == ["bundle.install"]
    time = found[0]["time"]
    assert installed.json("audit", "search", "--action", "bundle", "--until", time)["records"] == []
    assert len(installed.json("audit", "search", "--action", "bundle", "--since", time)["records"]) == 1
    told = installed.run("audit", "search", "in*", expect=ExitCode.USAGE)
    assert "at least 3 characters" in told.err


def test_an_export_has_every_record_with_the_hash_of_its_line(installed):
    told = installed.run("audit", "export")
    records = [json.loads(line) for line in told.out.splitlines()]
    assert f"{len(records)} records." in told.err
    assert [record["time"] for record in records] == sorted(record["time"] for record in records)
    for record in records:
        lines = (installed.place / "site/audit" / record["chain"] / CHAIN_FILE).read_bytes().splitlines(keepends=True)
        assert hashlib.sha256(lines[record["seq"]]).hexdigest() == record["hash"]
    assert "bundle.install" in {record["action"] for record in records}


@pytest.mark.parametrize("page", [1, 2, 3, 100])
async def test_an_export_in_pages_doubles_and_loses_nothing(tmp_path, monkeypatch, capsys, page):
    site = AdminSite(tmp_path)
    for number in range(3, 8):
        site.past.record_request(f"job-{number}")
        if number % 2:
            site.past.clock.pass_(seconds=1)
    monkeypatch.setattr(audit, "PAGE", page)
    written = await audit._export(site.as_(Role.AUDITOR), "", "request.done", None, None)
    site.close()
    told = [json.loads(line)["subject"] for line in capsys.readouterr().out.splitlines()]
    assert (written, sorted(told)) == (7, [f"job-{number}" for number in range(1, 8)])
