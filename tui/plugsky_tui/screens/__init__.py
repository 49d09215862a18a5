"""The console's screens. A screen that does not exist yet is not shown at all."""
