"""Reports with their plots."""

import pytest


@pytest.fixture(autouse=True)
def undrawn() -> None:
    """In the place of the fixture that leaves them out."""
