"""From files on disk to a model that can step: does it fit, is it the one that was installed, does it compute right."""
