"""Failures as DeepL's clients know them."""

from typing import Final

import msgspec

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.exchange import HeaderList
from plugsky.server.openai.errors import OPENAI, told

_STATUS: Final = {ErrorKind.UNAUTHENTICATED: 403, ErrorKind.QUOTA_EXHAUSTED: 456, ErrorKind.MODEL_NOT_FOUND: 400}
"""Where DeepL has another status than the kind's own."""


class DeepLWording:
    """Failures as DeepL's clients know them: ``{"message": "…"}``, 403 for a key, 456 for a quota."""

    def status(self, error: PlugskyError) -> int:
        """The HTTP status."""
        return _STATUS.get(error.kind, error.kind.value.status)

    def body(self, error: PlugskyError) -> bytes:
        """The JSON body of a failure."""
        return msgspec.json.encode({"message": told(error)})

    def headers(self, error: PlugskyError) -> HeaderList:
        """The headers of a failure."""
        return OPENAI.headers(error)

    def event(self, error: PlugskyError) -> bytes:
        """DeepL streams nothing."""
        return self.body(error)


WORDING: Final = DeepLWording()
