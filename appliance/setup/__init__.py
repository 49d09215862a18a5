"""The set-up: from a bare Python to a working ``.venv`` with the ``plugsky`` command, on a checkout of this repository.

Runs as ``python3 appliance/setup`` (what ``make setup`` calls). It needs Python 3.11 with its standard library and,
once, a C/C++ compiler; it needs no root, no ``ensurepip``, no CMake. It is a tool of the checkout and not part of the
wheel. What it guarantees, and how, is written in ``docs/building.md``.
"""
