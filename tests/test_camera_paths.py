"""Paths of cameras: the spiral of forward-facing captures, which path a capture gets, and paths of nerfstudio's viewer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from unrender.cameras import Cameras, arc_cameras, interpolated_cameras, orbit_cameras, spiral_cameras
from unrender.captures.capture import Capture
from unrender.captures.errors import CaptureError
from unrender.captures.path_json import read_camera_path
from unrender.runs.camera_paths import showing_path
from unrender.transforms import look_at, matrix_from_wxyz, similarity

UP = torch.tensor([0.0, 0.0, 1.0])


def capture_of(positions: torch.Tensor, targets: torch.Tensor, *, unbounded: bool) -> Capture:
    views = len(positions)
    cameras = Cameras.alike(look_at(positions, targets, UP), torch.tensor([[9.0, 9.0, 4.0, 3.0]]).repeat(views, 1), None, 8, 6)
    return Capture.from_tensors(torch.zeros(views, 6, 8, 3, dtype=torch.uint8), cameras, unbounded=unbounded)


def forward_facing() -> Capture:
    across, down = torch.meshgrid(torch.linspace(-0.4, 0.4, 5), torch.linspace(-0.2, 0.2, 3), indexing="ij")
    positions = torch.stack([across.reshape(-1), torch.full((15,), -2.0), down.reshape(-1)], -1)
    return capture_of(positions, positions + torch.tensor([0.0, 1.0, 0.0]), unbounded=True)


def around(*, unbounded: bool, share: float = 1.0, outward: bool = False) -> Capture:
    turn = share * 2 * math.pi * torch.arange(20) / 20
    positions = torch.stack([2 * turn.cos(), 2 * turn.sin(), torch.full((20,), 0.5)], -1)
    return capture_of(positions, 2 * positions if outward else torch.zeros(20, 3), unbounded=unbounded)


def test_a_spiral_is_closed_stays_among_the_cameras_and_looks_at_one_point() -> None:
    capture = forward_facing()
    path = spiral_cameras(capture.cameras, 80)
    positions = path.positions
    assert float(positions[:, 0].max()) == pytest.approx(0.4, abs=1e-3) and float(positions[:, 2].max()) == pytest.approx(0.2, abs=1e-3)
    torch.testing.assert_close(positions[:, 1], torch.full((80,), -2.0))
    steps = (positions.roll(-1, 0) - positions).norm(dim=1)
    assert float(steps.max()) < 4 * float(steps.min())
    for view in (0, 17, 59):
        pixels, _ = path.project(torch.zeros(1, 3), view)  # the origin is as deep as the middle camera says
        torch.testing.assert_close(pixels[0], torch.tensor([4.0, 3.0]), atol=1e-4, rtol=0)


def test_the_path_of_a_capture_follows_from_its_cameras() -> None:
    expected = [
        (forward_facing(), spiral_cameras),
        (around(unbounded=False), orbit_cameras),
        (around(unbounded=True), orbit_cameras),
        (around(unbounded=True, outward=True), interpolated_cameras),
        (around(unbounded=True, share=0.4), interpolated_cameras),
        (around(unbounded=False, share=0.4), arc_cameras),
    ]
    for capture, path in expected:
        assert torch.equal(showing_path(capture, 9).world_from_camera, path(capture.cameras, 9).world_from_camera), path


def written(folder: Path, poses: list[np.ndarray], **keys: object) -> Path:
    frames = [{"camera_to_world": pose.reshape(-1).tolist(), "fov": 90.0, "aspect": 1.5} for pose in poses]
    file = folder / "path.json"
    content = {"camera_type": "perspective", "render_height": 20, "render_width": 30, "fps": 24, "camera_path": frames, **keys}
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    return file


def test_a_path_of_nerfstudio_lands_in_the_world(tmp_path: Path) -> None:
    pose = np.array([[1.0, 0, 0, 10], [0, 0, -1, 20], [0, 1, 0, 34], [0, 0, 0, 1]])
    source_from_world = similarity(torch.tensor([10.0, 20.0, 30.0]).double(), 2.0, torch.eye(3).double())
    cameras, note = read_camera_path(written(tmp_path, [pose, pose]), source_from_world)
    assert (len(cameras), cameras.width, cameras.height) == (2, 30, 20) and "input poses" in note
    torch.testing.assert_close(cameras.intrinsics[0], torch.tensor([10.0, 10.0, 15.0, 10.0]))  # 20 / (2 tan 45°)
    torch.testing.assert_close(cameras.positions[0], torch.tensor([0.0, 0.0, 2.0]))
    forward = cameras.world_from_camera[0, :3, 2]  # OpenGL looks along -Z of the camera, here +Y of the frame
    torch.testing.assert_close(forward, torch.tensor([0.0, 1.0, 0.0]))


def test_the_normalization_of_nerfstudio_is_undone(tmp_path: Path) -> None:
    rotation = matrix_from_wxyz(torch.tensor([0.8, 0.0, 0.6, 0.0]).double()).numpy()
    shift, scale = np.array([1.0, -2.0, 3.0]), 0.25
    before = np.eye(4)
    before[:3, 3] = (4.0, 5.0, 6.0)
    after = np.eye(4)
    after[:3, :3], after[:3, 3] = rotation @ before[:3, :3], scale * (rotation @ before[:3, 3] + shift)
    (tmp_path / "dataparser_transforms.json").write_text(
        json.dumps({"transform": np.concatenate([rotation, shift[:, None]], 1).tolist(), "scale": scale})
    )
    cameras, note = read_camera_path(written(tmp_path, [after]), torch.eye(4).double())
    assert "dataparser_transforms.json" in note
    torch.testing.assert_close(cameras.world_from_camera[0], torch.from_numpy(before @ np.diag([1.0, -1, -1, 1])).float())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"camera_path": None}, "has no list of frames"),
        ({"camera_path": []}, "has no list of frames"),
        ({"camera_type": "equirectangular"}, "only perspective"),
        ({"render_width": 10**9}, "render_width"),
        ({"render_height": "20"}, "render_height"),
        ({"camera_path": [{"camera_to_world": [1, 2], "fov": 50}]}, "16 numbers"),
        ({"camera_path": [{"camera_to_world": np.eye(4).tolist(), "fov": 0}]}, "fov"),
    ],
)
def test_what_is_no_path_is_refused(tmp_path: Path, keys: dict[str, object], said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        read_camera_path(written(tmp_path, [np.eye(4)], **keys), torch.eye(4).double())
