"""``deform``: a template mesh is deformed until its silhouettes fit the masks.

Unknowns: moves of a coarse cage of handles around the template, and by default of its vertices too. Image: the mesh is rasterized;
antialiasing gives gradients to silhouettes. Losses: masks; even moves, as rigid as possible, edges of kept lengths.

    draw windows of photos → move the vertices → rasterize → antialias → losses → Adam

Triangles, texture coordinates and material of the template stay as they are.

- ``config``: settings and presets
- ``loop``: the scene and the training loop, imported when first used, because they need PyTorch
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unrender.recipes.deform.config import PRESETS, DeformConfig, DeformLosses

if TYPE_CHECKING:
    from unrender.recipes.deform.loop import DeformScene, fit, load_scene

__all__ = ["PRESETS", "DeformConfig", "DeformLosses", "DeformScene", "fit", "load_scene"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unrender.recipes.deform' has no attribute {name!r}")
    from unrender.recipes.deform import loop

    return getattr(loop, name)
