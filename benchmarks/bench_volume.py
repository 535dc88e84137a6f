"""Marching, weights and compositing on packed samples, against the same formulas in eager PyTorch."""

from __future__ import annotations

import torch
from harness import Row, compare
from torch import Tensor
from torch.nn.functional import normalize

from unrender.cameras import Rays
from unrender.ops.rays import OccupancyGrid, Samples, composite, distortion, march, weights_from_density

STEP = 0.005


def rows(quick: bool) -> list[Row]:
    """Measure the table of this file; ``quick`` takes a quarter of the rays."""
    number = 2048 if quick else 8192
    device = torch.get_default_device()
    random = torch.Generator(device).manual_seed(0)
    capacity = None if device.type == "cpu" else 100 * number
    found = []
    for resolution in (64, 128):
        grid, rays = _shell(resolution), _inward(number, random)
        offsets = torch.rand(number, generator=random)
        samples = march(rays, grid, step=STEP, offsets=offsets, capacity=capacity)
        found.append(
            compare(
                f"march {number} rays, {resolution}³ cells, {100 * grid.occupied_fraction:.0f} % occupied, step {STEP}",
                lambda rays=rays, grid=grid, offsets=offsets: march(rays, grid, step=STEP, offsets=offsets, capacity=capacity),
                lambda rays=rays, grid=grid, offsets=offsets: _test_every_interval(rays, grid, offsets),
                peer_name="PyTorch, dense lattice",
                items=int(samples.used()),
                repeats=3 if quick else 7,
            )
        )
    samples = _exact(march(_inward(number, random), _shell(64), step=STEP, capacity=capacity))
    size = samples.starts.shape[0]
    density = (torch.rand(size, generator=random) * 20).requires_grad_()
    color = torch.rand(size, 3, generator=random).requires_grad_()
    weights = weights_from_density(density.detach(), samples).requires_grad_()
    cotangent = torch.rand(number, 3, generator=random)
    found.append(
        compare(
            "weights from density + composite, forward and backward",
            lambda: torch.autograd.grad(composite(weights_from_density(density, samples), color, samples), [density, color], cotangent),
            lambda: torch.autograd.grad(_summed(_weights(density, samples)[:, None] * color, samples), [density, color], cotangent),
            peer_name="PyTorch, cumsum and index_add",
            items=size,
        )
    )
    found.append(
        compare(
            "distortion loss, forward and backward",
            lambda: torch.autograd.grad(distortion(weights, samples).sum(), weights),
            lambda: torch.autograd.grad(_distortion(weights, samples), weights),
            peer_name="PyTorch, cumsum",
            items=size,
        )
    )
    return found


def _exact(samples: Samples) -> Samples:
    """Drop the unused tail, which the peers do not know."""
    used = int(samples.used())
    return Samples(samples.ray_index[:used], samples.starts[:used], samples.ends[:used], samples.first, samples.count)


def _shell(resolution: int) -> OccupancyGrid:
    """Return a grid with a hollow ball, at least two cells thick."""
    grid = OccupancyGrid(resolution)
    away = (grid.cell_centers().norm(dim=1) - 0.6).abs()
    grid.set_from_values((away < max(0.035, 2.0 / resolution)).float(), 0.5)
    return grid


def _inward(number: int, random: torch.Generator) -> Rays:
    origins = 3.0 * normalize(torch.randn(number, 3, generator=random), dim=1)
    targets = (torch.rand(number, 3, generator=random) * 2 - 1) * 0.9
    return Rays(origins, normalize(targets - origins, dim=1))


def _test_every_interval(rays: Rays, grid: OccupancyGrid, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return ray index and start of the intervals in occupied cells, testing all intervals in one dense array."""
    r = grid.resolution
    a, b = (-1.0 - rays.origins) / rays.directions, (1.0 - rays.origins) / rays.directions
    near, far = torch.minimum(a, b).amax(dim=1).clamp_min(0.0), torch.maximum(a, b).amin(dim=1)
    longest = int(((far - near).amax() / STEP).ceil())
    starts = (near + offsets * STEP)[:, None] + STEP * torch.arange(longest)
    middles = rays.origins[:, None] + (starts + 0.5 * STEP)[..., None] * rays.directions[:, None]
    cell = ((middles + 1.0) * (0.5 * r)).long().clamp(0, r - 1)
    keep = grid.occupied()[(cell[..., 2] * r + cell[..., 1]) * r + cell[..., 0]] & (starts < far[:, None])
    ray, column = keep.nonzero(as_tuple=True)
    return ray, starts[ray, column]


def _before(values: Tensor, samples: Samples) -> Tensor:
    """Add up the samples in front, on the same ray."""
    total = values.cumsum(0) - values
    return total - total[samples.first.long().clamp_max(values.shape[0] - 1)][samples.ray_index.long()]


def _weights(density: Tensor, samples: Samples) -> Tensor:
    depth = density * samples.lengths
    return torch.exp(-_before(depth, samples)) * (1.0 - torch.exp(-depth))


def _summed(values: Tensor, samples: Samples) -> Tensor:
    return torch.zeros(samples.first.shape[0], values.shape[1]).index_add(0, samples.ray_index.long(), values)


def _distortion(weights: Tensor, samples: Samples) -> Tensor:
    m = samples.midpoints
    apart = 2.0 * weights * (m * _before(weights, samples) - _before(weights * m, samples))
    return (apart + weights.square() * samples.lengths / 3.0).sum()
