"""The shadow of a mesh on level ground under an environment.

For a point x of a matte plane with the normal +Z,

    s(x) = Σ V(x, l) max(l_z, 0) L(l) dl / Σ max(l_z, 0) L(l) dl

is the share of the light that arrives in spite of the mesh, for each channel: V is 0 for directions that the mesh hides. Where the light is
the same from all sides, s is the ambient occlusion. What the mesh reflects to the ground is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, pad

from unrender.geometry.mesh import Mesh
from unrender.numerics import normalized
from unrender.ops.raster import TriangleTree, occluded
from unrender.shading.cubes import cube_directions, reduced, solid_angles
from unrender.shading.lights import EnvironmentLight

_SIZE = 32
"""Texels along an edge of the cube map of directions."""
_POINTS_AT_ONCE = 8_192
_LOWEST = 1e-3
"""Smallest height of a direction above the ground."""
_NEAREST = 1e-3
"""Distance from the ground from which triangles cast shadows, as a share of the height of the mesh."""
_RIM = 0.15
"""Share of the side of the map at its borders in which the shadow fades out."""
_WINDOW = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Weights of neighbors by which the noise of the drawn directions is smoothed."""


@dataclass(frozen=True)
class GroundShadow:
    """The share of light that reaches a plane of constant z."""

    low: Float[Tensor, " 2"]
    """x and y of a corner of the square in which there is a shadow."""
    side: float
    shares: Float[Tensor, "rows columns 3"]
    """At the centers of the cells of the square; rows along y, columns along x."""

    def at(self, places: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape 3"]:
        """Look up the share at places (x, y) of the plane; 1 beyond the square."""
        inside = 2 * (places - self.low) / self.side - 1
        hidden = (1 - self.shares).permute(2, 0, 1)[None]
        found = grid_sample(hidden, inside.reshape(1, 1, -1, 2), align_corners=False)
        return 1 - found[0, :, 0].T.reshape(*places.shape[:-1], 3)


@torch.no_grad()
def ground_shadow(
    mesh: Mesh, light: EnvironmentLight, ground: float, generator: torch.Generator, *, cells: int = 192, rays: int = 128
) -> GroundShadow:
    """Cast rays from the ground around a mesh to the light.

    The directions of a point are drawn in proportion to the light that they bring, one from each of equal parts of it, and neighboring
    points are smoothed.

    Args:
        mesh: above the ground.
        light: in the axes of the world.
        ground: z of the plane.
        generator: of the directions, on the CPU.
        cells: along a side of the map, which covers the mesh and a border of twice its height.
        rays: from each point.
    """
    device = mesh.vertices.device
    low, high = mesh.bounding_box.float().unbind(0)
    height = max(float(high[2] - ground), 1e-6)
    side = float((high - low)[:2].max()) + 4 * height
    corner = 0.5 * (low + high)[:2] - 0.5 * side
    texels = reduced(light.texels, _SIZE)
    directions = cube_directions(texels.shape[1], device=device)
    across, down = (step.mean((1, 2)) for step in (directions[:, :, 1:] - directions[:, :, :-1], directions[:, 1:] - directions[:, :-1]))
    upward = normalized(directions)[..., 2].clamp_min(0)
    arriving = (texels * (upward * solid_angles(texels.shape[1], device=device))[..., None]).reshape(-1, 3)
    weights = arriving.mean(-1).double()
    shares = torch.ones(cells * cells, 3, device=device)
    if not float(weights.sum()) > 0:
        return GroundShadow(corner, side, shares.view(cells, cells, 3))
    cumulative = (weights / weights.sum()).cumsum(0)
    colors = arriving / weights[:, None].clamp_min(1e-30).float()
    places = (torch.arange(cells, device=device) + 0.5) / cells * side
    y, x = torch.meshgrid(places + corner[1], places + corner[0], indexing="ij")
    points = torch.stack([x, y, torch.full_like(x, ground)], -1).reshape(-1, 3)
    tree = TriangleTree(mesh.vertices.float(), mesh.faces)
    per_face = texels.shape[1] ** 2
    for first in range(0, len(points), _POINTS_AT_ONCE):
        some = points[first : first + _POINTS_AT_ONCE]
        draws = torch.rand(3, len(some), rays, generator=generator).to(device)
        level = (torch.arange(rays, device=device) + draws[0]).double() / rays
        texel = torch.searchsorted(cumulative, level).clamp_max(len(weights) - 1)
        face = texel // per_face
        towards = directions.reshape(-1, 3)[texel] + (draws[1] - 0.5)[..., None] * across[face] + (draws[2] - 0.5)[..., None] * down[face]
        towards = torch.cat([towards[..., :2], towards[..., 2:].clamp_min(_LOWEST)], -1)
        hidden = occluded(
            tree, some[:, None].expand_as(towards).reshape(-1, 3), towards.reshape(-1, 3), min_distance=_NEAREST * height
        ).view(len(some), rays, 1)
        brought = colors[texel]
        shares[first : first + len(some)] = (brought * ~hidden).sum(1) / brought.sum(1).clamp_min(1e-30)
    return GroundShadow(corner, side, _smoothed(shares.view(cells, cells, 3)))


def _smoothed(shares: Float[Tensor, "cells cells 3"]) -> Float[Tensor, "cells cells 3"]:
    """Average neighboring cells, and let the shadow fade out at the borders."""
    cells = shares.shape[0]
    window = torch.tensor(_WINDOW, device=shares.device)
    hidden = pad((1 - shares).permute(2, 0, 1)[:, None], (2, 2, 2, 2), mode="replicate")
    hidden = conv2d(conv2d(hidden, window.view(1, 1, 1, 5)), window.view(1, 1, 5, 1))[:, 0].permute(1, 2, 0)
    inward = torch.arange(cells, device=shares.device).add(0.5).div(cells)
    fade = (torch.minimum(inward, 1 - inward) / _RIM).clamp(0, 1)
    fade = fade * fade * (3 - 2 * fade)
    return 1 - hidden * torch.minimum(fade[:, None], fade[None])[..., None]
