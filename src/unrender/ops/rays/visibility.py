"""Which samples of a ray anybody sees, found without looking at most of those that nobody does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.rays.ray_ranges import attenuate, ray_range
from unrender.ops.rays.samples import Samples

_PORTIONS = (0.25, 0.5, 1.0)
"""How far along its samples each ray is looked at, one after the other; most are dark before half of the way."""


Opacity = Callable[[Samples], Float[Tensor, " samples"]]
"""Of each interval of the part it is given, from 0 to 1."""


def prune_hidden(samples: Samples, opacity: Opacity, *, threshold: float, capacity: int) -> Samples:
    """The samples in front of which more light than ``threshold`` is left, packed anew.

    Args:
        samples: the intervals.
        opacity: of the field.
        threshold: transmittance at which a ray ends.
        capacity: length of the arrays returned on a GPU; on a CPU they are as long as needed.
    """
    _, lit = attenuate_lazily(samples, opacity, threshold=threshold)
    return ray_range(samples, torch.zeros_like(lit), lit, capacity=None if on_cpu(lit.device) else capacity)


@torch.no_grad()
def attenuate_lazily(samples: Samples, opacity: Opacity, *, threshold: float) -> tuple[Float[Tensor, " rays"], Int[Tensor, " rays"]]:
    """The light left where each ray ends, and how many of its samples it passes: those in front of which more than ``threshold`` is left.

    On a CPU the field is asked about a portion of each ray at a time, and only on rays that are not dark by then. On a GPU, where counting
    these would stop the device, it is asked about all samples at once.

    Args:
        samples: the intervals.
        opacity: of the field.
        threshold: transmittance at which a ray ends.
    """
    light = torch.ones(samples.count.shape[0], device=samples.starts.device)
    if not on_cpu(samples.starts.device):
        return attenuate(samples, opacity(samples), light, threshold=threshold)
    reached = lit = torch.zeros_like(samples.count)
    for portion in _PORTIONS:
        until = torch.where(light > threshold, (samples.count * portion).ceil().int(), reached)
        part = ray_range(samples, reached, until)
        light, more = attenuate(part, opacity(part), light, threshold=threshold)
        lit, reached = lit + more, until
    return light, lit
