"""Which family a chat template belongs to: the first whose signs it shows, from the most particular to the generic."""

from typing import Final

from plugsky.engine.prompting.families.command import COMMAND, COMMAND_R
from plugsky.engine.prompting.families.deepseek import DEEPSEEK_R1, DEEPSEEK_V31
from plugsky.engine.prompting.families.family import Family
from plugsky.engine.prompting.families.gemma import FUNCTION_GEMMA, GEMMA4
from plugsky.engine.prompting.families.generic import GENERIC
from plugsky.engine.prompting.families.granite import GRANITE3, GRANITE4
from plugsky.engine.prompting.families.harmony import HARMONY
from plugsky.engine.prompting.families.hermes import HERMES
from plugsky.engine.prompting.families.llama3 import LLAMA3
from plugsky.engine.prompting.families.mistral import MISTRAL, MISTRAL_LIST
from plugsky.engine.prompting.families.smollm import SMOLLM2, SMOLLM3

FAMILIES: Final[tuple[Family, ...]] = (
    HARMONY,
    COMMAND,
    COMMAND_R,
    DEEPSEEK_V31,
    DEEPSEEK_R1,
    GEMMA4,
    FUNCTION_GEMMA,
    MISTRAL,
    MISTRAL_LIST,
    GRANITE4,
    GRANITE3,
    SMOLLM3,
    SMOLLM2,
    LLAMA3,
    HERMES,
    GENERIC,
)
_BY_NAME: Final = {family.name: family for family in FAMILIES}


def detect(template: str) -> Family:
    """The family of a chat template's source."""
    return next(family for family in FAMILIES if family.fits(template))


def named(name: str) -> Family:
    """The family of this name, as ``prepared`` tells it. Raises KeyError for a name of no family."""
    return _BY_NAME[name]
