"""The native wheel: which one fits, what it is compiled for, and what is said when that cannot be done."""

import dataclasses
import os
import stat
import zipfile
from pathlib import Path

import pytest

from setup import native, process, toolchain, verify, wheels
from setup.errors import SetupError
from setup.locks import Pin
from setup.progress import Step

PYTHON = (3, 11)


@pytest.mark.parametrize(
    ("file_name", "fits"),
    [
        pytest.param("llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl", True, id="any Python 3"),
        pytest.param("llama_cpp_python-0.3.36-cp311-cp311-linux_x86_64.whl", True, id="this Python"),
        pytest.param("llama_cpp_python-0.3.36-1local-py3-none-manylinux_2_28_x86_64.whl", True, id="a build tag"),
        pytest.param("llama_cpp_python-0.3.36-py2.py3-none-manylinux2014_x86_64.whl", True, id="compressed tags"),
        pytest.param("llama_cpp_python-0.3.35-py3-none-linux_x86_64.whl", False, id="another version"),
        pytest.param("llama_cpp_python-0.3.36-cp313-cp313-linux_x86_64.whl", False, id="another Python"),
        pytest.param("llama_cpp_python-0.3.36-py3-none-linux_aarch64.whl", False, id="another architecture"),
        pytest.param("llama_cpp_python-0.3.36-py3-none-musllinux_1_2_x86_64.whl", False, id="another C library"),
        pytest.param("llama_cpp_python-0.3.36-py3-none-win_amd64.whl", False, id="another system"),
        pytest.param("other-0.3.36-py3-none-linux_x86_64.whl", False, id="another package"),
        pytest.param("llama_cpp_python-0.3.36.whl", False, id="no wheel's name"),
    ],
)
def test_only_a_wheel_that_this_machine_can_install_is_taken_from_a_wheelhouse(tmp_path, file_name, fits):
    (tmp_path / file_name).touch()
    found = wheels.matching(tmp_path, "llama-cpp-python", "0.3.36", PYTHON, "x86_64")
    assert found == (tmp_path / file_name if fits else None)


def test_a_wheelhouse_that_does_not_exist_has_no_wheel(tmp_path):
    assert wheels.matching(tmp_path / "none", "llama-cpp-python", "0.3.36", PYTHON, "x86_64") is None


MODERN = "fpu sse4_2 avx avx2 fma f16c bmi2 avx512f amx_tile"


@pytest.mark.parametrize(
    ("machine", "flags", "level"),
    [
        pytest.param("x86_64", MODERN, "x86-64-v3", id="a CPU with more than AVX2"),
        pytest.param("x86_64", "sse4_2 avx avx2 fma f16c", "x86-64-v2", id="no BMI2"),
        pytest.param("x86_64", "sse4_2 avx", "x86-64-v2", id="AVX only"),
        pytest.param("x86_64", "fpu sse2", "x86-64", id="nothing"),
        pytest.param("aarch64", "asimd", "generic", id="another architecture"),
    ],
)
def test_the_baseline_is_a_level_that_the_cpu_can_run_and_no_more(machine, flags, level):
    assert toolchain.baseline_for(machine, frozenset(flags.split())).name == level


def test_a_flag_counts_only_when_every_processor_has_it():
    assert toolchain.cpu_flags("flags\t: a b c\nmodel: x\nflags\t: b c d\n") == frozenset("bc")
    assert toolchain.cpu_flags("Features : asimd\n") == frozenset()


@pytest.mark.parametrize(("processors", "gibibytes", "count"), [(2, 24, 2), (64, 16, 16), (4, 0, 1)])
def test_no_more_compilers_run_than_memory_holds(processors, gibibytes, count):
    assert toolchain.jobs(processors, gibibytes << 30) == count


@pytest.mark.parametrize("baseline", toolchain.LEVELS, ids=lambda level: level.name)
def test_nothing_is_ever_compiled_for_the_cpu_at_hand(baseline):
    options = native.cmake_options(baseline)
    assert options["GGML_NATIVE"] == "OFF"
    assert {name for name, value in options.items() if name.startswith("GGML_AVX512") and value == "ON"} == set()
    assert all(options[name] == "ON" for name in baseline.options)


def test_every_simd_switch_is_given_so_that_no_default_decides():
    assert set(toolchain.SWITCHES) <= set(native.cmake_options(toolchain.X86_64))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SOURCE_DATE_EPOCH", "1"),
        ("CXXFLAGS", "-march=native"),
        ("CMAKE_ARGS", "-DGGML_NATIVE=ON"),
        ("SKBUILD_CMAKE_ARGS", "-DGGML_NATIVE=ON"),
        ("PIP_TARGET", "/elsewhere"),
        ("PIP_NO_BINARY", ":all:"),
        ("PYTHONPATH", "/elsewhere"),
        ("MAKEFLAGS", "-j8"),
    ],
)
def test_what_could_change_the_result_does_not_reach_the_build(name, value):
    assert name not in process.clean_environment({name: value})


@pytest.mark.parametrize("name", ["PIP_INDEX_URL", "PIP_CERT", "HTTPS_PROXY", "SSL_CERT_FILE", "HOME", "TMPDIR"])
def test_what_says_how_to_reach_the_index_does(name):
    assert process.clean_environment({name: "x"})[name] == "x"


PIN = Pin("llama-cpp-python", "0.3.36", "", frozenset({"a" * 64}), "")


@pytest.mark.parametrize(
    ("pin", "build_lock", "baseline"),
    [
        pytest.param(dataclasses.replace(PIN, sha256=frozenset({"b" * 64})), "tools", toolchain.X86_64_V3, id="source"),
        pytest.param(PIN, "newer tools", toolchain.X86_64_V3, id="build tools"),
        pytest.param(PIN, "tools", toolchain.X86_64_V2, id="baseline"),
        pytest.param(PIN, "tools", toolchain.PORTABLE, id="kernels for every family"),
    ],
)
def test_a_wheel_is_out_of_date_when_anything_it_was_made_from_changes(pin, build_lock, baseline):
    assert native.wanted(pin, build_lock, baseline) != native.wanted(PIN, "tools", toolchain.X86_64_V3)


def test_a_missing_compiler_is_said_with_the_package_to_install(tmp_path):
    with pytest.raises(SetupError) as caught:
        toolchain.compilers({"PATH": str(tmp_path)}, tmp_path / "scratch")
    assert "compiler" in caught.value.what
    assert "build-essential" in caught.value.next_step
    assert "PLUGSKY_WHEELHOUSE" in caught.value.next_step


def test_a_compiler_that_cannot_build_is_said_with_its_own_words(tmp_path):
    for name in ("cc", "c++"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho 'fatal error: vector: No such file' >&2\nexit 1\n")
        program.chmod(stat.S_IRWXU)
    with pytest.raises(SetupError) as caught:
        toolchain.compilers({"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}, tmp_path / "scratch")
    assert "vector" in caught.value.detail
    assert "build-essential" in caught.value.next_step


REPORT = "CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | OPENMP = 1 | REPACK = 1 |"


@pytest.mark.parametrize(
    ("report", "wrong"),
    [
        pytest.param(REPORT, [], id="as promised"),
        pytest.param(REPORT.replace("AVX2 = 1", "AVX2 = 0"), ["no AVX2"], id="AVX2 is off"),
        pytest.param("CPU : OPENMP = 1 |", [f"no {x}" for x in toolchain.X86_64_V3.reports], id="SIMD is off"),
        pytest.param(REPORT + " AVX512 = 1 | AMX_INT8 = 1 |", ["AMX_INT8", "AVX512"], id="made for this very CPU"),
    ],
)
def test_a_library_without_its_simd_or_with_too_much_is_found_out(report, wrong):
    assert verify.missing_features(toolchain.X86_64_V3, verify.reported_features(report)) == wrong


@pytest.mark.parametrize(
    ("names", "good"),
    [
        pytest.param([f"llama_cpp/lib/{name}" for name in verify.LIBRARIES], True, id="each library once"),
        pytest.param([f"llama_cpp/lib/{name}" for name in (*verify.LIBRARIES, "libmtmd.so")], False, id="one more"),
        pytest.param([f"llama_cpp/lib/{name}" for name in (*verify.LIBRARIES, "libllama.so.0")], False, id="one twice"),
        pytest.param([f"lib/{name}" for name in verify.LIBRARIES], False, id="in another place"),
    ],
)
def test_the_wheel_holds_each_library_once(tmp_path, names, good):
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in [*names, "llama_cpp/__init__.py"]:
            archive.writestr(name, b"")
    if good:
        verify.check_content(wheel)
    else:
        with pytest.raises(SetupError, match=r"a\.whl"):
            verify.check_content(wheel)


def test_ninjas_lines_become_progress():
    step = Step("Compiling")
    native.show_ninja("[14/56] /usr/bin/c++ -O3 -o ggml/ops.cpp.o -c /src/ops.cpp", step)
    assert step.fraction == 0.25
    assert "14/56 ops.cpp" in step.line(step.began)
    native.show_ninja("-- Found OpenMP", step)
    assert step.fraction == 0.25


def test_the_build_script_names_only_targets_and_options_of_one_place():
    text = Path(native.__file__).with_name("llama.cmake").read_text(encoding="utf-8")
    for library in verify.LIBRARIES:
        assert library.removeprefix("lib").removesuffix(".so") in text


def test_a_portable_build_has_a_module_per_cpu_family_and_sets_no_level_itself():
    options = native.cmake_options(toolchain.PORTABLE)
    assert options["GGML_BACKEND_DL"] == options["GGML_CPU_ALL_VARIANTS"] == "ON"
    assert options["GGML_NATIVE"] == "OFF"
    assert not set(toolchain.SWITCHES) & set(options)


@pytest.mark.parametrize(
    ("kernels", "good"),
    [
        pytest.param(verify.FAMILIES, True, id="every family"),
        pytest.param(verify.FAMILIES | {"sapphirerapids"}, True, id="one more"),
        pytest.param(verify.FAMILIES - {"haswell"}, False, id="a family is missing"),
        pytest.param(frozenset(), False, id="none"),
    ],
)
def test_a_portable_wheel_must_hold_the_kernels_of_every_family(tmp_path, kernels, good):
    wheel = tmp_path / "portable.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (*verify.CORE, *(f"libggml-cpu-{family}.so" for family in kernels)):
            archive.writestr(f"llama_cpp/lib/{name}", b"")
    if good:
        verify.check_content(wheel, portable=True)
    else:
        with pytest.raises(SetupError):
            verify.check_content(wheel, portable=True)
