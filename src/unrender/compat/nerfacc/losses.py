"""The distortion loss of mip-NeRF 360, in time linear in the samples."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.compat.nerfacc.pack import pack_info
from unrender.ops import rays


def distortion(
    weights: Float[Tensor, "*shape"],
    t_starts: Float[Tensor, "*shape"],
    t_ends: Float[Tensor, "*shape"],
    ray_indices: Int[Tensor, " samples"] | None = None,
    n_rays: int | None = None,
) -> Float[Tensor, "rays 1"]:
    """Compute Σ_ij w_i w_j |m_i - m_j| + 1/3 Σ_i w_i² δ_i of each ray; see :func:`unrender.ops.rays.distortion`.

    Args:
        weights: of the samples, ``[rays, samples]`` or packed ``[samples]``.
        t_starts: distance where each interval begins.
        t_ends: distance where it ends.
        ray_indices: ray of each packed sample, ascending.
        n_rays: number of rays, with ``ray_indices``.
    """
    if ray_indices is None:
        count, columns = weights.shape
        ray_indices, n_rays = torch.arange(count, device=weights.device).repeat_interleave(columns), count
    first, counts = pack_info(ray_indices, n_rays).unbind(1)
    samples = rays.Samples(ray_indices.int(), t_starts.detach().flatten(), t_ends.detach().flatten(), first, counts)
    return rays.distortion(weights.flatten(), samples)[:, None]
