"""A run of ansible-playbook as a child: its events, its end, and its interruption."""

import time

import pytest

from plugsky.core.paths import data_directory
from plugsky.fleet.playbook_run import TaskBegun, TaskEnded, Wish, run

pytestmark = pytest.mark.integration
GOOD = """
- name: Play
  hosts: all
  gather_facts: false
  tasks:
    - name: Look
      ansible.builtin.command: {argv: ["true"]}
      changed_when: false
    - name: Change
      ansible.builtin.copy: {content: "{{ text }}", dest: "{{ place }}/made", mode: "0600"}
    - name: Skip
      ansible.builtin.command: {argv: ["false"]}
      when: false
"""
BAD = """
- name: Play
  hosts: all
  gather_facts: false
  tasks:
    - name: Fail
      ansible.builtin.fail: {msg: "no such luck"}
    - name: Never
      ansible.builtin.command: {argv: ["true"]}
"""
SECRET = """
- name: Play
  hosts: all
  gather_facts: false
  tasks:
    - name: Keep a secret
      ansible.builtin.command: {argv: [sh, -c, 'echo "$0" >&2; exit 1', "{{ text }}"]}
      no_log: true
"""
SLOW = """
- name: Play
  hosts: all
  gather_facts: false
  tasks:
    - name: Wait
      ansible.builtin.command: {argv: [sleep, "60"]}
"""


@pytest.fixture
def playing(tmp_path):
    """Runs the text of a playbook; gives the outcome and the events."""
    (tmp_path / "callback_plugins").symlink_to(data_directory("playbooks") / "callback_plugins")
    (tmp_path / "ansible.cfg").symlink_to(data_directory("playbooks") / "ansible.cfg")

    def play(text, told=None, **wish):
        (tmp_path / "play.yml").write_text(text)
        events = []
        wish.setdefault("variables", {"place": str(tmp_path), "text": "x"})
        outcome = run(Wish(tmp_path / "play.yml", **wish), tmp_path / "log", told or events.append)
        return outcome, events

    return play


def test_every_task_is_told_when_it_begins_and_when_it_ends(playing, tmp_path):
    outcome, events = playing(GOOD)
    assert outcome.well
    assert [event.task for event in events if isinstance(event, TaskBegun)] == ["Look", "Change", "Skip"]
    assert [(e.task, e.state) for e in events if isinstance(e, TaskEnded)] == [
        ("Look", "ok"),
        ("Change", "changed"),
        ("Skip", "skipped"),
    ]
    assert (outcome.recap["localhost"].changed, outcome.recap["localhost"].skipped) == (1, 1)
    assert "PLAY RECAP" in (tmp_path / "log").read_text()


def test_a_check_changes_nothing(playing, tmp_path):
    outcome, _ = playing(GOOD, check=True)
    assert outcome.recap["localhost"].changed == 1
    assert not (tmp_path / "made").exists()


def test_what_people_give_is_data_to_ansible(playing, tmp_path):
    hard = "a b'c\"d $(id) ; # \\ ü"
    outcome, _ = playing(GOOD, variables={"place": str(tmp_path), "text": hard})
    assert outcome.well
    assert (tmp_path / "made").read_text() == hard


def test_a_failure_is_told_with_its_reason_and_ends_the_run(playing):
    outcome, events = playing(BAD)
    assert not outcome.well
    assert [(task.task, task.message) for task in outcome.failures] == [("Fail", "no such luck")]
    assert "Never" not in {event.task for event in events}


def test_a_secret_does_not_come_out_in_events_nor_in_the_log(playing, tmp_path):
    outcome, events = playing(SECRET, variables={"text": "hunter2"})
    assert [task.task for task in outcome.failures] == ["Keep a secret"]
    assert "hunter2" not in f"{outcome}{events}{(tmp_path / 'log').read_text()}"


def test_a_playbook_that_is_none_says_so_in_the_log_and_has_no_recap(playing, tmp_path):
    outcome, _ = playing("- hosts: [")
    assert not outcome.well
    assert not outcome.recap
    assert (tmp_path / "log").read_text()


def test_a_host_that_cannot_be_reached_is_unreachable(playing, tmp_path):
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("all: {hosts: {far: {ansible_host: 127.0.0.1, ansible_port: 1}}}")
    outcome, _ = playing(GOOD, inventory=inventory)
    assert [task.state for task in outcome.failures] == ["unreachable"]


def test_an_interruption_ends_what_runs(playing):
    began = time.monotonic()

    def interrupt(event):
        if isinstance(event, TaskBegun):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        playing(SLOW, interrupt)
    assert time.monotonic() - began < 30
