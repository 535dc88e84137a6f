"""Colors of surfaces, and materials that reflect light.

| color | comes from |
|---|---|
| :class:`Uniform` | one color |
| :class:`VertexColor` | the vertices |
| :class:`Texture` | an image, through the texture coordinates |

| material | reflects |
|---|---|
| :class:`Unlit` | its color |
| :class:`Lambert` | albedo · Σ diffuse light |
| :class:`BlinnPhong` | albedo · Σ diffuse light + specular · Σ glossy light |

Both are callables: ``color(surface) -> [views, height, width, 3 or 4]``, where a fourth channel is opacity, and
``material(surface, lights) -> Shaded``. Your own functions work too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.raster import texture
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import Light


class Shaded(NamedTuple):
    """Color and opacity of every pixel; the renderer ignores pixels that the mesh does not cover."""

    color: Float[Tensor, "views height width 3"]
    """Linear light, not premultiplied by opacity."""
    opacity: Float[Tensor, "views height width"]


ColorSource = Callable[[GBuffer], Tensor]
Material = Callable[[GBuffer, Sequence[Light]], Shaded]


@dataclass(frozen=True)
class Uniform:
    """One color, or one color and opacity, for the whole surface."""

    color: Float[Tensor, " channels"]

    def __call__(self, surface: GBuffer) -> Float[Tensor, "views height width channels"]:
        return self.color.expand(*surface.covered.shape, -1)


@dataclass(frozen=True)
class VertexColor:
    """Vertex colors, interpolated in linear light.

    Raises:
        ValueError: when called for a mesh without colors.
    """

    def __call__(self, surface: GBuffer) -> Float[Tensor, "views height width 3"]:
        if surface.color is None:
            raise ValueError("mesh has no vertex colors: give it colors, or use another color source")
        return surface.color


@dataclass(frozen=True)
class Texture:
    """An image texture, with mip levels if the texture coordinates have derivatives.

    Raises:
        ValueError: when called for a mesh without texture coordinates.
    """

    texels: Float[Tensor, "height width channels"]
    """Linear light, optionally with a fourth channel for opacity; row 0 is the top of the image."""
    max_level: int | None = None
    """Coarsest mip level, for an atlas, whose coarse levels mix neighboring charts. None for all levels."""
    boundary: Literal["wrap", "clamp"] = "wrap"
    """Whether the image repeats beyond [0, 1], or its border continues."""

    def __call__(self, surface: GBuffer) -> Float[Tensor, "views height width channels"]:
        if surface.uv is None:
            raise ValueError("mesh has no texture coordinates: give it uvs and uv_faces, or use another color source")
        return texture(self.texels[None], surface.uv, surface.uv_derivatives, boundary=self.boundary, max_level=self.max_level)


@dataclass(frozen=True)
class Unlit:
    """A surface that shows its color, independent of light."""

    color: ColorSource

    def __call__(self, surface: GBuffer, lights: Sequence[Light]) -> Shaded:
        return _split(self.color(surface))


@dataclass(frozen=True)
class Lambert:
    """A matte surface: L = albedo · (1/π) ∫ L(l) max(n · l, 0) dl."""

    albedo: ColorSource

    def __call__(self, surface: GBuffer, lights: Sequence[Light]) -> Shaded:
        albedo, opacity = _split(self.albedo(surface))
        return Shaded(albedo * _sum([light.diffuse(surface) for light in lights], albedo), opacity)


@dataclass(frozen=True)
class BlinnPhong:
    """A matte surface with a highlight whose energy does not depend on its width (see :mod:`unrender.shading.lights`)."""

    albedo: ColorSource
    specular: Float[Tensor, " 3"]
    exponent: Float[Tensor, ""]
    """The s of (n · h)ˢ; 0 is the widest highlight."""

    def __call__(self, surface: GBuffer, lights: Sequence[Light]) -> Shaded:
        albedo, opacity = _split(self.albedo(surface))
        diffuse = _sum([light.diffuse(surface) for light in lights], albedo)
        glossy = _sum([light.glossy(surface, self.exponent) for light in lights], albedo)
        return Shaded(albedo * diffuse + self.specular * glossy, opacity)


def _split(color: Float[Tensor, "views height width channels"]) -> Shaded:
    channels = color.shape[-1]
    if channels == 3:
        return Shaded(color, torch.ones_like(color[..., 0]))
    if channels == 4:
        return Shaded(color[..., :3], color[..., 3])
    raise ValueError(f"color has 3 channels, or 4 with opacity, got {channels} from its source")


def _sum(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    total = torch.zeros_like(like)
    for part in parts:
        total = total + part
    return total
