"""Turns posed photos into a surface and a radiance field, on any machine.

>>> import unrender
>>> capture = unrender.load("path/to/capture")                      # doctest: +SKIP
>>> result = unrender.fit("neus", capture, max_seconds=120)         # doctest: +SKIP
>>> result.mesh().export("mesh.glb")                                # doctest: +SKIP

The primitives are in ``unrender.ops``: ``unrender.ops.rasterize``. PyTorch and Warp are imported when a name is first used, not by
``import unrender``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrender import ops
    from unrender.api import evaluate, fit, load, make_masks, open_run
    from unrender.cameras import Cameras
    from unrender.captures.capture import Capture
    from unrender.geometry.mesh import Mesh
    from unrender.recipes.fitting import FitResult, Progress
    from unrender.render.rendering import Rendering
    from unrender.runs.opening import OpenRun

    __version__: str

__all__ = [
    "Cameras",
    "Capture",
    "FitResult",
    "Mesh",
    "OpenRun",
    "Progress",
    "Rendering",
    "__version__",
    "evaluate",
    "fit",
    "load",
    "make_masks",
    "open_run",
    "ops",
]

_HOMES = {
    "Cameras": "unrender.cameras",
    "Capture": "unrender.captures.capture",
    "FitResult": "unrender.recipes.fitting",
    "Mesh": "unrender.geometry.mesh",
    "OpenRun": "unrender.runs.opening",
    "Progress": "unrender.recipes.fitting",
    "Rendering": "unrender.render.rendering",
    "evaluate": "unrender.api",
    "fit": "unrender.api",
    "load": "unrender.api",
    "make_masks": "unrender.api",
    "open_run": "unrender.api",
}
"""Where each name is defined."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("unrender")
    if name == "ops":
        return importlib.import_module("unrender.ops")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unrender' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
