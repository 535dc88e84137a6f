"""Laws of the analytic scene and of the photos taken of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.blender import write_blender
from unrender.captures.capture import Capture
from unrender.captures.load import load_capture
from unrender.demo import RADIUS, AnalyticScene, make_demo_capture, render_demo_views
from unrender.geometry.distances import points_to_mesh_distance
from unrender.geometry.mesh import Mesh


@pytest.fixture(scope="module")
def capture() -> Capture:
    return make_demo_capture(views=9, size=40)


@pytest.fixture(scope="module")
def true_mesh() -> Mesh:
    return AnalyticScene().mesh(96)


def points_in_cube(count: int = 4000) -> Tensor:
    return 2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) - 1


def test_the_function_is_nowhere_steeper_than_a_distance() -> None:
    scene = AnalyticScene()
    points = points_in_cube().double()
    steps = 0.05 * torch.randn(points.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    change = (scene.sdf(points + steps) - scene.sdf(points)).abs()
    assert float((change / steps.norm(dim=1)).max()) <= 1 + 1e-9


def test_the_scene_lies_within_its_radius() -> None:
    directions = torch.nn.functional.normalize(points_in_cube(), dim=1)
    assert float(AnalyticScene().sdf(RADIUS * directions).min()) > 0


def test_the_true_mesh_is_one_closed_piece_of_about_the_promised_size(true_mesh: Mesh) -> None:
    assert true_mesh.is_watertight and true_mesh.component_count == 1
    assert true_mesh.normals is not None and true_mesh.colors is not None
    assert 0.7 < float(true_mesh.vertices.norm(dim=1).max()) < RADIUS
    torch.testing.assert_close(true_mesh.normals.norm(dim=1), torch.ones(len(true_mesh.vertices)), atol=1e-5, rtol=0)
    of_triangles = true_mesh.with_vertex_normals().normals
    assert of_triangles is not None
    assert float((true_mesh.normals * of_triangles).sum(1).median()) > 0.999
    assert float(true_mesh.colors.min()) >= 0 and float(true_mesh.colors.max()) <= 1
    assert float(true_mesh.colors.std(0).min()) > 0.15


def test_the_same_seed_gives_the_same_photos_and_another_seed_others(capture: Capture) -> None:
    again = make_demo_capture(views=9, size=40)
    assert torch.equal(again.photos.pixels, capture.photos.pixels) and again.fingerprint == capture.fingerprint
    other = make_demo_capture(views=9, size=40, seed=1)
    assert not torch.equal(other.photos.pixels, capture.photos.pixels) and other.fingerprint != capture.fingerprint


def test_every_view_shows_the_scene_and_leaves_a_margin(capture: Capture) -> None:
    assert capture.has_masks
    masks = torch.stack([capture.mask(view) for view in range(len(capture))])
    covered = masks.double().mean(dim=(1, 2)) / 255
    assert 0.15 < float(covered.min()) and float(covered.max()) < 0.6
    edge = torch.cat([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], dim=1)
    assert int(edge.max()) == 0
    assert int(((masks > 0) & (masks < 255)).sum()) > 9 * 40


def test_every_eighth_view_is_held_out(capture: Capture) -> None:
    assert capture.split.test == (0, 8) and capture.split.train == (1, 2, 3, 4, 5, 6, 7)


def test_cameras_are_rigid_look_at_the_origin_and_keep_up_up(capture: Capture) -> None:
    poses = capture.cameras.world_from_camera.double()
    rotation, position = poses[:, :3, :3], poses[:, :3, 3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(9, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(9, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(rotation[:, :, 2], -position / position.norm(dim=1, keepdim=True), atol=1e-6, rtol=0)
    assert float(rotation[:, 2, 1].max()) < 0
    assert float(rotation[:, 2, 0].abs().max()) < 1e-6
    assert capture.cameras.intrinsics[0].tolist() == pytest.approx(
        [20 / math.tan(math.radians(20)), 20 / math.tan(math.radians(20)), 20, 20]
    )


def test_the_silhouette_is_that_of_the_true_mesh(capture: Capture, true_mesh: Mesh) -> None:
    """Vertices of the true mesh land on covered pixels, or beside one where they graze it, and wholly covered pixels hold vertices."""
    assert capture.has_masks
    vertices = true_mesh.vertices
    for view in (0, 4, 8):
        pixels, depth = capture.cameras.project(vertices, view)
        assert float(depth.min()) > 0
        column, row = pixels.floor().long().unbind(1)
        around = torch.nn.functional.max_pool2d(capture.mask(view)[None].float(), 3, 1, 1)[0]
        assert float(around[row, column].min()) > 0
        reached = torch.zeros(40, 40, dtype=torch.bool)
        reached[row, column] = True
        assert not bool((capture.mask(view) == 255)[~reached].any())


def test_a_photo_shows_what_rays_walked_one_by_one_meet() -> None:
    """The rays that the cameras give, walked from the start with small steps, meet the same points in the same colors."""
    scene = AnalyticScene()
    cameras = make_demo_capture(views=3, size=36).cameras[1:2]
    assert isinstance(cameras, Cameras)
    color, opacity = render_demo_views(scene, cameras, supersampling=1)
    rays = cameras.image_rays(0)
    distance = torch.full((len(rays.origins),), 1.5)
    for _ in range(300):
        distance = distance + 0.9 * scene.sdf(rays.origins + distance[:, None] * rays.directions).clamp_min(0)
    met = distance < 4.0
    seen = opacity[0].reshape(-1) > 0
    assert int((met != seen).sum()) <= 2
    assert bool((color[0][opacity[0] == 0] == 0).all())
    points = (rays.origins + distance[:, None] * rays.directions)[met & seen]
    error = (scene.color(points, scene.normals(points)) - color[0].reshape(-1, 3)[met & seen]).abs().amax(1)
    assert float((error < 5e-3).double().mean()) > 0.98


def test_points_on_the_true_mesh_are_on_the_surface(true_mesh: Mesh) -> None:
    scene = AnalyticScene()
    points, _ = true_mesh.sample_surface(2000, torch.Generator().manual_seed(0))
    assert float(scene.sdf(points).abs().max()) < 0.01
    assert float(points_to_mesh_distance(points, true_mesh).max()) < 1e-6


def test_a_written_capture_reads_back_the_same(capture: Capture, tmp_path: Path) -> None:
    write_blender(capture, tmp_path)
    back = load_capture(tmp_path)
    order = [*capture.split.train, *capture.split.test]
    assert back.split.train == tuple(range(7)) and back.split.test == (7, 8)
    assert capture.has_masks and back.has_masks
    for here, there in enumerate(order):
        assert torch.equal(back.mask(here), capture.mask(there))
        seen = capture.mask(there) > 0
        assert torch.equal(back.photos[here][seen], capture.photos[there][seen])
    similarity = back.source_from_world
    scale = torch.linalg.det(similarity[:3, :3]) ** (1 / 3)
    poses = similarity @ back.cameras.world_from_camera.double()
    poses[:, :3, :3] /= scale
    torch.testing.assert_close(poses, capture.cameras.world_from_camera[order].double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(back.cameras.intrinsics, capture.cameras.intrinsics[order], rtol=1e-5, atol=0)


def test_a_capture_is_written_in_the_frame_its_poses_came_in(capture: Capture, tmp_path: Path) -> None:
    similarity = torch.eye(4, dtype=torch.float64)
    similarity[:3, :3] *= 2.5
    similarity[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    write_blender(replace(capture, source_from_world=similarity), tmp_path)
    back = load_capture(tmp_path)
    centers = back.source_from_world[:3, :3] @ back.cameras.world_from_camera[0, :3, 3].double() + back.source_from_world[:3, 3]
    expected = 2.5 * capture.cameras.world_from_camera[1, :3, 3].double() + torch.tensor([1.0, 2.0, 3.0])
    np.testing.assert_allclose(centers.numpy(), expected.numpy(), atol=1e-5)


def test_cameras_the_format_has_no_words_for_are_refused(capture: Capture, tmp_path: Path) -> None:
    bent = replace(capture.cameras, distortion=torch.full_like(capture.cameras.distortion, 0.1))
    with pytest.raises(ValueError, match="no distortion"):
        write_blender(replace(capture, cameras=bent), tmp_path)


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_demo_capture(views=0)
