"""Formats of strings, as patterns. Each admits only what the format's own rules admit, if not all of it."""

from typing import Final

_DATE: Final = (
    r"[1-9]\d{3}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
)
_TIME: Final = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?"
_HOST: Final = rf"(?:{_LABEL}\.){{1,4}}[a-zA-Z]{{2,16}}"
_BYTE: Final = r"(?:\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])"

FORMATS: Final = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": r"P(?:\d{1,6}[YMWD]|T\d{1,6}[HMS])",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "ipv4": rf"{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}",
    "ipv6": r"(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}",
    "hostname": _HOST,
    "email": rf"[a-zA-Z0-9_]+(?:[.+-][a-zA-Z0-9_]+)*@{_HOST}",
    "uri": rf"https?://{_HOST}(?:/[a-zA-Z0-9._~-]*)*",
}
