"""Failures as Ollama's clients know them."""

from typing import Final

import msgspec

from plugsky.core.errors import PlugskyError
from plugsky.server.exchange import HeaderList
from plugsky.server.openai.errors import OPENAI, told


class OllamaWording:
    """Failures as Ollama's clients know them: ``{"error": "…"}``."""

    def status(self, error: PlugskyError) -> int:
        """The HTTP status."""
        return error.kind.value.status

    def body(self, error: PlugskyError) -> bytes:
        """The JSON body of a failure."""
        return msgspec.json.encode({"error": told(error)})

    def headers(self, error: PlugskyError) -> HeaderList:
        """The headers of a failure."""
        return OPENAI.headers(error)

    def event(self, error: PlugskyError) -> bytes:
        """The line that ends a stream."""
        return self.body(error) + b"\n"


WORDING: Final = OllamaWording()
