"""What a delta costs when only the chat template of a real model changes, and when nothing does."""

import hashlib
from pathlib import Path

import pytest

from bundles.template_writer import with_template
from bundles.test_delta_cli import Lab, lab_at
from bundles.test_delta_cli import model as tiny

MB = 1_000_000


@pytest.fixture
def lab(tmp_path, capsys, monkeypatch):
    return lab_at(tmp_path, capsys, monkeypatch)


TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_a_model_keeps_everything_but_its_template(tmp_path):
    one, two = tiny("one"), tiny("another, longer by far")
    assert with_template(one, "another, longer by far") == two
    assert with_template(two, "one") == one


@pytest.mark.integration
def test_another_template_of_smollm2_costs_at_most_a_megabyte_and_the_same_again_next_to_nothing(lab, chat_model):
    original = chat_model.read_bytes()
    changed = with_template(original, TEMPLATE)
    lab.write_recipe(original)
    full = lab.sealed()
    lab.run("bundle", "install", full, "--root", lab.root, "--yes")
    assert size(full / "blobs") > 98 * MB
    lab.enrol()

    lab.write_recipe(changed)
    delta = lab.sealed("--since", newest(lab))
    assert size(delta / "blobs") <= 1 * MB
    lab.run("bundle", "verify", delta, "--root", lab.root)
    told = lab.run("bundle", "diff", delta, "--root", lab.root).out
    assert "+{% for message in messages %}" in told
    lab.run("bundle", "install", delta, "--root", lab.root, "--yes")
    installed = (lab.root / "current/models/tiny/tiny.gguf").read_bytes()
    assert hashlib.sha256(installed).digest() == hashlib.sha256(changed).digest()

    same = lab.sealed("--since", newest(lab))
    assert not (same / "blobs").exists()
    assert size(same) < 200_000
    lab.run("bundle", "install", same, "--root", lab.root, "--yes")


def newest(lab: Lab) -> Path:
    receipts = (lab.place / "media" / "plugsky-returns").glob("*.receipt.json")
    return max(receipts, key=lambda path: int(path.name.split("-")[1]))
