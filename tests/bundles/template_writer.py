"""Writes a GGUF again with another chat template: what a publisher does who corrects one."""

import io
import struct

from bundles.gguf_forge import STRING, string
from plugsky_bundles import gguf

KEY = string("tokenizer.chat_template") + struct.pack("<I", STRING)


def with_template(model: bytes, template: str) -> bytes:
    """`model` with `template`; its tensors, and everything else in its header, stay as they are."""
    info = gguf.read(io.BytesIO(model), len(model))
    at = model.index(KEY, 0, info.header_length) + len(KEY)
    (length,) = struct.unpack_from("<Q", model, at)
    header = model[:at] + string(template) + model[at + 8 + length : info.header_length]
    return header + bytes(-len(header) % info.alignment) + model[info.data_offset :]
