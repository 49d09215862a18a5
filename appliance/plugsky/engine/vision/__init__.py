"""Pictures decoded to pixels, apart from the engine."""
