"""The log of a long-running process: one line per event on stderr, UTC, never a prompt, an answer or a secret."""

import logging
from datetime import UTC, datetime

from plugsky.core.clock import rfc3339


class _Utc(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        del datefmt  # the trail and the frames know one form only
        return rfc3339(datetime.fromtimestamp(record.created, UTC))


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send this process's log to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Utc("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells its plugins at every start
