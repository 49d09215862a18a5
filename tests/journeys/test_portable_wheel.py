"""One wheel of llama.cpp uses the best kernels of any x86-64 host: compiled for real, loaded on real and emulated CPUs.

The compile takes a few minutes where it was never done; its result is kept in ``.cache/portable``. Other CPUs are
QEMU's, which has every family up to AVX2; numpy needs at least SSE4.2 (x86-64-v2), and so do we.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.journey
ROOT = Path(__file__).parents[2]
LOADED = "from plugsky.engine.llama import native; print(native.load_kernels(), native.build())"
NEEDS = {  # what a CPU must have, in the words of /proc/cpuinfo, from the fastest kernels down
    "sapphirerapids": {"amx_tile", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512vbmi", "avx512f"},
    "zen4": {"avx512_bf16", "avx512_vnni", "avx512vbmi", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"},
    "cooperlake": {"avx512_bf16", "avx512_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"},
    "icelake": {"avx512_vnni", "avx512vbmi", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"},
    "cascadelake": {"avx512_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"},
    "cannonlake": {"avx512vbmi", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"},
    "skylakex": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"},
    "alderlake": {"avx_vnni", "avx2", "fma", "f16c", "bmi2"},
    "haswell": {"avx2", "fma", "f16c", "bmi2"},
    "piledriver": {"avx", "f16c", "fma"},
    "ivybridge": {"avx", "f16c"},
    "sandybridge": {"avx"},
    "sse42": {"sse4_2"},
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The portable wheel, unpacked into a folder that comes first on Python's path."""
    if os.uname().machine != "x86_64":
        pytest.skip("the portable wheel is made on x86-64 machines only")
    subprocess.run([sys.executable, ROOT / "appliance/setup", "portable"], check=True, cwd=ROOT)
    (wheel,) = (ROOT / ".cache/portable").glob("llama_cpp_python-*.whl")
    folder = tmp_path_factory.mktemp("portable")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)  # our own wheel, compiled just now
    return folder


def kernels_on(packages, *prefix):
    path = os.pathsep.join(map(str, (packages, ROOT / "appliance", ROOT / "bundles")))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*prefix, sys.executable, "-c", LOADED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[0]


def test_a_host_gets_the_fastest_kernels_that_its_cpu_runs(packages):
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = set(next(line for line in lines if line.startswith("flags")).split())
    expected = next(family for family, needs in NEEDS.items() if needs <= flags)
    assert kernels_on(packages) == expected


@pytest.mark.parametrize(
    ("cpu", "family"), [("Haswell", "haswell"), ("SandyBridge", "sandybridge"), ("Nehalem", "sse42")]
)
def test_an_older_cpu_gets_its_own_kernels_from_the_same_wheel(packages, cpu, family):
    if (qemu := shutil.which("qemu-x86_64")) is None:
        pytest.skip("QEMU's user emulation is missing: apt-get install qemu-user")
    assert kernels_on(packages, qemu, "-cpu", cpu) == family
