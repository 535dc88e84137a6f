"""What every test may rely on: the same random numbers each time, two threads, and the real captures where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real captures: ``UNRENDER_DATA``, or ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("UNRENDER_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real captures at {folder}: set UNRENDER_DATA to the folder that holds them")
    return folder
