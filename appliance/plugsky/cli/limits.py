"""The limits of keys and tenants, as options and as one word of a table."""

from typing import Annotated, Protocol

import typer

RequestsOption = Annotated[
    int | None, typer.Option("--requests-per-minute", min=1, help="Requests a minute; no limit when left out.")
]
TokensOption = Annotated[
    int | None, typer.Option("--tokens-per-minute", min=1, help="Tokens a minute, of prompts and answers together.")
]
ConcurrencyOption = Annotated[int | None, typer.Option("--concurrency", min=1, help="Requests in flight at a time.")]


class Limited(Protocol):
    """What has limits, each None where it has not that one."""

    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def tokens_per_minute(self) -> int | None: ...
    @property
    def concurrency(self) -> int | None: ...


def limits(of: Limited) -> str:
    """``60 req/min, 9000 tok/min, 4 at once``; a dash for none."""
    found = [
        f"{value} {unit}"
        for value, unit in (
            (of.requests_per_minute, "req/min"),
            (of.tokens_per_minute, "tok/min"),
            (of.concurrency, "at once"),
        )
        if value is not None
    ]
    return ", ".join(found) or "-"
