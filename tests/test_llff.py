"""Captures of LLFF: ``poses_bounds.npy`` and the photos sorted by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tiny_captures import BALL, FOCAL, SIZE, opengl_poses, real_capture, write_llff
from unrender.captures import load_capture
from unrender.captures.capture import Capture, CaptureError
from unrender.captures.llff import read_llff
from unrender.captures.source import Source
from unrender.transforms import inverse_similarity, transformed


def source_of(folder: Path) -> Source:
    return read_llff(folder, folder / "poses_bounds.npy", 8)


@pytest.mark.parametrize("columns", [15, 17])
def test_poses_are_those_that_were_written(tmp_path: Path, columns: int) -> None:
    source = source_of(write_llff(tmp_path / "ball", columns=columns))
    np.testing.assert_allclose(source.source_from_camera.numpy(), np.stack(opengl_poses(9)) @ np.diag([1.0, -1.0, -1.0, 1.0]), atol=1e-12)
    assert source.intrinsics.tolist() == [[FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2]] * 9
    assert source.split.test == (0, 8) and source.mask_meaning == "object" and not source.notes


def test_the_ball_is_seen_where_it_is(tmp_path: Path) -> None:
    capture = load_capture(write_llff(tmp_path / "ball"))
    center = transformed(torch.tensor(BALL)[None], inverse_similarity(capture.source_from_world)).float()
    assert capture.has_masks
    for view in range(len(capture)):
        pixels, _ = capture.cameras.project(center, view)
        rows, columns = torch.nonzero(capture.mask(view), as_tuple=True)
        assert abs(float(columns.float().mean()) + 0.5 - float(pixels[0, 0])) < 0.5
        assert abs(float(rows.float().mean()) + 0.5 - float(pixels[0, 1])) < 0.5


def test_focal_lengths_follow_the_size_of_the_photos(tmp_path: Path) -> None:
    source = source_of(write_llff(tmp_path / "ball", scale=4, images="images_4", masks=False))
    assert source.intrinsics[0].tolist() == [FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2]
    assert any("the photos are those of images_4" in note for note in source.notes)
    assert any("scaled from the w and h of poses_bounds.npy to the photos' 40x30" in note for note in source.notes)


def test_poses_belong_to_the_names_sorted_by_letters(tmp_path: Path) -> None:
    folder = write_llff(tmp_path / "ball", count=12, masks=False)
    names = sorted(str(k) for k in range(12))  # 0, 1, 10, 11, 2
    for k, name in enumerate(names):
        (folder / "images" / f"{k:03d}.png").rename(folder / "images" / f"view{name}.png")
    source = source_of(folder)
    assert source.names[2] == "images/view10.png"
    np.testing.assert_allclose(source.source_from_camera[2, :3, 3].numpy(), opengl_poses(12)[2][:3, 3], atol=1e-12)
    assert any("view10.png before view2.png" in note for note in source.notes)


def test_bounds_propose_a_region_where_the_axes_do_not_meet(tmp_path: Path) -> None:
    folder = write_llff(tmp_path / "ball", masks=False)
    rows = np.load(folder / "poses_bounds.npy")
    rows[:, :15] = rows[0, :15]
    rows[:, 3] += np.arange(9) * 0.1
    np.save(folder / "poses_bounds.npy", rows)
    assert any("lies 2 to 4 in front of the cameras: center" in note and "radius 1 hold it" in note for note in source_of(folder).notes)
    rows[:, 15:] = (4, 2)
    np.save(folder / "poses_bounds.npy", rows)
    assert any("the bounds in poses_bounds.npy are 4 and 2, which say nothing" in note for note in source_of(folder).notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:8], "has 8 poses but .* has 9 images"),
        (lambda rows: rows[:, :14], r"has the shape \(9, 14\); it must be Nx17"),
        (lambda rows: rows[:0], r"has the shape \(0, 17\)"),
        (lambda rows: rows * np.nan, "row 0 of .* not finite"),
        (lambda rows: rows.astype(object), "must hold numbers, and objects are never unpickled"),
        (lambda rows: rows * np.where(np.arange(17) == 14, 0.0, 1.0), "focal length of images/000.png"),
        (lambda rows: rows * np.where(np.arange(17) == 4, 2.0, 1.0), "gives w and h as 40x60"),
        (lambda rows: rows * np.where(np.arange(17) == 4, -1.0, 1.0), "gives w and h as 40x-30"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, change, words: str) -> None:
    folder = write_llff(tmp_path / "ball", masks=False)
    rows = change(np.load(folder / "poses_bounds.npy"))
    np.save(folder / "poses_bounds.npy", rows, allow_pickle=True)
    with pytest.raises(CaptureError, match=words):
        load_capture(folder)


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    folder = write_llff(tmp_path / "ball", masks=False)
    (folder / "images").rename(folder / "pictures")
    with pytest.raises(CaptureError, match=r"has no images; LLFF captures keep them in"):
        load_capture(folder)


def hull_overlap(capture: Capture, cells: int = 64) -> float:
    """The mean overlap of masks with the silhouettes of what nearly all of them keep."""
    along = (torch.arange(cells) + 0.5) * 2 / cells - 1
    points = torch.cartesian_prod(along, along, along)
    places, outside = [], torch.zeros(len(points))
    views = range(0, len(capture), 2)
    for view in views:
        pixels = capture.cameras.project(points, view)[0].floor().long()
        seen = (pixels >= 0).all(-1) & (pixels < capture.cameras.sizes[view]).all(-1)
        column, row = pixels.clamp(min=0).minimum(capture.cameras.sizes[view] - 1).unbind(-1)
        grown = F.max_pool2d((capture.mask(view) > 127).float()[None], 3, 1, 1)[0]
        outside += ~seen | (grown[row, column] == 0)
        places.append((row, column))
    kept = outside <= len(views) / 20
    overlaps = []
    for view, place in list(zip(views, places, strict=True))[::3]:
        row, column = (coordinate[kept] for coordinate in place)
        shadow = torch.zeros(capture.mask(view).shape)
        shadow[row, column] = 1
        shadow = F.max_pool2d(shadow[None], 9, 1, 4)  # cells are farther apart than pixels
        shadow, mask = -F.max_pool2d(-shadow, 9, 1, 4)[0] > 0, capture.mask(view) > 127
        overlaps.append(float((shadow & mask).sum() / (shadow | mask).sum()))
    return float(np.mean(overlaps))


@pytest.mark.data
@pytest.mark.parametrize("name", ["mary_rose_384", "ethiopian_head_384"])
def test_the_hull_of_real_turntables_looks_like_their_masks(name: str) -> None:
    capture = load_capture(real_capture(name))
    assert capture.has_masks and not capture.unbounded
    assert hull_overlap(capture) > 0.92
