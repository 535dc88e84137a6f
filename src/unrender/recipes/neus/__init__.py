"""``neus``: a surface as the zero set of a signed distance field, rendered volumetrically (Wang et al. 2021; instant-nsr-pl; Neuralangelo).

Unknowns: a signed distance field f, a color network c(x, n, v, feature) and a sharpness s. Image: C = Σ w_i c_i + (1 - Σ w_i) background,
weights from the difference of the logistic CDF of s f along the ray. Losses: photometric and eikonal; mask, curvature, sparsity,
opacity entropy, distortion, normal prior and surface points, if their weights are not zero.

    draw pixels → march their rays near the surface → drop what lies behind it → f, ∇f, color → composite → losses → Adam

The field is a dense grid refined from coarse to fine, made for two CPU cores, or a hash grid with a perceptron, as published. A dense grid
starts from a radiance field, fitted in a phase before.

- ``config``: settings and presets
- ``scene``: the unknowns and how they are rendered
- ``first_surface``: the initial surface
- ``loop``: the training loop, in one phase or two

``scene`` and ``loop`` are imported when first used, because they need PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unrender.recipes.neus.config import FIELDS, PRESETS, GridField, HashField, NeusConfig

if TYPE_CHECKING:
    from unrender.recipes.neus.loop import fit, load_scene
    from unrender.recipes.neus.scene import NeusScene

__all__ = ["FIELDS", "PRESETS", "GridField", "HashField", "NeusConfig", "NeusScene", "fit", "load_scene"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unrender.recipes.neus' has no attribute {name!r}")
    from unrender.recipes.neus import loop, scene

    return scene.NeusScene if name == "NeusScene" else getattr(loop, name)
