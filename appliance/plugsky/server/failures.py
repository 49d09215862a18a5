"""Failures of a request that carry more than words."""

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.engine.errors import EngineError


class ContextExceededError(PlugskyError):
    """The prompt, with the answer that was asked for, does not fit into the model's context. All counts in tokens."""

    def __init__(self, prompt: int, answer: int, context: int) -> None:
        super().__init__(
            ErrorKind.CONTEXT_EXCEEDED,
            # Known clients look for these very words.
            f"This model's maximum context length is {context} tokens. However, your request "
            f"({prompt + answer} tokens) exceeds the available context size ({context} tokens)",
            why=f"{prompt} are in the prompt and {answer} were asked for the answer" if answer else "",
            param="messages" if prompt >= context or not answer else "max_tokens",
        )
        self.prompt = prompt
        self.context = context


def in_full(error: PlugskyError, max_tokens: int | None) -> PlugskyError:
    """The engine's failure, with what was asked for the answer where that matters."""
    if isinstance(error, EngineError) and error.n_prompt is not None and error.n_ctx is not None:
        return ContextExceededError(error.n_prompt, max_tokens or 0, error.n_ctx)
    return error


def too_late() -> PlugskyError:
    """The failure of a request that reached its time limit."""
    return PlugskyError(ErrorKind.TIMEOUT, "The request reached its time limit", retry_after=5.0)
