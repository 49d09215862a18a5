"""Log-probabilities of a token and its likeliest rivals, as the OpenAI API reports them.

They are the model's own: of its raw logits, before biases, penalties, temperature or a grammar. Computed only when
asked for, in single precision with the sum in double, and without sorting the vocabulary.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from plugsky.core.frames import TokenLogprob
from plugsky.engine.tokens.choosing import Logits

LEAST: Final = -9999.0
"""What stands for the logarithm of 0, which JSON cannot write."""


def logprobs(logits: Logits, token: int, top: int, piece: Callable[[int], bytes]) -> TokenLogprob:
    """The log-probability of ``token`` and of the ``top`` likeliest tokens, likeliest first; ``piece`` gives bytes."""
    shifted = logits - logits.max()
    total = np.float32(np.log(np.exp(shifted).sum(dtype=np.float64)))
    best = np.argpartition(shifted, -top)[-top:] if top else np.empty(0, dtype=np.int64)
    best = best[np.lexsort((best, -shifted[best]))]
    rivals = tuple((int(rival), piece(int(rival)), _finite(shifted[rival] - total)) for rival in best)
    return TokenLogprob(_finite(shifted[token] - total), rivals, piece(token))


def _finite(value: np.float32) -> float:
    return max(float(value), LEAST)
