"""How many rays and samples are processed at once: fixed capacities on a GPU, where nothing may wait for a count, exact sizes on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import on_cpu
from unrender.ops.rays.samples import Samples

MARCHED_PER_TRAINED = 8
"""Samples that a training step on a GPU may march for each that it trains on; the hidden ones are pruned in between."""

_RAYS_ON_A_CPU = 4096
_RAYS_ON_A_GPU = 1024
_FEWEST_STEPS = 512
"""Samples of a ray that there is always room for when rendering."""


def ray_chunks(rays: Rays) -> Iterator[Rays]:
    """Cut the rays of a picture into chunks that are rendered together."""
    size = _RAYS_ON_A_CPU if on_cpu(rays.origins.device) else _RAYS_ON_A_GPU
    for k in range(0, rays.origins.shape[0], size):
        yield Rays(rays.origins[k : k + size].contiguous(), rays.directions[k : k + size].contiguous())


def rendering_capacity(rays: Rays, samples_per_ray: int) -> int | None:
    """Return the sample capacity for one chunk of rays on a GPU, and None on a CPU.

    It is twice the steps across the cube, so that no ray of a picture is cut short: what surrounds the cube needs steps, too.
    """
    return None if on_cpu(rays.origins.device) else rays.origins.shape[0] * 2 * max(samples_per_ray, _FEWEST_STEPS)


def samples_taken(trained: Samples, marched: Samples, device: torch.device) -> Int[Tensor, " 1"]:
    """Count the samples of a step as they bear on the number of rays of the next one.

    Returns:
        The samples trained on or, on a GPU, the share of the marching capacity that is used up, whichever is more.
    """
    if on_cpu(device):
        return trained.used()
    return torch.maximum(trained.used(), marched.used() // MARCHED_PER_TRAINED)
