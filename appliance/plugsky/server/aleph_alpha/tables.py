"""The parameters of Aleph Alpha's endpoints, sorted.

Its SDK sends every parameter at its default value, so what asks for nothing is taken without a word.
"""

from typing import Final

from plugsky.server.tables import Refused, Tables

_HERE: Final = "requests never leave the site"
_NO_CONTROLS: Final = "it says how controls of attention act, which are refused"
_COMMON: Final = {"hosting": _HERE, "tags": "nothing here reads them"}
_CONTROLS: Final = frozenset({"contextual_control_threshold", "control_log_additive"})
"""Whatever they say is so: they say how controls act, of which there are none."""
_ADDITIVE: Final = Refused("penalties are subtracted", (False,))
_BIAS: Final = "logit_bias names tokens to prefer or to avoid, and a grammar of /v1/completions what may be said"

COMPLETE: Final = Tables(
    frozenset(
        {
            "model", "prompt", "maximum_tokens", "temperature", "top_k", "top_p", "presence_penalty",
            "frequency_penalty", "best_of", "n", "logit_bias", "log_probs", "stop_sequences", "tokens", "echo",
            "raw_completion", "disable_optimizations", "stream", *_CONTROLS,
        }
    ),
    _COMMON,
    {
        "completion_bias_exclusion": Refused(_BIAS, ([],)),
        "completion_bias_exclusion_first_token_only": Refused(_BIAS, (False,)),
        "completion_bias_inclusion": Refused(_BIAS, ([],)),
        "completion_bias_inclusion_first_token_only": Refused(_BIAS, (False,)),
        "minimum_tokens": Refused("an answer ends where the model ends it", (0,)),
        "penalty_bias": Refused("penalties look at the answer alone"),
        "penalty_exceptions": Refused("penalties know no exceptions", ([],)),
        "penalty_exceptions_include_stop_sequences": Refused("penalties know no exceptions", (False,)),
        "repetition_penalties_include_completion": Refused("penalties look at the answer", (True,)),
        "repetition_penalties_include_prompt": Refused("penalties look at the answer alone", (False,)),
        "sequence_penalty": Refused("DRY of /v1/completions penalises sequences", (0, 0.0)),
        "sequence_penalty_min_length": Refused("DRY of /v1/completions penalises sequences", (2,)),
        "steering_concepts": Refused("there are no control vectors", ([],)),
        "use_multiplicative_frequency_penalty": _ADDITIVE,
        "use_multiplicative_presence_penalty": _ADDITIVE,
        "use_multiplicative_sequence_penalty": _ADDITIVE,
    },
)  # fmt: skip
EVALUATE: Final = Tables(frozenset({"model", "prompt", "completion_expected", *_CONTROLS}), _COMMON, {})
EXPLAIN: Final = Tables(
    frozenset({"model", "prompt", "target", "prompt_granularity", "target_granularity", "postprocessing", "normalize"}),
    {
        **_COMMON,
        "contextual_control_threshold": _NO_CONTROLS,
        "control_factor": "a stretch of the prompt is left out, not dimmed",
        "control_log_additive": _NO_CONTROLS,
        "control_token_overlap": "a token that a stretch touches is left out with it",
    },
    {},
)
_NORMAL: Final = "normalize"
"""Whatever it says, vectors have length 1: nobody is given a vector that is not comparable."""
EMBED: Final = Tables(
    frozenset({"model", "prompt", "layers", "pooling", "tokens", _NORMAL, *_CONTROLS}),
    {**_COMMON, "type": "a model here makes one kind of vector"},
    {},
)
SEMANTIC_EMBED: Final = Tables(
    frozenset({"model", "prompt", "representation", "compress_to_size", _NORMAL, *_CONTROLS}), _COMMON, {}
)
BATCH_SEMANTIC_EMBED: Final = Tables(
    frozenset({"model", "prompts", "representation", "compress_to_size", _NORMAL, *_CONTROLS}), _COMMON, {}
)
TOKENIZE: Final = Tables(frozenset({"model", "prompt", "tokens", "token_ids"}), _COMMON, {})
DETOKENIZE: Final = Tables(frozenset({"model", "token_ids"}), _COMMON, {})
