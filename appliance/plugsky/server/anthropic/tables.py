"""The parameters of Anthropic's endpoints, sorted."""

from typing import Final

from plugsky.server.tables import Refused, Tables

_ASKED: Final = frozenset({"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config"})
"""What makes the prompt."""
_NO_EFFECT: Final = {
    "cache_control": "the cache finds its prefixes by itself",
    "speed": "the site has one speed",
    "user_profile_id": "the key decides whose request it is",
    "workspace_id": "the key decides whose request it is",
}

MESSAGES: Final = Tables(
    honoured=_ASKED | {"max_tokens", "metadata", "stop_sequences", "stream"},
    ignored={
        **_NO_EFFECT,
        "diagnostics": "no answer is kept to compare with",
        "service_tier": "the site has one tier",
    },
    refused={
        "container": Refused("there are no containers to run code in"),
        "inference_geo": Refused("a request is run where this site stands"),
    },
    extensions=frozenset({"temperature", "top_k", "top_p"}),
)
"""Those of ``messages``. The newest SDK has no types for the extensions; the API it speaks to has long had them."""

COUNT_TOKENS: Final = Tables(honoured=_ASKED, ignored=_NO_EFFECT, refused={})
"""Those of ``messages/count_tokens``."""
