"""llama.cpp through llama-cpp-python's low-level functions: only the modules of this package import ``llama_cpp``."""
