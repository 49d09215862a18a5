"""Which CPU kernels a process loads, without a wheel of llama.cpp."""

import pytest

from plugsky.engine.llama import kernels


def test_a_wheel_with_its_kernels_linked_in_has_nothing_to_load(tmp_path):
    (tmp_path / "libggml-cpu.so").touch()
    assert kernels.families(tmp_path) == []
    assert kernels.load(tmp_path) == kernels.LINKED


def test_the_families_of_a_portable_wheel_are_those_of_its_modules(tmp_path):
    for name in ("libggml-cpu-haswell.so", "libggml-cpu-x64.so", "libggml-base.so", "libggml-cpu-zen4.so.bak"):
        (tmp_path / name).touch()
    assert kernels.families(tmp_path) == ["haswell", "x64"]


@pytest.mark.parametrize(
    ("maps", "family"),
    [
        ("7f00-7f01 r-xp 0 00:00 1 /venv/llama_cpp/lib/libggml-cpu-haswell.so\n7f02 /lib/libc.so.6\n", "haswell"),
        ("7f00-7f01 r-xp 0 00:00 1 /venv/llama_cpp/lib/libggml-cpu.so\n", None),
        ("7f00-7f01 r-xp 0 00:00 1 /venv/llama_cpp/lib/libggml-cpu-zen4.so (deleted)\n", "zen4"),
        ("", None),
    ],
    ids=["loaded", "linked in", "replaced on disk since", "nothing"],
)
def test_what_is_loaded_is_what_the_process_has_mapped(tmp_path, maps, family):
    (tmp_path / "maps").write_text(maps)
    assert kernels.loaded(tmp_path / "maps") == family
