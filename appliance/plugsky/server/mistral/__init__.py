"""Mistral's dialect, mounted at ``/mistral``: chat, fill-in-the-middle, embeddings, models."""
