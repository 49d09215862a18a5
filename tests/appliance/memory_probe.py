"""What llama.cpp itself says a model takes, and the process: one JSON object. Run with a file and how to hold it.

A process of its own: the log of llama.cpp goes to one place in a process, and memory once taken stays. The model is
held as an engine holds it, through the same functions.
"""

import ctypes
import json
import re
import sys
from pathlib import Path

import llama_cpp

from plugsky.engine.headers.estimate import Holding
from plugsky.engine.llama import params as llama_params

BUFFER = re.compile(r"(\w+) buffer size = *([0-9.]+) MiB")


def resident():
    """Bytes of this process that are in memory."""
    with Path("/proc/self/status").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def main(file, holding):
    said = []

    @llama_cpp.llama_log_callback
    def listen(_level, text, _data):
        said.append(text.decode("utf-8", "replace"))

    llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    before = resident()
    model = llama_params.load_model(Path(file), lambda _fraction: True, None)
    context = llama_params.make_context(model, holding, threads=2)
    code = compute(context, holding) if holding.outputs == holding.batch else 0
    sums = {"model": 0.0, "KV": 0.0, "RS": 0.0, "compute": 0.0, "output": 0.0}
    for kind, mib in BUFFER.findall("".join(said)):
        sums[kind] += float(mib) * (1 << 20)
    json.dump(sums | {"rss": resident() - before, "code": code}, sys.stdout)


def compute(context, holding):
    """One batch as large as can be, all of its rows asked for, so that every buffer has been touched."""
    batch = holding.batch
    wide = llama_cpp.llama_batch_init(batch, 0, 1)
    wide.n_tokens = batch
    for n in range(batch):
        wide.token[n], wide.pos[n], wide.n_seq_id[n], wide.seq_id[n][0] = 1 + n % 200, n, 1, 0
        wide.logits[n] = True
    return (llama_cpp.llama_decode if llama_cpp.llama_get_memory(context) else llama_cpp.llama_encode)(context, wide)


if __name__ == "__main__":
    main(sys.argv[1], Holding(**json.loads(sys.argv[2])))
