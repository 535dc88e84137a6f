"""Rasterization against its PyTorch twin, and images per second by resolution and number of triangles.

For comparison: on a similar machine with two cores PyTorch3D 0.7.9 takes 3.9 s to rasterize the 5,856 triangles of the mesh "spot" at
512 x 512 (forward). It is not a dependency, so its time is quoted instead of measured.
"""

from __future__ import annotations

import math

import torch
from harness import Row, compare, measure
from torch import Tensor

from unrender.ops.raster import rasterize
from unrender.reference.rasterize import rasterize as twin


def rows(quick: bool) -> list[Row]:
    """Compare with the twin at a small size, then measure larger meshes and pictures alone."""
    repeats = 3 if quick else 7
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    results = [_against_the_twin(generator, repeats)]
    for triangles in (5_000,) if quick else (5_000, 50_000, 1_000_000):
        positions, faces = _bumpy_sphere(triangles)
        for side in (256, 512) if quick else (256, 512, 1024, 2048):
            name = f"rasterize {faces.shape[0]:,} triangles, {side}²"
            grad_weights = torch.randn(1, side, side, 2, generator=generator)
            results.append(measure(f"{name}, forward", _forward(positions, faces, side), items=1, repeats=repeats))
            results.append(
                measure(
                    f"{name}, forward + backward", _forward_and_backward(positions, faces, side, grad_weights), items=1, repeats=repeats
                )
            )
    return results


def _against_the_twin(generator: torch.Generator, repeats: int) -> Row:
    positions, faces = _bumpy_sphere(500)
    grad_weights = torch.randn(1, 128, 128, 2, generator=generator)
    return compare(
        f"rasterize {faces.shape[0]:,} triangles, 128², forward + backward",
        _forward_and_backward(positions, faces, 128, grad_weights),
        lambda: torch.autograd.grad(twin(positions, faces, (128, 128)).barycentrics, positions, grad_weights),
        peer_name="PyTorch twin",
        items=1,
        repeats=repeats,
    )


def _forward(positions: Tensor, faces: Tensor, side: int):
    return lambda: rasterize(positions, faces, (side, side))


def _forward_and_backward(positions: Tensor, faces: Tensor, side: int, grad_weights: Tensor):
    return lambda: torch.autograd.grad(rasterize(positions, faces, (side, side)).barycentrics, positions, grad_weights)


def _bumpy_sphere(triangles: int) -> tuple[Tensor, Tensor]:
    """Return a sphere with bumps that partly hide each other; it covers a third of the picture."""
    around = max(3, round(math.sqrt(triangles)))
    down = max(2, round(triangles / (2 * around)) + 1)
    polar = torch.linspace(0.0, math.pi, down)[:, None]
    azimuth = (2 * math.pi / around) * torch.arange(around)
    radius = 1 + 0.15 * torch.sin(9 * polar) * torch.sin(8 * azimuth)
    x, y, z = radius * polar.sin() * azimuth.cos(), radius * polar.cos().expand(down, around), radius * polar.sin() * azimuth.sin()
    w = z + 3.0
    near, far, focal = 0.1, 10.0, 2.0
    depth = (far + near) / (far - near) * w - 2 * far * near / (far - near)
    positions = torch.stack([focal * x, focal * y, depth, w], dim=-1).reshape(1, -1, 4)
    index = torch.arange(down * around).view(down, around)
    a, b = index[:-1], index[:-1].roll(-1, 1)
    c, d = index[1:], index[1:].roll(-1, 1)
    faces = torch.cat([torch.stack([a, b, d], -1).view(-1, 3), torch.stack([a, d, c], -1).view(-1, 3)])
    return positions.contiguous().requires_grad_(), faces.int()
