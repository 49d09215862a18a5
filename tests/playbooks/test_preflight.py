"""The preflight playbook on this host: it judges, says why, and changes nothing."""

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

PLAYBOOK = Path(__file__).parents[2] / "playbooks" / "preflight.yml"
FLAGS = set(Path("/proc/cpuinfo").read_text().split())

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        platform.machine() != "x86_64" or not {"avx2", "fma", "f16c", "bmi2"} <= FLAGS,
        reason="this processor is not one that preflight accepts",
    ),
]


def preflight(tmp_path, *options, **variables) -> tuple[int, str, dict[str, int]]:
    """Exit status, what was said, and the recap of localhost."""
    command = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-c", "local", str(PLAYBOOK)]
    command += ["-e", json.dumps({"plugsky_root": str(tmp_path / "not" / "there" / "yet"), **variables}), *options]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    recap = {key: int(count) for key, count in re.findall(r"(\w+)=(\d+)", done.stdout.rpartition("PLAY RECAP")[2])}
    return done.returncode, done.stdout + done.stderr, recap


def test_a_fit_host_passes_in_check_mode_too_and_nothing_is_changed(tmp_path):
    for mode in ([], ["--check"]):
        code, said, recap = preflight(tmp_path, *mode, plugsky_min_memory_mib=16, plugsky_min_disk_mib=1)
        assert code == 0, said
        assert (recap["changed"], recap["failed"]) == (0, 0)
        assert recap["ok"] >= 9
        assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"plugsky_min_disk_mib": 1 << 40}, "are needed. Free some space"),
        ({"plugsky_cpu_flags": ["avx2", "no_such_flag"]}, "processor features: no_such_flag"),
    ],
)
def test_an_unfit_host_is_told_why(tmp_path, variables, reason):
    code, said, recap = preflight(tmp_path, **variables)
    assert code == 2
    assert reason in " ".join(said.split())
    assert (recap["changed"], recap["failed"]) == (0, 1)
