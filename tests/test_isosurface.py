"""Laws of the sparse isosurface: it is the dense one, closed, welded and turned outwards, and it does not evaluate what it need not."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from skimage.measure import marching_cubes
from torch import Tensor

from unrender.geometry.isosurface import ScalarField, explain_empty, extract_surface
from unrender.geometry.mesh import Mesh


def sphere(points: Tensor) -> Tensor:
    return points.norm(dim=1) - 0.7


def torus(points: Tensor) -> Tensor:
    around = points[:, :2].norm(dim=1) - 0.55
    return torch.stack([around, points[:, 2]], 1).norm(dim=1) - 0.22


def two_pieces(points: Tensor) -> Tensor:
    shift = points.new_tensor([0.5, 0.45, -0.4])
    return torch.minimum((points + shift).norm(dim=1) - 0.3, (points - shift).norm(dim=1) - 0.2)


def gyroid(points: Tensor) -> Tensor:
    x, y, z = (6.0 * points).unbind(1)
    return x.sin() * y.cos() + y.sin() * z.cos() + z.sin() * x.cos()


def rough(points: Tensor) -> Tensor:
    """A bumpy ball with ambiguous cells of marching cubes and bumps about as large as a cell."""
    x, y, z = points.unbind(1)
    bumps = torch.sin(37 * x + 1) * torch.sin(41 * y + 2) * torch.sin(43 * z + 3)
    return points.norm(dim=1) - 0.6 + 0.08 * bumps


def signed_volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def dense(field: ScalarField, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Marching cubes over every cell, in one call."""
    axis = (-1 + 2 / resolution * np.arange(resolution + 1)).astype(np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    values = field(torch.from_numpy(points)).numpy().reshape([resolution + 1] * 3)
    vertices, faces, _, _ = marching_cubes(values, 0.0, gradient_direction="descent")
    return vertices.astype(np.float64) * 2 / resolution - 1, faces


@pytest.mark.parametrize("field", [torus, gyroid, rough])
@pytest.mark.parametrize(("resolution", "block"), [(48, 8), (50, 4), (41, 5)])
def test_the_surface_is_the_dense_one(field: ScalarField, resolution: int, block: int) -> None:
    mesh = extract_surface(field, resolution=resolution, block=block, chunk=10_000)
    vertices, faces = dense(field, resolution)
    assert mesh.vertices.shape[0] == len(vertices) and mesh.faces.shape[0] == len(faces)
    middles = vertices[faces].mean(1)
    our_middles = mesh.vertices[mesh.faces].double().mean(1).numpy()
    for a, b in ((mesh.vertices.numpy(), vertices), (our_middles, middles)):
        for one, other in ((a, b), (b, a)):
            assert KDTree(one, balanced_tree=False).query(other)[0].max() < 1e-4 * 2 / resolution
    assert mesh.area == pytest.approx(Mesh(torch.from_numpy(vertices), torch.from_numpy(faces.copy())).area, rel=1e-5)


@pytest.mark.parametrize("block", [2, 3, 7, 10])
def test_the_blocks_do_not_show_in_the_mesh(block: int) -> None:
    """The vertices are the same numbers in the same order, and the triangles the same set, however the lattice is cut."""
    mesh = extract_surface(rough, resolution=40, block=block, chunk=6000)
    whole = extract_surface(rough, resolution=40, block=40)
    assert torch.equal(mesh.vertices, whole.vertices)
    assert torch.equal(torch.unique(mesh.faces, dim=0), torch.unique(whole.faces, dim=0))


@pytest.mark.parametrize(
    ("field", "resolution"), [(sphere, 33), (sphere, 96), (torus, 40), (two_pieces, 33), (two_pieces, 96), (rough, 96)]
)
def test_a_closed_surface_is_watertight_and_turned_outwards(field: ScalarField, resolution: int) -> None:
    mesh = extract_surface(field, resolution=resolution, chunk=4096)
    assert mesh.is_watertight
    assert signed_volume(mesh) > 0
    points, normals = mesh.sample_surface(500, torch.Generator().manual_seed(0))
    step = 0.2 / resolution
    outward = field(points + step * normals) - field(points - step * normals)
    assert float((outward > 0).double().mean()) > 0.98


def test_each_lattice_point_is_evaluated_once() -> None:
    seen: list[Tensor] = []

    def field(points: Tensor) -> Tensor:
        assert len(points) <= 5000
        seen.append(points.clone())
        return torus(points)

    extract_surface(field, resolution=64, block=4, chunk=5000)
    centers = 16**3
    points = torch.cat(seen)[centers:]
    assert len(torch.unique(points, dim=0)) == len(points)
    lattice = (points.double() + 1) * 32
    torch.testing.assert_close(lattice, lattice.round(), atol=1e-5, rtol=0)


def test_values_that_change_from_call_to_call_leave_no_crack() -> None:
    """A field that rounds differently in each call, as matrix products do, must not make blocks disagree about what they share."""
    noise = torch.Generator().manual_seed(0)

    def field(points: Tensor) -> Tensor:
        return torus(points) + 2e-3 * torch.randn(len(points), generator=noise)

    mesh = extract_surface(field, resolution=96, block=4, chunk=3000)
    assert mesh.is_watertight


def test_the_cost_grows_with_the_area() -> None:
    counts = []
    for resolution in (64, 128):
        count = 0

        def field(points: Tensor) -> Tensor:
            nonlocal count
            count += len(points)  # noqa: B023
            return sphere(points)

        extract_surface(field, resolution=resolution, block=4, chunk=2**14)
        counts.append(count)
    assert counts[1] < 5 * counts[0]
    assert counts[1] < 129**3 / 3


def test_a_surface_is_followed_from_wherever_it_is_found() -> None:
    """A tube between two balls whose thickness the block centers give no hint of."""

    def field(points: Tensor) -> Tensor:
        ends = torch.minimum((points - points.new_tensor([-0.6, 0, 0])).norm(dim=1), (points - points.new_tensor([0.6, 0, 0])).norm(dim=1))
        tube = torch.maximum(points[:, 1:].norm(dim=1) - 0.04, points[:, 0].abs() - 0.6)
        inside = torch.minimum(ends - 0.25, tube) < 0
        return torch.where(inside, -1.0, 1.0)

    mesh = extract_surface(field, resolution=100, block=10, chunk=2**12)
    assert mesh.component_count == 1 and mesh.is_watertight


def test_a_small_piece_of_a_distance_field_is_found() -> None:
    """The ball is far smaller than a block and lies at a corner of blocks, as far from their centers as it can be."""

    def field(points: Tensor) -> Tensor:
        return torch.minimum(sphere(points), (points - 0.875).norm(dim=1) - 0.02)

    for lipschitz in (None, 1.0):
        mesh = extract_surface(field, resolution=128, block=8, chunk=2**13, lipschitz=lipschitz)
        assert mesh.component_count == 2 and mesh.is_watertight


def test_a_density_is_inside_where_it_is_above_the_level() -> None:
    mesh = extract_surface(lambda points: 50 * torch.sigmoid(-40 * sphere(points)), resolution=64, level=25.0, keep_above=True, chunk=2**13)
    assert mesh.is_watertight
    assert signed_volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=5e-3)


def test_the_level_shifts_a_distance_field() -> None:
    """On an edge of length h the distance to the center bends away from its chord by at most h² / (8 r)."""
    mesh = extract_surface(sphere, resolution=64, level=-0.2)
    bound = (2 / 64) ** 2 / (8 * 0.5) + 1e-6
    torch.testing.assert_close(mesh.vertices.norm(dim=1), torch.full((mesh.vertices.shape[0],), 0.5), atol=bound, rtol=0)


def test_bounds_cut_the_surface_and_need_not_be_a_cube() -> None:
    bounds = torch.tensor([[0.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    mesh = extract_surface(sphere, resolution=60, bounds=bounds, block=8, chunk=2**12)
    assert not mesh.is_watertight
    low, high = mesh.bounding_box
    torch.testing.assert_close(low, torch.tensor([0.0, -0.7, -0.7]), atol=2e-3, rtol=0)
    torch.testing.assert_close(high, torch.tensor([0.7, 0.7, 0.7]), atol=2e-3, rtol=0)
    assert mesh.area == pytest.approx(2 * math.pi * 0.49, rel=5e-3)


def test_a_surface_through_lattice_points_has_no_degenerate_triangles() -> None:
    """The planes of this octahedron run through lattice points, where dense marching cubes makes triangles of no area."""
    mesh = extract_surface(lambda points: points.abs().sum(1) - 0.5, resolution=32)
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    assert mesh.is_watertight
    assert float(torch.linalg.cross(b - a, c - a).norm(dim=1).min()) > 0


def test_where_the_level_is_not_reached_the_mesh_is_empty_and_the_reason_is_said() -> None:
    mesh = extract_surface(lambda points: points.norm(dim=1) + 0.25, resolution=64)
    assert mesh.is_empty and mesh.vertices.shape == (0, 3)
    assert "between 0.25 and 1.98" in explain_empty(lambda points: points.norm(dim=1) + 0.25)
    assert "counts as outside" in explain_empty(lambda points: points.norm(dim=1) + 0.25)
    assert "counts as inside" in explain_empty(lambda points: points.norm(dim=1) - 4)
    assert "a level of" in explain_empty(lambda points: points.norm(dim=1), level=10.0, keep_above=True)
    assert "diverged" in explain_empty(lambda points: points.norm(dim=1) * torch.nan)
    assert "does cross" in explain_empty(sphere)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        extract_surface(sphere, resolution=0)
    with pytest.raises(ValueError, match="half_extent"):
        extract_surface(sphere, resolution=8, half_extent=-1.0)
    with pytest.raises(ValueError, match="no volume"):
        extract_surface(sphere, resolution=8, bounds=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="lipschitz"):
        extract_surface(sphere, resolution=8, lipschitz=0.0)
    with pytest.raises(ValueError, match="too coarse"):
        extract_surface(sphere, resolution=64, block=32, chunk=1000)
    with pytest.raises(ValueError, match="one value each"):
        extract_surface(lambda points: points, resolution=8)
    with pytest.raises(ValueError, match="not finite"):
        extract_surface(lambda points: points[:, 0] / 0, resolution=8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_field_sees_gpu_positions_and_the_mesh_stays_there() -> None:
    device = torch.device("cuda")
    mesh = extract_surface(torus, resolution=96, device=device)
    assert mesh.vertices.device.type == "cuda" and mesh.faces.device.type == "cuda"
    host = extract_surface(torus, resolution=96)
    torch.testing.assert_close(mesh.vertices.cpu(), host.vertices, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_thousand_cells_a_side_fit_in_two_gigabytes() -> None:
    script = """
import resource, torch
from unrender.geometry.isosurface import extract_surface
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mesh = extract_surface(lambda x: x.norm(dim=1) - 0.8, resolution=1024)
print(mesh.faces.shape[0], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    faces, gigabytes = done.stdout.split()
    assert int(faces) > 6_000_000
    assert float(gigabytes) < 2.0
