"""The gateway: HTTP in, frames out. One module per API dialect over one life of a request.

    request --auth--> Principal --prepare--> Prepared --reserve--> Job --engine--> tokens --settle--> entry + record

:mod:`plugsky.server.app` is the front door; :mod:`plugsky.server.admission` walks the arrows up to the reservation and
:mod:`plugsky.server.settlement` those after it; a dialect (:mod:`plugsky.server.openai`) only translates, and
:mod:`plugsky.server.gateway` composes one gateway process.
"""
