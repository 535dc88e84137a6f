"""Antialiasing by walking to the silhouette, against the published rule, which tests only the triangle at a pixel center.

The target is at most twice the time of the published rule. docs/antialiasing.md gives the share of a silhouette's gradient that each keeps.
"""

from __future__ import annotations

import math

import torch
from harness import Row, compare, measure
from torch import Tensor

from unrender.ops.raster import antialias, edge_topology, rasterize


def rows(quick: bool) -> list[Row]:
    """Compare the rules on spheres and a sheet of pixel-sized triangles, and measure the topology of a large mesh."""
    repeats = 3 if quick else 15
    side = 128 if quick else 512
    scenes = [("sphere", *_sphere(5_856)), ("sphere", *_sphere(100_000)), ("sheet of pixel-sized", *_sheet(round(0.8 * side)))]
    results = [_row(name, positions, faces, side, repeats) for name, positions, faces in scenes]
    _, faces = _sheet(100 if quick else 707)
    name = f"topology of {faces.shape[0]:,} triangles"
    return [*results, measure(name, lambda: edge_topology(faces), items=faces.shape[0], repeats=3)]


def _row(name: str, positions: Tensor, faces: Tensor, side: int, repeats: int) -> Row:
    generator = torch.Generator(positions.device).manual_seed(0)
    raster, topology = rasterize(positions, faces, (side, side)), edge_topology(faces)
    color, grad_result = (torch.rand(1, side, side, 3, generator=generator) for _ in range(2))
    corners = positions.clone().requires_grad_()
    color.requires_grad_()
    return compare(
        f"antialias, {name} {faces.shape[0]:,} triangles, {side}², forward + backward",
        lambda: torch.autograd.grad(antialias(color, raster, corners, faces, topology), (color, corners), grad_result),
        lambda: torch.autograd.grad(antialias(color, raster, corners, faces, topology, rule="owner"), (color, corners), grad_result),
        peer_name="owner rule",
        items=1,
        repeats=repeats,
    )


def _sphere(triangles: int) -> tuple[Tensor, Tensor]:
    """Return clip positions and faces of a closed sphere that covers half of the picture."""
    around = round(math.sqrt(triangles))
    down = round(triangles / (2 * around))
    polar = (torch.arange(down) + 0.5)[:, None] * (math.pi / down)
    azimuth = 2 * math.pi / around * torch.arange(around)
    ring = [polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin(), polar.cos().expand(down, around)]
    points = 0.8 * torch.stack(ring, dim=-1).view(-1, 3)[:, [0, 2, 1]]
    row, column = torch.meshgrid(torch.arange(down - 1), torch.arange(around), indexing="ij")
    a, b = row * around + column, row * around + (column + 1) % around
    faces = torch.cat([torch.stack([a, b, a + around], -1), torch.stack([b, b + around, a + around], -1)]).view(-1, 3)
    return torch.cat([points, torch.ones_like(points[:, :1])], dim=1)[None], faces.int()


def _sheet(cells: int) -> tuple[Tensor, Tensor]:
    """Return a slightly turned square of 2 · cells² triangles that covers two thirds of the picture."""
    steps = torch.linspace(-0.8, 0.8, cells + 1)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack([0.98 * x - 0.17 * y, 0.17 * x + 0.98 * y, torch.zeros_like(x), torch.ones_like(x)], dim=-1)
    corner = torch.arange((cells + 1) ** 2, dtype=torch.int32).view(cells + 1, cells + 1)
    a, b, c, d = corner[:-1, :-1].flatten(), corner[:-1, 1:].flatten(), corner[1:, 1:].flatten(), corner[1:, :-1].flatten()
    return points.view(1, -1, 4), torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
