"""Parts of packed rays: the samples from one rank to another, and how far the light of a ray reaches.

The rank of a sample is its number on its own ray, 0 for the nearest.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.launch import launch
from unrender.ops.rays.samples import Samples, allocate_samples, chunk_count

wp.set_module_options({"enable_backward": False})


@no_type_check
@wp.kernel
def _range_kernel(
    first: int,
    begin: wp.array(dtype=wp.int32),
    source_first: wp.array(dtype=wp.int32),
    source_starts: wp.array(dtype=wp.float32),
    source_ends: wp.array(dtype=wp.float32),
    target_first: wp.array(dtype=wp.int32),
    target_count: wp.array(dtype=wp.int32),
    ray_index: wp.array(dtype=wp.int32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    source = source_first[ray] + begin[ray]
    target = target_first[ray]
    for k in range(target_count[ray]):
        ray_index[target + k] = ray
        starts[target + k] = source_starts[source + k]
        ends[target + k] = source_ends[source + k]


@no_type_check
@wp.kernel
def _attenuate_kernel(
    first: int,
    alpha: wp.array(dtype=wp.float32),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    threshold: float,
    light: wp.array(dtype=wp.float32),
    lit: wp.array(dtype=wp.int32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    left = light[ray]
    number = int(0)
    for k in range(ray_count[ray]):
        if left <= threshold:
            break
        left = left * (1.0 - alpha[begin + k])
        number += 1
    light[ray] = left
    lit[ray] = number


@torch.no_grad()
def ray_range(samples: Samples, begin: Int[Tensor, " rays"], end: Int[Tensor, " rays"], *, capacity: int | None = None) -> Samples:
    """The samples of rank begin ≤ k < end of each ray, packed anew in the same order; nothing of it is differentiated.

    Args:
        samples: the intervals.
        begin: int32, at least zero.
        end: int32, at most the ray's number of samples; a ray with end ≤ begin keeps none.
        capacity: length of the arrays returned; rays from the first that does not fit on keep no samples. None fits them all, which needs
            the count on the host and is refused on a GPU.

    Raises:
        ValueError: the capacity is missing on a GPU.
    """
    device = samples.starts.device
    if capacity is None and not on_cpu(device):
        raise ValueError("ray_range() needs a capacity on a GPU, where counting the samples would stop the device; pass capacity=...")
    part = allocate_samples((end - begin).clamp_min(0), capacity)
    launch(
        _range_kernel,
        part.count.shape[0],
        [
            *(begin.contiguous(), samples.first, samples.starts, samples.ends),
            *(part.first, part.count, part.ray_index, part.starts, part.ends),
        ],
        device,
        pieces=chunk_count(samples),
    )
    return part


@torch.no_grad()
def attenuate(
    samples: Samples, alpha: Float[Tensor, " samples"], light: Float[Tensor, " rays"], *, threshold: float
) -> tuple[Float[Tensor, " rays"], Int[Tensor, " rays"]]:
    """What is left of each ray's light behind its samples, and how many of them are seen by more light than ``threshold``.

    T_{k+1} = T_k (1 - α_k) with T_0 = light, as long as T_k > threshold.

    Args:
        samples: the intervals.
        alpha: opacity in [0, 1] of each.
        light: transmittance in front of each ray's first sample.
        threshold: transmittance at which a ray ends.

    Returns:
        the transmittance where the ray ends, and the int32 number of samples looked at until then.

    >>> import torch
    >>> one = Samples(torch.zeros(3, dtype=torch.int32), torch.arange(3.0), torch.arange(3.0) + 1,
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([3], dtype=torch.int32))
    >>> [x.tolist() for x in attenuate(one, torch.tensor([0.5, 0.75, 0.9]), torch.ones(1), threshold=0.2)]
    [[0.125], [2]]
    """
    left, lit = light.clone(), torch.zeros_like(samples.count)
    launch(
        _attenuate_kernel,
        lit.shape[0],
        [alpha.float().contiguous(), samples.first, samples.count, float(threshold), left, lit],
        left.device,
        pieces=chunk_count(samples),
    )
    return left, lit
