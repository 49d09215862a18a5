"""Tool calls and reasoning as the families of chat models write them: one module per family.

Pure: no IO, no clock, and no randomness but an id source that is passed in. A :class:`~.family.Family` says how to know
a template, how to put tools into it, and how to read what the model answers; :mod:`~.catalogue` finds the family of a
template. The engine uses the first two (:mod:`plugsky.engine.prompting.prompts`), the gateway the last
(:mod:`~.parser`).
"""
