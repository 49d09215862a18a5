"""The owners of a context: they take orders between steps, step, and report what came of it."""
