"""What an answer may look like: grammars read, checked and walked, by GBNF or from a JSON Schema. Pure."""
