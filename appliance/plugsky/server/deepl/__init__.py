"""DeepL's dialect, mounted at ``/deepl``: translation, languages, usage, glossaries of the second and third version."""
