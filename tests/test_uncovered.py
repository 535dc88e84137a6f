"""A part of the object that a few masks lost stays in the space that fits may fill."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.images import Images
from unrender.captures.silhouettes import outlines
from unrender.captures.uncovered import _uncovered, lacking_cells
from unrender.demo import make_demo_capture
from unrender.ops.rays import OccupancyGrid
from unrender.recipes.visual_hull import seen_cells

SIZE = 64
BODY = (torch.zeros(3), 0.35)
KNOB = (torch.tensor([0.7, 0.1, 0.0]), 0.15)


def shown(capture: Capture, view: int, ball: tuple[Tensor, float]) -> Tensor:
    """The pixels of a view that show a ball."""
    rays = capture.cameras.image_rays(view)
    towards = ball[0] - rays.origins
    away = (towards - (towards * rays.directions).sum(1, keepdim=True) * rays.directions).norm(dim=1)
    return (away < ball[1]).reshape(capture.photos[view].shape[:2])


@cache
def body_and_knob(losing: tuple[int, ...] = ()) -> Capture:
    """Masks of a ball with a small one beside it, which some of the fitted views lose."""
    capture = make_demo_capture(views=24, size=96)
    photos = []
    for view, photo in enumerate(capture.photos):
        lost = view in [capture.split.train[number] for number in losing]
        mask = shown(capture, view, BODY) | (shown(capture, view, KNOB) & (not lost))
        photos.append(torch.cat([photo[..., :3], (255 * mask[..., None]).to(torch.uint8)], -1))
    return replace(capture, photos=Images.of(photos))


def hull_of(capture: Capture) -> Tensor:
    """The cells that no mask excludes."""
    cameras, masks = outlines(capture)
    grid = OccupancyGrid(SIZE)
    grid.mark_seen(cameras, capture.split.train, masks=masks)
    return grid.seen.reshape(SIZE, SIZE, SIZE)


def lacking(capture: Capture) -> Tensor:
    cameras, masks = outlines(capture)
    return lacking_cells(hull_of(capture), cameras, capture.split.train, masks)


def test_masks_that_agree_lack_nothing() -> None:
    assert not lacking(body_and_knob()).any()


def test_a_part_that_two_masks_lost_stays_open() -> None:
    wrong = body_and_knob((3, 12))
    whole, cut, found = hull_of(body_and_knob()), hull_of(wrong), lacking(wrong)
    lost = whole & ~cut
    axis = (torch.arange(SIZE) + 0.5) * (2 / SIZE) - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    knob = (torch.stack([x, y, z], -1) - KNOB[0]).norm(dim=-1) < KNOB[1]
    assert int((lost & knob).sum()) > 0.9 * int(knob.sum()) > 100
    assert torch.all((cut | found)[knob])
    assert int((found & ~whole).sum()) < 0.02 * int(whole.sum())
    grid = seen_cells(wrong, SIZE, torch.device("cpu"), within_masks=True)
    assert torch.equal(grid.seen.reshape(whole.shape), cut | found)


def test_a_part_that_many_masks_exclude_stays_closed() -> None:
    assert not lacking(body_and_knob((0, 3, 6, 9, 12, 15))).any()


def test_a_camera_in_a_cell_of_the_hull_sees_nothing_uncovered() -> None:
    capture = make_demo_capture(views=4, size=48)
    pose = capture.cameras.world_from_camera[0]
    center = pose[:3, 3] + 1e-6 * pose[:3, 2]
    pixels, block = _uncovered(center[None], 2 / SIZE, capture.cameras, 0, torch.full((48, 48), 255, dtype=torch.uint8))
    assert block == 1 and not pixels.any()


def test_cells_that_are_spared_are_of_the_grid() -> None:
    cameras, masks = outlines(body_and_knob())
    with pytest.raises(ValueError, match="spared"):
        OccupancyGrid(SIZE).mark_seen(cameras, [0], masks=masks, spared=torch.zeros(8, 8, 8, dtype=torch.bool))
