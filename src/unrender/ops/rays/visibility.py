"""Visibility of samples: transmittance along rays, and pruning of hidden samples.

With opacities α_k, the transmittance is T_{k+1} = T_k (1 - α_k). A ray ends at the first sample with T_k ≤ threshold; the samples before it
are visible. Not differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.launch import launch
from unrender.ops.rays.ray_ranges import ray_range
from unrender.ops.rays.samples import SampleArrays, Samples, arguments_of, chunk_count, per_sample, span

wp.set_module_options({"enable_backward": False})

_PORTIONS = (0.25, 0.5, 1.0)
"""Shares of its samples up to which each ray is evaluated in turn. Most rays end in the first half."""

Opacity = Callable[[Samples], Float[Tensor, " samples"]]
"""Returns the opacity of each given interval, from 0 to 1."""


@no_type_check
@wp.kernel
def _attenuate_kernel(
    first: int,
    samples: SampleArrays,
    alpha: wp.array(dtype=wp.float32),
    threshold: float,
    alpha_threshold: float,
    transmittance: wp.array(dtype=wp.float32),
    visible_count: wp.array(dtype=wp.int32),
    visible: wp.array(dtype=wp.uint8),
):
    """Walk along a ray until it ends. ``visible`` may be empty; else it marks samples more opaque than ``alpha_threshold``."""
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    light = transmittance[ray]
    marking = visible.shape[0] > 0
    number = int(0)
    for i in range(begin, end):
        if light <= threshold:
            break
        if marking and alpha[i] > alpha_threshold:
            visible[i] = wp.uint8(1)
        light = light * (1.0 - alpha[i])
        number += 1
    transmittance[ray] = light
    visible_count[ray] = number


@torch.no_grad()
def visible(
    samples: Samples, alpha: Float[Tensor, " samples"], *, threshold: float = 1e-4, alpha_threshold: float = 0.0
) -> Bool[Tensor, " samples"]:
    """Mark the visible samples: T_k > threshold and α_k > alpha_threshold.

    Used in a pass without gradients; the samples that :func:`prune` keeps are then evaluated again with gradients.

    Args:
        samples: the intervals.
        alpha: opacity in [0, 1] of each.
        threshold: transmittance at which a ray ends.
        alpha_threshold: opacity up to which a sample is dropped; it still attenuates later samples.

    Raises:
        ValueError: there is not one opacity per sample, or its type or device is wrong.

    >>> import torch
    >>> two = Samples(torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([2], dtype=torch.int32))
    >>> visible(two, torch.tensor([1.0, 0.5])).tolist()
    [True, False]
    """
    takes = arguments_of("visible", samples)
    alpha = per_sample(takes, alpha, "alpha", samples)
    threshold, alpha_threshold = takes.number(threshold, "threshold"), takes.number(alpha_threshold, "alpha_threshold")
    flags = torch.zeros(alpha.shape[0], dtype=torch.uint8, device=alpha.device)
    _walk(samples, alpha, torch.ones(samples.count.shape[0], device=alpha.device), threshold, alpha_threshold, flags)
    return flags.view(torch.bool)


@torch.no_grad()
def attenuate(
    samples: Samples, alpha: Float[Tensor, " samples"], light: Float[Tensor, " rays"], *, threshold: float
) -> tuple[Float[Tensor, " rays"], Int[Tensor, " rays"]]:
    """Return the transmittance at the end of each ray, and its number of visible samples.

    Args:
        samples: the intervals.
        alpha: opacity in [0, 1] of each.
        light: transmittance in front of each ray's first sample.
        threshold: transmittance at which a ray ends.

    Returns:
        The transmittance, and the int32 number of samples.

    Raises:
        ValueError: there is not one opacity per sample and one light per ray, or a type or device is wrong.

    >>> import torch
    >>> one = Samples(torch.zeros(3, dtype=torch.int32), torch.arange(3.0), torch.arange(3.0) + 1,
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([3], dtype=torch.int32))
    >>> [x.tolist() for x in attenuate(one, torch.tensor([0.5, 0.75, 0.9]), torch.ones(1), threshold=0.2)]
    [[0.125], [2]]
    """
    takes = arguments_of("attenuate", samples)
    alpha = per_sample(takes, alpha, "alpha", samples)
    light = takes.float32(light, "light", ((samples.count.shape[0], "rays"),)).contiguous()
    threshold = takes.number(threshold, "threshold")
    return _walk(samples, alpha, light.clone(), threshold, 0.0, torch.empty(0, dtype=torch.uint8, device=alpha.device))


@torch.no_grad()
def attenuate_lazily(samples: Samples, opacity: Opacity, *, threshold: float) -> tuple[Float[Tensor, " rays"], Int[Tensor, " rays"]]:
    """Apply :func:`attenuate` with light one, computing opacities only as far as needed.

    On a CPU the field is evaluated in portions of each ray, and only on rays that have not ended. On a GPU, where counting these would
    synchronize, it is evaluated for all samples at once.

    Args:
        samples: the intervals.
        opacity: of the field.
        threshold: transmittance at which a ray ends.

    Raises:
        ValueError: the tensors of the samples do not match, or ``opacity`` does not return one value per sample.
    """
    takes = arguments_of("attenuate_lazily", samples)
    takes.function(opacity, "opacity")
    threshold = takes.number(threshold, "threshold")
    light = torch.ones(samples.count.shape[0], device=samples.starts.device)
    if not on_cpu(samples.starts.device):
        return attenuate(samples, opacity(samples), light, threshold=threshold)
    evaluated = visible_count = torch.zeros_like(samples.count)
    for portion in _PORTIONS:
        until = torch.where(light > threshold, (samples.count * portion).ceil().int(), evaluated)
        part = ray_range(samples, evaluated, until)
        light, more = attenuate(part, opacity(part), light, threshold=threshold)
        visible_count, evaluated = visible_count + more, until
    return light, visible_count


def prune_hidden(samples: Samples, opacity: Opacity, *, threshold: float, capacity: int) -> Samples:
    """Pack the visible samples, in the same order.

    Args:
        samples: the intervals.
        opacity: of the field.
        threshold: transmittance at which a ray ends.
        capacity: length of the arrays returned on a GPU; on a CPU they are as long as needed.
    """
    takes = arguments_of("prune_hidden", samples)
    takes.integer(capacity, "capacity", 0)
    _, visible_count = attenuate_lazily(samples, opacity, threshold=threshold)
    capacity_here = None if on_cpu(visible_count.device) else capacity
    return ray_range(samples, torch.zeros_like(visible_count), visible_count, capacity=capacity_here)


def _walk(samples: Samples, alpha: Tensor, light: Tensor, threshold: float, alpha_threshold: float, flags: Tensor) -> tuple[Tensor, Tensor]:
    """Launch the walk, which changes ``light`` and ``flags``, and return the light and the number of visible samples."""
    visible_count = torch.zeros_like(samples.count)
    arguments = [samples.arrays, alpha, threshold, alpha_threshold, light, visible_count, flags]
    launch(_attenuate_kernel, light.shape[0], arguments, alpha.device, chunks=chunk_count(samples))
    return light, visible_count
