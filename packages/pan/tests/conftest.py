"""Weights for tests: our own once they are in the package, else random ones."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lowvis_pan.model import PAN, PANConfig
from lowvis_pan.weights import own_file, save_weights


@pytest.fixture(scope="session")
def weights_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return a file of weights for a scale.

    Random ones tell no x3 from x2, so these scales are skipped where the package has no weights.
    """
    folder = tmp_path_factory.mktemp("weights")

    def find(scale: int) -> Path:
        if own_file(scale).is_file():
            return own_file(scale)
        if scale != 4:
            pytest.skip("no trained weights in this checkout")
        path = folder / "random_x4.safetensors"
        if not path.exists():
            torch.manual_seed(1)
            save_weights(path, PAN(PANConfig(scale=4)).state_dict(), {"feature_limit": "8"})
        return path

    return find


@pytest.fixture(scope="session")
def weights(weights_of: Callable[[int], Path]) -> str:
    """Return the path of weights for x4."""
    return str(weights_of(4))
