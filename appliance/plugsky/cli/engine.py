"""``plugsky engine run``: one engine process. ``plugsky serve`` and systemd start it, with its socket."""

from pathlib import Path
from typing import Annotated

import typer

from plugsky.cli.engine_specs import engine_spec
from plugsky.cli.options import ParentOption, RootOption, existing_site
from plugsky.cli.process_log import log_to_stderr
from plugsky.core import settings
from plugsky.core.listeners import inherited_listener
from plugsky.core.settings import AUTO, KvType, Numa
from plugsky.engine.serving import process
from plugsky.engine.spec import AdapterSpec, EngineSpec, Mode, ProjectorSpec
from plugsky.models import catalogue

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Run one engine process.")


@app.command()
def run(
    model_id: Annotated[str, typer.Option("--model-id", help="The model's id in the catalogue.")],
    model_file: Annotated[Path, typer.Option("--model-file", help="Its GGUF.")],
    digest: Annotated[str, typer.Option("--digest", help="The SHA-256 it was installed with.")],
    mode: Annotated[Mode, typer.Option("--mode", help="generate, embed or rerank.")] = "generate",
    ctx: Annotated[int, typer.Option("--ctx", min=256, help="KV cells that all its sequences share.")] = 4096,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Its share of the host's cores.")] = 1,
    projector: Annotated[Path | None, typer.Option("--projector", help="The GGUF that lets it read images.")] = None,
    projector_digest: Annotated[
        str, typer.Option("--projector-digest", help="The SHA-256 the projector was installed with.")
    ] = "",
    idle_exit: Annotated[
        int, typer.Option("--idle-exit", min=0, help="End after so many seconds without a request; 0: never.")
    ] = 0,
    batch: Annotated[int, typer.Option("--batch", min=64, max=4096, help="Tokens computed at once at most.")] = 256,
    kv_type: Annotated[KvType, typer.Option("--kv-type", help="How keys and values are kept.")] = "f16",
    gpu_layers: Annotated[
        str, typer.Option("--gpu-layers", metavar="auto|N", help="Layers to put on GPUs; auto: as many as fit.")
    ] = AUTO,
    numa: Annotated[Numa, typer.Option("--numa", help="How several NUMA nodes are used.")] = "off",
    adapter: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="ID:SHA256:SCALE:FILE", help="A LoRA adapter of the model; repeatable."),
    ] = None,
    taken: Annotated[
        int, typer.Option("--taken", min=0, help="Bytes of memory that other engines hold though they count as free.")
    ] = 0,
    exit_with_parent: ParentOption = None,
) -> None:
    """Serve one model on the Unix socket handed over as descriptor 3, without any network.

    Example: systemd-socket-activate -l /run/m.sock plugsky engine run --model-id m --model-file m.gguf --digest 3f2a…
    """
    log_to_stderr(settings.load().values.log_format)
    eye = None if projector is None else ProjectorSpec(projector, projector_digest)
    layers = settings.gpu_layers(gpu_layers, "--gpu-layers")
    adapters = _adapters(adapter or [])
    spec = EngineSpec(
        model_id, model_file, digest, mode, ctx, threads, kv_type, layers, numa, batch, adapters, eye, taken
    )
    raise typer.Exit(process.run(spec, inherited_listener(), exit_with_parent, idle_exit or None))


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="The id of a model of the site.")],
    root: RootOption = None,
) -> None:
    """Serve a model of the installed site, by its settings, on the Unix socket handed over as descriptor 3.

    Its systemd unit runs this. The sockets beside its own tell how many engines share the cores.

    Example: systemd-socket-activate -l /run/plugsky/engines/m.sock plugsky engine serve m
    """
    chosen = settings.load({"root": root}).values
    log_to_stderr(chosen.log_format)
    listener = inherited_listener()
    entry = catalogue.find(existing_site(root), model)
    engines = len(list(Path(listener.getsockname()).parent.glob("*.sock")))
    spec = engine_spec(entry, chosen, engines)
    raise typer.Exit(process.run(spec, listener, None, chosen.idle_exit or None))


def _adapters(texts: list[str]) -> tuple[AdapterSpec, ...]:
    try:
        return tuple(AdapterSpec.parse(text) for text in texts)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--adapter") from error
