"""The one failure that the set-up reports: what happened, why, and what to do next."""


class SetupError(Exception):
    """A set-up step that could not be done. ``__main__`` prints it and exits with 1.

    ``detail`` is shown before the message: the last lines of a log, for example.
    """

    def __init__(self, what: str, why: str, next_step: str, detail: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next_step = next_step
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.what}\n  why:  {self.why}\n  next: {self.next_step}"
