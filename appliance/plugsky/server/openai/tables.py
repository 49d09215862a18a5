"""The parameters of ``/v1/chat/completions``, sorted."""

from typing import Final

from plugsky.server.tables import Refused, Tables

HONOURED: Final = frozenset(
    {
        "model", "messages", "stream", "stream_options", "stop", "seed", "temperature", "top_p", "max_tokens",
        "max_completion_tokens", "presence_penalty", "frequency_penalty", "logit_bias", "user", "safety_identifier",
        "n", "logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls", "response_format",
        "reasoning_effort",
    }
)  # fmt: skip
EXTENSIONS: Final = frozenset(
    {
        "top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "dry_multiplier", "dry_base",
        "dry_allowed_length", "dry_penalty_last_n", "ignore_eos", "grammar", "chat_template_kwargs",
    }
)  # fmt: skip
"""Honoured too, though not OpenAI's: how open models are usually tuned and told whether to think, under the names that
llama-server and vLLM gave them."""

IGNORED: Final[dict[str, str]] = {
    "metadata": "only stored answers carry it, and none is stored",
    "prediction": "it would only change the speed",
    "prompt_cache_key": "the cache finds its prefixes by itself",
    "prompt_cache_options": "the cache finds its prefixes by itself",
    "prompt_cache_retention": "the cache finds its prefixes by itself",
    "service_tier": "the site has one tier",
}

REFUSED: Final[dict[str, Refused]] = {
    "audio": Refused("models of this site answer in text"),
    "function_call": Refused("tools and tool_choice took its place", ("none", "auto")),
    "functions": Refused("tools and tool_choice took its place", ([],)),
    "modalities": Refused("models of this site answer in text", (["text"],)),
    "moderation": Refused("there is no moderation model"),
    "store": Refused("answers are not stored", (False,)),
    "verbosity": Refused("the prompt alone decides the length", ("medium",)),
    "web_search_options": Refused("nothing here reaches the web"),
}

CHAT: Final = Tables(HONOURED, IGNORED, REFUSED, EXTENSIONS)
