"""Who is at the command line, for the audit trail: the account of this process, never what the environment says."""

import os
import pwd


def actor() -> str:
    """``user:<name>`` by the process's uid, or ``user:<uid>`` for an account that has no name."""
    try:
        return f"user:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"user:{os.getuid()}"
