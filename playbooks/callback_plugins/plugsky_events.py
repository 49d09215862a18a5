"""Tells what a run of a playbook does, as one JSON object per line on the descriptor that PLUGSKY_EVENTS names.

``plugsky host`` reads them: nothing has to be guessed from what Ansible prints for people. Results of tasks with no_log
are censored by Ansible before they come here.
"""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: plugsky_events
type: notification
short_description: Events of a run as lines of JSON
description: One JSON object per line, on the descriptor that the variable PLUGSKY_EVENTS names.
requirements: []
"""
MAX_MESSAGE = 4000


class CallbackModule(CallbackBase):
    """One method per event of Ansible; each writes one line."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "plugsky_events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._began = {}
        self._start = time.monotonic()
        descriptor = os.environ.get("PLUGSKY_EVENTS")
        self.disabled = not descriptor
        self._out = None if self.disabled else os.fdopen(int(descriptor), "w", encoding="utf-8", closefd=False)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._tell("play", name=play.get_name())

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._began[host.get_name(), task._uuid] = time.monotonic()
        self._tell("begin", host=host.get_name(), role=_role(task), task=_name(task))

    def v2_runner_on_ok(self, result: Any) -> None:
        self._result(result, "changed" if result._result.get("changed") else "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._result(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._result(result, "unreachable")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._result(result, "skipped")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        hosts = {host: stats.summarize(host) for host in stats.processed}
        self._tell("recap", hosts=hosts, seconds=round(time.monotonic() - self._start, 3))

    def _result(self, result: Any, state: str) -> None:
        host, task = result._host.get_name(), result._task
        began = self._began.pop((host, task._uuid), None)
        seconds = 0.0 if began is None else round(time.monotonic() - began, 3)
        why = _message(result._result) if state in ("failed", "ignored", "unreachable") else ""
        self._tell("result", host=host, role=_role(task), task=_name(task), state=state, seconds=seconds, message=why)

    def _tell(self, event: str, **values: object) -> None:
        if self._out is not None:
            self._out.write(json.dumps({"event": event, **values}) + "\n")
            self._out.flush()


def _role(task: Any) -> str:
    return str(task._role.get_name()) if task._role is not None else ""


def _name(task: Any) -> str:
    return str(task.name or task.action)


def _message(values: Mapping[str, Any]) -> str:
    """Why it failed: what the module says, or the first item of a loop that failed says."""
    for item in values.get("results", []):
        if isinstance(item, dict) and item.get("failed"):
            return _message(item)
    said = [str(values.get(key, "")).strip() for key in ("msg", "stderr")]
    return "\n".join(text for text in said if text)[:MAX_MESSAGE]
