"""Evidence: what travels beside the files of a bundle so that a reviewer can check it offline, with standard tools.

One module for each kind: software and model lists (`sbom`, `ml_bom`), licence texts (`licences`), where everything came
from (`provenance`), known vulnerabilities (`vulnerabilities`), and the documentation as pages (`offline_docs`).
`gathering.gather` makes them all. docs/evidence.md says what each claims and how to check it. Same files in a bundle:
same bytes of evidence, but for `evidence/vulnerabilities.json`, which says what was known at one moment.
"""
