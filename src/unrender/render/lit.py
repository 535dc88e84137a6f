"""A scene made of an asset: its mesh with its material, under its environment light."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from unrender.cameras import Cameras
from unrender.color import linear_from_srgb, srgb_from_linear
from unrender.geometry.mesh import Mesh
from unrender.ops.raster import texture
from unrender.render.asset import Asset, PbrMaterial
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.render.surface import render_surface
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import AmbientLight, EnvironmentLight, Light, prefiltered
from unrender.shading.metallic_roughness import MetallicRoughness, PbrValues
from unrender.shading.shadows import light_transport, shadowed

_COARSEST_LEVEL = 3
"""Coarsest mip level of the textures of an atlas: coarser ones mix neighboring charts."""
_SMALL = 64
"""Texels along a side below which a texture keeps its size: enlarging it would change how it is interpolated."""
DEPTHS = (0.05, 50.0)
"""Nearest and farthest visible depth, in world units."""


MOST_SHADOWED_VERTICES = 100_000
"""A mesh of more vertices is lit without its own shadows, which need 5 kB for each."""
SMALLEST_OPACITY = 1e-4
"""A pixel of less opacity shows the background alone."""


class LitScene(Scene):
    """An asset as a scene, to render it under its light."""

    def __init__(self, asset: Asset, *, background: float = 0.0, samples: int = 1) -> None:
        """Take an asset in the normalized world.

        Args:
            asset: its material may be absent; without an environment, light of radiance 1 comes from everywhere.
            background: gray behind it, sRGB.
            samples: along each side of a pixel.
        """
        super().__init__()
        mesh = asset.mesh if asset.mesh.normals is not None else asset.mesh.with_vertex_normals()
        self._asset, self._background, self._samples = asset, background, samples
        self._mesh = mesh.with_tangents() if mesh.uvs is not None and mesh.tangents is None else mesh
        self._material = material_of(PbrMaterial() if asset.material is None else asset.material)
        with torch.no_grad():
            self._light = self._arriving(asset.environment)

    def _arriving(self, environment: EnvironmentLight | None) -> Light:
        """Return the light with the shadows of the mesh."""
        if environment is None:
            return AmbientLight(torch.ones(3, device=self._mesh.vertices.device))
        light = prefiltered(environment)
        if environment.light_from_world is not None or len(self._mesh.vertices) > MOST_SHADOWED_VERTICES:
            return light
        return shadowed(light, light_transport(self._mesh), base_color_of_vertices(self._mesh, self._asset.material or PbrMaterial()))

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        return self._asset

    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        return over_gray(self.lit_view(cameras, view), self._background)

    @torch.no_grad()
    def lit_view(self, cameras: Cameras, view: int) -> Rendering:
        """Render one view in linear light, over black."""
        return self.lit_cameras(cameras[view].to(self._mesh.vertices.device))[0]

    def lit_cameras(self, cameras: Cameras) -> Rendering:
        """Render all views [views, height, width] in linear light, over black, with gradients to the poses."""
        return render_surface(self._mesh, self._material, [self._light], cameras, samples=self._samples, depth_range=DEPTHS)


def over_gray(rendering: Rendering, gray: float) -> Rendering:
    """Composite a picture over a gray value as photos with masks are: in sRGB.

    Args:
        rendering: over black, in linear light.
        gray: sRGB.
    """
    opacity = rendering.opacity[..., None]
    straight = srgb_from_linear((rendering.color / opacity.clamp_min(SMALLEST_OPACITY)).clamp(0, 1))
    return replace(rendering, color=straight * opacity + (1 - opacity) * gray, encoding="srgb")


def looked_up(texels: Float[Tensor, "rows columns channels"], surface: GBuffer) -> Float[Tensor, "views height width channels"]:
    """Look up a texture of an atlas at surface points, with mip levels."""
    assert surface.uv is not None, "textures need a mesh with texture coordinates"
    level = min(_COARSEST_LEVEL, *(_halvings(side) for side in texels.shape[:2]))
    return texture(texels[None], surface.uv, surface.uv_derivatives, boundary="clamp", max_level=level)


def _halvings(side: int) -> int:
    """Return how often a side can be halved; a side of one texel stays."""
    return _COARSEST_LEVEL if side == 1 else (side & -side).bit_length() - 1


def _with_levels(texels: Float[Tensor, "rows columns channels"]) -> Float[Tensor, "more_rows more_columns channels"]:
    """Return a texture whose sides can be halved, enlarged where they cannot.

    A small one stays, and has fewer levels.
    """
    unit = 2**_COARSEST_LEVEL
    size = [side if side < _SMALL else unit * -(-side // unit) for side in texels.shape[:2]]
    if size == list(texels.shape[:2]):
        return texels
    return interpolate(texels.permute(2, 0, 1)[None], size, mode="bilinear")[0].permute(1, 2, 0)


def looked_up_at_vertices(texels: Float[Tensor, "rows columns channels"], mesh: Mesh) -> Float[Tensor, "vertices channels"]:
    """Look up a texture of an atlas at one corner of each vertex; one without triangles gets texel 0."""
    assert mesh.uvs is not None and mesh.uv_faces is not None, "textures need a mesh with texture coordinates"
    place = mesh.uvs.new_zeros(len(mesh.vertices), 2)
    place[mesh.faces.reshape(-1).long()] = mesh.uvs.detach()[mesh.uv_faces.reshape(-1).long()]
    return texture(texels[None], place[None, None], filter="linear", boundary="clamp")[0, 0]


def base_color_of_vertices(mesh: Mesh, material: PbrMaterial) -> Float[Tensor, "vertices 3"]:
    """Return the linear base color at every vertex of a mesh."""
    if material.base_color is not None:
        return looked_up_at_vertices(material.base_color, mesh)[:, :3]
    return torch.ones_like(mesh.vertices) if mesh.colors is None else linear_from_srgb(mesh.colors)


def material_of(textures: PbrMaterial) -> MetallicRoughness:
    """Return the material that textures describe."""
    return MetallicRoughness(values_of(textures))


def values_of(textures: PbrMaterial) -> Callable[[GBuffer], PbrValues]:
    """Return the values of textures at surface points."""
    base_color, both, normals = (
        None if texels is None else _with_levels(texels) for texels in (textures.base_color, textures.roughness_metallic, textures.normal)
    )

    def values(surface: GBuffer) -> PbrValues:
        like = surface.normal
        if base_color is not None:
            color = looked_up(base_color, surface)
        else:
            color = torch.ones_like(like) if surface.color is None else surface.color
        if both is not None:
            roughness, metallic = looked_up(both, surface).unbind(-1)
        else:
            roughness, metallic = (torch.full_like(like[..., 0], value) for value in (textures.roughness, textures.metallic))
        normal = None if normals is None else looked_up(normals, surface)
        return PbrValues(color[..., :3], roughness, metallic, normal, color[..., 3] if color.shape[-1] == 4 else None)

    return values
