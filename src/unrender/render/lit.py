"""A scene made of an asset: its mesh with its material, under its environment light."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Cameras
from unrender.color import srgb_from_linear
from unrender.ops.raster import texture
from unrender.render.asset import Asset, PbrMaterial
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.render.surface import render_surface
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import AmbientLight, Light, prefiltered
from unrender.shading.metallic_roughness import MetallicRoughness, PbrValues

_COARSEST_LEVEL = 3
"""Coarsest mip level of the textures of an atlas: coarser ones mix neighboring charts."""
DEPTHS = (0.05, 50.0)
"""Nearest and farthest visible depth, in world units."""


_SMALLEST_OPACITY = 1e-4
"""A pixel of less opacity shows the background alone."""


class LitScene(Scene):
    """An asset as a scene, to render it under its light."""

    def __init__(self, asset: Asset, *, background: float = 0.0) -> None:
        """Take an asset in the normalized world.

        Args:
            asset: its material may be absent; without an environment, light of radiance 1 comes from everywhere.
            background: gray behind it, sRGB.
        """
        super().__init__()
        mesh = asset.mesh if asset.mesh.normals is not None else asset.mesh.with_vertex_normals()
        self._asset, self._background = asset, background
        self._mesh = mesh.with_tangents() if mesh.uvs is not None and mesh.tangents is None else mesh
        self._material = material_of(PbrMaterial() if asset.material is None else asset.material)
        with torch.no_grad():
            plain = AmbientLight(torch.ones(3, device=mesh.vertices.device))
            self._light: Light = plain if asset.environment is None else prefiltered(asset.environment)

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        return self._asset

    @torch.no_grad()
    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        camera = cameras[view].to(self._mesh.vertices.device)
        return over_gray(render_surface(self._mesh, self._material, [self._light], camera, depth_range=DEPTHS)[0], self._background)


def over_gray(rendering: Rendering, gray: float) -> Rendering:
    """Composite a picture over a gray value as photos with masks are: in sRGB.

    Args:
        rendering: over black, in linear light.
        gray: sRGB.
    """
    opacity = rendering.opacity[..., None]
    straight = srgb_from_linear((rendering.color / opacity.clamp_min(_SMALLEST_OPACITY)).clamp(0, 1))
    return replace(rendering, color=straight * opacity + (1 - opacity) * gray, encoding="srgb")


def looked_up(texels: Float[Tensor, "rows columns channels"], surface: GBuffer) -> Float[Tensor, "views height width channels"]:
    """Look up a texture of an atlas at surface points, with mip levels."""
    assert surface.uv is not None, "textures need a mesh with texture coordinates"
    return texture(texels[None], surface.uv, surface.uv_derivatives, boundary="clamp", max_level=_COARSEST_LEVEL)


def material_of(textures: PbrMaterial) -> MetallicRoughness:
    """Return the material that textures describe."""

    def values(surface: GBuffer) -> PbrValues:
        like = surface.normal
        if textures.base_color is not None:
            color = looked_up(textures.base_color, surface)
        else:
            color = torch.ones_like(like) if surface.color is None else surface.color
        if textures.roughness_metallic is not None:
            roughness, metallic = looked_up(textures.roughness_metallic, surface).unbind(-1)
        else:
            roughness, metallic = (torch.full_like(like[..., 0], value) for value in (textures.roughness, textures.metallic))
        normal = None if textures.normal is None else looked_up(textures.normal, surface)
        return PbrValues(color[..., :3], roughness, metallic, normal, color[..., 3] if color.shape[-1] == 4 else None)

    return MetallicRoughness(values)
