"""Commands that are shown to people, so that what they copy into a shell is what was meant."""

import shlex


def command_line(*words: object) -> str:
    """The ``plugsky`` command of these words, quoted for a shell where it must be."""
    return shlex.join(("plugsky", *map(str, words)))


def given(**flags: object) -> tuple[str, ...]:
    """The options that a follow-up command needs: those typed here. What the environment names, it will name again."""
    return tuple(
        word
        for name, value in flags.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    )
