"""The light that a GGX surface reflects of a white environment, tabulated: the second factor of the split sum."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.ops.raster import texture

SMALLEST_COSINE = 1e-4
"""Least n · v of a surface that is seen: the lobes divide by it."""

_SMALLEST_ROUGHNESS = 0.01
"""Of the table, which rounding would spoil below; it is a mirror."""

_SIZE = 128
_SAMPLES = 24
"""Along each axis of the square of random numbers, in midpoints."""


def directional_albedo(
    cosine: Float[Tensor, "views height width"], roughness: Float[Tensor, "views height width"]
) -> tuple[Float[Tensor, "views height width"], Float[Tensor, "views height width"]]:
    """Look up A and B of the directional albedo of GGX facets.

    F0 A + B = ∫ f(l, v) max(n · l, 0) dl for the lobe f with Schlick's Fresnel term.

    A = ∫ D G / (4 n · v) (1 − (1 − v · h)⁵) dl and B = ∫ D G / (4 n · v) (1 − v · h)⁵ dl, with G the height-correlated masking of Smith.
    A + B ≤ 1 is the albedo of a perfect mirror's facets; what is missing is light that would leave after several reflections.

    Args:
        cosine: n · v, 0 to 1.
        roughness: perceptual, α = roughness², 0 to 1.

    >>> a, b = directional_albedo(torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 0.5))
    >>> round(a.item(), 3), round(b.item(), 3)
    (0.835, 0.022)
    """
    uv = (torch.stack([cosine, roughness], -1) * (_SIZE - 1) + 0.5) / _SIZE
    found = texture(_albedo_table(uv.device)[None], uv, filter="linear", boundary="clamp")
    return found[..., 0], found[..., 1]


@lru_cache(maxsize=4)
def _albedo_table(device: torch.device) -> Float[Tensor, "roughness cosine 2"]:
    """Compute A and B; n · v grows from 0 to 1 along columns, roughness along rows.

    With normals h drawn from those that the viewer sees (Heitz, Sampling the GGX distribution of visible normals, 2018), the integrand is
    G / G₁(v): smooth, so that the midpoints of a square of random numbers give it to 10⁻³.
    """
    with torch.inference_mode(False), torch.no_grad():
        return torch.cat([_albedo_rows(start, device) for start in range(0, _SIZE, 16)])


def _albedo_rows(start: int, device: torch.device) -> Float[Tensor, "rows cosine 2"]:
    nodes = torch.linspace(0, 1, _SIZE, device=device)
    alpha = nodes[start : start + 16].clamp_min(_SMALLEST_ROUGHNESS).square()[:, None, None]
    n_v = nodes[None, :, None].clamp_min(SMALLEST_COSINE)
    numbers = (torch.arange(_SAMPLES, device=device) + 0.5) / _SAMPLES
    rest, angle = torch.meshgrid(numbers, torch.pi * numbers, indexing="ij")  # the integrand is even in the angle
    weight = (4 * rest**3).reshape(-1)  # more samples at the rim of the disk, where the tail of GGX is: 1 - u = rest⁴
    weight = weight / weight.mean()
    radius, angle = (1 - rest**4).sqrt().reshape(-1), angle.reshape(-1)
    # The view direction of the stretched hemisphere, in the plane of x and z; t2 is along the y of the disk seen by it.
    x, z = alpha * (1 - n_v * n_v).sqrt(), n_v
    length = (x * x + z * z).sqrt()
    x, z = x / length, z / length
    t1, t2 = radius * angle.sin(), radius * angle.cos()
    lean = (1 + z) / 2
    t2 = (1 - lean) * (1 - t1 * t1).sqrt() + lean * t2
    t3 = (1 - t1 * t1 - t2 * t2).clamp_min(0).sqrt()
    # The normal of the facet is t1 ey + t2 (ey × v) + t3 v, unstretched.
    h_x, h_y, h_z = alpha * (-z * t2 + x * t3), alpha * t1, (x * t2 + z * t3).clamp_min(0)
    norm = (h_x * h_x + h_y * h_y + h_z * h_z).sqrt()
    v_h = ((1 - n_v * n_v).sqrt() * h_x + n_v * h_z) / norm
    n_l = 2 * v_h * h_z / norm - n_v
    lit = (n_l > 0) & (v_h > 0)
    n_l = n_l.clamp_min(SMALLEST_COSINE)

    def masked(cosine: Tensor) -> Tensor:
        """Return Λ of Smith."""
        return ((1 + alpha * alpha * (1 / (cosine * cosine) - 1)).sqrt() - 1) / 2

    at_viewer = masked(n_v)
    seen = weight * torch.where(lit, (1 + at_viewer) / (1 + at_viewer + masked(n_l)), 0.0)
    grazing = (1 - v_h.clamp(0, 1)) ** 5
    return torch.stack([(seen * (1 - grazing)).mean(-1), (seen * grazing).mean(-1)], -1)
