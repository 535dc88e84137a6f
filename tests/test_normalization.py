from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_captures import BALL, RADIUS, opengl_poses, write_blender, write_neus, write_transforms
from unrender.captures import load_capture
from unrender.captures.capture import Capture
from unrender.captures.normalization import nearest_to_axes, normalized_poses
from unrender.transforms import inverse_similarity, matrix_from_wxyz, scale_of, similarity, transformed


def random_similarity(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = matrix_from_wxyz(torch.randn(4, generator=generator, dtype=torch.float64))
    return similarity(100 * torch.randn(3, generator=generator, dtype=torch.float64), 10.0 ** (seed - 2), rotation)


@pytest.mark.parametrize("seed", range(5))
def test_points_come_back_from_the_world(seed: int) -> None:
    source_from_world = random_similarity(seed)
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    again = transformed(transformed(points, source_from_world), inverse_similarity(source_from_world))
    assert float((again - points).abs().max()) < 1e-9
    assert scale_of(source_from_world) == pytest.approx(10.0 ** (seed - 2), rel=1e-12)


def test_normalized_poses_are_rigid_and_come_back() -> None:
    source_from_world = random_similarity(4)
    source = torch.from_numpy(np.stack(opengl_poses(6)))
    world = normalized_poses(source, source_from_world)
    torch.testing.assert_close(world[:, :3, :3].mT @ world[:, :3, :3], torch.eye(3, dtype=torch.float64).expand(6, 3, 3))
    scale = scale_of(source_from_world)
    back = source_from_world @ world
    back[:, :3, :3] /= scale
    assert float((back - source).abs().max()) < 1e-9


def test_axes_meet_where_the_cameras_look() -> None:
    target = np.array([1.0, -2.0, 0.5])
    poses = torch.from_numpy(np.stack(opengl_poses(7, center=target))) * torch.tensor([1.0, -1.0, -1.0, 1.0])
    found = nearest_to_axes(poses)
    assert found is not None
    torch.testing.assert_close(found, torch.from_numpy(target))


def test_parallel_axes_and_axes_meeting_behind_have_no_center() -> None:
    poses = torch.eye(4, dtype=torch.float64).repeat(5, 1, 1)
    poses[:, 0, 3] = torch.arange(5)
    assert nearest_to_axes(poses) is None
    outward = torch.from_numpy(np.stack(opengl_poses(7)))
    assert nearest_to_axes(outward) is None


def ball(capture: Capture) -> tuple[torch.Tensor, float]:
    """Center and radius of the ball in the normalized world."""
    world_from_source = inverse_similarity(capture.source_from_world)
    return transformed(torch.tensor(BALL)[None], world_from_source)[0], RADIUS * scale_of(world_from_source)


@pytest.mark.parametrize("form", ["blender", "transforms"])
def test_masked_object_fills_the_region_of_interest(tmp_path: Path, form: str) -> None:
    folder = write_blender(tmp_path / "a") if form == "blender" else write_transforms(tmp_path / "a", alpha=True)
    center, radius = ball(load_capture(folder))
    assert float((center.abs() + radius).max()) < 1.0
    assert radius > 0.6
    assert float(center.abs().max()) < 0.25


@pytest.mark.parametrize("form", ["blender", "transforms"])
def test_photos_without_alpha_are_unbounded_whichever_file_lists_them(tmp_path: Path, form: str) -> None:
    folder = write_blender(tmp_path / "a", alpha=False, test=0) if form == "blender" else write_transforms(tmp_path / "a", count=8)
    capture = load_capture(folder)
    assert not capture.has_masks and capture.unbounded
    torch.testing.assert_close(capture.cameras.positions.norm(dim=-1).median(), torch.tensor(1.0))
    assert scale_of(capture.source_from_world) == pytest.approx(3.0)


def test_unbounded_scene_has_its_median_camera_at_distance_one(tmp_path: Path) -> None:
    capture = load_capture(write_transforms(tmp_path / "a"))
    distances = capture.cameras.positions.norm(dim=-1)
    torch.testing.assert_close(distances.median(), torch.tensor(1.0))
    up = -capture.cameras.world_from_camera[:, :3, 1].mean(0)
    torch.testing.assert_close(up / up.norm(), torch.tensor([0.0, 0.0, 1.0]), atol=1e-5, rtol=0)


def test_overrides_are_in_units_of_the_poses(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path / "a")
    matrix = load_capture(folder, center=(1.0, 2.0, 3.0), radius=0.25, up="-y").source_from_world
    torch.testing.assert_close(matrix[:3, 3], torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert scale_of(matrix) == pytest.approx(0.25)
    torch.testing.assert_close(matrix[:3, 2] / 0.25, torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64))
    sphere = load_capture(write_neus(tmp_path / "b"), radius=4.0).source_from_world
    assert sphere.tolist() == [[4, 0, 0, 10], [0, 4, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]


def test_up_of_the_cameras_turns_a_neus_capture(tmp_path: Path) -> None:
    folder = write_neus(tmp_path / "a")
    assert any("+Z need not be up" in note for note in load_capture(folder).notes)
    capture = load_capture(folder, up="cameras")
    up = -capture.cameras.world_from_camera[:, :3, 1].mean(0)
    torch.testing.assert_close(up / up.norm(), torch.tensor([0.0, 0.0, 1.0]), atol=1e-5, rtol=0)
    assert scale_of(capture.source_from_world) == pytest.approx(2.0)


def test_one_bad_mask_of_many_does_not_move_the_region(tmp_path: Path) -> None:
    from PIL import Image

    folder = write_blender(tmp_path / "a", train=24)
    before = load_capture(folder).source_from_world
    photo = np.asarray(Image.open(folder / "train" / "r_5.png")).copy()
    photo[..., 3] = 0
    photo[0, 0, 3] = 255
    Image.fromarray(photo).save(folder / "train" / "r_5.png")
    after = load_capture(folder).source_from_world
    assert float((after - before).abs().max()) < 0.1


def test_masks_that_contradict_the_poses_are_noted(tmp_path: Path) -> None:
    from PIL import Image

    folder = write_blender(tmp_path / "a")
    for k in range(8):
        photo = np.zeros((30, 40, 4), np.uint8)
        photo[:2, :2] = 255
        Image.fromarray(photo).save(folder / "train" / f"r_{k}.png")
    capture = load_capture(folder)
    assert any("region of interest is a guess" in note for note in capture.notes)
    assert scale_of(capture.source_from_world) == pytest.approx(1.5)


def test_world_is_right_handed() -> None:
    for seed in range(5):
        assert math.isclose(float(torch.linalg.det(random_similarity(seed)[:3, :3])), (10.0 ** (seed - 2)) ** 3, rel_tol=1e-9)
