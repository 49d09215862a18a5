"""Failures of an engine, as its peers meet them."""

from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import Failed
from plugsky_bundles.sizes import shortage


class EngineError(PlugskyError):
    """A failure named by the engine. ``n_prompt`` and ``n_ctx`` count tokens when it is ``context_exceeded``."""

    def __init__(
        self,
        kind: ErrorKind,
        what: str,
        *,
        why: str = "",
        next: str = "",  # noqa: A002 - the three words of the house: what, why, next
        param: str | None = None,
        retry_after: float | None = None,
        n_prompt: int | None = None,
        n_ctx: int | None = None,
    ) -> None:
        super().__init__(kind, what, why=why, next=next, param=param, retry_after=retry_after)
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx


class DoesNotFitError(EngineError):
    """The model cannot be loaded here: it needs ``need`` bytes of memory and ``have`` are free."""

    def __init__(self, need: int, have: int, parts: str = "") -> None:
        """``parts`` says what the need is made of."""
        super().__init__(
            ErrorKind.OVERLOADED,
            f"the model does not fit into memory: {shortage(need, have)}",
            why=parts,
            retry_after=60,
        )
        self.need = need
        self.have = have


def bad_request(what: str, param: str | None = None) -> EngineError:
    """A request that is wrong in itself; ``param`` names the field at fault."""
    return EngineError(ErrorKind.BAD_REQUEST, what, param=param)


def context_exceeded(n_prompt: int, n_ctx: int, max_tokens: int | None = None) -> EngineError:
    """A prompt, or a prompt and its answer, longer than the context. The wording is what clients search for."""
    asked = n_prompt + (max_tokens or 0)
    split = f": {n_prompt} in the prompt, {max_tokens} for the answer" if max_tokens else ""
    return EngineError(
        ErrorKind.CONTEXT_EXCEEDED,
        f"This model's maximum context length is {n_ctx} tokens. However, your request ({asked} tokens) "
        f"exceeds the available context size ({n_ctx} tokens){split}.",
        param="messages" if n_prompt >= n_ctx or not max_tokens else "max_tokens",
        n_prompt=n_prompt,
        n_ctx=n_ctx,
    )


def failed(rid: int, error: EngineError) -> Failed:
    """The frame that tells ``error`` of request ``rid``; 0 is the engine itself."""
    what = f"{error.what}: {error.why}" if error.why else error.what
    return Failed(
        rid=rid, kind=error.kind.wire, what=what, param=error.param, n_prompt=error.n_prompt, n_ctx=error.n_ctx
    )
