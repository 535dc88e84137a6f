"""Programs of ``benchmarks/`` as modules, for tests that compare with what they compare with."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


def benchmark(name: str) -> ModuleType:
    """Import a program, which finds others beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        return importlib.import_module(name)
