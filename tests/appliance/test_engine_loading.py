"""What is asked of the machine before a model is loaded, and how its speed is counted afterwards."""

import pytest

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.loading.loading import free_memory
from plugsky.engine.loading.model_file import check_file
from plugsky.engine.serving.meter import RateMeter

GIB = 1 << 30


@pytest.fixture
def machine(tmp_path):
    """A /proc and a /sys/fs/cgroup: ``machine(available, limit, used)`` gives both."""

    def make(available, limit=None, used=0):
        proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        (proc / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {available // 1024} kB\n")
        (proc / "self/cgroup").write_text("1:name=systemd:/\n0::/plugsky.slice/engine\n")
        if limit is not None:
            own = cgroups / "plugsky.slice/engine"
            own.mkdir(parents=True)
            (own / "memory.max").write_text(f"{limit}\n")
            (own / "memory.current").write_text(f"{used}\n")
        return proc, cgroups

    return make


MEMORY = {
    "what the kernel calls available": ((8 * GIB,), 8 * GIB),
    "no limit": ((8 * GIB, "max"), 8 * GIB),
    "what is left of a limit": ((8 * GIB, 3 * GIB, GIB), 2 * GIB),
    "a limit above what is available": ((8 * GIB, 64 * GIB, GIB), 8 * GIB),
    "a limit that is used up": ((8 * GIB, GIB, 2 * GIB), 0),
}


@pytest.mark.parametrize(("given", "free"), MEMORY.values(), ids=MEMORY.keys())
def test_free_memory_is_the_smaller_of_machine_and_limit(machine, given, free):
    assert free_memory(*machine(*given)) == free


def test_a_directory_in_place_of_a_model_is_named(tmp_path):
    with pytest.raises(EngineError) as refusal:
        check_file(tmp_path)
    assert refusal.value.kind is ErrorKind.INTERNAL
    assert tmp_path.name in refusal.value.what


def test_the_rate_is_an_average_over_a_few_seconds_and_falls_to_nothing():
    meter = RateMeter()
    assert meter.rate(0.0) == 0.0
    for tenth in range(100):
        meter.add(tenth / 10, 2)
    assert meter.rate(9.9) == pytest.approx(20.0, rel=0.05)
    assert meter.rate(20.0) == 0.0


def test_one_token_is_not_reported_as_an_infinite_rate():
    meter = RateMeter()
    meter.add(1.0, 1)
    assert meter.rate(1.0) == 4.0
