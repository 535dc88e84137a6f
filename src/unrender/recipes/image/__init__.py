"""``image``: a network memorizes a picture, as a color for each point of the plane.

Unknowns: a perceptron from encoded coordinates to colors. Image: the perceptron at the centers of the pixels. Loss: mean squared error of
the pixels in even rows and columns; those in odd rows and columns are held out.

    pixels → encode their coordinates → perceptron → sigmoid → loss → Adam

The encoding decides how fine the picture becomes and what it looks like between the fitted pixels (Tancik et al. 2020).

- ``config``: settings and presets
- ``loop``: the scene and the training loop, imported when first used, because they need PyTorch
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unrender.recipes.image.config import PRESETS, FourierSettings, ImageConfig

if TYPE_CHECKING:
    from unrender.recipes.image.loop import ImageScene, fit, load_scene

__all__ = ["PRESETS", "FourierSettings", "ImageConfig", "ImageScene", "fit", "load_scene"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unrender.recipes.image' has no attribute {name!r}")
    from unrender.recipes.image import loop

    return getattr(loop, name)
