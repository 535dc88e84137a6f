from __future__ import annotations

import base64
import gzip
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.geometry.isosurface import extract_surface
from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset, PbrMaterial
from unrender.runs.mesh_viewer import coarsened, packed
from unrender.runs.viewpoint import UPRIGHT, Viewpoint, viewpoint_of
from unrender.transforms import look_at


def ball(resolution: int = 24) -> Mesh:
    mesh = extract_surface(lambda points: points.norm(dim=-1) - 0.7, resolution=resolution, device=torch.device("cpu"))
    return mesh.with_colors(mesh.vertices / 2 + 0.5)


class Unpacked:
    """Reads the planes in the order in which the page does."""

    def __init__(self, page: Any) -> None:
        self.data, self.at = gzip.decompress(base64.b64decode(page["data"])), 0

    def columns(self, rows: int, columns: int, width: int) -> ndarray:
        planes = []
        for _ in range(columns):
            part = np.frombuffer(self.data, np.uint8, rows * width, self.at).reshape(width, rows).astype(np.uint64)
            self.at += rows * width
            values = sum(part[byte] << np.uint64(8 * byte) for byte in range(width))
            planes.append(np.cumsum(values) % np.uint64(256**width))
        return np.stack(planes, -1)


def test_the_page_unpacks_the_mesh_it_was_given() -> None:
    mesh = ball()
    page = packed(Asset(mesh), UPRIGHT)
    unpacked = Unpacked(page)
    low, high = np.array(page["low"]), np.array(page["high"])
    vertices = unpacked.columns(len(mesh.vertices), 3, 2) / 65535 * (high - low) + low
    colors = unpacked.columns(len(mesh.vertices), 3, 1)
    faces = unpacked.columns(3 * len(mesh.faces), 1, 4).reshape(-1, 3)
    assert unpacked.at == len(unpacked.data)
    world = vertices @ UPRIGHT.page_from_world.numpy().astype(np.float64)
    np.testing.assert_allclose(world * 0.7, mesh.vertices.numpy(), atol=2e-3)
    np.testing.assert_array_equal(faces, mesh.faces.numpy())
    assert mesh.colors is not None
    np.testing.assert_allclose(colors / 255, mesh.colors.numpy(), atol=0.51 / 255)


def test_a_texture_travels_with_one_coordinate_for_each_vertex() -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    uvs = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0.25, 0.5], [0.5, 0.5]])
    mesh = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), uvs=uvs, uv_faces=torch.tensor([[0, 1, 2], [3, 2, 4]]))
    page = packed(Asset(mesh, PbrMaterial(torch.rand(4, 4, 3))), UPRIGHT)
    assert str(page["texture"]).startswith("data:image/jpeg") and not page["colors"]
    assert page["vertices"] == 5  # the first corner lies on a seam
    unpacked = Unpacked(page)
    unpacked.columns(5, 3, 2)
    places, faces = unpacked.columns(5, 2, 2) / 65535, unpacked.columns(6, 1, 4).reshape(-1, 3)
    assert mesh.uv_faces is not None
    np.testing.assert_allclose(places[faces], uvs[mesh.uv_faces].numpy(), atol=1e-5)


def test_a_coarsened_mesh_keeps_its_shape_within_a_cell() -> None:
    mesh = ball(64)
    coarse = coarsened(mesh, 2000)
    assert 500 < len(coarse.faces) <= 2000 < len(mesh.faces)
    assert abs(coarse.vertices.norm(dim=-1) - 0.7).max() < 0.03
    assert coarse.colors is not None
    torch.testing.assert_close(coarse.colors, coarse.vertices / 2 + 0.5, atol=1e-5, rtol=0)
    assert coarsened(mesh, len(mesh.faces)) is mesh


def seen_from(azimuths: list[float], up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Capture:
    """Return a capture whose cameras stand around the axis ``up``, 30° above the horizon."""
    frame = Viewpoint.along(torch.tensor(up), torch.tensor([1.0, 0.3, 0.1]))
    positions = torch.stack([3 * frame.direction(azimuth, 30.0) for azimuth in azimuths])
    poses = torch.stack([look_at(position, torch.zeros(3), torch.tensor(up)) for position in positions])
    cameras = Cameras.alike(poses, torch.tensor([[20.0, 20.0, 8.0, 8.0]]).expand(len(poses), 4).clone(), None, 16, 16)
    return Capture.from_tensors(torch.zeros(len(poses), 16, 16, 3, dtype=torch.uint8), cameras)


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (0.6, 0.0, -0.8)])
def test_one_sided_photos_are_seen_from_their_middle(up: tuple[float, float, float]) -> None:
    viewpoint, azimuths = viewpoint_of(seen_from([-40.0, -10.0, 10.0, 40.0], up), up)
    expected = Viewpoint.along(torch.tensor(up), torch.tensor([1.0, 0.3, 0.1]))
    torch.testing.assert_close(viewpoint.up, expected.up)
    torch.testing.assert_close(viewpoint.front, expected.front, atol=1e-5, rtol=0)
    assert max(map(abs, azimuths)) < 90


def test_photos_from_all_sides_are_seen_from_the_first() -> None:
    capture = seen_from([0.0, 90.0, 180.0, 270.0])
    up = (0.0, 0.0, 1.0)
    viewpoint, azimuths = viewpoint_of(replace(capture, split=replace(capture.split, train=(1, 2, 3), test=(0,))), up)
    assert float(viewpoint.front @ Viewpoint.along(torch.tensor(up), torch.tensor([1.0, 0.3, 0.1])).front) > 0.999
    assert azimuths[1] - azimuths[0] == 180.0


def test_a_viewpoint_looks_along_its_front_and_turns_to_the_right() -> None:
    viewpoint = Viewpoint.along(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 2.0]))
    assert viewpoint.direction(0.0, 0.0).tolist() == pytest.approx([0.0, 0.0, 1.0])
    assert viewpoint.direction(90.0, 0.0).tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    assert viewpoint.direction(0.0, 90.0).tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)
    assert float(torch.linalg.det(viewpoint.page_from_world)) == pytest.approx(1.0)
    straight_above = Viewpoint.along(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 5.0]))
    assert abs(float(straight_above.front @ straight_above.up)) < 1e-6
