"""Failures as Mistral's clients know them: one flat object for every status."""

from typing import Final

import msgspec

from plugsky.core.errors import PlugskyError
from plugsky.server.exchange import HeaderList
from plugsky.server.openai.errors import OPENAI, told


class MistralWording:
    """The wording of Mistral's dialect."""

    def status(self, error: PlugskyError) -> int:
        """The HTTP status."""
        return error.kind.value.status

    def body(self, error: PlugskyError) -> bytes:
        """The JSON body of a failure."""
        columns = error.kind.value
        shape = {"object": "error", "message": told(error), "type": columns.openai_type, "param": error.param}
        return msgspec.json.encode({**shape, "code": columns.openai_code})

    def headers(self, error: PlugskyError) -> HeaderList:
        """The headers of a failure."""
        return OPENAI.headers(error)

    def event(self, error: PlugskyError) -> bytes:
        """A failure inside a stream, whose status has gone out already."""
        return b"data: " + self.body(error) + b"\n\n"


WORDING: Final = MistralWording()
