"""A sysadmin with a bare Debian, a stick and a paper: from no Python to a signed, billed, audited answer.

The host is booted, with systemd and without a network; its only visitor comes by SSH. The tests are one story, in
order, and what a container cannot show is said at its end.
"""

import shutil
import time
from pathlib import Path

import pytest

from playbooks.booted import BootedHost

pytestmark = pytest.mark.journey
ROOT = Path(__file__).parents[2]
PLUGSKY = "/var/lib/plugsky/current/venv/bin/plugsky"
MODEL = "smollm2-135m-instruct"
ENGINE = f"plugsky-engine@{MODEL}.service"
MAX_TASKS = 100
"""Module tasks a host (docs/runbooks/install.md)."""
ASK = """
import json, sys, urllib.request
asked = {"model": sys.argv[2], "messages": [{"role": "user", "content": "Say a word."}], "max_tokens": 8}
headers = {"Authorization": "Bearer " + sys.argv[1], "Content-Type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:8080/v1/chat/completions", json.dumps(asked).encode(), headers)
print(urllib.request.urlopen(request, timeout=120).read().decode())
"""

KILL_AT = """
step=$1
shift
rm -f /root/told
mkfifo /root/told
"$@" >/root/told 2>&1 &
while read -r stage _; do
  echo "$stage"
  [ "$stage" != "$step" ] || kill -9 $!
done </root/told
"""
"""Runs a command, and kills it when a line of its progress begins with that word."""


@pytest.fixture(scope="module")
def host(base, media, stick, tmp_path_factory):
    with BootedHost(base, tmp_path_factory.mktemp("hosts"), 1, media) as host:
        (host.root / "root/ask.py").write_text(ASK)
        (host.root / "root/kill_at.sh").write_text(KILL_AT)
        yield host


@pytest.fixture(scope="module")
def key(host):
    return host.json(f"{PLUGSKY} key create --tenant demo --json")["secret"]


def ask(host, key):
    """The answer to a short question, by the API, on the host itself."""
    return host.json(f"python3 /root/ask.py {key} {MODEL}")


def installed(host, *options):
    """What `plugsky host install` tells of its run."""
    return host.json(f"{PLUGSKY} host install --json --progress none {' '.join(options)}")


def changes(host):
    """What a look at everything that could change finds: names, owners, modes, sizes, and when it was written."""
    places = "/etc /usr /var/lib/plugsky /var/lib/systemd /run/plugsky"
    listing = host.run(f"find {places} -printf '%p %u:%g %m %s %T@\\n' 2>/dev/null || true")
    return {line for line in listing.splitlines() if "/__pycache__" not in line}


def units(host, *properties, name):
    text = host.run(f"systemctl show --property={','.join(properties)} {name}")
    return dict(line.split("=", 1) for line in text.splitlines())


def test_the_host_is_bare_and_has_no_way_out(host):
    assert host.ssh("command -v python3", check=False).returncode != 0
    assert host.run("ip route show default") == ""
    assert host.run("systemctl is-system-running").strip() == "running"


def test_the_paper_is_compared_before_anything_runs(host, stick, paper):
    assert host.run(f"sha256sum /media/stick/{stick.name}/install.sh").split()[0] == paper[1]


def test_install_sh_reaches_the_first_generation(host, stick, paper):
    said = host.run(f"sh /media/stick/{stick.name}/install.sh --pin {paper[0]} --yes")
    assert "generation 1 of /var/lib/plugsky is now current" in said


def test_preflight_finds_the_host_fit_and_changes_nothing(host):
    before = changes(host)
    recap = host.json(f"{PLUGSKY} host preflight --json --progress none")["hosts"]["localhost"]
    assert (recap["changed"], recap["failed"]) == (0, 0)
    assert changes(host) - before == set()


def test_a_check_foresees_changes_and_makes_none(host):
    before = changes(host)
    recap = installed(host, "--check")["hosts"]["localhost"]
    assert recap["changed"] > 0
    assert changes(host) - before == set()


def test_installing_sets_up_the_site_within_its_number_of_tasks(host):
    told = installed(host)
    recap = told["hosts"]["localhost"]
    assert recap["failed"] == 0
    assert len(told["tasks"]) <= MAX_TASKS
    assert {task["state"] for task in told["tasks"]} <= {"ok", "changed", "skipped"}
    log = host.run(f"cat {told['log']}")
    assert "PLAY RECAP" in log


def test_the_first_token_comes_through_the_api(host, key):
    assert units(host, "ActiveState", name=ENGINE)["ActiveState"] == "inactive"
    answer = ask(host, key)
    assert answer["usage"]["completion_tokens"] >= 1
    assert answer["model"] == MODEL
    assert units(host, "ActiveState", name=ENGINE)["ActiveState"] == "active"


def test_it_is_billed_and_written_down_by_processes_that_share_one_site(host, key):
    ask(host, key)
    rows = host.json(f"{PLUGSKY} usage report --json")["rows"]
    assert rows[0]["tenant"] == "demo"
    assert rows[0]["requests"] >= 2
    host.run(f"{PLUGSKY} audit verify")


def test_verify_and_the_doctor_find_nothing_wrong(host):
    assert host.json(f"{PLUGSKY} host verify --json --progress none")["hosts"]["localhost"]["failed"] == 0
    host.run(f"{PLUGSKY} doctor")


def test_installing_again_changes_nothing_and_a_check_foresees_nothing(host):
    assert installed(host)["hosts"]["localhost"]["changed"] == 0
    assert installed(host, "--check")["hosts"]["localhost"]["changed"] == 0


@pytest.mark.parametrize(
    ("unit", "most"), [(ENGINE, 1.0), ("plugsky-gateway.service", 1.5), ("plugsky-admin.service", 1.5)]
)
def test_a_process_is_exposed_no_more_than_it_must_be(host, unit, most):
    said = host.run(f"systemd-analyze security --no-pager {unit}")
    assert float(said.rpartition("Overall exposure level for ")[2].split(": ")[1].split()[0]) <= most


def test_an_engine_sees_its_own_model_and_no_network(host, key):
    ask(host, key)
    pid = units(host, "MainPID", name=ENGINE)["MainPID"]
    assert host.run(f"nsenter -t {pid} -m ls /var/lib/plugsky /var/lib/plugsky/current/models").split() == [
        "/var/lib/plugsky:",
        "current",
        "/var/lib/plugsky/current/models:",
        MODEL,
    ]
    assert [line.split()[0] for line in host.run(f"nsenter -t {pid} -n ip -brief link").splitlines()] == ["lo"]
    assert host.ssh(f"nsenter -t {pid} -m touch /var/lib/plugsky/current/models/{MODEL}/x", check=False).returncode == 1


def test_six_crashes_of_an_engine_do_not_kill_its_socket(host, key):
    for _ in range(6):
        ask(host, key)
        host.run(f"systemctl kill --signal=KILL {ENGINE}")
    assert ask(host, key)["usage"]["completion_tokens"] >= 1
    assert units(host, "ActiveState", name=ENGINE.replace(".service", ".socket"))["ActiveState"] == "active"


def test_a_gateway_that_is_killed_comes_back_on_the_same_socket(host, key):
    host.run("systemctl kill --signal=KILL plugsky-gateway.service")
    assert ask(host, key)["usage"]["completion_tokens"] >= 1


def test_it_serves_again_after_the_plug_was_pulled(host, key):
    host.power_off()
    host.boot()
    assert ask(host, key)["usage"]["completion_tokens"] >= 1
    host.run(f"{PLUGSKY} audit verify")


def current(host):
    return int(host.run("readlink /var/lib/plugsky/current").strip().rpartition("/")[2])


def trial(host):
    """The state of the switch that is on trial; empty where there is none."""
    return host.run("sed -n s/^state=//p /var/lib/plugsky/trial 2>/dev/null || true").strip()


def settled(host):
    """Wait until no switch is under way; the generation that is current then."""
    deadline = time.monotonic() + 60
    while trial(host) == "switching":
        assert time.monotonic() < deadline, host.run("journalctl --no-pager --unit plugsky-guard")
        time.sleep(0.5)
    return current(host)


@pytest.fixture(scope="module")
def delta(host, stick, operator, publish, tmp_path_factory):
    """The second version, for this site, whose key was enrolled: it leaves out what its receipt says it holds."""
    host.run(f"mkdir -p /root/carried && {PLUGSKY} bundle receipt --out /root/carried")
    made = host.json(f"{PLUGSKY} trust card --name riyadh --out /root/carried --json")
    carried = Path(shutil.copytree(host.root / "root/carried", tmp_path_factory.mktemp("carried") / "returns"))
    card = next(carried.glob("*.card.json"))
    operator("trust", "enrol", card, "--role", "site", "--fingerprint", made["fingerprint"])
    return publish("--since", next(carried.rglob("*.receipt.json")))


def test_the_site_is_upgraded_from_a_delta_and_what_did_not_change_is_not_copied(host, key, stick, delta):
    assert size_of(delta) < size_of(stick) / 10
    host.run(f"{PLUGSKY} bundle install /media/stick/{delta.name} --yes --progress none")
    assert (current(host), trial(host)) == (2, "probation")
    assert ask(host, key)["usage"]["completion_tokens"] >= 1
    store = host.run("stat -c %h /var/lib/plugsky/generations/1/models/*/*.gguf").split()
    assert store == ["3"], "the model is one file: in the store and in both generations"


def test_going_back_takes_seconds_and_leaves_what_was_billed(host, key):
    before = host.json(f"{PLUGSKY} usage report --json")["rows"][0]["requests"]
    began = time.monotonic()
    host.run(f"{PLUGSKY} host rollback --progress none")
    took = time.monotonic() - began
    assert (current(host), trial(host)) == (1, "probation")
    assert took < 60, "a bound for a machine that does much else; docs/benchmarks.md has the figure"
    assert ask(host, key)["usage"]["completion_tokens"] >= 1
    assert host.json(f"{PLUGSKY} usage report --json")["rows"][0]["requests"] == before + 1
    host.run(f"{PLUGSKY} audit verify")


@pytest.mark.parametrize("step", ["trial", "apply", "answer", "probation"])
def test_a_switch_that_is_killed_at_any_step_leaves_a_host_that_serves(host, key, step):
    before = current(host)
    to = 3 - before
    assert step in host.run(f"sh /root/kill_at.sh {step} {PLUGSKY} generation activate {to} --progress plain").split()
    found = settled(host)
    assert found == (to if step == "probation" else before)
    assert ask(host, key)["usage"]["completion_tokens"] >= 1
    host.run(f"{PLUGSKY} audit verify")
    if found != 1:
        host.run(f"{PLUGSKY} host rollback --to 1 --progress none")


@pytest.fixture(scope="module")
def broken(host, delta, publish, tmp_path_factory):
    """A third version, whose gateway's unit is wrong: what was signed is not always what works."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("appliance", "bundles", "tui", "playbooks", "docs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    unit = tree / "playbooks/roles/appliance/files/units/gateway.service"
    unit.write_text(unit.read_text().replace("plugsky gateway run", "plugsky gateway walk"))
    return publish(tree=tree)


def test_a_generation_that_does_not_answer_is_taken_back_and_the_trail_says_so(host, key, broken):
    done = host.ssh(f"{PLUGSKY} bundle install /media/stick/{broken.name} --yes --progress none", check=False)
    assert done.returncode == 1
    assert "so generation 1 is back" in done.stderr
    assert (current(host), trial(host)) == (1, "")
    assert ask(host, key)["usage"]["completion_tokens"] >= 1
    records = host.json(f"{PLUGSKY} audit search --action bundle.install --json")["records"]
    assert records[0]["outcome"] == "unhealthy"
    host.run(f"{PLUGSKY} audit verify")


def size_of(bundle):
    return sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
