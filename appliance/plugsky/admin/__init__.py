"""Administration: every verb of the site once, with roles enforced and writes audited in one place.

``api`` holds the protocol and its values, ``client`` speaks it over a Unix socket, ``service`` answers it. The command
line and the console hold an :class:`~plugsky.admin.api.Admin` and cannot tell which of the two they have.
"""
