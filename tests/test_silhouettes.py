"""One wrong mask among many is found, whatever is wrong with it, and right ones are left alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.images import Images
from unrender.captures.silhouettes import without_contradicting_masks
from unrender.demo import make_demo_capture
from unrender.recipes import neus
from unrender.recipes.pose_refinement import HULL_MARGIN
from unrender.recipes.settings import override
from unrender.recipes.table import recipes
from unrender.recipes.visual_hull import seen_cells
from unrender.runs.inputs import prepared
from unrender.transforms import rigid_motion


@cache
def demo(views: int = 24) -> Capture:
    return make_demo_capture(views=views, size=96)


def with_mask(capture: Capture, view: int, change: Callable[[Tensor], Tensor]) -> Capture:
    photos = [photo.clone() for photo in capture.photos]
    photos[view][..., 3] = change(photos[view][..., 3])
    return replace(capture, photos=Images.of(photos))


def holed(mask: Tensor) -> Tensor:
    rows, columns = torch.nonzero(mask > 127, as_tuple=True)
    y, x, side = int(rows.float().mean()), int(columns.float().mean()), int(0.15 * (rows.max() - rows.min()))
    mask = mask.clone()
    mask[y - side : y + side, x - side : x + side] = 0
    return mask


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "empty": torch.zeros_like,
    "inverted": lambda mask: 255 - mask,
    "half": lambda mask: torch.where(torch.arange(mask.shape[1]) < mask.shape[1] // 2, mask, 0),
    "shifted": lambda mask: mask.roll(20, 1),
    "with a hole": holed,
}


@pytest.mark.parametrize("views", [3, 8, 24])
def test_right_masks_are_left_alone(views: int) -> None:
    assert without_contradicting_masks(demo(views)) is demo(views)


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_mask_is_left_out_with_a_note(kind: str) -> None:
    capture = demo()
    view = capture.split.train[7]
    found = without_contradicting_masks(with_mask(capture, view, WRONG[kind]))
    assert found.split.train == tuple(v for v in capture.split.train if v != view)
    assert found.split.test == capture.split.test
    assert found.notes[-1].startswith(f"masks that contradict all others: {capture.names[view]} (")
    assert found.notes[-1].endswith("correct their masks, or fit without masks (masks none)")


def test_two_wrong_masks_are_both_left_out() -> None:
    capture = demo()
    first, second = capture.split.train[3], capture.split.train[15]
    wrong = with_mask(with_mask(capture, first, holed), second, WRONG["half"])
    assert set(capture.split.train) - set(without_contradicting_masks(wrong).split.train) == {first, second}


def test_a_fit_gets_the_hull_of_the_others_without_a_hole() -> None:
    capture = demo()
    view = capture.split.train[7]
    wrong = with_mask(capture, view, holed)
    others = replace(capture, split=replace(capture.split, train=tuple(v for v in capture.split.train if v != view)))
    expected, cut = (seen_cells(given, 32, torch.device("cpu"), within_masks=True).seen for given in (others, wrong))
    found = seen_cells(prepared(recipes()["neus"], neus.PRESETS["cpu"], wrong), 32, torch.device("cpu"), within_masks=True).seen
    assert torch.equal(found, expected)
    assert int((expected & ~cut).sum()) > 20


def test_captures_without_masks_are_left_alone() -> None:
    capture = replace(demo(), has_masks=False)
    assert without_contradicting_masks(capture) is capture


def turned(capture: Capture, degrees: float, views: Sequence[int]) -> Capture:
    """The capture with some cameras turned about random axes through their own centers."""
    turns = torch.zeros(len(capture), 6)
    axes = torch.nn.functional.normalize(torch.randn(len(views), 3, generator=torch.Generator().manual_seed(1)), dim=1)
    turns[list(views), 3:] = math.radians(degrees) * axes
    poses = capture.cameras.world_from_camera @ rigid_motion(turns)
    return replace(capture, cameras=replace(capture.cameras, world_from_camera=poses))


def test_a_mask_at_an_inexact_pose_contradicts_the_others_unless_poses_are_refined() -> None:
    view, recipe, config = demo().split.train[7], recipes()["neus"], neus.PRESETS["cpu"]
    capture = turned(demo(), 5.0, [view])
    assert prepared(recipe, config, capture).split.train == tuple(v for v in capture.split.train if v != view)
    assert prepared(recipe, override(config, refine_poses=True), capture) is capture
    assert "without masks" in prepared(recipe, override(config, refine_poses=True), replace(capture, has_masks=False)).notes[-1]


@pytest.mark.parametrize("kind", ["empty", "inverted", "half"])
def test_a_wrong_mask_contradicts_the_others_where_all_poses_are_inexact(kind: str) -> None:
    capture = turned(demo(), 3.0, range(len(demo())))
    view = capture.split.train[7]
    found = without_contradicting_masks(with_mask(capture, view, WRONG[kind]), margin=HULL_MARGIN)
    assert found.split.train == tuple(v for v in capture.split.train if v != view)
    assert without_contradicting_masks(capture, margin=HULL_MARGIN) is capture
