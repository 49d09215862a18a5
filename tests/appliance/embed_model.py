"""The real embedding model: all-MiniLM-L6-v2, which lies beside the checkout and is never fetched."""

from pathlib import Path

import pytest

FILE = Path(__file__).parents[3] / "shared" / "models" / "all-MiniLM-L6-v2.F16.gguf"


@pytest.fixture(scope="session")
def embed_model():
    if not FILE.is_file():
        pytest.skip(f"{FILE.name} does not lie in shared/models beside the checkout")
    return FILE
