"""Drawn pixels with their rays, against the plain twin."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields

import pytest
import torch

from unrender.devices import as_on_a_gpu
from unrender.ops.rays.pixel_rays import PixelMaps, PixelRays, pixel_rays
from unrender.reference.pixel_rays import pixel_rays as twin
from unrender.transforms import rigid_motion

SIZES = ((5, 4), (3, 7), (5, 4))
"""Of the images; the first and the last one share a lens."""


def _maps(*, with_rays: bool = True) -> PixelMaps:
    generator = torch.Generator().manual_seed(0)
    poses = rigid_motion(torch.randn(3, 6, generator=generator))[:, :3].contiguous()
    directions = torch.nn.functional.normalize(torch.randn(20 + 21, 3, generator=generator), dim=1)
    return PixelMaps(torch.tensor([w for w, _ in SIZES]), poses, torch.tensor([0, 20, 0]), directions if with_rays else None)


def _same(found: PixelRays, expected: PixelRays, *names: str) -> None:
    for name in names:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-6)


@pytest.mark.parametrize("as_gpu", [False, True])
def test_pixels_and_rays_are_those_of_the_twin(as_gpu: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    views = torch.randint(-1, 4, (3000,), generator=generator)  # also views that do not exist
    places = torch.randint(-3, 60, (3000,), generator=generator)  # also beyond the last direction
    packed = torch.randint(-(2**31), 2**31, (3000,), generator=generator).int()
    with as_on_a_gpu() if as_gpu else nullcontext():
        found = pixel_rays(views, places, packed, _maps())
    _same(found, twin(views, places, packed, _maps()), *(field.name for field in fields(PixelRays)))
    nowhere = (views < 0) | (views > 2) | (places >= 41)
    assert 100 < int(nowhere.sum()) < 2900 and not found.directions[nowhere].any() and not found.origins[nowhere].any()


def test_every_pixel_of_a_view_has_its_center_and_its_direction() -> None:
    maps = _maps()
    assert maps.directions is not None
    for view, (width, height) in enumerate(SIZES):
        places = torch.arange(width * height)
        found = pixel_rays(torch.full_like(places, view), places, torch.zeros_like(places).int(), maps)
        rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        assert torch.equal(found.pixels, torch.stack([columns, rows], -1).reshape(-1, 2))
        pose, begin = maps.poses[view], int(maps.begins[view])
        torch.testing.assert_close(found.directions, maps.directions[begin : begin + len(places)] @ pose[:, :3].T)
        assert torch.equal(found.origins, pose[:, 3].expand(len(places), 3))


def test_every_byte_is_a_color() -> None:
    shades = torch.arange(256, dtype=torch.int32)
    none = torch.zeros(256, dtype=torch.int64)
    found = pixel_rays(none, none, shades | (255 - shades) << 8 | 255 << 24, _maps(with_rays=False))
    torch.testing.assert_close(found.color, torch.stack([shades, 255 - shades, 0 * shades], -1) / 255, rtol=0, atol=1e-7)
    assert torch.equal(found.alpha, torch.ones(256))
