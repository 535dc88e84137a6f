"""Laws of the surface from which a fit starts: lattices of distances, and the fusion of depth maps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unrender.cameras import Cameras
from unrender.geometry.distance_lattice import CUBE, DistanceLattice, lattice_points, lattice_shape
from unrender.geometry.first_surface import fuse_depth_maps, redistanced, signed_distance
from unrender.geometry.isosurface import extract_surface
from unrender.ops.raster import TriangleTree, cast_rays
from unrender.transforms import look_at


def ball(points: Tensor) -> Tensor:
    return (points - torch.tensor([0.1, -0.1, 0.0])).norm(dim=1) - 0.4


def cup(points: Tensor) -> Tensor:
    """A cup with walls of 0.08 and a cavity as deep as it is wide, open upward."""
    radius, height = points[:, :2].norm(dim=1), points[:, 2]
    outside = torch.maximum(radius - 0.4, height.abs() - 0.4)
    cavity = torch.maximum(radius - 0.32, -0.3 - height)
    return torch.maximum(outside, -cavity)


def dome(rings: int = 5, around: int = 12) -> Cameras:
    """Cameras on a sphere, all looking at the origin."""
    elevations = torch.linspace(-0.9, 1.4, rings)
    angles = [(float(e), 2 * math.pi * k / around + float(e)) for e in elevations for k in range(around)]
    eyes = torch.tensor([[math.cos(a) * math.cos(e), math.sin(a) * math.cos(e), math.sin(e)] for e, a in angles]) * 2.5
    poses = look_at(eyes, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Cameras.alike(poses, torch.tensor([[150.0, 150.0, 40.0, 40.0]]).repeat(len(eyes), 1), None, 80, 80)


def depth_maps(shape: Callable[[Tensor], Tensor], cameras: Cameras, noise: float = 0.0) -> list[Tensor]:
    mesh = extract_surface(shape, resolution=128)
    tree, random = TriangleTree(mesh.vertices, mesh.faces.int()), torch.Generator().manual_seed(0)
    maps = []
    for view in range(len(cameras)):
        rays = cameras.image_rays(view)
        hits = cast_rays(tree, rays.origins, rays.directions)
        distance = torch.where(hits.face >= 0, hits.distance, torch.inf).reshape(80, 80)
        maps.append(distance + noise * torch.randn(80, 80, generator=random))
    return maps


def test_a_lattice_interpolates_a_linear_function_exactly_and_keeps_it_on_another_box() -> None:
    box, part = torch.tensor([[-1.0, -0.5, 0.0], [1.0, 0.5, 0.6]]), torch.tensor([[-0.4, -0.3, 0.1], [0.6, 0.2, 0.5]])
    shape = lattice_shape(box, 20)

    def linear(points: Tensor) -> Tensor:
        return points @ torch.tensor([1.0, -2.0, 3.0]) - 0.3

    lattice = DistanceLattice(linear(lattice_points(box, shape)).reshape(shape), box)
    cut = lattice.resampled(part, 15)
    points = lattice_points(part, lattice_shape(part, 7))
    torch.testing.assert_close(cut.at(points), linear(points), atol=1e-5, rtol=0)
    torch.testing.assert_close(lattice.at(torch.tensor([[5.0, 0.1, 0.2]])), linear(torch.tensor([[1.0, 0.1, 0.2]])), atol=1e-5, rtol=0)


def test_the_box_of_the_inside_holds_it_with_a_margin() -> None:
    lattice = DistanceLattice.of_sphere(41, 0.5)
    low, high = lattice.box_of_inside(0.1)
    assert (low < -0.58).all() and (low > -0.7).all() and torch.allclose(high, -low, atol=1e-5)
    with pytest.raises(ValueError, match="distances below zero"):
        DistanceLattice.of_sphere(9, -0.1).box_of_inside(0.1)


@pytest.mark.parametrize("distorted", [lambda d: d, lambda d: d * 5, lambda d: d.clamp(-0.08, 0.08) + 0.3 * d**3])
def test_values_become_distances_without_moving_their_zero_set(distorted: Callable[[Tensor], Tensor]) -> None:
    shape = (48, 48, 48)
    points = lattice_points(torch.tensor(CUBE), shape)
    found = redistanced(DistanceLattice(distorted(ball(points)).reshape(shape), torch.tensor(CUBE)))
    error = (found.values.reshape(-1) - ball(points)).abs()
    near = ball(points).abs() < 2 * found.cell
    assert float(error[near].max()) < 0.1 * found.cell
    assert float(error[points.norm(dim=1) < 0.9].max()) < 1.2 * found.cell


def test_all_inside_is_no_surface() -> None:
    assert signed_distance(torch.ones(4, 4, 4, dtype=torch.bool), 0.1) is None
    with pytest.raises(ValueError, match="both signs"):
        redistanced(DistanceLattice(torch.ones(4, 4, 4), torch.tensor(CUBE)))


def test_fused_depth_maps_of_a_ball_are_its_distances() -> None:
    cameras = dome()
    fused = fuse_depth_maps(cameras, depth_maps(ball, cameras), 56)
    assert fused is not None and fused.cell < 0.7 * 2 / 55
    whole = fuse_depth_maps(cameras, depth_maps(ball, cameras), 56, whole=True)
    assert whole is not None and whole.values.shape == (56, 56, 56) and whole.bounds.tolist() == [list(corner) for corner in CUBE]
    mesh = extract_surface(fused.at, resolution=64, bounds=fused.bounds)
    assert mesh.is_watertight and mesh.component_count == 1
    error = ball(mesh.vertices)
    assert float(error.abs().mean()) < 0.1 * fused.cell and float(error.abs().max()) < 0.8 * fused.cell


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_cavity_that_a_few_views_look_into_stays_open_and_thin_walls_stay(noise: float) -> None:
    cameras = dome()
    fused = fuse_depth_maps(cameras, depth_maps(cup, cameras, noise), 72)
    assert fused is not None
    inner = torch.tensor([[0.0, 0.0, z] for z in (-0.2, -0.1, 0.0, 0.2, 0.35)] + [[0.2, 0.0, 0.0], [0.0, -0.22, 0.2]])
    assert (fused.at(inner) > 0.03).all()
    angles = torch.linspace(0, 6, 20)
    walls = torch.stack([0.36 * angles.cos(), 0.36 * angles.sin(), 0.1 + 0 * angles], dim=1)
    assert (fused.at(walls) < 0).float().mean() > 0.9


def test_rays_that_leak_leave_the_object_solid_unknown_pixels_cost_nothing_and_specks_are_dropped() -> None:
    cameras = dome()
    maps = depth_maps(ball, cameras)
    random = torch.Generator().manual_seed(1)
    for view in range(60):
        maps[view][torch.rand(80, 80, generator=random) < 0.003] = torch.inf
        maps[view][torch.rand(80, 80, generator=random) < 0.3] = torch.nan
    for view in range(0, 60, 6):
        maps[view][5:8, 5:8] = 1.6  # a floating speck
    fused = fuse_depth_maps(cameras, maps, 48)
    assert fused is not None
    points = lattice_points(torch.tensor(CUBE), (30, 30, 30))
    inside = fused.at(points) < 0
    assert inside[ball(points) < -0.05].all() and not inside[ball(points) > 0.1].any()


def test_depth_maps_without_a_surface_fuse_to_nothing() -> None:
    cameras = dome(2, 3)
    assert fuse_depth_maps(cameras, [torch.full((80, 80), torch.inf)] * 6, 32) is None
