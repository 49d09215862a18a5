"""How much the NLL of the health check depends on CPU kernels, threads and batches, where the weights are the same.

    .venv/bin/python tests/benchmarks/health.py MODEL.gguf PORTABLE-WHEEL

Each family of kernels that the wheel holds and this CPU runs is loaded alone, in a process of its own, from a copy of
the wheel with no other. Prints a Markdown table: rows are families, columns are tokens per decode. One thread and two
are tried, and it is said where that makes a difference.
"""

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

BATCHES = (8, 32, 64, 128)
CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from plugsky.engine.llama import native
from plugsky.engine.serving import measure
from plugsky.engine.known_text import TEXT
model = native.Model(Path(sys.argv[2]), lambda _: True)
tokens = model.tokens(TEXT.read_text(), add_special=True, parse_special=False)[: measure.TOKENS]
found = {}
for batch in map(int, sys.argv[3:]):
    for threads in (1, 2):
        size = dict(cells=measure.CELLS, places=1, batch=max(batch, 64))
        context = native.Context(model, **size, threads=threads, free_memory=1 << 50)
        found.setdefault(batch, []).append(measure.nll(context, tokens, lambda _: None, batch))
        context.close()
print(json.dumps(found))
"""


def main(model: str, wheel: str) -> None:
    print("| kernels |", " | ".join(f"{batch} at a time" for batch in BATCHES), "|")
    print("|---|" + "---|" * len(BATCHES))
    values = []
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extractall(folder)
        modules = {path: path.read_bytes() for path in sorted(Path(folder).glob("llama_cpp/lib/libggml-cpu-*.so"))}
        for path, content in modules.items():
            for other in modules:
                other.unlink(missing_ok=True)
            path.write_bytes(content)
            command = [sys.executable, "-c", CHILD, folder, model, *map(str, BATCHES)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                continue
            found = {int(batch): pair for batch, pair in json.loads(done.stdout).items()}
            values += [value for pair in found.values() for value in pair]
            name = re.sub(r"libggml-cpu-|\.so", "", path.name)
            same = all(pair[0] == pair[1] for pair in found.values())
            row = " | ".join(f"{found[batch][0]:.4f}" for batch in BATCHES)
            print(f"| {name}{'' if same else ' (threads differ)'} | {row} |", flush=True)
    print(f"\nspread: {100 * (max(values) / min(values) - 1):.2f} % of {min(values):.4f} nats per token")


if __name__ == "__main__":
    main(*sys.argv[1:])
