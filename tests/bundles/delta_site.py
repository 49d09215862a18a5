"""What tests of deltas share: a model that is cut like a real one, and a site without a store."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from bundles import gguf_forge
from bundles.forge import FILES, NOW, Forge
from plugsky_bundles.kept import Kept, read_kept
from plugsky_bundles.media import open_bundle
from plugsky_bundles.trusted_copies import CopiesIn, forget, keep
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.verify import verify_metadata
from plugsky_bundles.walk import Anchor


def model(template: str) -> bytes:
    """A small GGUF whose chunks are those of any model: header, vocabulary, header, tensors."""
    tokens = [f"token{number:060d}" for number in range(5000)]
    forge = gguf_forge.Forge()
    forge.with_key("tokenizer.ggml.tokens", gguf_forge.ARRAY, (gguf_forge.STRING, tokens))
    forge.with_key("tokenizer.ggml.token_type", gguf_forge.ARRAY, (gguf_forge.I32, [1] * len(tokens)))
    forge.with_key("tokenizer.chat_template", gguf_forge.STRING, template)
    forge.tensors = [("token_embd.weight", (8, 1 << 12), gguf_forge.F32_TENSOR, 1 << 17)]
    return forge.build()


GGUF = "models/tiny/tiny.gguf"
MODEL = {**FILES, GGUF: model("{{ messages[0].content }}")}
NEW_TEMPLATE = {**MODEL, GGUF: model("{{ messages[-1].content }}!")}


class Site:
    """It keeps what it trusts, and believes that it holds the blobs of what it accepted."""

    def __init__(self, forge: Forge, directory: Path) -> None:
        self.forge = forge
        self.directory = directory
        self.anchor: Anchor = forge.fingerprint
        self._accepted: VerifiedBundle | None = None

    @property
    def accepted(self) -> VerifiedBundle:
        assert self._accepted is not None
        return self._accepted

    def verify(self, bundle: Path, now: datetime = NOW) -> VerifiedBundle:
        return verify_metadata(open_bundle(bundle), self.anchor, now=now, copies=CopiesIn(self.directory))

    def accept(self, bundle: Path, now: datetime = NOW) -> VerifiedBundle:
        verified = self.verify(bundle, now)
        copies = dict(verified.copies())
        keep(self.directory, copies.items())
        forget(self.directory, copies)
        self.anchor, self._accepted = verified.state, verified
        return verified

    def receipt(self, **changes: Any) -> bytes:
        return self.forge.receipt(self.kept, **changes)

    @property
    def kept(self) -> Kept:
        return read_kept(self.directory, self.accepted.bundle_id)
