"""The plain twin of :mod:`unrender.ops.rays.multi_sphere`."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.ops.rays.multi_sphere import SphereRays


def render_multi_sphere(
    rays: Rays,
    image: Float[Tensor, "layers height width 4"],
    *,
    unit: float = 1.0,
    arriving: Float[Tensor, " rays"] | None = None,
    stop: float = 1e-7,
) -> SphereRays:
    """Render rays through the layers of a multi-sphere image, one layer after the other."""
    origins, directions = rays.origins.to(image), rays.directions.to(image)
    layers, height, width, _ = image.shape
    light = image.new_ones(len(origins))
    color, distance = image.new_zeros(len(origins), 3), image.new_zeros(len(origins))
    before = light if arriving is None else arriving.to(image)
    for layer in range(layers):
        radius = layers / (layers - layer - 0.5)
        along = (origins * directions).sum(1)
        under = along**2 - origins.square().sum(1) + radius**2
        t = under.clamp_min(0).sqrt() - along
        met = (under >= 0) & (t > 0) & (before * light.detach() > stop)
        u = (origins + t[:, None] * directions) / radius
        x = (torch.atan2(u[:, 1], u[:, 0]) / (2 * math.pi) + 0.5) * width - 0.5
        y = (torch.acos(u[:, 2].clamp(-1, 1)) / math.pi * height - 0.5).clamp(0, height - 1)
        column, row = x.floor().long(), y.floor().long()
        fx, fy = (x - column)[:, None], (y - row)[:, None]

        def texel(row: Tensor, column: Tensor, picture: Tensor = image[layer]) -> Tensor:
            return picture[row.clamp_max(height - 1), column % width]

        top = (1 - fx) * texel(row, column) + fx * texel(row, column + 1)
        bottom = (1 - fx) * texel(row + 1, column) + fx * texel(row + 1, column + 1)
        value = (1 - fy) * top + fy * bottom
        kept = torch.exp(-torch.where(met, unit * value[:, 0], 0.0).clamp_min(0) / layers)
        weight = light * (1 - kept)
        color = color + weight[:, None] * (0.5 + value[:, 1:]).clamp_min(0)
        distance = distance + weight.detach() * t
        light = light * kept
    return SphereRays(color, light, distance)
