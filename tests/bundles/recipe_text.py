"""The text of the smallest recipe that builds: one model and the text of its licence."""


def local(name: str, sha256: str) -> str:
    """A file beside the recipe."""
    return f'{{ source = "file", path = "{name}", sha256 = "{sha256}" }}'


def one_model(
    files: str,
    licence_text: str,
    *,
    channel: str = "lab",
    model: str = "tiny",
    context: int = 128,
    licence: str = "MIT",
    health: bool = False,
) -> str:
    """A recipe for a model: `files` are its key and value, `licence_text` is the source of that."""
    return f"""
channel = "{channel}"
[[model]]
id = "{model}"
mode = "generate"
context = {context}
licence = "{licence}"
languages = ["en"]
health = {str(health).lower()}
{files}
licence-text = {licence_text}
"""
