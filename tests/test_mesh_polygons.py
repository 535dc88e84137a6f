"""Polygons become triangles that cover them once."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mesh_samples import CUBE, CUBE_QUADS, signed_volume
from unrender.files.mesh_files.arrays import MeshFileError
from unrender.files.mesh_files.polygons import triangulated
from unrender.geometry.mesh import read_mesh

L_SHAPE = [[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]]
KEYHOLE = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0], [1, 1], [1, 3], [3, 3], [3, 1], [1, 1]]
TWO_WINDOWS = [
    *([0, 0], [9, 0], [9, 4], [0, 4], [0, 0]),
    *([1, 1], [1, 3], [3, 3], [3, 1], [1, 1], [0, 0], [5, 1], [5, 3], [7, 3], [7, 1], [5, 1]),
]  # fmt: skip
COMB = [[0, 0], [7, 0], *([7 - k, 3 if k % 2 == 0 else 1] for k in range(8))]
STRAIGHT = [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1], [3, 3], [2, 3], [0, 3], [0, 1]]
ARROW = [[0, 0], [2, 1], [0, 2], [0.5, 1]]
SPIRAL = [[0, 0], [6, 0], [6, 6], [1, 6], [1, 2], [4, 2], [4, 4], [3, 4], [3, 3], [2, 3], [2, 5], [5, 5], [5, 1], [0, 1]]
SHAPES = {"l": L_SHAPE, "keyhole": KEYHOLE, "windows": TWO_WINDOWS, "comb": COMB, "straight": STRAIGHT, "arrow": ARROW, "spiral": SPIRAL}


def shoelace(flat: np.ndarray) -> float:
    after = np.roll(flat, -1, axis=0)
    return float((flat[:, 0] * after[:, 1] - flat[:, 1] * after[:, 0]).sum() / 2)


def placed(flat: np.ndarray, generator: np.random.Generator, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """The polygon in a plane of any direction, and the plane's normal."""
    frame, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    frame *= np.linalg.det(frame)
    return flat @ frame[:, :2].T + offset * generator.normal(size=3), frame[:, 2]


def check_cover(points: np.ndarray, normal: np.ndarray, area: float, tolerance: float) -> None:
    triangles = triangulated(points, np.array([len(points)]), np.arange(len(points)))
    a, b, c = np.moveaxis(points[triangles], 1, 0)
    areas = np.cross(b - a, c - a) @ normal / 2
    assert len(triangles) == len(points) - 2
    assert areas.sum() == pytest.approx(area, abs=tolerance)
    assert areas.min() > -tolerance, "a triangle is turned over"
    assert set(triangles.reshape(-1).tolist()) == set(range(len(points))), "a corner is not used"


@pytest.mark.parametrize("offset", [0.0, 5e6])
@pytest.mark.parametrize("name", SHAPES)
def test_a_polygon_is_covered_once_from_every_first_corner(name: str, offset: float) -> None:
    generator = np.random.default_rng(3)
    flat = np.array(SHAPES[name], np.float64)
    area = shoelace(flat)
    for start in range(len(flat)):
        points, normal = placed(np.roll(flat, start, axis=0), generator, offset)
        check_cover(points, normal * np.sign(area), abs(area), 1e-9 if offset == 0 else 1e-7)
        check_cover(points[::-1], -normal * np.sign(area), abs(area), 1e-9 if offset == 0 else 1e-7)


@pytest.mark.parametrize("corners", [5, 8, 13, 40])
def test_random_simple_polygons_are_covered_once(corners: int) -> None:
    generator = np.random.default_rng(corners)
    for _ in range(25):
        angles = (np.arange(corners) + generator.uniform(0.1, 0.9, corners)) * 2 * np.pi / corners
        radii = generator.uniform(0.05, 1, corners)
        flat = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
        points, normal = placed(flat, generator, 1.0)
        check_cover(points, normal * np.sign(shoelace(flat)), abs(shoelace(flat)), 1e-9)


def test_a_polygon_with_a_thousand_corners_is_covered_once() -> None:
    teeth = np.arange(1000)
    radius = 1 + 0.3 * (teeth % 2)
    flat = np.stack([radius * np.cos(teeth * 2 * np.pi / 1000), radius * np.sin(teeth * 2 * np.pi / 1000)], 1)
    check_cover(np.pad(flat, ((0, 0), (0, 1))), np.array([0.0, 0, 1]), shoelace(flat), 1e-9)


def test_no_triangle_lacks_area_where_sides_are_subdivided() -> None:
    points = np.pad(np.array(STRAIGHT, np.float64), ((0, 0), (0, 1)))
    triangles = points[triangulated(points, np.array([len(points)]), np.arange(len(points)))]
    assert np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])[:, 2].min() > 0.1


def test_a_convex_polygon_is_a_fan_and_polygons_keep_their_order() -> None:
    points = np.array([[math.cos(k), math.sin(k), 0] for k in range(6)])
    triangles = triangulated(points, np.array([3, 5, 3, 4]), np.array([0, 1, 2, 0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 2, 3]))
    assert triangles.tolist() == [[0, 1, 2], [3, 4, 5], [3, 5, 6], [3, 6, 7], [8, 9, 10], [11, 12, 13], [11, 13, 14]]


def test_repeated_corners_are_left_out() -> None:
    points = np.array([[0.0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]])
    corners = np.array([0, 1, 1, 2, 3, 3, 0, 1, 2, 0, 2, 3, 1, 1, 1, 1, 0, 1, 0, 1])
    triangles = corners[triangulated(points, np.array([6, 3, 3, 4, 4]), corners)]
    a, b, c = np.moveaxis(points[triangles], 1, 0)
    areas = np.cross(b - a, c - a)[:, 2] / 2
    assert areas[:4].tolist() == [2, 2, 2, 2] and np.abs(areas[4:]).max() == 0
    assert len(triangles) == 7  # a polygon without area keeps a triangle


def test_a_polygon_that_crosses_itself_ends() -> None:
    star = np.array([[math.cos(4 * math.pi * k / 5), math.sin(4 * math.pi * k / 5), 0] for k in range(5)])
    bow_tie = np.array([[0.0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]])
    for points in (star, bow_tie, np.zeros((7, 3)), np.repeat(bow_tie, 3, axis=0)):
        assert len(triangulated(points, np.array([len(points)]), np.arange(len(points)))) == len(points) - 2


def test_an_intricate_face_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrender.files.mesh_files.polygons._MOST_COMPARISONS", 1000)
    teeth = np.arange(400)
    flat = np.stack([teeth / 2.0, np.where(teeth % 2 == 0, 0.0, 1.0)], 1)
    points = np.pad(np.concatenate([flat, flat[::-1] + [0.0, 1.0]]), ((0, 0), (0, 1)))
    with pytest.raises(MeshFileError, match="800 corners is too intricate"):
        triangulated(points, np.array([800]), np.arange(800))


@pytest.mark.parametrize("suffix", ["obj", "ply", "off"])
def test_every_text_format_cuts_polygons_the_same_way(tmp_path: Path, suffix: str) -> None:
    rows = "".join(f"{x} {y} 5\n" for x, y in L_SHAPE)
    texts = {
        "obj": "".join(f"v {x} {y} 5\n" for x, y in L_SHAPE) + "f 3 4 5 6 1 2\n",
        "ply": "ply\nformat ascii 1.0\nelement vertex 6\nproperty float x\nproperty float y\nproperty float z\nelement face 1\n"
        "property list uchar int vertex_indices\nend_header\n" + rows + "6 2 3 4 5 0 1\n",
        "off": f"OFF\n6 1 0\n{rows}6 2 3 4 5 0 1\n",
    }
    (tmp_path / f"l.{suffix}").write_text(texts[suffix])
    mesh = read_mesh(tmp_path / f"l.{suffix}")
    assert mesh.area == pytest.approx(3) and len(mesh.faces) == 4
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    assert float((b - a).cross(c - a, dim=-1)[:, 2].min()) > 0


def test_a_solid_stays_watertight_where_sides_are_subdivided(tmp_path: Path) -> None:
    """Every edge of a cube gets its middle as a further corner of both faces beside it."""
    positions = CUBE.tolist()
    middles: dict[tuple[int, int], int] = {}
    lines = []
    for quad in CUBE_QUADS:
        polygon = []
        for a, b in zip(quad, [*quad[1:], quad[0]], strict=True):
            key = (min(a, b), max(a, b))
            if key not in middles:
                middles[key] = len(positions)
                positions.append(((CUBE[a] + CUBE[b]) / 2).tolist())
            polygon += [a, middles[key]]
        lines.append("f " + " ".join(str(corner + 1) for corner in polygon))
    (tmp_path / "cube.obj").write_text("".join(f"v {x} {y} {z}\n" for x, y, z in positions) + "\n".join(lines))
    mesh = read_mesh(tmp_path / "cube.obj")
    assert mesh.is_watertight and mesh.component_count == 1 and len(mesh.vertices) == 20
    assert mesh.area == pytest.approx(6) and signed_volume(mesh) == pytest.approx(1)
    assert torch.equal(mesh.vertices, torch.tensor(positions))
