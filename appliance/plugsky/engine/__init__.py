"""One model, many people: everything between a socket and llama.cpp. docs/engine.md walks through its packages."""
