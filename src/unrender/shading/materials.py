"""Where a surface's colour comes from, and what it does with light.

| a colour | comes from |
|---|---|
| :class:`Uniform` | one colour |
| :class:`VertexColour` | the vertices |
| :class:`Texture` | an image, through the texture coordinates |

| a material | sends back |
|---|---|
| :class:`Unlit` | its colour |
| :class:`Lambert` | albedo · Σ diffuse light |
| :class:`BlinnPhong` | albedo · Σ diffuse light + specular · Σ glossy light |

Either is a callable: ``colour(surface) -> [views, height, width, 3 or 4]``, a fourth channel being opacity, and
``material(surface, lights) -> Shaded``. A function of one's own does as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.texture import texture
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import Light


class Shaded(NamedTuple):
    """What a material makes of every pixel; pixels that the mesh does not cover are left out by the renderer."""

    colour: Float[Tensor, "views height width 3"]
    """Linear light, not multiplied by the opacity."""
    opacity: Float[Tensor, "views height width"]


ColourSource = Callable[[GBuffer], Tensor]
Material = Callable[[GBuffer, Sequence[Light]], Shaded]


@dataclass(frozen=True)
class Uniform:
    """One colour, or one colour and opacity, for the whole surface."""

    colour: Float[Tensor, " channels"]

    def __call__(self, surface: GBuffer) -> Float[Tensor, "views height width channels"]:
        return self.colour.expand(*surface.covered.shape, -1)


@dataclass(frozen=True)
class VertexColour:
    """The mesh's colours, interpolated in linear light.

    Raises:
        ValueError: when called for a mesh without colours.
    """

    def __call__(self, surface: GBuffer) -> Float[Tensor, "views height width 3"]:
        if surface.colour is None:
            raise ValueError("the mesh has no vertex colours: give it some, or use another colour source")
        return surface.colour


@dataclass(frozen=True)
class Texture:
    """An image laid over the surface, with mip levels where the texture coordinates have derivatives.

    Raises:
        ValueError: when called for a mesh without texture coordinates.
    """

    texels: Float[Tensor, "height width channels"]
    """Linear light; row 0 is the top of the image. With a fourth channel for opacity."""
    max_level: int | None = None
    """Coarsest mip level; an atlas of patches wants one, because coarse levels mix neighbouring patches. None for all there are."""
    boundary: Literal["wrap", "clamp"] = "wrap"
    """Beyond [0, 1] the image repeats, or its border continues."""

    def __call__(self, surface: GBuffer) -> Float[Tensor, "views height width channels"]:
        if surface.uv is None:
            raise ValueError("the mesh has no texture coordinates: give it uvs and uv_faces, or use another colour source")
        return texture(self.texels[None], surface.uv, surface.uv_derivatives, boundary=self.boundary, max_level=self.max_level)


@dataclass(frozen=True)
class Unlit:
    """A surface that shows its colour and takes no notice of light."""

    colour: ColourSource

    def __call__(self, surface: GBuffer, lights: Sequence[Light]) -> Shaded:
        return _split(self.colour(surface))


@dataclass(frozen=True)
class Lambert:
    """A matt surface: L = albedo · (1/π) ∫ L(l) max(n · l, 0) dl."""

    albedo: ColourSource

    def __call__(self, surface: GBuffer, lights: Sequence[Light]) -> Shaded:
        albedo, opacity = _split(self.albedo(surface))
        return Shaded(albedo * _sum([light.diffuse(surface) for light in lights], albedo), opacity)


@dataclass(frozen=True)
class BlinnPhong:
    """A matt surface under a coat with a highlight whose energy does not depend on its width (see :mod:`unrender.shading.lights`)."""

    albedo: ColourSource
    specular: Float[Tensor, " 3"]
    exponent: Float[Tensor, ""]
    """s in (n · h)ˢ; 0 is the widest."""

    def __call__(self, surface: GBuffer, lights: Sequence[Light]) -> Shaded:
        albedo, opacity = _split(self.albedo(surface))
        diffuse = _sum([light.diffuse(surface) for light in lights], albedo)
        glossy = _sum([light.glossy(surface, self.exponent) for light in lights], albedo)
        return Shaded(albedo * diffuse + self.specular * glossy, opacity)


def _split(colour: Float[Tensor, "views height width channels"]) -> Shaded:
    channels = colour.shape[-1]
    if channels == 3:
        return Shaded(colour, torch.ones_like(colour[..., 0]))
    if channels == 4:
        return Shaded(colour[..., :3], colour[..., 3])
    raise ValueError(f"a colour has 3 channels, or 4 with opacity, and this source gives {channels}")


def _sum(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    total = torch.zeros_like(like)
    for part in parts:
        total = total + part
    return total
