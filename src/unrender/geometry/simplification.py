"""Fewer triangles within a distance of the original surface."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unrender.geometry.distances import points_to_mesh_distance
from unrender.geometry.mesh import Mesh

_POINTS = 2_000
"""Vertices, and random points, of each surface at which the distance is measured."""

_CLOSE_ENOUGH = 1.2
"""The search ends when the number of triangles is known to this factor."""


def simplified_within(mesh: Mesh, distance: float, *, faces: int = 4) -> Mesh:
    """Return the mesh with as few triangles as stay within a distance of the original.

    The distance is measured both ways, at 2,000 vertices and 2,000 random points, so the new surface does not stray, and no part of the
    old one is lost. The number of triangles is found by bisection. A mesh that cannot be simplified so is returned unchanged.

    Args:
        mesh: without texture coordinates.
        distance: in the units of the vertices.
        faces: never fewer triangles than about these.

    Raises:
        ValueError: the distance is not positive, or see :meth:`~unrender.geometry.mesh.Mesh.simplified`.
    """
    if not distance > 0:
        raise ValueError(f"a mesh cannot be simplified within {distance}; give a positive distance")
    best, found = mesh, mesh.simplified(faces)
    if _within(found, mesh, distance):
        return found
    low, high = max(faces, len(found.faces), 4), len(mesh.faces)
    while high > _CLOSE_ENOUGH * low:
        count = math.isqrt(low * high)
        found = mesh.simplified(count)
        if _within(found, mesh, distance):
            best, high = found, count
        else:
            low = count
    return best


def _within(small: Mesh, full: Mesh, distance: float) -> bool:
    if small.is_empty:
        return False
    generator = torch.Generator().manual_seed(0)
    pairs = ((small, full), (full, small))
    return all(bool((points_to_mesh_distance(_points(one, generator), other) <= distance).all()) for one, other in pairs)


def _points(mesh: Mesh, generator: torch.Generator) -> Tensor:
    vertices = mesh.vertices.detach()
    if len(vertices) > _POINTS:
        vertices = vertices[torch.randperm(len(vertices), generator=generator)[:_POINTS].to(vertices.device)]
    return torch.cat([vertices, mesh.sample_surface(_POINTS, generator)[0].detach()])
