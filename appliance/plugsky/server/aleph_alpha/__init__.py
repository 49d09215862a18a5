"""Aleph Alpha's dialect, mounted at ``/aleph-alpha``: complete, evaluate, explain, embeddings, tokens, models."""
