"""Lights, and the radiance that a white surface reflects of each.

The unit of a light is the radiance it causes: color (1, 1, 1) makes a white Lambert surface that faces the light reflect (1, 1, 1). In
physical units the irradiance is π times that. Every light has the same two functions of the surface points:

- ``diffuse``: the radiance that a white Lambert surface reflects, (1/π) ∫ L(l) max(n · l, 0) dl;
- ``glossy``: the radiance that a white Blinn-Phong surface reflects, ∫ L(l) f(l) max(n · l, 0) dl, with h the direction halfway between
  light and viewer and f = (s + 8) / (8π) max(n · h, 0)ˢ (Akenine-Möller, Haines and Hoffman, Real-Time Rendering, 3rd edition, 7.6).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from unrender.numerics import SMALLEST_LENGTH, normalized
from unrender.ops.raster import texture
from unrender.shading.gbuffer import GBuffer

_IRRADIANCE_SIZE = 16
"""Texels along an edge of the cubes in which irradiance is computed and stored: a cosine lobe is far wider."""


@dataclass(frozen=True)
class AmbientLight:
    """The same light from all directions."""

    color: Float[Tensor, " 3"]

    def diffuse(self, surface: GBuffer) -> Float[Tensor, "views height width 3"]:
        return self.color.expand_as(surface.normal)

    def glossy(self, surface: GBuffer, exponent: Float[Tensor, "*#shape"]) -> Float[Tensor, "views height width 3"]:
        """Reflect all light, for any lobe width."""
        return self.color.expand_as(surface.normal)


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

    def _arriving(self, surface: GBuffer) -> tuple[Float[Tensor, "views height width 3"], Float[Tensor, "views height width 3"]]:
        offset = self.position - surface.position
        squared_distance = (offset * offset).sum(-1, keepdim=True)
        return normalized(offset), self.color / squared_distance.clamp_min(SMALLEST_LENGTH)


@dataclass(frozen=True)
class EnvironmentLight:
    """Light from infinitely far, different in every direction: a cube map around the scene, in world axes.

    Faces are in OpenGL's order +X, −X, +Y, −Y, +Z, −Z with OpenGL's orientation of their rows and columns
    (:func:`cube_directions`).
    """

    texels: Float[Tensor, "6 size size 3"]

    def radiance(self, directions: Float[Tensor, "views height width 3"]) -> Float[Tensor, "views height width 3"]:
        """Look up the light from each direction, of any length but zero."""
        return texture(self.texels[None], directions, filter="linear", boundary="cube")

    def irradiance(self) -> Float[Tensor, "6 small small 3"]:
        """Compute the cube map of (1/π) Σ L(l) max(n · l, 0) dl over the normals n.

        It is at most 16 texels wide. The weights of each normal are divided by their sum, so a constant environment gives exactly its
        color.
        """
        texels = self.texels
        if texels.shape[1] > _IRRADIANCE_SIZE:
            texels = adaptive_avg_pool2d(texels.permute(0, 3, 1, 2), _IRRADIANCE_SIZE).permute(0, 2, 3, 1)
        size = texels.shape[1]
        with torch.autocast(texels.device.type, enabled=False):
            weights = _cosine_weights(size, texels.dtype, texels.device)
            return (weights @ texels.reshape(-1, 3)).reshape(6, size, size, 3)

    def diffuse(self, surface: GBuffer) -> Float[Tensor, "views height width 3"]:
        return texture(self.irradiance()[None], surface.normal, filter="linear", boundary="cube")

    def glossy(self, surface: GBuffer, exponent: Float[Tensor, "*#shape"]) -> Float[Tensor, "views height width 3"]:
        """Reflect like a mirror, r = 2 (n · v) n − v, for any lobe width.

        This is accurate if the environment is smoother than the lobe.
        """
        along = (surface.normal * surface.to_viewer).sum(-1, keepdim=True)
        return self.radiance(2 * along * surface.normal - surface.to_viewer)


Light = AmbientLight | DirectionalLight | PointLight | EnvironmentLight


def cube_directions(size: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Float[Tensor, "6 size size 3"]:
    """Return the direction of every texel of a cube map, on the cube [−1, 1]³ (not normalized).

    With a = 2 (column + ½) / size − 1 and b = 2 (row + ½) / size − 1 the faces +X, −X, +Y, −Y, +Z, −Z are
    (1, −b, −a), (−1, −b, a), (a, 1, b), (a, −1, −b), (a, −b, 1), (−a, −b, −1) (OpenGL 4.6 specification, table 8.19).

    >>> cube_directions(1).flatten(0, 2).abs().tolist()
    [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    """
    centers = 2 * (torch.arange(size, dtype=dtype, device=device) + 0.5) / size - 1
    b, a = torch.meshgrid(centers, centers, indexing="ij")
    one = torch.ones_like(a)
    faces = ((one, -b, -a), (-one, -b, a), (a, one, b), (a, -one, -b), (a, -b, one), (-a, -b, -one))
    return torch.stack([torch.stack(face, -1) for face in faces])


@lru_cache(maxsize=4)
def _cosine_weights(size: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "normals texels"]:
    """Return rows that sum to one: solid angle of each texel times the cosine to each normal.

    The cached result must not be an inference tensor, even if the first caller is in inference mode.
    """
    with torch.inference_mode(False):
        texels = cube_directions(size, dtype, device).reshape(-1, 3)
        solid_angle = texels.square().sum(-1) ** -1.5
        unit = normalized(texels)
        cosine = (unit @ unit.T).clamp_min(0)
        weights = cosine * solid_angle
        return weights / weights.sum(-1, keepdim=True)


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
