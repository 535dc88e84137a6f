"""How many rays and samples at once: fixed capacities on a GPU, where nothing may wait for a count, and exact sizes on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import on_cpu
from unrender.ops.rays.samples import Samples

MARCHED_PER_TRAINED = 8
"""A step on a GPU marches at most this many times the samples it trains on, and drops those nobody sees."""

_RAYS_ON_A_CPU = 4096
_RAYS_ON_A_GPU = 1024


def ray_chunks(rays: Rays) -> Iterator[Rays]:
    """The rays of a picture, as many at a time as are looked at together."""
    size = _RAYS_ON_A_CPU if on_cpu(rays.origins.device) else _RAYS_ON_A_GPU
    for k in range(0, rays.origins.shape[0], size):
        yield Rays(rays.origins[k : k + size].contiguous(), rays.directions[k : k + size].contiguous())


def rendering_capacity(rays: Rays, samples_per_ray: int) -> int | None:
    """Room for every sample of a piece, since no ray of a picture may lose any: twice the steps across the cube, for what surrounds it."""
    return None if on_cpu(rays.origins.device) else rays.origins.shape[0] * 2 * max(samples_per_ray, 512)


def samples_taken(trained: Samples, marched: Samples, device: torch.device) -> Int[Tensor, 1]:
    """What the number of rays adapts to: the samples trained on and, on a GPU, the share of the marching capacity that is used up."""
    if on_cpu(device):
        return trained.used()
    return torch.maximum(trained.used(), marched.used() // MARCHED_PER_TRAINED)
