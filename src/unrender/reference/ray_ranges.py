"""Plain twins of ``unrender.ops.rays.ray_ranges``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unrender.ops.rays import Samples


def ray_range(samples: Samples, begin: Int[Tensor, " rays"], end: Int[Tensor, " rays"], *, capacity: int | None = None) -> Samples:
    """The samples of rank begin ≤ k < end of each ray, packed anew in the same order."""
    count = (end - begin).clamp_min(0)
    if capacity is not None:
        count = torch.where(count.cumsum(0) > capacity, 0, count)
    ray = torch.repeat_interleave(torch.arange(count.shape[0]), count.long())
    first = (count.cumsum(0) - count).int()
    rank = torch.arange(ray.shape[0]) - first[ray]
    source = samples.first[ray] + begin[ray] + rank
    tail = (0, 0 if capacity is None else capacity - ray.shape[0])
    starts, ends = F.pad(samples.starts[source], tail), F.pad(samples.ends[source], tail)
    return Samples(F.pad(ray.int(), tail, value=-1), starts, ends, first, count)


def attenuate(
    samples: Samples, alpha: Float[Tensor, " samples"], light: Float[Tensor, " rays"], *, threshold: float
) -> tuple[Float[Tensor, " rays"], Int[Tensor, " rays"]]:
    """What is left of each ray's light behind its samples, and how many of them are seen by more light than ``threshold``."""
    left, lit = light.clone(), torch.zeros_like(samples.count)
    for ray in range(light.shape[0]):
        for k in range(int(samples.count[ray])):
            if left[ray] <= threshold:
                break
            left[ray] = left[ray] * (1 - alpha[int(samples.first[ray]) + k])
            lit[ray] += 1
    return left, lit
