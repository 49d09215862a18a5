"""A few seconds of each fuzz target: that it starts, runs its seeds and finds nothing at once."""

from pathlib import Path

import pytest

from fuzz import campaign

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("target", campaign.TARGETS)
def test_a_few_seconds_of_fuzzing_find_nothing(target, tmp_path, monkeypatch):
    pytest.importorskip("atheris", reason="atheris is not installed, so nothing can be fuzzed here")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    result = campaign.fuzz(target, 5, tmp_path)
    assert result.good, result.talk
    assert result.rss <= campaign.MEMORY_MIB
    assert result.coverage > 100


def test_a_crash_is_reported_with_the_input_that_made_it(tmp_path, monkeypatch):
    pytest.importorskip("atheris", reason="atheris is not installed, so nothing can be fuzzed here")
    tests = tmp_path / "tests"
    (tests / "fuzz").mkdir(parents=True)
    (tests / "fuzz/harness.py").write_text((Path(__file__).parent / "harness.py").read_text())
    (tests / "fuzz/fuzz_wrong.py").write_text(
        "from fuzz.harness import run\n"
        "def one_input(data):\n    if data == b'right':\n        raise KeyError(data)\n"
        "run(one_input, (ValueError,), [b'right'])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tests))
    result = campaign.fuzz("wrong", 5, tmp_path / "wrong")
    assert not result.good
    assert [Path(path).read_bytes() for path in result.crashes] == [b"right"]
    assert "KeyError" in result.talk
