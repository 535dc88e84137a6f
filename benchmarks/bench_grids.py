"""Dense grids and the sparse optimizer against their counterparts in PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from harness import Row, compare
from torch import Tensor, nn

from unrender.ops.encodings import Adam, grid_lookup, grid_lookup_with_jacobian
from unrender.reference.grid_lookup import grid_lookup_with_jacobian as twin_with_jacobian


def rows(quick: bool) -> list[Row]:
    """Measure grid lookups, values with Jacobian, and a step of Adam on a grid."""
    repeats = 3 if quick else 7
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    points = torch.rand(2**15 if quick else 2**17, 3, generator=generator)
    return [
        *_lookups(points, generator, repeats),
        _optimizer(quick, generator, repeats),
    ]


def _lookups(points: Tensor, generator: torch.Generator, repeats: int) -> list[Row]:
    count = points.shape[0]
    grid = torch.randn(80, 80, 80, 8, generator=generator).requires_grad_()
    volume = grid.detach().permute(3, 0, 1, 2)[None].contiguous().requires_grad_()
    cotangent = torch.randn(8, count, generator=generator).t()

    def ours() -> object:
        return torch.autograd.grad(grid_lookup(points, grid), grid, cotangent)

    def peer() -> object:
        sampled = F.grid_sample(volume, points[None, None, None] * 2 - 1, align_corners=True, padding_mode="border")
        return torch.autograd.grad(sampled[0, :, 0, 0].t(), volume, cotangent)

    scalar = torch.randn(160, 160, 160, 1, generator=generator).requires_grad_()
    of_value, of_slope = torch.randn(count, 1, generator=generator), torch.randn(count, 1, 3, generator=generator)

    def surface(function) -> object:
        return torch.autograd.grad(function(points, scalar), scalar, (of_value, of_slope))

    return [
        compare(
            f"grid lookup 80³ × 8, {count:,} points, forward + backward", ours, peer, peer_name="grid_sample", items=count, repeats=repeats
        ),
        compare(
            f"distance and normal from a 160³ grid, {count:,} points, forward + backward",
            lambda: surface(grid_lookup_with_jacobian),
            lambda: surface(twin_with_jacobian),
            peer_name="PyTorch twin",
            items=count,
            repeats=repeats,
        ),
    ]


def _optimizer(quick: bool, generator: torch.Generator, repeats: int) -> Row:
    """Measure Adam with gradients in a twentieth of the entries.

    These come in runs of 256, as if a surface crossed a grid.
    """
    size = 2**20 if quick else 2**23
    touched = (torch.rand(size // 256, 1, generator=generator) < 0.05).expand(-1, 256).reshape(-1)
    gradient = torch.randn(size, generator=generator) * touched
    parameters = [nn.Parameter(torch.zeros(size)) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = gradient.clone()
    sparse = Adam(parameters[:1], lr=1e-2)
    dense = torch.optim.Adam(parameters[1:], lr=1e-2, fused=True)
    return compare(
        f"Adam, {size:,} entries, 5 % touched", sparse.step, dense.step, peer_name="torch.optim.Adam, fused", items=size, repeats=repeats
    )
