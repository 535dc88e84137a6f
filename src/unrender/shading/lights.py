"""Lights, and the radiance that a white surface reflects of each.

The unit of a light is the radiance it causes: color (1, 1, 1) makes a white Lambert surface that faces the light reflect (1, 1, 1). In
physical units the irradiance is π times that. Every light has the same three functions of the surface points:

- ``diffuse``: the radiance that a white Lambert surface reflects, (1/π) ∫ L(l) max(n · l, 0) dl;
- ``glossy``: the radiance that a white Blinn-Phong surface reflects, ∫ L(l) f(l) max(n · l, 0) dl, with h the direction halfway between
  light and viewer and f = (s + 8) / (8π) max(n · h, 0)ˢ (Akenine-Möller, Haines and Hoffman, Real-Time Rendering, 3rd edition, 7.6);
- ``specular``: the radiance that a GGX surface reflects, with the lobe of :func:`unrender.shading.bsdf.ggx_specular`. Light that arrives
  from all directions is reflected by the split sum of :mod:`unrender.shading.prefilter`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.numerics import SMALLEST_LENGTH, normalized
from unrender.ops.raster import texture
from unrender.shading.bsdf import ggx_specular
from unrender.shading.cubes import cube_directions, reduced
from unrender.shading.gbuffer import GBuffer
from unrender.shading.prefilter import COSINE, CubeLevels, convolved, levels_of, weights_of_levels
from unrender.shading.reflectance import SMALLEST_COSINE, directional_albedo

_IRRADIANCE_SIZE = 16
"""Texels along an edge of the cubes in which irradiance is computed and stored: a cosine lobe is far wider."""


@runtime_checkable
class Light(Protocol):
    """What a light does to surface points: see the module docstring."""

    def diffuse(self, surface: GBuffer) -> Float[Tensor, "views height width 3"]: ...

    def glossy(self, surface: GBuffer, exponent: Float[Tensor, "*#shape"]) -> Float[Tensor, "views height width 3"]: ...

    def specular(
        self, surface: GBuffer, roughness: Float[Tensor, "views height width"], f0: Float[Tensor, "views height width 3"]
    ) -> Float[Tensor, "views height width 3"]: ...


@dataclass(frozen=True)
class AmbientLight:
    """The same light from all directions."""

    color: Float[Tensor, " 3"]

    def diffuse(self, surface: GBuffer) -> Float[Tensor, "views height width 3"]:
        return self.color.expand_as(surface.normal)

    def glossy(self, surface: GBuffer, exponent: Float[Tensor, "*#shape"]) -> Float[Tensor, "views height width 3"]:
        """Reflect all light, for any lobe width."""
        return self.color.expand_as(surface.normal)

    def specular(
        self, surface: GBuffer, roughness: Float[Tensor, "views height width"], f0: Float[Tensor, "views height width 3"]
    ) -> Float[Tensor, "views height width 3"]:
        return self.color * _split_sum(surface, roughness, f0)


@dataclass(frozen=True)
class DirectionalLight:
    """Parallel light from one direction, as from the sun."""

    towards: Float[Tensor, " 3"]
    """Direction from the surface to the light, of any length."""
    color: Float[Tensor, " 3"]

    def diffuse(self, surface: GBuffer) -> Float[Tensor, "views height width 3"]:
        return _cosine(surface, self._towards(surface)) * self.color

    def glossy(self, surface: GBuffer, exponent: Float[Tensor, "*#shape"]) -> Float[Tensor, "views height width 3"]:
        return _lobe(surface, self._towards(surface), exponent) * self.color

    def specular(
        self, surface: GBuffer, roughness: Float[Tensor, "views height width"], f0: Float[Tensor, "views height width 3"]
    ) -> Float[Tensor, "views height width 3"]:
        return torch.pi * ggx_specular(surface.normal, surface.to_viewer, self._towards(surface), roughness, f0) * self.color

    def _towards(self, surface: GBuffer) -> Float[Tensor, "views height width 3"]:
        return normalized(self.towards).expand_as(surface.normal)


@dataclass(frozen=True)
class PointLight:
    """Light from one point; its strength falls with the square of the distance."""

    position: Float[Tensor, " 3"]
    """In world space."""
    color: Float[Tensor, " 3"]
    """Radiance at distance one, as in the module docstring."""

    def diffuse(self, surface: GBuffer) -> Float[Tensor, "views height width 3"]:
        towards, strength = self._arriving(surface)
        return _cosine(surface, towards) * strength

    def glossy(self, surface: GBuffer, exponent: Float[Tensor, "*#shape"]) -> Float[Tensor, "views height width 3"]:
        towards, strength = self._arriving(surface)
        return _lobe(surface, towards, exponent) * strength

    def specular(
        self, surface: GBuffer, roughness: Float[Tensor, "views height width"], f0: Float[Tensor, "views height width 3"]
    ) -> Float[Tensor, "views height width 3"]:
        towards, strength = self._arriving(surface)
        return torch.pi * ggx_specular(surface.normal, surface.to_viewer, towards, roughness, f0) * strength

    def _arriving(self, surface: GBuffer) -> tuple[Float[Tensor, "views height width 3"], Float[Tensor, "views height width 3"]]:
        offset = self.position - surface.position
        squared_distance = (offset * offset).sum(-1, keepdim=True)
        return normalized(offset), self.color / squared_distance.clamp_min(SMALLEST_LENGTH)


@dataclass(frozen=True)
class EnvironmentLight:
    """Light from infinitely far, different in every direction: a cube map around the scene.

    Faces are in OpenGL's order +X, −X, +Y, −Y, +Z, −Z with OpenGL's orientation of their rows and columns
    (:func:`unrender.shading.cubes.cube_directions`). As an unknown, the texels are the parameters: fit them with
    :func:`prefiltered`, once per step.
    """

    texels: Float[Tensor, "6 size size 3"]
    light_from_world: Float[Tensor, "views 3 3"] | None = None
    """Rotation from the world to the axes of the cube, one per view: that of ``camera_from_world`` for a light that turns with the camera,
    as in photos from a turntable. None for a light in world axes."""

    def radiance(self, directions: Float[Tensor, "views height width 3"]) -> Float[Tensor, "views height width 3"]:
        """Look up the light from each direction in the axes of the cube, of any length but zero."""
        return _looked_up(self.texels, directions)

    def as_seen_from(self, world_from_camera: Float[Tensor, "3 3"]) -> EnvironmentLight:
        """Return a light in world axes that is what a light that turns with the camera is around one camera.

        The cube map gets twice as many texels along an edge, so that hardly anything is blurred.

        Args:
            world_from_camera: rotation of the camera.
        """
        size = 2 * self.texels.shape[1]
        directions = cube_directions(size, self.texels.dtype, self.texels.device)
        return EnvironmentLight(self.radiance(directions @ world_from_camera.to(self.texels)))

    def irradiance(self) -> Float[Tensor, "6 small small 3"]:
        """Compute the cube map of (1/π) ∫ L(l) max(n · l, 0) dl over the normals n.

        It is at most 16 texels wide. The weights of each normal are divided by their sum, so a constant environment gives exactly its
        color.
        """
        return convolved(reduced(self.texels, _IRRADIANCE_SIZE), (COSINE,))[0]

    def diffuse(self, surface: GBuffer) -> Float[Tensor, "views height width 3"]:
        return _looked_up(self.irradiance(), _turned(surface.normal, surface, self.light_from_world))

    def glossy(self, surface: GBuffer, exponent: Float[Tensor, "*#shape"]) -> Float[Tensor, "views height width 3"]:
        """Reflect like a mirror, r = 2 (n · v) n − v, for any lobe width.

        This is accurate if the environment is smoother than the lobe.
        """
        return self.radiance(_turned(_mirrored(surface), surface, self.light_from_world))

    def specular(
        self, surface: GBuffer, roughness: Float[Tensor, "views height width"], f0: Float[Tensor, "views height width 3"]
    ) -> Float[Tensor, "views height width 3"]:
        """Prefilter the environment and reflect it; keep the result of :func:`prefiltered` for more than one look."""
        return prefiltered(self).specular(surface, roughness, f0)


@dataclass(frozen=True)
class PrefilteredLight:
    """An environment with its convolutions, made by :func:`prefiltered`; it lights like the :class:`EnvironmentLight` it is made of."""

    environment: EnvironmentLight
    irradiance: Float[Tensor, "6 small small 3"]
    """(1/π) ∫ L(l) max(n · l, 0) dl."""
    roughness: tuple[float, ...]
    """Of the levels."""
    levels: tuple[tuple[CubeLevels, Float[Tensor, "6 _ _ _"]], ...]
    """Convolutions, three channels for each lobe."""

    def diffuse(self, surface: GBuffer) -> Float[Tensor, "views height width 3"]:
        return _looked_up(self.irradiance, _turned(surface.normal, surface, self.environment.light_from_world))

    def glossy(self, surface: GBuffer, exponent: Float[Tensor, "*#shape"]) -> Float[Tensor, "views height width 3"]:
        return self.environment.glossy(surface, exponent)

    def specular(
        self, surface: GBuffer, roughness: Float[Tensor, "views height width"], f0: Float[Tensor, "views height width 3"]
    ) -> Float[Tensor, "views height width 3"]:
        """Reflect by the split sum, P(r, roughness) (F0 A + B)."""
        mirrored = _turned(_mirrored(surface), surface, self.environment.light_from_world)
        return self.blurred(mirrored, roughness) * _split_sum(surface, roughness, f0)

    def blurred(
        self, directions: Float[Tensor, "views height width 3"], roughness: Float[Tensor, "views height width"]
    ) -> Float[Tensor, "views height width 3"]:
        """Look up P, the light around each direction of the cube, weighed by a lobe of GGX."""
        weights = weights_of_levels(roughness, self.roughness)
        total = weights[..., :1] * self.environment.radiance(directions)
        for cube, texels in self.levels:
            shares = weights @ torch.tensor(cube.shares, dtype=weights.dtype, device=weights.device).T
            found = _looked_up(texels, directions).unflatten(-1, (-1, 3))
            total = total + (shares[..., None] * found).sum(-2)
        return total


def prefiltered(environment: EnvironmentLight) -> PrefilteredLight:
    """Convolve an environment for all rough surfaces, once per step; gradients flow to its texels.

    The first call for a size and device takes seconds for the weights, which are kept.
    """
    roughness, cubes = levels_of(environment.texels.shape[1])
    levels = []
    irradiance = None
    for cube in cubes:
        last = cube is cubes[-1]
        found = convolved(reduced(environment.texels, cube.size), (*cube.lobes, COSINE) if last else cube.lobes)
        if last:
            irradiance, found = found[-1], found[:-1]
        levels.append((cube, found.permute(1, 2, 3, 0, 4).flatten(-2)))
    return PrefilteredLight(environment, environment.irradiance() if irradiance is None else irradiance, roughness, tuple(levels))


def _looked_up(
    texels: Float[Tensor, "6 size size channels"], directions: Float[Tensor, "views height width 3"]
) -> Float[Tensor, "views height width channels"]:
    return texture(texels[None], directions, filter="linear", boundary="cube")


def _turned(
    directions: Float[Tensor, "views height width 3"], surface: GBuffer, light_from_world: Float[Tensor, "cameras 3 3"] | None
) -> Float[Tensor, "views height width 3"]:
    """Turn directions of the world to the axes of a light that has others in every view."""
    if light_from_world is None:
        return directions
    return (light_from_world[surface.view] @ directions[..., None])[..., 0]


def _mirrored(surface: GBuffer) -> Float[Tensor, "views height width 3"]:
    along = (surface.normal * surface.to_viewer).sum(-1, keepdim=True)
    return 2 * along * surface.normal - surface.to_viewer


def _split_sum(
    surface: GBuffer, roughness: Float[Tensor, "views height width"], f0: Float[Tensor, "views height width 3"]
) -> Float[Tensor, "views height width 3"]:
    """Return F0 A + B."""
    cosine = (surface.normal * surface.to_viewer).sum(-1).clamp(SMALLEST_COSINE, 1.0)
    a, b = directional_albedo(cosine, roughness)
    return f0 * a[..., None] + b[..., None]


def _cosine(surface: GBuffer, towards: Float[Tensor, "views height width 3"]) -> Float[Tensor, "views height width 1"]:
    return (surface.normal * towards).sum(-1, keepdim=True).clamp_min(0)


def _lobe(
    surface: GBuffer, towards: Float[Tensor, "views height width 3"], exponent: Float[Tensor, "*#shape"]
) -> Float[Tensor, "views height width 1"]:
    half = normalized(towards + surface.to_viewer)
    along = _cosine(surface, half)[..., 0]
    # A power of zero has an infinite slope for exponents below one, and its slope by the exponent is 0 · log 0.
    peak = torch.where(along > 0, along, 1.0) ** exponent * (along > 0)
    return ((exponent + 8) / 8 * peak)[..., None] * _cosine(surface, towards)
