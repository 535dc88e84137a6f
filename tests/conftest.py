"""What every test may rely on: the same random numbers each time, two threads, and the real captures where there are any."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from unrender.devices import as_on_a_gpu

torch.set_num_threads(2)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background jobs of a shell, whose programs would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``pytest --as-on-a-gpu`` tests what is written for a GPU, on a CPU; but for those that say they are about CPUs."""
    parser.addoption("--as-on-a-gpu", action="store_true", help="take the ways of a GPU, on one thread of the CPU")


@pytest.fixture(autouse=True)
def ways_of_a_gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """The kernels and the control flow of a GPU, where asked for."""
    if not request.config.getoption("--as-on-a-gpu"):
        yield
        return
    if request.node.get_closest_marker("cpu") is not None:
        pytest.skip("about the ways of a CPU")
    with as_on_a_gpu():
        yield


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
