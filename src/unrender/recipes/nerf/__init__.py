"""``nerf``: a radiance field from a hash grid, marched through an occupancy grid (instant-ngp; instant-nsr-pl's NeRF system).

Unknowns: a hash table and two small perceptrons. Image: C = Σ w_i c_i + (1 - Σ w_i) background, weights from density. Loss: photometric,
with an optional distortion term.

    draw pixels → march their rays through occupied cells → drop what lies behind → density, color → composite → loss → Adam

- ``config``: settings and presets
- ``loop``: the scene and the training loop, imported when first used, because they need PyTorch
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unrender.recipes.nerf.config import PRESETS, NerfConfig, RadianceSettings

if TYPE_CHECKING:
    from unrender.recipes.nerf.loop import NerfScene, fit, load_scene

__all__ = ["PRESETS", "NerfConfig", "NerfScene", "RadianceSettings", "fit", "load_scene"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unrender.recipes.nerf' has no attribute {name!r}")
    from unrender.recipes.nerf import loop

    return getattr(loop, name)
