"""``nerf-mlp``: the original NeRF (Mildenhall et al. 2020), two perceptrons of frequency-encoded positions.

Unknowns: a coarse and a fine network, each from position and direction to density and color. Image: C = Σ w_i c_i + (1 - Σ w_i) background,
weights from density. Loss: squared error of the pictures of both networks.

    draw pixels → even intervals along their rays → coarse network → more intervals where it has weight → fine network → loss → Adam

- ``config``: settings and presets
- ``scene``: the two networks and the space they live in
- ``loop``: the training loop; both are imported when first used, because they need PyTorch
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unrender.recipes.nerf_mlp.config import PRESETS, FrequencySettings, NerfMlpConfig, RaySettings

if TYPE_CHECKING:
    from unrender.recipes.nerf_mlp.loop import fit, load_scene
    from unrender.recipes.nerf_mlp.scene import NerfMlpScene

__all__ = ["PRESETS", "FrequencySettings", "NerfMlpConfig", "NerfMlpScene", "RaySettings", "fit", "load_scene"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unrender.recipes.nerf_mlp' has no attribute {name!r}")
    from unrender.recipes.nerf_mlp import loop

    return getattr(loop, name)
