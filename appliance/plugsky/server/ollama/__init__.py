"""Ollama's dialect: chat, generate, and what is there. Answers stream unless ``stream`` is false, a JSON line each."""
