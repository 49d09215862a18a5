"""The engine process: its threads, its peers, and how it ends."""
