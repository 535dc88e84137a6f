"""Drawn pixels and their rays in plain PyTorch: the twin of :mod:`unrender.ops.rays.pixel_rays`."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from unrender.ops.rays.pixel_rays import PixelMaps, PixelRays


def pixel_rays(views: Int[Tensor, " pixels"], places: Int[Tensor, " pixels"], packed: Int[Tensor, " pixels"], maps: PixelMaps) -> PixelRays:
    """Unpack colors, and turn the directions through pixels into the world; zero where there is no such view or direction."""
    exists = (views >= 0) & (views < len(maps.widths))
    exists &= maps.widths[torch.where(exists, views, 0)] > 0
    view, place = torch.where(exists, views, 0), torch.where(exists, places, 0)
    width = torch.where(exists, maps.widths[view], 1)
    row = torch.div(place, width, rounding_mode="trunc")
    pixels = torch.stack([place - row * width, row], -1) + 0.5
    red, green, blue, alpha = ((packed.long() >> shift & 255) / 255 for shift in (0, 8, 16, 24))
    directions = torch.zeros(1, 3).to(maps.poses) if maps.directions is None else maps.directions
    at = torch.where(exists, maps.begins[view] + place, -1)
    known = ((at >= 0) & (at < len(directions)))[:, None]
    pose = maps.poses[view]
    turned = (pose[:, :, :3] @ directions[at.clamp(0, len(directions) - 1)][..., None])[..., 0]
    return PixelRays(pixels, torch.stack([red, green, blue], -1), alpha, known * pose[:, :, 3], known * turned)
