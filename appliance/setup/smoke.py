"""Runs inside the finished environment: loads llama.cpp and prints, as JSON, its version and what it was compiled
for."""

import importlib
import json
import sys

llama_cpp = importlib.import_module("llama_cpp")
json.dump(
    {"version": llama_cpp.__version__, "system_info": llama_cpp.llama_print_system_info().decode(errors="replace")},
    sys.stdout,
)
