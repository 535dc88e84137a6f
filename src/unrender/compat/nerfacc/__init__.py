"""The interface of nerfacc 0.5 (Li et al., "NerfAcc: Efficient Sampling Accelerates NeRFs", 2023), for tensors on a CPU or a GPU.

The functions are in modules of the same names; ``docs/neural_fields.md`` lists what is equal and what differs.

>>> import torch
>>> from unrender.compat import nerfacc
>>> starts, ends, ray = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]), torch.tensor([0, 0])
>>> weights, transmittance, alphas = nerfacc.render_weight_from_density(starts, ends, torch.tensor([1.0, 2.0]), ray_indices=ray, n_rays=1)
>>> [round(w, 4) for w in weights.tolist()], nerfacc.accumulate_along_rays(weights, ray_indices=ray, n_rays=1).shape
([0.6321, 0.3181], torch.Size([1, 1]))
"""

from __future__ import annotations

from unrender.compat.nerfacc.data_specs import RayIntervals, RaySamples
from unrender.compat.nerfacc.estimators.occ_grid import OccGridEstimator
from unrender.compat.nerfacc.estimators.prop_net import PropNetEstimator
from unrender.compat.nerfacc.grid import ray_aabb_intersect, traverse_grids
from unrender.compat.nerfacc.losses import distortion
from unrender.compat.nerfacc.pack import pack_info
from unrender.compat.nerfacc.pdf import importance_sampling, searchsorted
from unrender.compat.nerfacc.scan import exclusive_prod, exclusive_sum, inclusive_prod, inclusive_sum
from unrender.compat.nerfacc.volrend import (
    accumulate_along_rays,
    render_transmittance_from_alpha,
    render_transmittance_from_density,
    render_visibility_from_alpha,
    render_visibility_from_density,
    render_weight_from_alpha,
    render_weight_from_density,
    rendering,
)

__version__ = "0.5.3"
"""Version of the interface."""

__all__ = [
    "OccGridEstimator",
    "PropNetEstimator",
    "RayIntervals",
    "RaySamples",
    "accumulate_along_rays",
    "distortion",
    "exclusive_prod",
    "exclusive_sum",
    "importance_sampling",
    "inclusive_prod",
    "inclusive_sum",
    "pack_info",
    "ray_aabb_intersect",
    "render_transmittance_from_alpha",
    "render_transmittance_from_density",
    "render_visibility_from_alpha",
    "render_visibility_from_density",
    "render_weight_from_alpha",
    "render_weight_from_density",
    "rendering",
    "searchsorted",
    "traverse_grids",
]
