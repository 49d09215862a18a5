"""Whose name the audit trail gets from the command line."""

import os
import pwd

from plugsky.cli.actor import actor


def test_the_account_of_the_process_counts_and_not_the_environment(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "SUDO_USER"):
        monkeypatch.setenv(name, "mallory")
    assert actor() == f"user:{pwd.getpwuid(os.getuid()).pw_name}"


def test_an_account_without_a_name_is_its_number(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)
    assert actor() == "user:3999999999"
