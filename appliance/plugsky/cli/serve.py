"""``plugsky serve``: the supervisor of an unprivileged site."""

import asyncio
import os
from dataclasses import replace
from typing import Annotated

import typer

from plugsky.cli.options import ParentOption, RootOption, existing_site
from plugsky.cli.output import JsonFlag, say, tell, tell_json
from plugsky.cli.process_log import log_to_stderr
from plugsky.cli.site import Site
from plugsky.cli.tls import tls_files
from plugsky.core import settings
from plugsky.core.errors import ExitCode
from plugsky.core.listeners import announce, private_directory, withdraw
from plugsky.core.locks import only_one
from plugsky.core.policy import EffectivePolicy
from plugsky.core.processes import die_with_parent
from plugsky.server.tls import Tls

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def serve(
    root: RootOption = None,
    host: Annotated[
        str | None,
        typer.Option("--host", help="Where to listen; loopback only, unless TLS is set. [env: PLUGSKY_HOST]"),
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="0 takes a free one. [env: PLUGSKY_PORT]")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Cores for all engines. [env: PLUGSKY_THREADS]")
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", help="KV cells per engine. [env: PLUGSKY_CONTEXT]")
    ] = None,
    idle_exit: Annotated[
        int | None,
        typer.Option(
            "--idle-exit",
            help="Seconds without a request after which an engine gives its memory back, until the next request; "
            "0: never. [env: PLUGSKY_IDLE_EXIT]",
        ),
    ] = None,
    exit_with_parent: ParentOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the site in the foreground: the gateway, one engine per model, and administration.

    One line on stdout says when it is ready. Ctrl-C or SIGTERM lets running requests finish, then ends everything.

    Example: plugsky serve --root /srv/site --port 8080
    """
    if exit_with_parent is not None and not die_with_parent(exit_with_parent):
        raise typer.Exit(ExitCode.FAILED)
    os.umask(0o077)
    flags = {
        "root": root,
        "host": host,
        "port": port,
        "threads": threads,
        "context": context,
        "idle_exit": idle_exit,
    }
    paths, chosen = existing_site(root).to_be_started(), settings.load(flags).values

    policy = EffectivePolicy()
    if (files := tls_files(chosen)) is not None:
        Tls(files)  # what cannot be used is said here, not in the log of a gateway that cannot begin
        policy = replace(policy, bind_hosts=(*policy.bind_hosts, chosen.host))

    def ready(base_url: str, models: tuple[str, ...]) -> None:
        if as_json:
            tell_json("plugsky.serve/1", {"event": "ready", "base_url": base_url, "models": models})
        else:
            tell(f"ready: {base_url} serves {', '.join(models)}")

    with only_one(paths.serve_lock, f"The site at {paths.root} is running"):
        private_directory(paths.run)
        announce(paths)
        log_to_stderr(chosen.log_format)
        try:
            interrupted = asyncio.run(Site(paths, chosen, policy).run(ready))
        finally:
            withdraw(paths)
    if interrupted:
        say("Interrupted; everything has ended in good order.")
        raise typer.Exit(ExitCode.INTERRUPTED)
