"""The text that canaries read and health checks predict: C. Darwin, *The Voyage of the Beagle*, 1845; public domain."""

from pathlib import Path
from typing import Final

TEXT: Final = Path(__file__).with_name("known_text.txt")
