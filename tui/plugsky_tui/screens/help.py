"""Help for the screen below it: the keys that work there, read from its own bindings, so the two cannot differ."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from plugsky_tui.cells import pad, to_ascii
from plugsky_tui.terminal import Charset


class HelpScreen(ModalScreen[None]):
    """A box with one row for each key: the key, then what it does."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q", "dismiss", "Close", id="help.close", tooltip="Close this help."),
    ]

    def __init__(self, about: str, legend: str, keys: list[tuple[str, str]], charset: Charset) -> None:
        super().__init__()
        self._about = about
        self._legend = legend
        self._keys = keys
        self._charset = charset

    def compose(self) -> ComposeResult:
        width = max((len(key) for key, _ in self._keys), default=0)
        rows = [f"{pad(key, width)}   {tooltip}" for key, tooltip in self._keys]
        text = "\n".join([self._about, "", *rows, "", self._legend, "", "Esc closes this help."])
        with Vertical(id="help"):
            yield Static(to_ascii(text) if self._charset == "ascii" else text, markup=False)
