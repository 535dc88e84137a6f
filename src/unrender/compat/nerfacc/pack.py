"""Where the samples of each ray lie in a packed array."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from unrender.ops.kernels.checks import Arguments


@torch.no_grad()
def pack_info(ray_indices: Int[Tensor, " samples"], n_rays: int | None = None) -> Int[Tensor, "rays 2"]:
    """Compute the first sample and the number of samples of each ray.

    Args:
        ray_indices: ray of each sample, in ascending order.
        n_rays: number of rays; None takes the last ray with a sample, which the host has to read.

    Raises:
        ValueError: the indices are no integers of one dimension.

    >>> pack_info(torch.tensor([0, 0, 2]), n_rays=3).tolist()
    [[0, 2], [2, 0], [2, 1]]
    """
    rays = Arguments("pack_info").integers(ray_indices, "ray_indices", ("samples",)).long()
    if n_rays is None:
        n_rays = int(rays.max()) + 1 if len(rays) else 0
    counts = rays.new_zeros(n_rays).scatter_add_(0, rays, torch.ones_like(rays))
    return torch.stack([counts.cumsum(0) - counts, counts], dim=1)


def rays_of(packed_info: Tensor | None, ray_indices: Tensor | None, n_rays: int | None) -> Tensor | None:
    """Return the packing from either of the two descriptions; None for tables."""
    return pack_info(ray_indices, n_rays) if packed_info is None and ray_indices is not None else packed_info
