"""The console: administer a site from a terminal. It holds an Admin and nothing else.

:func:`run` is all a caller needs; :func:`plugsky_tui.terminal.decide` makes its profile. Textual is imported only when
a full screen is wanted.
"""

from plugsky.admin.api import Admin
from plugsky_tui.terminal import TerminalProfile


def run(admin: Admin, profile: TerminalProfile) -> None:
    """Opens the console on the site behind ``admin`` and returns when the operator leaves it.

    Without a full screen in the profile, it speaks in plain lines on stdin and stdout instead.
    """
    if profile.full_screen:
        from plugsky_tui.app import run_full_screen

        run_full_screen(admin, profile)
    else:
        from plugsky_tui.plain import run as run_plain

        run_plain(admin)
