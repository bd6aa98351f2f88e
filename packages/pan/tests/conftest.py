"""Weights for tests: our own, which are in the package."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lowvis_pan.weights import own_file


@pytest.fixture(scope="session")
def weights_of() -> Callable[[int], Path]:
    """Return a file of weights for a scale."""
    return own_file


@pytest.fixture(scope="session")
def weights() -> str:
    """Return the path of weights for x4."""
    return str(own_file(4))
