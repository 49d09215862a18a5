"""The console's themes: one for 24-bit colour, one for a terminal's own sixteen, one with no colour at all.

The last two are ANSI themes and must be known when the App is made: Textual picks its colour filters then, and a theme
of its own colours under NO_COLOR would still be sent as greys. Every tone has one variable, ``$tone-NAME``.
"""

from typing import Final

from textual.theme import BUILTIN_THEMES, Theme

from plugsky_tui.terminal import Colour


def _theme(name: str, *, ansi: bool, background: str, foreground: str, tones: dict[str, str]) -> Theme:
    return Theme(
        name=name,
        primary=tones["accent"],
        secondary=tones["accent"],
        accent=tones["accent"],
        success=tones["good"],
        warning=tones["warn"],
        error=tones["bad"],
        foreground=foreground,
        background=background,
        surface=background,
        panel=background,
        boost=background,
        dark=True,
        ansi=ansi,
        variables={
            **(BUILTIN_THEMES["ansi-dark"].variables if ansi else {}),
            **{f"tone-{tone}": colour for tone, colour in tones.items()},
            "footer-background": background,
            "footer-item-background": background,
            "footer-key-foreground": tones["accent"],
            "footer-key-background": background,
            "footer-description-foreground": tones["faint"],
            "footer-description-background": background,
        },
    )


DARK: Final = _theme(
    "plugsky-dark",
    ansi=False,
    background="#10151c",
    foreground="#cdd6e0",
    tones={
        "faint": "#7d8b9c",
        "strong": "#eef3f8",
        "accent": "#6fb3e8",
        "good": "#7fc894",
        "warn": "#e3b567",
        "bad": "#ee7b7b",
        "fill": "#6fb3e8",
        "empty": "#34404e",
        "trend": "#4a7ea8",
        "bar": "#1b2430",
        "crown": "#24527a",
        "on-crown": "#f4f8fc",
    },
)

SIXTEEN: Final = _theme(
    "plugsky-sixteen",
    ansi=True,
    background="ansi_default",
    foreground="ansi_default",
    tones={
        "faint": "ansi_default",
        "strong": "ansi_default",
        "accent": "ansi_cyan",
        "good": "ansi_green",
        "warn": "ansi_yellow",
        "bad": "ansi_red",
        "fill": "ansi_cyan",
        "empty": "ansi_default",
        "trend": "ansi_cyan",
        "bar": "ansi_default",
        "crown": "ansi_blue",
        "on-crown": "ansi_bright_white",
    },
)

MONO: Final = _theme(
    "plugsky-mono",
    ansi=True,
    background="ansi_default",
    foreground="ansi_default",
    tones=dict.fromkeys(
        ("faint", "strong", "accent", "good", "warn", "bad", "fill", "empty", "trend", "bar", "crown", "on-crown"),
        "ansi_default",
    ),
)

BY_COLOUR: Final[dict[Colour, Theme]] = {"full": DARK, "sixteen": SIXTEEN, "none": MONO}
