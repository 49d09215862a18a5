"""The parameters of Mistral's endpoints, sorted."""

from typing import Final

from plugsky.server.tables import Refused, Tables

_STORED: Final = "only stored requests carry it, and none is stored"
_CACHE: Final = "the cache finds its prefixes by itself"
_LEAST: Final = "an answer ends where the model ends it"
_PROMPT: Final = "the probabilities of a prompt are told by /v1/completions with echo"

CHAT: Final = Tables(
    frozenset(
        {
            "model", "messages", "temperature", "top_p", "max_tokens", "stream", "stop", "random_seed",
            "response_format", "tools", "tool_choice", "presence_penalty", "frequency_penalty", "repetition_penalty",
            "top_k", "logprobs", "top_logprobs", "n", "parallel_tool_calls", "reasoning_effort",
        }
    ),
    {
        "metadata": _STORED,
        "prediction": "it would only change the speed",
        "prompt_cache_key": _CACHE,
        "service_tier": "the site has one tier",
    },
    {
        "guardrails": Refused("there is no moderation model", ([],)),
        "min_tokens": Refused(_LEAST, (0,)),
        "prompt_logprobs": Refused(_PROMPT, (False,)),
        "prompt_mode": Refused("reasoning_effort says how much a model thinks"),
        "safe_prompt": Refused("a site writes its own system prompt", (False,)),
        "top_prompt_logprobs": Refused(_PROMPT, (0,)),
    },
)  # fmt: skip
FIM: Final = Tables(
    frozenset({"model", "prompt", "suffix", "temperature", "top_p", "max_tokens", "stream", "stop", "random_seed"}),
    {"metadata": _STORED, "prompt_cache_key": _CACHE},
    {"min_tokens": Refused(_LEAST, (0,))},
)
EMBEDDINGS: Final = Tables(
    frozenset({"model", "input", "output_dimension", "encoding_format"}),
    {"metadata": _STORED},
    {"output_dtype": Refused("vectors of this site are of floats", ("float",))},
)
OPENAI_NAMES: Final = {
    "random_seed": "seed",
    "repetition_penalty": "repeat_penalty",
    "output_dimension": "dimensions",
}
"""What Mistral calls by a name of its own."""
