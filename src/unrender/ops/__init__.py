"""Differentiable primitives in three families: :mod:`encodings`, :mod:`rays` and :mod:`raster`.

The functions of all families are reachable here too: ``unrender.ops.rasterize``. A family is imported when one of its names is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrender.ops.encodings import *  # noqa: F403
    from unrender.ops.raster import *  # noqa: F403
    from unrender.ops.rays import *  # noqa: F403

_FAMILIES = ("encodings", "rays", "raster")


def _families() -> dict[str, Any]:
    return {name: importlib.import_module(f"unrender.ops.{name}") for name in _FAMILIES}


def __getattr__(name: str) -> Any:
    if name in _FAMILIES:
        return importlib.import_module(f"unrender.ops.{name}")
    if not name.startswith("_"):
        for family in _families().values():
            if name in family.__all__:
                return getattr(family, name)
    raise AttributeError(f"module 'unrender.ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*_FAMILIES, *(name for family in _families().values() for name in family.__all__)})
