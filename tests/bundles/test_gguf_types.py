"""The table of tensor types against the library that the appliance carries."""

import ctypes
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from plugsky_bundles.gguf_types import FILE_TYPES, TENSOR_TYPES


@pytest.mark.integration
def test_block_lengths_and_sizes_are_those_of_ggml():
    found = find_spec("llama_cpp")
    if found is None or found.origin is None:
        pytest.skip("llama-cpp-python is not installed")
    ggml = ctypes.CDLL(str(Path(found.origin).parent / "lib" / "libggml-base.so"))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_name.restype = ctypes.c_char_p
    for tag, layout in TENSOR_TYPES.items():
        measured = (ggml.ggml_type_name(tag).decode().upper(), ggml.ggml_blck_size(tag), ggml.ggml_type_size(tag))
        assert measured == (layout.name.upper(), layout.block, layout.size)


@pytest.mark.integration
def test_file_type_names_are_those_of_llama_cpp():
    if find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    listing = (
        "import llama_cpp\nfor n in dir(llama_cpp):\n if n.startswith('LLAMA_FTYPE_'): print(n, getattr(llama_cpp, n))"
    )
    lines = subprocess.run([sys.executable, "-c", listing], check=True, capture_output=True, text=True).stdout
    names = {int(value): name for name, value in (line.split() for line in lines.splitlines())}
    for tag, name in FILE_TYPES.items():
        if tag in names:
            assert names[tag].removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_") == name
