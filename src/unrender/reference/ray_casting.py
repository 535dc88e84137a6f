"""Ray casting in plain PyTorch, every ray against every triangle: the twin of :mod:`unrender.ops.raster.ray_casting`, in any float type."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TriangleTree:
    """The triangles themselves; there is no tree."""

    vertices: Float[Tensor, "vertices 3"]
    faces: Int[Tensor, "faces 3"]


@dataclass(frozen=True)
class RayHits:
    """The first triangle along every ray; distance infinity and face -1 if there is none."""

    distance: Float[Tensor, " rays"]
    face: Int[Tensor, " rays"]
    barycentrics: Float[Tensor, "rays 2"]


def cast_rays(
    tree: TriangleTree,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    *,
    min_distance: float = 0.0,
    max_distance: float | Float[Tensor, " rays"] = float("inf"),
) -> RayHits:
    """Find the nearest triangle that each ray meets (Möller and Trumbore 1997).

    t = (e₂ · q) / det, u = (s · p) / det, v = (d · q) / det with p = d × e₂, s = o − a, q = s × e₁, det = e₁ · p. Here u and v are the
    weights of the second and the third corner; the first has 1 − u − v.
    """
    rays = origins.shape[0]
    if tree.faces.shape[0] == 0 or rays == 0:
        nothing = torch.full((rays,), -1, dtype=torch.int32, device=origins.device)
        return RayHits(torch.full_like(origins[:, 0], torch.inf), nothing, torch.zeros_like(origins[:, :2]))
    d = (directions / directions.norm(dim=-1, keepdim=True))[:, None]
    a, b, c = tree.vertices[tree.faces.long()].unbind(1)
    first, second = (b - a)[None], (c - a)[None]
    p = torch.linalg.cross(d, second.expand(rays, -1, -1))
    s = origins[:, None] - a
    q = torch.linalg.cross(s, first.expand_as(s))
    determinant = (first * p).sum(-1)
    crosses = determinant.abs() > 0
    divisor = torch.where(crosses, determinant, 1.0)
    u, v = (s * p).sum(-1) / divisor, (d * q).sum(-1) / divisor
    t = (second * q).sum(-1) / divisor
    limit = torch.as_tensor(max_distance, dtype=t.dtype, device=t.device).reshape(-1, 1)
    met = crosses & (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= min_distance) & (t <= limit)
    nearest, face = torch.where(met, t, torch.inf).min(1)
    hit = nearest < torch.inf
    chosen = torch.stack([1 - u - v, u], -1).gather(1, face[:, None, None].expand(-1, 1, 2))[:, 0]
    return RayHits(nearest, torch.where(hit, face, -1).int(), torch.where(hit[:, None], chosen, 0.0))


def occluded(
    tree: TriangleTree,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    *,
    min_distance: float = 0.0,
    max_distance: float | Float[Tensor, " rays"] = float("inf"),
) -> Bool[Tensor, " rays"]:
    """Tell whether each ray meets anything."""
    return cast_rays(tree, origins, directions, min_distance=min_distance, max_distance=max_distance).face >= 0
