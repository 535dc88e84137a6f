"""The material of glTF 2.0: base color, metallic, roughness and normals, under any light.

With base color b, metallic m and roughness r of a point, and the normal n that its normal map gives,

    color = b (1 − m) · diffuse light + specular light with F0 = 0.04 (1 − m) + b m and roughness r,

summed over the lights (:mod:`unrender.shading.lights`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.numerics import normalized
from unrender.shading.bsdf import diffuse_and_f0
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import Light
from unrender.shading.materials import Shaded

_GRAZING = 0.1
"""Cosine to the viewer below which a shading normal turns to the triangle's own."""


class PbrValues(NamedTuple):
    """The material at every pixel."""

    base_color: Float[Tensor, "views height width 3"]
    """Linear light."""
    roughness: Float[Tensor, "views height width"]
    """Perceptual: α = roughness²."""
    metallic: Float[Tensor, "views height width"]
    normal: Float[Tensor, "views height width 3"] | None = None
    """In tangent space: +X along u, +Y against v, +Z out of the surface; of any length. None for the surface's own normal."""
    opacity: Float[Tensor, "views height width"] | None = None
    """None for an opaque surface."""


@dataclass(frozen=True)
class MetallicRoughness:
    """A dielectric or metal, matte or glossy."""

    values: Callable[[GBuffer], PbrValues]
    """Returns the material at surface points: from textures, a field in space, or anything else."""

    def __call__(self, surface: GBuffer, lights: Sequence[Light]) -> Shaded:
        found = self.values(surface)
        bent = surface if found.normal is None else replace(surface, normal=shading_normal(surface, found.normal))
        diffuse, f0 = diffuse_and_f0(found.base_color, found.metallic)
        color = torch.zeros_like(found.base_color)
        for light in lights:
            color = color + diffuse * light.diffuse(bent) + light.specular(bent, found.roughness, f0)
        opacity = torch.ones_like(found.roughness) if found.opacity is None else found.opacity
        return Shaded(color, opacity)


def shading_normal(surface: GBuffer, mapped: Float[Tensor, "views height width 3"]) -> Float[Tensor, "views height width 3"]:
    """Return the unit normals that a normal map gives.

    s = x t + y b + z n with the tangent t and b = w (n × t). Where s turns away from the viewer it becomes the normal f of the triangle:
    (1 − c) f + c s with c = min(max(s · v, 0) / 0.1, 1), normalized. A surface seen from behind turns its whole frame.

    Args:
        surface: of a mesh with tangents.
        mapped: (x, y, z), of any length.

    Raises:
        ValueError: the mesh has no tangents.
    """
    if surface.tangent is None or surface.face_normal is None:
        raise ValueError("a normal map needs a mesh with tangents: mesh.with_vertex_normals().with_tangents()")
    tangent, handedness = surface.tangent[..., :3], surface.tangent[..., 3:]
    side = 1.0 if surface.from_behind is None else torch.where(surface.from_behind, -1.0, 1.0)[..., None]
    outward = side * surface.normal
    bitangent = handedness * torch.linalg.cross(outward, tangent)
    x, y, z = mapped.split(1, dim=-1)
    bent = normalized(side * (x * tangent + y * bitangent + z * outward))
    share = ((bent * surface.to_viewer).sum(-1, keepdim=True) / _GRAZING).clamp(0, 1)
    return normalized(surface.face_normal + share * (bent - surface.face_normal))
