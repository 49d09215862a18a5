"""JSON Schema, compiled to a grammar of the answer or refused by name."""
