"""``mesh-pbr``: shape, material and light together, from photos (Munkberg et al. 2022), or from a fitted surface.

Unknowns: a shape, its base color, roughness, metallic and normals, and a cube map of light. Image: the mesh is rasterized and shaded by
split sums; antialiasing gives gradients to silhouettes. Losses: pictures and masks; smooth materials, white light, even meshes.

    draw windows of photos → mesh of this step → rasterize → material → shade under the light → antialias → losses → Adam

The first pass finds the shape on a lattice, or takes the surface of ``neus``, with a material at every point in space. The second one has a
fixed mesh with textures. Parts that are known are locked: ``material`` is the fit of a mesh whose shape is, ``light`` that of the light
around a mesh whose shape and material are.

- ``config``: settings and presets
- ``nvdiffrec``: the configurations of nvdiffrec as presets
- ``shapes``: the unknown shapes
- ``appearance``: the unknown materials
- ``scene``: shape, material and light together
- ``loop``: the training loop

The last four are imported when first used, because they need PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unrender.recipes.mesh_pbr import config as _config
from unrender.recipes.mesh_pbr.config import (
    ASSET_PRESETS,
    LIGHT_PRESETS,
    MATERIAL_PRESETS,
    SHAPES,
    WITHOUT_MATERIAL,
    WITHOUT_SHAPE,
    Cubes,
    FittedSurface,
    MeshPbrConfig,
    Tetrahedra,
)
from unrender.recipes.mesh_pbr.nvdiffrec import CONFIGURATIONS

if TYPE_CHECKING:
    from unrender.recipes.mesh_pbr.loop import fit, load_scene
    from unrender.recipes.mesh_pbr.scene import MeshPbrScene

PRESETS = {**_config.PRESETS, **CONFIGURATIONS}
"""All presets by name."""

__all__ = [
    "ASSET_PRESETS",
    "LIGHT_PRESETS",
    "MATERIAL_PRESETS",
    "PRESETS",
    "SHAPES",
    "WITHOUT_MATERIAL",
    "WITHOUT_SHAPE",
    "Cubes",
    "FittedSurface",
    "MeshPbrConfig",
    "MeshPbrScene",
    "Tetrahedra",
    "fit",
    "load_scene",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'unrender.recipes.mesh_pbr' has no attribute {name!r}")
    from unrender.recipes.mesh_pbr import loop, scene

    return scene.MeshPbrScene if name == "MeshPbrScene" else getattr(loop, name)
