"""What the headers of a model's files say before llama.cpp reads them: memory, layers, adapters, projectors. Pure."""
