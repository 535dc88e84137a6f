"""True normals from images: either encoding comes back, and encoding and axes are told apart without being told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tiny_captures import BALL, FOCAL, RADIUS, SIZE, opengl_poses, real_capture, write_blender
from unrender.captures.capture import Capture, CaptureError
from unrender.captures.load import load_capture
from unrender.captures.normal_truth import ENCODINGS, Encoding, decoded, understood_normals
from unrender.color import srgb_from_linear
from unrender.render.rendering import Rendering
from unrender.runs.evaluation import ViewScore
from unrender.runs.view_measures import ViewMeasures, angle_between
from unrender.words import TruthFrame

SIGNED, CLIPPED = Encoding(clipped=False, srgb=False), Encoding(clipped=True, srgb=True)


def encoded(normals: Tensor, encoding: Encoding) -> Tensor:
    values = normals.clamp_min(0) if encoding.clipped else (normals + 1) / 2
    return srgb_from_linear(values) if encoding.srgb else values


def ball_normals(pose: np.ndarray, scale: int = 1) -> Tensor:
    """Unit normals [height, width, 3] of the ball of the tiny captures in the frame of the poses, zero beside it."""
    width, height = SIZE[0] * scale, SIZE[1] * scale
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    local = np.stack(((x - width / 2) / (FOCAL * scale), -(y - height / 2) / (FOCAL * scale), -np.ones_like(x)), -1)
    ray = local @ pose[:3, :3].T
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    to_ball = BALL - pose[:3, 3]
    along = ray @ to_ball
    inside = RADIUS**2 - (to_ball @ to_ball - along**2)
    point = pose[:3, 3] + (along - np.sqrt(np.maximum(inside, 0)))[..., None] * ray
    return torch.from_numpy(np.where(inside[..., None] > 0, (point - BALL) / RADIUS, 0.0)).float()


def write_maps(folder: Path, encoding: Encoding, frame: TruthFrame, *, suffix: str = "_normal", scale: int = 1) -> None:
    """Write the normal maps of eight views named r_0 to r_7."""
    folder.mkdir(parents=True, exist_ok=True)
    for view, pose in enumerate(opengl_poses(8)):
        normals = ball_normals(pose, scale)
        beside = ~normals.any(-1)
        if frame != "source":
            normals = normals @ torch.from_numpy(pose[:3, :3]).float()
            normals = normals * torch.tensor([1.0, -1.0, -1.0]) if frame == "opencv" else normals
        color = (encoded(normals, encoding) * 255).round().to(torch.uint8)
        color[beside] = 0
        Image.fromarray(color.numpy()).save(folder / f"r_{view}{suffix}.png")


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    return load_capture(write_blender(tmp_path / "ball", test=8))


def directions(count: int = 4000) -> Tensor:
    vectors = torch.randn(count, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return vectors / vectors.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_normals_come_back_from_either_encoding_where_at_most_one_component_is_lost(encoding: Encoding) -> None:
    normals = directions()
    found = decoded(encoded(normals, encoding), encoding)
    lost = (normals < 0).sum(1)
    known = lost <= 1 if encoding.clipped else lost >= 0
    torch.testing.assert_close(found[known], normals[known], atol=1e-6, rtol=0)
    assert not bool(found[~known].any()) and bool((~known).any()) == encoding.clipped


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_vectors_that_are_no_normals_are_unknown(encoding: Encoding) -> None:
    shorter = directions().abs() * 0.7  # averaged over an edge
    assert not bool(decoded(encoded(shorter, encoding), encoding).any())


@pytest.mark.parametrize("frame", ["source", "opengl", "opencv"])
@pytest.mark.parametrize("encoding", [SIGNED, CLIPPED])
def test_encoding_and_axes_are_found(capture: Capture, tmp_path: Path, encoding: Encoding, frame: TruthFrame) -> None:
    write_maps(tmp_path / "maps", encoding, frame)
    if encoding.clipped and frame == "opencv":  # of normals towards the camera, z is lost: no pixel keeps all components
        with pytest.raises(CaptureError, match=r"encoding .* cannot be told"):
            understood_normals(capture, capture.split.test, folder=tmp_path / "maps")
        return
    truth = understood_normals(capture, capture.split.test, folder=tmp_path / "maps")
    assert (truth.encoding, truth.frame) == (encoding, frame) and "100% face the camera" in truth.note
    turn = (capture.source_from_world[:3, :3] / capture.source_from_world[:3, :3].det() ** (1 / 3)).float()
    for k, view in enumerate(capture.split.test):
        found, true = truth.normals(capture, view), ball_normals(opengl_poses(8)[k]) @ turn
        known = found.any(-1)
        assert int(known.sum()) > (20 if encoding.clipped else 160)
        assert float(angle_between(found[known], true[known]).median()) < 0.6


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_four_encodings_are_told_apart(capture: Capture, tmp_path: Path, encoding: Encoding) -> None:
    write_maps(tmp_path / "maps", encoding, "source")
    truth = understood_normals(capture, capture.split.test, folder=tmp_path / "maps")
    assert truth.encoding == encoding and f"read as {encoding.name} in the axes of the poses" in truth.note


def test_larger_maps_are_averaged_after_decoding(capture: Capture, tmp_path: Path) -> None:
    write_maps(tmp_path / "maps", SIGNED, "source", scale=3)
    truth = understood_normals(capture, capture.split.test, folder=tmp_path / "maps")
    view = capture.split.test[2]
    turn = (capture.source_from_world[:3, :3] / capture.source_from_world[:3, :3].det() ** (1 / 3)).float()
    found, true = truth.normals(capture, view), ball_normals(opengl_poses(8)[2]) @ turn
    known = found.any(-1) & true.any(-1)
    assert int(known.sum()) > 120 and float(angle_between(found[known], true[known]).mean()) < 1.0


def test_captures_bring_maps_that_lie_beside_their_photos(tmp_path: Path) -> None:
    folder = write_blender(tmp_path / "ball", test=8)
    assert load_capture(folder).normal_files == ()
    write_maps(folder / "test", CLIPPED, "source", suffix="_normal_0000")
    capture = load_capture(folder)
    assert [None if file is None else file.name for file in capture.normal_files] == [None] * 8 + [
        f"r_{k}_normal_0000.png" for k in range(8)
    ]
    assert understood_normals(capture, capture.split.test).encoding == CLIPPED
    assert understood_normals(capture, capture.split.test, folder=folder).files == capture.normal_files
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaptureError, match="no image in"):
        understood_normals(capture, capture.split.test, folder=tmp_path / "empty")


def test_what_is_no_truth_is_refused(capture: Capture, tmp_path: Path) -> None:
    views = capture.split.test
    with pytest.raises(CaptureError, match="nowhere does not exist"):
        understood_normals(capture, views, folder=tmp_path / "nowhere")
    write_maps(tmp_path / "maps", SIGNED, "source")
    with pytest.raises(CaptureError, match="axes of the poses or the cameras"):
        understood_normals(capture, views, folder=tmp_path / "maps", frame="normalized")
    for view in range(8):  # the photos again
        Image.fromarray(np.full((SIZE[1], SIZE[0], 3), (200, 30, 30), np.uint8)).save(tmp_path / "maps" / f"r_{view}_normal.png")
    with pytest.raises(CaptureError, match=r"encoding of the normal maps .* cannot be told"):
        understood_normals(capture, views, folder=tmp_path / "maps")
    Image.new("RGB", (7, 7)).save(tmp_path / "maps" / "r_0_normal.png")
    with pytest.raises(CaptureError, match="r_0_normal.png is 7x7 but the photo test/r_0.png is 40x30"):
        understood_normals(capture, views, folder=tmp_path / "maps")


def test_maps_of_other_views_do_not_face_the_cameras(capture: Capture, tmp_path: Path) -> None:
    write_maps(tmp_path / "maps", SIGNED, "source")
    for k in range(4):  # the views opposite
        one, other = (tmp_path / "maps" / f"r_{view}_normal.png" for view in (k, k + 4))
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
    with pytest.raises(CaptureError, match="do not face the cameras"):
        understood_normals(capture, capture.split.test, folder=tmp_path / "maps")


def test_axes_that_cannot_be_told_must_be_given(capture: Capture, tmp_path: Path) -> None:
    """Axes turned by 20 degrees about the viewing direction: all normals face the camera in both."""
    write_maps(tmp_path / "maps", SIGNED, "opengl")
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -0.35, 0], [0.35, 0, 0], [0, 0, 0]], dtype=torch.float64))
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    # Every camera looks along the same axis, and the frame of the poses is that of the camera up to the turn.
    capture.cameras.world_from_camera[:, :3, :3] = (turn @ flip).float()
    capture.source_from_world.copy_(torch.eye(4, dtype=torch.float64))
    with pytest.raises(CaptureError, match="give --truth-frame"):
        understood_normals(capture, capture.split.test, folder=tmp_path / "maps")
    assert understood_normals(capture, capture.split.test, folder=tmp_path / "maps", frame="opengl").frame == "opengl"


def test_renderings_whose_normals_are_ten_degrees_off_give_ten_degrees(capture: Capture, tmp_path: Path) -> None:
    write_maps(tmp_path / "maps", SIGNED, "source")
    truth = understood_normals(capture, capture.split.test, folder=tmp_path / "maps")
    measures = ViewMeasures(capture, capture.split.test, truth)
    angle = np.deg2rad(10.0)
    for number, view in enumerate(capture.split.test):
        true = truth.normals(capture, view)
        sideways = torch.nn.functional.normalize(torch.linalg.cross(true, torch.tensor([0.3, -0.5, 0.8]).expand_as(true)), dim=-1)
        off = true if number == 0 else np.cos(angle) * true + np.sin(angle) * sideways
        opacity = torch.ones(true.shape[:2])
        opacity[:, : SIZE[0] // 2] = 0.5  # what is not opaque does not count
        wrong = torch.where(opacity[..., None] < 1, -off, 0.3 * off)
        measures(ViewScore(view, "", 0.0, 0.0, None), true, Rendering(true, opacity, opacity, wrong, "srgb"))
    found = {measure.name: measure.value for measure in measures.normals}
    assert found["median"] == pytest.approx(10.0, abs=1e-3)
    assert found["mean"] == pytest.approx(10.0 * 7 / 8, abs=0.3)
    assert found["above 30°"] == 0.0


def test_without_normals_nothing_is_measured(capture: Capture) -> None:
    assert ViewMeasures(capture, capture.split.test, None).normals == ()


def test_the_normals_of_a_real_capture_face_its_cameras() -> None:
    capture = load_capture(real_capture("chair_200"))
    truth = understood_normals(capture, capture.split.test)
    assert (truth.encoding, truth.frame) == (CLIPPED, "source")
    known = truth.normals(capture, capture.split.test[0]).any(-1)
    assert 0.6 < float(known.sum() / (capture.mask(capture.split.test[0]) == 255).sum()) < 0.7
