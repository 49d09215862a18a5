"""Runs inside the build environment: calls the sdist's own PEP 517 backend, with nothing of ours on its path.

Usage: ``python -I backend.py SOURCE OUTPUT SETTINGS-JSON``; prints the backend's talk, leaves one wheel in OUTPUT.
"""

import importlib
import json
import os
import sys

source, output, settings = sys.argv[1:]
os.chdir(source)
importlib.import_module("scikit_build_core.build").build_wheel(output, json.loads(settings))
