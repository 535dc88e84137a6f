"""Search along rays, and samples from a piecewise linear distribution."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.compat.nerfacc.data_specs import RayIntervals, RaySamples


@torch.no_grad()
def searchsorted(
    sorted_sequence: RayIntervals | RaySamples, values: RayIntervals | RaySamples
) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"]]:
    """Find between which numbers of the same ray each value lies.

    Args:
        sorted_sequence: ascending numbers of each ray.
        values: what to look for, on the same rays; both are tables, or both are packed.

    Returns:
        indices of the last number at most as large, and of the next one: into the rows of a table, or into the packed array. Both are those
        of the first (last) number of the ray for a value before (beyond) all.

    >>> left, right = searchsorted(RayIntervals(torch.tensor([[0.0, 1.0, 2.0]])), RayIntervals(torch.tensor([[0.5, 1.0, 9.0]])))
    >>> left.tolist(), right.tolist()
    ([[0, 1, 2]], [[1, 2, 2]])
    """
    if sorted_sequence.packed_info is None:
        right = torch.searchsorted(sorted_sequence.vals.contiguous(), values.vals.contiguous(), right=True)
        last = sorted_sequence.vals.shape[-1] - 1
        return (right - 1).clamp(0, last), right.clamp(0, last)
    rays = values.ray_indices
    if rays is None:
        if values.packed_info is None:
            raise ValueError("searchsorted takes two tables or two packed arrays, got a packed array and a table")
        rays = torch.repeat_interleave(torch.arange(len(values.packed_info), device=values.device), values.packed_info[:, 1])
    first, count = sorted_sequence.packed_info[rays].unbind(1)
    low, high = first, first + count
    for _ in range(int(sorted_sequence.packed_info[:, 1].max()).bit_length() if len(rays) else 0):
        middle = (low + high) // 2
        below = (low < high) & (sorted_sequence.vals[middle.clamp_max(len(sorted_sequence.vals) - 1)] <= values.vals)
        low, high = torch.where(below, middle + 1, low), torch.where(below, high, torch.maximum(middle, low))
    last = first + (count - 1).clamp_min(0)
    return torch.minimum(torch.maximum(low - 1, first), last), torch.minimum(torch.maximum(low, first), last)


@torch.no_grad()
def importance_sampling(
    intervals: RayIntervals,
    cdfs: Float[Tensor, "*shape"],
    n_intervals_per_ray: Int[Tensor, " rays"] | int,
    stratified: bool = False,
) -> tuple[RayIntervals, RaySamples]:
    """Draw samples of each ray from a distribution that is linear between edges.

    Sample k of n lies where the distribution reaches (k + 1/2) / n of the way from its first to its last value; ``stratified`` draws one
    shift in [0, 1) for all samples of a ray instead of 1/2. The edges of the new intervals are halfway between samples; the outermost are
    as far on the other side, at most at the ends of the ray.

    Args:
        intervals: edges, a table or packed.
        cdfs: the distribution at each edge, ascending on each ray.
        n_intervals_per_ray: number of samples; one for all rays gives tables, one for each ray packed arrays.
        stratified: whether to draw at random.

    Returns:
        intervals, of one edge more than samples, and samples.

    >>> edges, samples = importance_sampling(RayIntervals(torch.tensor([[0.0, 4.0]])), torch.tensor([[0.0, 1.0]]), 2)
    >>> edges.vals.tolist(), samples.vals.tolist()
    ([[0.0, 2.0, 4.0]], [[1.0, 3.0]])
    """
    packing = intervals.packed_info
    rays = intervals.vals.shape[0] if packing is None else len(packing)
    device = intervals.device
    if isinstance(n_intervals_per_ray, int):
        counts = torch.full((rays,), n_intervals_per_ray, device=device)
    else:
        counts = n_intervals_per_ray.long()
    if packing is None:
        columns = intervals.vals.shape[1]
        packing = torch.stack([torch.arange(rays, device=device) * columns, torch.full((rays,), columns, device=device)], dim=1)
    edges, heights = intervals.vals.flatten(), cdfs.flatten()
    ray = torch.repeat_interleave(torch.arange(rays, device=device), counts)
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(ray), device=device) - first[ray]
    shift = torch.rand(rays, device=device, dtype=edges.dtype) if stratified else edges.new_full((rays,), 0.5)
    lowest, highest = packing[:, 0], packing[:, 0] + packing[:, 1] - 1
    low, high = heights[lowest], heights[highest]
    wanted = low[ray] + (rank + shift[ray]) / counts[ray] * (high - low)[ray]
    table = RayIntervals(heights, packing)
    left, right = searchsorted(table, RaySamples(wanted, ray_indices=ray))
    rise = heights[right] - heights[left]
    share = torch.where(rise > 0.0, (wanted - heights[left]) / torch.where(rise > 0.0, rise, 1.0), 0.5)
    places = edges[left] + share * (edges[right] - edges[left])
    borders = _borders(places, ray, rank, counts, edges[lowest], edges[highest])
    if isinstance(n_intervals_per_ray, int):
        return RayIntervals(borders.view(rays, -1)), RaySamples(places.view(rays, -1))
    samples = RaySamples(places, torch.stack([first, counts], dim=1), ray, torch.ones_like(ray, dtype=torch.bool))
    with_borders = counts + (counts > 0)
    starts = with_borders.cumsum(0) - with_borders
    border_ray = torch.repeat_interleave(torch.arange(rays, device=device), with_borders)
    border_rank = torch.arange(len(border_ray), device=device) - starts[border_ray]
    is_left, is_right = border_rank < counts[border_ray], border_rank > 0
    return RayIntervals(borders, torch.stack([starts, with_borders], dim=1), border_ray, is_left, is_right), samples


def _borders(places: Tensor, ray: Tensor, rank: Tensor, counts: Tensor, least: Tensor, greatest: Tensor) -> Tensor:
    """Return the edges between samples, packed: one more than samples on each ray that has some."""
    if len(places) == 0:
        return places
    is_first, is_last = rank == 0, rank == counts[ray] - 1
    after = torch.cat([places[1:], places[-1:]])
    before = torch.cat([places[:1], places[:-1]])
    single = is_first & is_last
    upper = torch.where(is_last, torch.minimum(places + 0.5 * (places - before), greatest[ray]), 0.5 * (places + after))
    lower = torch.maximum(places - 0.5 * (after - places), least[ray])
    upper, lower = torch.where(single, greatest[ray], upper), torch.where(single, least[ray], lower)
    pairs = torch.stack([lower, upper], dim=1)
    return pairs[torch.stack([is_first, torch.ones_like(is_first)], dim=1)]
