"""Interpolation of vertex attributes in plain PyTorch: the twin of :mod:`unrender.ops.raster.interpolate`, in any floating type."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.ops.raster import Raster


def interpolate(attributes: Float[Tensor, ...], raster: Raster, faces: Int[Tensor, ...]) -> Float[Tensor, "views height width channels"]:
    """Compute A = u a₀ + v a₁ + (1 − u − v) a₂, and zero at empty pixels."""
    first, second, third = _corners(attributes, raster, faces)
    u, v = raster.barycentrics[..., :1], raster.barycentrics[..., 1:]
    values = u * first + v * second + (1 - u - v) * third
    return torch.where((raster.face >= 0)[..., None], values, torch.zeros_like(values))


def interpolate_with_derivatives(
    attributes: Float[Tensor, ...], raster: Raster, faces: Int[Tensor, ...], channels: Sequence[int] | None = None
) -> tuple[Float[Tensor, "views height width channels"], Float[Tensor, "views height width columns"]]:
    """Compute A and its derivatives along x and y, channel by channel.

    ∂A/∂x = ∂u/∂x (a₀ − a₂) + ∂v/∂x (a₁ − a₂), and likewise for y.
    """
    if raster.barycentric_derivatives is None:
        raise ValueError(
            "interpolate_with_derivatives takes a raster with derivatives, got one without: pass derivatives=True to rasterize"
        )
    chosen = attributes if channels is None else attributes[..., list(channels)]
    first, second, third = _corners(chosen, raster, faces)
    of_u, of_v = raster.barycentric_derivatives[..., None, :2], raster.barycentric_derivatives[..., None, 2:]
    slopes = of_u * (first - third)[..., None] + of_v * (second - third)[..., None]
    slopes = torch.where((raster.face >= 0)[..., None, None], slopes, torch.zeros_like(slopes))
    return interpolate(attributes, raster, faces), slopes.flatten(-2)


def _corners(attributes: Tensor, raster: Raster, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the attributes of the three corners at every pixel; any corners at empty pixels."""
    attributes = attributes if attributes.ndim == 3 else attributes[None]
    if faces.shape[0] == 0:
        nothing = attributes.new_zeros(*raster.face.shape, attributes.shape[2])
        return nothing, nothing, nothing
    view = torch.arange(raster.face.shape[0], device=faces.device).clamp(max=attributes.shape[0] - 1)[:, None, None]
    corners = faces[raster.face.clamp(min=0).long()].long()
    first, second, third = (attributes[view, corners[..., k]] for k in range(3))
    return first, second, third
