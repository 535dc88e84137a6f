"""Samples along rays without a grid: evenly spread ones, and more of them where a first pass found weight.

Notation, for one ray: edges t_0 <= t_1 <= ... <= t_n cut it into n intervals. A field is evaluated in the middle of each interval, and the
interval gets the weight w_i. The edges of a batch are a tensor [rays, n + 1].

Source: Mildenhall et al. 2020, "NeRF", section 5.2. There samples are points and an interval reaches from one to the next; here intervals
are drawn, as in later work (mip-NeRF), so that no length has to be made up for the last sample.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.rays import Samples

Spacing = Literal["distance", "disparity"]
"""What is divided evenly: the distance t, or its reciprocal, which makes intervals grow with the distance."""

_UNIFORM = 1e-5
"""Added to every weight, so that no interval is left out for good, and rays without weights are sampled evenly."""


def stratified_edges(
    near: Float[Tensor, " rays"],
    far: Float[Tensor, " rays"],
    count: int,
    offsets: Float[Tensor, "rays inner"] | None = None,
    *,
    spacing: Spacing = "distance",
) -> Float[Tensor, "rays edges"]:
    """Cut each ray into ``count`` intervals of even length, whose inner edges are moved at random.

    Args:
        near: where each ray begins.
        far: where it ends.
        count: number of intervals.
        offsets: random numbers in [0, 1), ``count`` - 1 for each ray, which move an inner edge by up to half an interval either way; None
            leaves the edges even.
        spacing: whether distances or disparities are even; the latter need ``near`` above zero.

    >>> one, four = torch.tensor([1.0]), torch.tensor([4.0])
    >>> stratified_edges(one, four, 3).tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    >>> stratified_edges(one, four, 3, spacing="disparity")
    tensor([[1.0000, 1.3333, 2.0000, 4.0000]])
    """
    shares = torch.arange(count + 1, device=near.device, dtype=near.dtype) / count
    shares = shares.expand(near.shape[0], count + 1)
    if offsets is not None:
        shares = shares.clone()
        shares[:, 1:-1] += (offsets - 0.5) / count
    near, far = near[:, None], far[:, None]
    if spacing == "distance":
        return near + (far - near) * shares
    return 1.0 / ((1.0 - shares) / near + shares / far)


@torch.no_grad()
def importance_samples(
    edges: Float[Tensor, "rays edges"],
    weights: Float[Tensor, "rays intervals"],
    count: int,
    offsets: Float[Tensor, "rays count"] | None = None,
) -> Float[Tensor, "rays count"]:
    """Draw distances with a density proportional to the weights, constant in each interval, by inverting its distribution.

    Args:
        edges: of the intervals.
        weights: of the intervals, 0 or more.
        count: number of distances to draw for each ray.
        offsets: random numbers in [0, 1), one in each of ``count`` even parts of the distribution; None takes the middle of each part.

    Returns:
        The distances of each ray in ascending order. Not differentiable.

    >>> edges, weights = torch.tensor([[0.0, 1.0, 2.0, 4.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    >>> importance_samples(edges, weights, 5).round(decimals=2)
    tensor([[1.1000, 1.3000, 1.5000, 1.7000, 1.9000]])
    """
    mass = weights + _UNIFORM
    cumulative = torch.cat([torch.zeros_like(mass[:, :1]), (mass / mass.sum(1, keepdim=True)).cumsum(1)], dim=1)
    parts = torch.arange(count, device=edges.device, dtype=edges.dtype)
    wanted = ((parts + (0.5 if offsets is None else offsets)) / count).expand(edges.shape[0], count).contiguous()
    after = torch.searchsorted(cumulative, wanted, right=True).clamp(1, edges.shape[1] - 1)
    low, high = cumulative.gather(1, after - 1), cumulative.gather(1, after)
    share = ((wanted - low) / (high - low)).clamp(0.0, 1.0)
    return edges.gather(1, after - 1).lerp(edges.gather(1, after), share)


def merged_edges(edges: Float[Tensor, "rays edges"], more: Float[Tensor, "rays count"]) -> Float[Tensor, "rays merged"]:
    """Return the sorted union of edges and further distances.

    >>> merged_edges(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.5, 1.5]])).tolist()
    [[0.0, 0.5, 1.5, 2.0]]
    """
    return torch.cat([edges, more], dim=1).sort(dim=1).values


def samples_between(edges: Float[Tensor, "rays edges"]) -> Samples:
    """Return the intervals between the edges as packed samples, equally many on each ray.

    >>> samples = samples_between(torch.tensor([[0.0, 1.0, 3.0], [2.0, 3.0, 4.0]]))
    >>> samples.ray_index.tolist(), samples.lengths.tolist()
    ([0, 0, 1, 1], [1.0, 2.0, 1.0, 1.0])
    """
    rays, count = edges.shape[0], edges.shape[1] - 1
    first = torch.arange(rays, dtype=torch.int32, device=edges.device) * count
    ray_index = torch.arange(rays, dtype=torch.int32, device=edges.device)[:, None].expand(rays, count).reshape(-1)
    return Samples(ray_index, edges[:, :-1].reshape(-1), edges[:, 1:].reshape(-1), first, torch.full_like(first, count))
