"""Models that come as several GGUF files, as llama.cpp splits them.

Such a model is a set of parts: `<stem>-00001-of-00003.gguf` and so on, in one directory. llama.cpp is given the first
and finds the others by these names, so the names are kept everywhere. The first part holds the metadata; each says its
number, how many parts there are and how many tensors they hold together.

The digest of a split model is the SHA-256 over the digests of its parts, in order, each as 64 hex digits and nothing
between them. The digest of a model in one file is that of the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from plugsky_bundles.errors import GgufError
from plugsky_bundles.gguf import GgufInfo

MAX_PARTS: Final = 9_999
_PART: Final = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


def part_names(first: str) -> tuple[str, ...]:
    """The names of all parts of the model whose first file is `first`: that alone, unless it is named as a part.

    Raises GgufError for a part that is not the first one.
    """
    match = _PART.fullmatch(first)
    if match is None:
        return (first,)
    count = int(match["count"])
    if int(match["number"]) != 1 or not 1 <= count <= MAX_PARTS:
        raise _refused(first, f"the first of its parts would be {match['stem']}-00001-of-{match['count']}.gguf")
    return tuple(f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1))


def digest_of(digests: Sequence[str]) -> str:
    """The digest of the model whose files have these, in order, in hex."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode("ascii")).hexdigest()


def check_set(names: Sequence[str], infos: Sequence[GgufInfo]) -> None:
    """Refuse files that are not, in this order, all the parts of one model. Raises GgufError naming the file."""
    first = infos[0].split
    count = first.count if first is not None else 1
    if count != len(infos):
        raise _refused(names[0], f"it belongs to a model of {count} files, and here are {len(infos)}")
    if first is None:
        return
    seen: dict[str, str] = {}
    for number, (name, info) in enumerate(zip(names, infos, strict=True)):
        own = info.split
        if own is None:
            raise _refused(name, "it is a whole model, not a part of one")
        if (own.number, own.count) != (number, count):
            raise _refused(name, f"it is part {own.number + 1} of {own.count}, not {number + 1} of {count}")
        if own.tensors != first.tensors:
            raise _refused(name, f"it is of a model of {own.tensors} tensors, the first part of one of {first.tensors}")
        for key, value in info.metadata.items():
            if not key.startswith("split.") and infos[0].metadata.get(key) != value:
                raise _refused(name, f"it is of another model: its {key!r} differs from the first part's")
        for tensor in info.tensors:
            if tensor.name in seen:
                raise _refused(name, f"its tensor {tensor.name!r} is also in {seen[tensor.name]}")
            seen[tensor.name] = name
    if len(seen) != first.tensors:
        raise _refused(names[0], f"its parts hold {len(seen)} tensors together, they announce {first.tensors}")


def _refused(name: str, why: str) -> GgufError:
    return GgufError(
        f"{name} is not part of a whole set", why, "Get all parts of one model from its publisher, in one go"
    )
