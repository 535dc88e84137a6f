"""Meshes and projections that the tests of rasterization share."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def perspective(field_of_view: float = 0.8, aspect: float = 1.0, near: float = 0.1, far: float = 100.0) -> Tensor:
    """Return clip_from_camera of a camera that looks along +z with y down. The angle is in radians."""
    f = 1.0 / math.tan(0.5 * field_of_view)
    return torch.tensor(
        [
            [f / aspect, 0.0, 0.0, 0.0],
            [0.0, f, 0.0, 0.0],
            [0.0, 0.0, (far + near) / (far - near), -2.0 * far * near / (far - near)],
            [0.0, 0.0, 1.0, 0.0],
        ]
    )


def turned(yaw: float, pitch: float, distance: float) -> Tensor:
    """Return camera_from_world: the world turned about y, then about x, and shifted along the camera's z."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    about_y = torch.tensor([[cy, 0.0, sy, 0.0], [0.0, 1.0, 0.0, 0.0], [-sy, 0.0, cy, 0.0], [0.0, 0.0, 0.0, 1.0]])
    about_x = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, cp, -sp, 0.0], [0.0, sp, cp, 0.0], [0.0, 0.0, 0.0, 1.0]])
    away = torch.eye(4)
    away[2, 3] = distance
    return away @ about_x @ about_y


def in_clip_space(vertices: Tensor, clip_from_world: Tensor) -> Tensor:
    """Transform points [..., vertices, 3] by one matrix [4, 4] or several [views, 4, 4]."""
    points = torch.cat([vertices, torch.ones_like(vertices[..., :1])], dim=-1)
    return points @ clip_from_world.mT


def cube() -> tuple[Tensor, Tensor]:
    """Make eight vertices at ±½ and twelve triangles, counter-clockwise from outside."""
    vertices = torch.tensor([[x, y, z] for z in (-0.5, 0.5) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
    sides = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5)]
    faces = [face for a, b, c, d in sides for face in ((a, b, c), (a, c, d))]
    return vertices, torch.tensor(faces, dtype=torch.int32)


@lru_cache
def sphere(subdivisions: int = 2, radius: float = 1.0) -> tuple[Tensor, Tensor]:
    """Split and inflate an octahedron into 8 · 4^subdivisions triangles, counter-clockwise from outside."""
    points: list[tuple[float, float, float]] = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    faces = [(0, 2, 4), (2, 1, 4), (1, 3, 4), (3, 0, 4), (2, 0, 5), (1, 2, 5), (3, 1, 5), (0, 3, 5)]
    for _ in range(subdivisions):
        middles: dict[tuple[int, int], int] = {}

        def middle(i: int, j: int, middles: dict[tuple[int, int], int] = middles) -> int:
            edge = (min(i, j), max(i, j))
            if edge not in middles:
                x, y, z = (points[i][k] + points[j][k] for k in range(3))
                length = math.sqrt(x * x + y * y + z * z)
                points.append((x / length, y / length, z / length))
                middles[edge] = len(points) - 1
            return middles[edge]

        split = []
        for a, b, c in faces:
            ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
            split += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        faces = split
    return radius * torch.tensor(points), torch.tensor(faces, dtype=torch.int32)


def random_closed_meshes(count: int, seed: int = 0, subdivisions: int = 1) -> tuple[Tensor, Tensor]:
    """Make vertices [count, vertices, 3] of closed surfaces and the faces they share.

    Their vertices lie anywhere: a surface may cut through itself, and its triangles are of all sizes and shapes.
    """
    generator = torch.Generator().manual_seed(seed)
    vertices, faces = sphere(subdivisions)
    vertices = vertices.expand(count, -1, -1)
    return vertices * torch.rand(vertices.shape, generator=generator) + 0.3 * torch.randn(vertices.shape, generator=generator), faces


def orthographic_square(cells: int, seed: int | None = None) -> tuple[Tensor, Tensor]:
    """Cut the square [-1, 1]² into 2 · cells² triangles; a seed shifts inner vertices, varies w and mixes diagonals."""
    steps = torch.linspace(-1, 1, cells + 1)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)], dim=-1)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    if generator is not None:
        inner = torch.zeros_like(points[..., :2])
        inner[1:-1, 1:-1] = (torch.rand(cells - 1, cells - 1, 2, generator=generator) - 0.5) * (0.9 / cells)
        points[..., :2] += inner
        points = points * (0.5 + 2 * torch.rand(cells + 1, cells + 1, 1, generator=generator))
    corner = torch.arange((cells + 1) ** 2, dtype=torch.int32).view(cells + 1, cells + 1)
    a, b, c, d = corner[:-1, :-1].flatten(), corner[:-1, 1:].flatten(), corner[1:, 1:].flatten(), corner[1:, :-1].flatten()
    other = torch.zeros_like(a, dtype=torch.bool) if generator is None else torch.rand(a.shape, generator=generator) < 0.5
    first = torch.where(other[:, None], torch.stack([a, b, d], 1), torch.stack([a, b, c], 1))
    second = torch.where(other[:, None], torch.stack([b, c, d], 1), torch.stack([a, c, d], 1))
    return points.view(-1, 4), torch.cat([first, second])
