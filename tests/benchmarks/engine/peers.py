"""llama.cpp's own programs from the source package of llama-cpp-python, compiled once, as the product's wheel is.

    PYTHONPATH=tests .venv/bin/python tests/benchmarks/engine/peers.py

The sdist is the one that the lock names, so the peers are of the very commit that the engine uses, and the options are
those of the product's own wheel. Everything lies in `.cache/peers`; nothing of it is ever part of the product.
"""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from benchmarks.engine.http_peer import HttpServer
from benchmarks.engine.subject import CONTEXT
from setup import index, locks, native, toolchain

ROOT = Path(__file__).parents[3]
PLACE = ROOT / ".cache" / "peers"
PROGRAMS = PLACE / "build" / "bin"
NEEDED = ("llama-batched-bench", "llama-server")
JOBS = 2
START_S = 60.0
_EXTRA = {
    "LLAMA_BUILD_COMMON": "ON",
    "LLAMA_BUILD_TOOLS": "ON",
    "LLAMA_BUILD_SERVER": "ON",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "CMAKE_BUILD_TYPE": "Release",
}
"""What the peers need beyond the wheel's options."""
_SYSTEM_INFO = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.llama_print_system_info.restype = ctypes.c_char_p
print(library.llama_print_system_info().decode())
"""


class PeerError(Exception):
    """A peer cannot be made or started."""


def build() -> None:
    """Compile the peers unless they are there, with two compilers at a time that give way to everything else."""
    if all((PROGRAMS / name).is_file() for name in NEEDED):
        return
    PLACE.mkdir(parents=True, exist_ok=True)
    source, tools = PLACE / "source", PLACE / "tools"
    if not source.is_dir():
        _unpack(_sdist(), source)
    if not (tools / "bin/ninja").is_file():
        subprocess.run([sys.executable, "-m", "venv", tools], check=True)
        lock = ROOT / "bundles/locks/build.txt"
        pip = [tools / "bin/pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", lock]
        subprocess.run(pip, check=True)
    baseline, _ = toolchain.this_machine()
    options = native.cmake_options(baseline) | _EXTRA
    environ = os.environ | {"GIT_CEILING_DIRECTORIES": str(PLACE), "PATH": f"{tools / 'bin'}:{os.environ['PATH']}"}
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    configure = ["cmake", "-G", "Ninja", "-S", source / "vendor/llama.cpp", "-B", PLACE / "build", *definitions]
    gently = ["nice", "-n", "19"]
    subprocess.run([*gently, *configure], check=True, env=environ)
    subprocess.run([*gently, "ninja", "-C", PLACE / "build", f"-j{JOBS}", *NEEDED], check=True, env=environ)


def _sdist() -> Path:
    pin = locks.pin_of(locks.read(ROOT / "bundles/locks/runtime.txt"), native.PACKAGE)
    name = f"{native.PACKAGE.replace('-', '_')}-{pin.version}.tar.gz"
    origin = index.source_of(os.environ, index.pip_configurations(os.environ))
    return index.fetch(origin, native.PACKAGE, name, pin.sha256, ROOT / ".cache/downloads", lambda _done, _total: None)


def _unpack(sdist: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=PLACE) as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (top,) = Path(folder).iterdir()
        shutil.rmtree(top / "vendor/llama.cpp/.git", ignore_errors=True)
        top.rename(target)


def check() -> None:
    """Refuse peers whose kernels are not those of the engine's wheel."""
    ours = llama_cpp.llama_print_system_info().decode()
    command = [sys.executable, "-c", _SYSTEM_INFO, str(PROGRAMS / "libllama.so")]
    theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if theirs.strip() != ours.strip():
        raise PeerError(f"the peers use other kernels than the engine:\n{theirs.strip()}\n{ours.strip()}")


@dataclass(frozen=True)
class Limit:
    """What llama-batched-bench measured: tokens a second, and seconds for all of the prompts and answers."""

    prefill: float
    generation: float
    prefill_s: float
    generation_s: float


def batched_bench(
    model: Path, *, sequences: int, prompt: int, answer: int, threads: int, shared: bool = False
) -> Limit:
    """The physical limit: batches decoded with nothing around them, the prompt computed once for all if ``shared``."""
    command = [
        *(PROGRAMS / "llama-batched-bench", "-m", model, "-c", CONTEXT, "-t", threads, "-tb", threads),
        *("-kvu", "-fa", "on", "-npp", prompt, "-ntg", answer, "-npl", sequences, "--output-format", "jsonl"),
    ]
    command += ["-pps"] if shared else []
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    (line,) = (line for line in (done.stdout + done.stderr).splitlines() if line.startswith('{"n_kv_max"'))
    found = json.loads(line)
    return Limit(found["speed_pp"], found["speed_tg"], found["t_pp"], found["t_tg"])


@dataclass(frozen=True)
class Peer:
    """A running llama-server."""

    pid: int
    server: HttpServer
    loaded_s: float


@contextlib.asynccontextmanager
async def llama_server(model: Path, *, slots: int, threads: int) -> AsyncIterator[Peer]:
    """A freshly loaded llama-server with a unified cache and ``slots`` slots, in its defaults otherwise."""
    port = _free_port()
    command = [
        *(PROGRAMS / "llama-server", "-m", model, "-c", CONTEXT, "-t", threads, "-tb", threads, "-np", slots),
        *("-kvu", "-fa", "on", "--port", port, "--no-ui"),
    ]
    async with _served(command, port, "/health") as peer:
        yield peer


@contextlib.asynccontextmanager
async def example_server(model: Path, *, threads: int) -> AsyncIterator[Peer]:
    """The example server of llama-cpp-python's source package, on the product's own wheel."""
    port = _free_port()
    sizes = {"n_ctx": CONTEXT, "n_seq_max": 64, "n_batch": 512, "n_ubatch": 512, "kv_unified": True}
    settings = {
        "server": {"host": "127.0.0.1", "port": port},
        "model": {"path": str(model), "threads": threads, "threads_batch": threads, "flash_attn": True} | sizes,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(settings, file)
        file.flush()
        command = [_example_python(), PLACE / "source/examples/server/server.py", "-C", file.name]
        async with _served(command, port, "/healthz") as peer:
            yield peer


def _example_python() -> Path:
    """An environment that sees ours and has besides what only the example needs."""
    place = PLACE / "example"
    if not (place / "ready").is_file():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        extra = ("fastapi", "openai", "safetensors", "uvicorn", "websockets", "jinja2", "numpy", "pydantic")
        subprocess.run([place / "bin/pip", "install", "--quiet", *extra], check=True)
        (site,) = place.glob("lib/python*/site-packages")
        (site / "wheel.pth").write_text(f"{Path(llama_cpp.__file__).parents[1]}\n")
        (place / "ready").touch()
    return place / "bin/python"


@contextlib.asynccontextmanager
async def _served(command: list[object], port: int, health: str) -> AsyncIterator[Peer]:
    began = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(*map(str, command), stdout=log, stderr=log)
        try:
            await _healthy(port, health, process, began + START_S)
            yield Peer(process.pid, HttpServer("127.0.0.1", port), time.perf_counter() - began)
        except PeerError as error:
            log.seek(0)
            raise PeerError(f"{error}\n{log.read()[-2000:].decode(errors='replace')}") from error
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _healthy(port: int, path: str, process: asyncio.subprocess.Process, until: float) -> None:
    while time.perf_counter() < until:
        if process.returncode is not None:
            raise PeerError(f"the peer ended with {process.returncode}")
        if await _says_yes(port, path):
            return
        await asyncio.sleep(0.02)
    raise PeerError(f"the peer was not ready after {START_S:.0f} s")


async def _says_yes(port: int, path: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    with contextlib.closing(writer):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return b" 200 " in await reader.readline()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    build()
