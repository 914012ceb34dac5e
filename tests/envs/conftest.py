"""Fixtures of environments."""

import pytest
from short_scenarios import SHORT


@pytest.fixture(scope="session")
def scenarios():
    """Short scenarios by name."""
    return SHORT
