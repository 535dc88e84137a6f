"""``plenoxels``: a radiance field of sparse voxels without a network (Fridovich-Keil et al. 2022).

Unknowns: density and spherical harmonics at the vertices of a grid; around unbounded scenes, layers of a multi-sphere image. Image: as
``nerf``, from trilinear interpolation. Losses: mean squared error, total variation, sparsity, light either passed or not. The grid is
refined from coarse to fine, and what no view sees is pruned.

    draw pixels → walk along their rays, over empty cells → composite → loss → gradients of the touched vertices → RMSProp

- ``config``: settings and presets
- ``scene`` and ``loop``: the scene and the training loop, imported when first used, because they need PyTorch
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unrender.recipes.plenoxels.config import PRESETS, PlenoxelsConfig

if TYPE_CHECKING:
    from unrender.recipes.plenoxels.loop import fit
    from unrender.recipes.plenoxels.scene import PlenoxelsScene, load_scene

__all__ = ["PRESETS", "PlenoxelsConfig", "PlenoxelsScene", "fit", "load_scene"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unrender.recipes.plenoxels' has no attribute {name!r}")
    from unrender.recipes.plenoxels import loop, scene

    return getattr(loop if name == "fit" else scene, name)
