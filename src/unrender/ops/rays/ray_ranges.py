"""Repacking of chosen samples, or of a range of ranks on each ray.

The rank of a sample is its number on its own ray, 0 for the nearest.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Bool, Int
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import as_int32
from unrender.ops.kernels.launch import launch
from unrender.ops.rays.checks import checked_capacity
from unrender.ops.rays.samples import SampleArrays, Samples, allocate_samples, arguments_of, chunk_count, copy_sample, span

wp.set_module_options({"enable_backward": False})


@no_type_check
@wp.kernel
def _keep_count_kernel(
    first: int,
    samples: SampleArrays,
    keep: wp.array(dtype=wp.uint8),
    kept: wp.array(dtype=wp.int32),
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    total = int(0)
    for i in range(begin, end):
        if keep[i] != wp.uint8(0):
            total += 1
    kept[ray] = total


@no_type_check
@wp.kernel
def _keep_kernel(first: int, samples: SampleArrays, keep: wp.array(dtype=wp.uint8), kept: SampleArrays):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    out, stop = span(kept, ray)
    for i in range(begin, end):
        # A ray that did not fit into the capacity has no room, whatever it keeps.
        if keep[i] != wp.uint8(0) and out < stop:
            copy_sample(samples, i, kept, out, ray)
            out += 1


@no_type_check
@wp.kernel
def _range_kernel(first: int, samples: SampleArrays, begin: wp.array(dtype=wp.int32), part: SampleArrays):
    ray = first + wp.tid()
    source = samples.first[ray] + begin[ray]
    target, stop = span(part, ray)
    for k in range(stop - target):
        if source + k >= 0 and source + k < samples.starts.shape[0]:
            copy_sample(samples, source + k, part, target + k, ray)


@torch.no_grad()
def prune(samples: Samples, keep: Bool[Tensor, " samples"], *, capacity: int | None = None) -> Samples:
    """Pack the samples where ``keep`` holds, in the same order.

    Args:
        samples: the intervals.
        keep: one bool per sample.
        capacity: length of the arrays returned on a GPU, by default that of ``samples``; the first ray that does not fit and all later ones
        lose their samples. On a CPU the arrays are as long as needed.

    Raises:
        ValueError: there is not one bool per sample, or it is on another device, or the capacity is negative.

    >>> import torch
    >>> from unrender.ops.rays.samples import Samples
    >>> two = Samples(torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([2], dtype=torch.int32))
    >>> prune(two, torch.tensor([False, True])).starts.tolist()
    [1.0]
    """
    takes = arguments_of("prune", samples)
    device, size = samples.starts.device, samples.starts.shape[0]
    flags = takes.flags(keep, "keep", ((size, "samples"),)).contiguous().view(torch.uint8)
    if capacity is not None:
        takes.integer(capacity, "capacity", 0)
    counts = torch.zeros_like(samples.count)
    chunks = chunk_count(samples)
    launch(_keep_count_kernel, counts.shape[0], [samples.arrays, flags, counts], device, chunks=chunks)
    if on_cpu(device):
        capacity = None
    elif capacity is None:
        capacity = size
    kept = allocate_samples(counts, capacity, "prune")
    launch(_keep_kernel, counts.shape[0], [samples.arrays, flags, kept.arrays], device, chunks=chunks)
    return kept


@torch.no_grad()
def ray_range(samples: Samples, begin: Int[Tensor, " rays"], end: Int[Tensor, " rays"], *, capacity: int | None = None) -> Samples:
    """Pack the samples of rank begin ≤ k < end of each ray, in the same order. Not differentiable.

    Args:
        samples: the intervals.
        begin: at least zero.
        end: at most the ray's number of samples; a ray with end ≤ begin keeps none.
        capacity: length of the arrays returned; the first ray that does not fit and all later ones keep no samples. None fits all, which
        needs the count on the host and raises an error on a GPU.

    Raises:
        ValueError: there is not one integer per ray, or it is on another device, or the capacity is negative or missing on a GPU.

    >>> import torch
    >>> from unrender.ops.rays.samples import Samples
    >>> two = Samples(torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([2], dtype=torch.int32))
    >>> ray_range(two, torch.tensor([1], dtype=torch.int32), two.count).starts.tolist()
    [1.0]
    """
    takes = arguments_of("ray_range", samples)
    device, rays = samples.starts.device, samples.count.shape[0]
    begin = as_int32(takes.integers(begin, "begin", ((rays, "rays"),))).contiguous().clamp_min(0)
    end = as_int32(takes.integers(end, "end", ((rays, "rays"),))).minimum(samples.count)
    capacity = checked_capacity(takes, capacity)
    part = allocate_samples((end - begin).clamp_min(0), capacity, "ray_range")
    part.ray_index.fill_(-1)  # a ray may name places that the samples do not have
    part.starts.zero_()
    part.ends.zero_()
    launch(_range_kernel, rays, [samples.arrays, begin, part.arrays], device, chunks=chunk_count(samples))
    return part
