"""What llama.cpp itself says a model takes, and the process: one JSON object. Run with a file and its settings.

A process of its own: the log of llama.cpp goes to one place in a process, and memory once taken stays.
"""

import ctypes
import json
import re
import sys
from pathlib import Path

import llama_cpp

TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0, "q4_0": llama_cpp.GGML_TYPE_Q4_0}
BUFFER = re.compile(r"(\w+) buffer size = *([0-9.]+) MiB")


def resident():
    """Bytes of this process that are in memory."""
    with Path("/proc/self/status").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def main(file, cells, batch, sequences, outputs, kv_type, whole_window, flash_attention, vectors):
    said = []

    @llama_cpp.llama_log_callback
    def listen(_level, text, _data):
        said.append(text.decode("utf-8", "replace"))

    llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    before = resident()
    model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = cells, batch, batch, sequences
    params.type_k = params.type_v = TYPES[kv_type]
    params.swa_full, params.flash_attn_type, params.embeddings = whole_window, int(flash_attention), vectors
    params.kv_unified = True
    context = llama_cpp.llama_init_from_model(model, params)
    wide = llama_cpp.llama_batch_init(batch, 0, 1)
    wide.n_tokens = batch
    for n in range(batch):
        wide.token[n], wide.pos[n], wide.n_seq_id[n], wide.seq_id[n][0] = 1 + n % 200, n, 1, 0
        wide.logits[n] = vectors or n >= batch - outputs
    code = (llama_cpp.llama_decode if llama_cpp.llama_get_memory(context) else llama_cpp.llama_encode)(context, wide)
    sums = {"model": 0.0, "KV": 0.0, "RS": 0.0, "compute": 0.0, "output": 0.0}
    for kind, mib in BUFFER.findall("".join(said)):
        sums[kind] += float(mib) * (1 << 20)
    json.dump(sums | {"rss": resident() - before, "code": code}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
