"""Cavities that no viewpoint sees into: empty space inside an object that a fit leaves where photos say nothing."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_opening, label
from torch import Tensor

from unrender.geometry.first_surface import signed_distance
from unrender.geometry.isosurface import ScalarField
from unrender.geometry.mesh import Mesh
from unrender.ops.raster import TriangleTree, cast_rays

_LATTICE = 96
"""Vertices along an axis of the lattice over [-1, 1]³."""
_ENCLOSED = 0.8
"""A region counts as a cavity if this share of its border is the inside of the object."""
_CORNER = math.sqrt(3.0)
"""Distance of the corners of the world cube from its center."""


@torch.no_grad()
def without_cavities(field: ScalarField, mesh: Mesh, viewpoints: Float[Tensor, "views 3"]) -> ScalarField:
    """Return a signed distance field in which the cavities that no viewpoint sees into are solid.

    A region of empty space is such a cavity if no straight line from a viewpoint reaches it and most of its border is the inside of the
    object, so that at most small holes lead into it. Space behind an object that all photos show from the front is none: it is open. The
    field itself is returned if there is no cavity, or if a viewpoint lies within the ball around the world cube.

    Args:
        field: signed distances, negative inside.
        mesh: its zero set.
        viewpoints: positions of the cameras.
    """
    if mesh.is_empty or len(viewpoints) == 0 or float(viewpoints.norm(dim=1).min()) <= _CORNER:
        return field
    axis = torch.linspace(-1, 1, _LATTICE, device=mesh.vertices.device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
    empty = torch.cat([field(part) > 0 for part in points.split(2**18)])
    hidden = _hidden(points, empty, mesh, viewpoints).reshape(x.shape).cpu().numpy()
    cavities = _enclosed(hidden, empty.reshape(x.shape).cpu().numpy())
    distance = signed_distance(torch.from_numpy(cavities))
    if distance is None:
        return field
    filled = distance.to(points)[None, None]

    def combined(positions: Tensor) -> Tensor:
        solid = torch.nn.functional.grid_sample(filled, positions.view(1, 1, 1, -1, 3), padding_mode="border", align_corners=True)
        return torch.minimum(field(positions), solid.view(-1))

    return combined


def _hidden(
    points: Float[Tensor, "points 3"], empty: Bool[Tensor, " points"], mesh: Mesh, viewpoints: Float[Tensor, "views 3"]
) -> Bool[Tensor, " points"]:
    """Mark the empty points within the box of the mesh that it hides from every viewpoint."""
    tree = TriangleTree(mesh.vertices, mesh.faces)
    low, high = mesh.bounding_box
    left = (empty & ((points >= low) & (points <= high)).all(1)).nonzero()[:, 0]
    order = torch.randperm(len(viewpoints), generator=torch.Generator().manual_seed(0))  # neighbors in the list see much the same
    for viewpoint in viewpoints[order.to(viewpoints.device)]:
        if len(left) == 0:
            break
        away = points[left] - viewpoint
        reach = away.norm(dim=1)
        hits = cast_rays(tree, viewpoint.expand_as(away).contiguous(), away / reach[:, None])
        left = left[hits.distance < reach]
    marked = torch.zeros_like(empty)
    marked[left] = True
    return marked


def _enclosed(hidden: Bool[np.ndarray, "Z Y X"], empty: Bool[np.ndarray, "Z Y X"]) -> Bool[np.ndarray, "Z Y X"]:
    """Keep the regions of hidden vertices of whose border most is the inside."""
    labels, count = label(binary_opening(hidden))  # pyright: ignore[reportGeneralTypeIssues]
    regions = np.asarray(labels, np.int64)
    walls, openings = np.zeros(count + 1), np.zeros(count + 1)
    for dimension in range(3):
        for region, neighbor, open_there in (
            (regions[_cut(dimension, 1)], regions[_cut(dimension, -1)], empty[_cut(dimension, -1)]),
            (regions[_cut(dimension, -1)], regions[_cut(dimension, 1)], empty[_cut(dimension, 1)]),
        ):
            border = (region > 0) & (neighbor == 0)
            walls += np.bincount(region[border & ~open_there], minlength=count + 1)
            openings += np.bincount(region[border & open_there], minlength=count + 1)
    enclosed = walls >= _ENCLOSED * (walls + openings)
    enclosed[0] = False
    return enclosed[regions]


def _cut(dimension: int, end: int) -> tuple[slice, ...]:
    """Return the index of all layers but the first (1) or the last (-1) along a dimension."""
    cut = [slice(None)] * 3
    cut[dimension] = slice(1, None) if end == 1 else slice(None, -1)
    return tuple(cut)
