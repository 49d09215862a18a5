"""The Plugsky appliance: the sovereign AI cloud of one disconnected site.

Rooms, from the ground up: ``core`` (values and names), ``state`` (the database), ``audit``, ``access``, ``models``,
``engine``, ``fleet``, ``policy``, ``admin`` (every verb once), ``server`` (the API) and ``cli`` (the composition root).
Imports point one way only; ``docs/architecture.md`` draws it and ``lint-imports`` holds it.
"""

__version__ = "0.1.0"
