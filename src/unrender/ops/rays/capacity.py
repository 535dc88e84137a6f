"""The number of rays and samples processed at once: fixed capacities on a GPU, to avoid synchronization, and exact sizes on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments
from unrender.ops.rays.checks import ray_tensors
from unrender.ops.rays.samples import Samples

MARCHED_PER_TRAINED = 8
"""Samples that a training step on a GPU may march per sample that it trains on; hidden ones are pruned in between."""

_RAYS_ON_A_CPU = 4096
_RAYS_ON_A_GPU = 1024
_FEWEST_STEPS = 512
"""Smallest capacity per ray when rendering, in samples."""


def ray_chunks(rays: Rays) -> Iterator[Rays]:
    """Cut the rays of a picture into chunks that are rendered together.

    Raises:
        ValueError: the rays are not float32 [rays, 3] on one device.
    """
    origins, directions = ray_tensors(Arguments("ray_chunks"), rays)
    size = _RAYS_ON_A_CPU if on_cpu(origins.device) else _RAYS_ON_A_GPU
    return (Rays(origins[k : k + size], directions[k : k + size]) for k in range(0, origins.shape[0], size))


def rendering_capacity(rays: Rays, samples_per_ray: int) -> int | None:
    """Return the sample capacity for one chunk of rays on a GPU, and None on a CPU.

    It is twice the steps across the cube, so that no ray is cut short: the surroundings need steps too.

    Raises:
        ValueError: the rays are not float32 [rays, 3] on one device, or ``samples_per_ray`` is not a positive integer.
    """
    takes = Arguments("rendering_capacity")
    origins, _ = ray_tensors(takes, rays)
    takes.integer(samples_per_ray, "samples_per_ray", 1)
    return None if on_cpu(origins.device) else origins.shape[0] * 2 * max(samples_per_ray, _FEWEST_STEPS)


def samples_taken(trained: Samples, marched: Samples, device: torch.device) -> Int[Tensor, " 1"]:
    """Return the sample count of a step that determines the number of rays of the next.

    Returns:
        The number of samples trained on or, on a GPU, the used share of the marching capacity, whichever is larger.

    Raises:
        ValueError: an argument is of another class.
    """
    takes = Arguments("samples_taken")
    takes.instance(trained, "trained", Samples)
    takes.instance(marched, "marched", Samples)
    takes.instance(device, "device", torch.device)
    if on_cpu(device):
        return trained.used()
    return torch.maximum(trained.used(), marched.used() // MARCHED_PER_TRAINED)
