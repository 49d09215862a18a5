"""A program on a pseudo-terminal, and what a terminal of that size would show of it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

import pyte

PATIENCE_S = 30.0


class Terminal:
    """A child on a pseudo-terminal of 24 lines, and all bytes it wrote so far."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], *, columns: int = 80) -> None:
        self._columns = columns
        environ = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_RUNTIME_DIR") if name in os.environ}
        environ |= {"LANG": "C.UTF-8", **variables}
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.modes = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
        )
        os.close(slave)
        self.written = b""

    def until(self, text: str) -> None:
        """Waits until the screen shows ``text``."""
        self._read_while(lambda: text not in self.screen())

    def screen(self) -> str:
        """What the terminal shows after these bytes."""
        screen = pyte.Screen(self._columns, 24)
        stream = pyte.ByteStream(screen)
        # pyte takes the private CSI < and > sequences for printable text; a real terminal ignores what it does not know
        stream.feed(re.sub(rb"\x1b\[[<>=][0-9;]*[a-z]", b"", self.written))
        return "\n".join(screen.display)

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def exit_code(self) -> int:
        """Reads to the end and gives the exit code."""
        self._read_while(lambda: True)
        return self.process.wait(PATIENCE_S)

    def _read_while(self, wanted) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while wanted():
            assert time.monotonic() < deadline, self.screen()
            if not select.select([self.master], [], [], 0.1)[0]:
                continue
            try:
                self.written += os.read(self.master, 65536)
            except OSError:  # Linux answers EIO once the child has closed its side
                return
