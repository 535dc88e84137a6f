from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from unrender.cameras import Cameras, LensModel, arc_cameras, interpolated_cameras, orbit_cameras, spiral_cameras
from unrender.color import linear_from_srgb, over, srgb_from_linear
from unrender.lenses import folds
from unrender.transforms import look_at, matrix_from_wxyz, rotation_between, slerp, wxyz_from_matrix

LENSES: list[tuple[LensModel, list[float]]] = [
    ("opencv", [0.0] * 6),
    ("opencv", [0.0578421, -0.0805099, 0.0, 0.0, -0.000980296, 0.00015575]),
    ("opencv", [-0.28, 0.11, -0.02, 0.001, 0.0008, -0.0005]),
    ("fisheye", [0.0] * 6),
    ("fisheye", [0.05, -0.012, 0.004, -0.0007, 0.0, 0.0]),
]


def cameras_around(
    count: int, lens: LensModel = "opencv", distortion: list[float] | None = None, dtype: torch.dtype = torch.float64
) -> Cameras:
    generator = torch.Generator().manual_seed(3)
    positions = torch.randn(count, 3, generator=generator, dtype=dtype)
    positions = 3 * positions / positions.norm(dim=-1, keepdim=True)
    return Cameras.alike(
        world_from_camera=look_at(positions, torch.zeros(3, dtype=dtype), torch.tensor([0.0, 0.0, 1.0], dtype=dtype)),
        intrinsics=torch.tensor([[52.0, 50.0, 33.5, 22.25]], dtype=dtype).repeat(count, 1),
        distortion=torch.tensor([distortion or [0.0] * 6], dtype=dtype).repeat(count, 1),
        width=64,
        height=48,
        lens=lens,
    )


@pytest.mark.parametrize(("lens", "distortion"), LENSES)
def test_projection_inverts_rays(lens: LensModel, distortion: list[float]) -> None:
    cameras = cameras_around(2, lens, distortion)
    rays = cameras.image_rays(1)
    distances = torch.linspace(0.5, 9.0, len(rays.origins), dtype=torch.float64)[:, None]
    pixels, depth = cameras.project(rays.origins + distances * rays.directions, 1)
    assert float((pixels - cameras.pixel_centers(1)).abs().max()) < 1e-9
    assert bool((depth > 0).all())


@pytest.mark.parametrize(("lens", "distortion"), LENSES)
def test_points_along_the_rays_of_pixels_are_found_in_them_and_no_others(lens: LensModel, distortion: list[float]) -> None:
    cameras = cameras_around(2, lens, distortion)
    rays = cameras.image_rays(1)
    ahead = rays.origins + 2.0 * rays.directions
    behind = rays.origins - 2.0 * rays.directions
    beside = ahead + 20.0 * cameras.world_from_camera[1, :3, 0]
    nowhere = torch.full_like(ahead[:1], torch.nan)
    found, pixels, places = cameras.project_inside(torch.cat([behind, nowhere, ahead, beside]), 1)
    assert found.tolist() == list(range(len(behind) + 1, len(behind) + 1 + len(ahead)))
    torch.testing.assert_close(pixels, cameras.pixel_centers(1), rtol=0, atol=1e-9)
    torch.testing.assert_close(places.double().flip(-1) + 0.5, cameras.pixel_centers(1))


def test_a_fisheye_image_has_points_beyond_a_right_angle() -> None:
    camera = cameras_around(1, "fisheye")
    camera = replace(camera, intrinsics=torch.tensor([[15.0, 15.0, 32.0, 24.5]], dtype=torch.float64))
    pose = camera.world_from_camera[0]
    sideways = pose[:3, 3] + pose[:3, :3] @ torch.tensor([1.0, 0.0, -0.2], dtype=torch.float64)
    found, pixels, places = camera.project_inside(sideways[None], 0)
    assert found.tolist() == [0]
    angle = math.atan2(1.0, -0.2)
    torch.testing.assert_close(pixels, torch.tensor([[32 + 15 * angle, 24.5]], dtype=torch.float64))
    assert places.tolist() == [[24, int(32 + 15 * angle)]]


@pytest.mark.parametrize(("lens", "distortion"), LENSES)
def test_float32_rays_are_exact_to_a_ten_thousandth_of_a_pixel(lens: LensModel, distortion: list[float]) -> None:
    single, double = cameras_around(1, lens, distortion, torch.float32), cameras_around(1, lens, distortion)
    directions = single.directions_in_camera()[0].double()
    pose = double.world_from_camera[0]
    pixels, _ = double.project(pose[:3, 3] + directions @ pose[:3, :3].T, 0)
    assert float((pixels - double.pixel_centers(0)).abs().max()) < 1e-4


def test_autocast_leaves_cameras_alone() -> None:
    cameras = cameras_around(3, dtype=torch.float32)
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    views, pixels = torch.tensor([0, 2]), torch.tensor([[3.5, 4.5], [60.25, 40.0]])

    def everything() -> list[torch.Tensor]:
        image, some = cameras.image_rays(1), cameras.rays(views, pixels)
        return [cameras.clip_positions(points, 0.1, 10.0), *cameras.project(points, 2), image.directions, some.directions]

    exact = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = everything()
    for here, there in zip(exact, cast, strict=True):
        assert there.dtype == torch.float32 and torch.equal(here, there)


def test_a_far_plane_at_infinity_is_the_limit_of_far_ones() -> None:
    cameras = cameras_around(2)
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    endless = cameras.clip_positions(points, 0.1, math.inf)
    torch.testing.assert_close(endless, cameras.clip_positions(points, 0.1, 1e12), atol=1e-9, rtol=0)
    depth = endless[..., 3]
    torch.testing.assert_close(endless[..., 2], depth - 0.2, atol=1e-12, rtol=0)
    for near, far in ((math.inf, math.inf), (0.1, math.nan), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="0 < near < far"):
            cameras.clip_from_camera(near, far)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_point_that_is_not_finite_spoils_no_gradient(broken: float) -> None:
    points = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spoilt = torch.cat([points, torch.tensor([[0.0, broken, 0.0]], dtype=torch.float64)])
    gradients = []
    for given in (points, spoilt):
        cameras, leaf = cameras_around(2), given.clone().requires_grad_()
        pose = cameras.world_from_camera.clone().requires_grad_()
        clip = replace(cameras, world_from_camera=pose).clip_positions(leaf, 0.1, 10.0)
        assert clip[:, 5:].isnan().all()
        gradients.append(torch.autograd.grad(clip[:, :5].square().sum(), (leaf, pose)))
    (of_points, of_pose), (of_spoilt, of_spoilt_pose) = gradients
    assert torch.equal(of_spoilt[:5], of_points) and torch.equal(of_spoilt[5], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(of_spoilt_pose, of_pose)


def test_projection_follows_the_published_polynomial() -> None:
    k1, k2, k3, k4, p1, p2 = distortion = [-0.2, 0.07, 0.01, 0.002, 0.003, -0.004]
    camera = Cameras.alike(
        torch.eye(4, dtype=torch.float64)[None],
        torch.tensor([[52.0, 50.0, 33.5, 22.25]], dtype=torch.float64),
        torch.tensor([distortion], dtype=torch.float64),
        64,
        48,
    )
    x, y = 0.4, -0.3
    r = x * x + y * y
    radial = 1 + k1 * r + k2 * r**2 + k3 * r**3 + k4 * r**4
    expected = (
        52.0 * (x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x)) + 33.5,
        50.0 * (y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y) + 22.25,
    )
    pixels, depth = camera.project(torch.tensor([[2 * x, 2 * y, 2.0]], dtype=torch.float64), 0)
    np.testing.assert_allclose(pixels[0].numpy(), expected, rtol=1e-14)
    assert float(depth) == 2.0


def test_fisheye_sees_beyond_a_right_angle() -> None:
    camera = Cameras.alike(torch.eye(4)[None], torch.tensor([[10.0, 10.0, 32.0, 24.0]]), torch.zeros(1, 6), 64, 48, "fisheye")
    rays = camera.rays(torch.tensor([0]), torch.tensor([[32.0 + 10.0 * 2.0, 24.0]]))
    torch.testing.assert_close(rays.directions[0], torch.tensor([math.sin(2.0), 0.0, math.cos(2.0)]))


def test_points_behind_the_fold_of_a_lens_stay_outside_the_image() -> None:
    camera = cameras_around(1, "opencv", [-0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
    pose = camera.world_from_camera[0]
    angles = torch.linspace(0, 6, 50, dtype=torch.float64)
    around = torch.stack((1.8 * torch.cos(angles), 1.8 * torch.sin(angles), torch.ones_like(angles)), -1)
    pixels, _ = camera.project(pose[:3, 3] + around @ pose[:3, :3].T, 0)
    inside = ((pixels >= 0) & (pixels < torch.tensor([64.0, 48.0]))).all(-1)
    assert not bool(inside.any())


@pytest.mark.parametrize("lens", ["opencv", "fisheye"])
def test_points_stay_outside_where_a_lens_polynomial_rises_again(lens: LensModel) -> None:
    """1 - 1.5 t + 0.5 t² is zero at t = 1 and at t = 2, between which the polynomial falls."""
    shown, folded = (0.8, 0.99), (1.0, 1.2, 1.5, 2.5)
    distortion = torch.tensor([[-0.5, 0.1, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    intrinsics = torch.tensor([[100.0, 100.0, 200.0, 64.0]], dtype=torch.float64)  # wide enough to show them without distortion
    camera = Cameras.alike(torch.eye(4, dtype=torch.float64)[None], intrinsics, distortion, 400, 128, lens)
    radii = torch.tensor([*shown, *folded], dtype=torch.float64)
    sideways, forward = (radii.sin(), radii.cos()) if lens == "fisheye" else (radii, torch.ones_like(radii))
    points = torch.stack((sideways, torch.zeros_like(radii), forward), -1)
    found, pixels, _ = camera.project_inside(points, 0)
    assert found.tolist() == list(range(len(shown)))
    torch.testing.assert_close(camera.rays(torch.zeros(len(shown)).int(), pixels).directions, torch.nn.functional.normalize(points[found]))


def test_the_fold_is_the_first_zero_of_the_slope_of_the_polynomial() -> None:
    coefficients = 0.5 * torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = folds(torch.cat([coefficients, torch.ones(60, 2, dtype=torch.float64)], 1))
    steps = torch.linspace(0, 20, 200_001, dtype=torch.float64)
    assert 20 < int(found.isfinite().sum()) < 60
    for (k1, k2, k3, k4), fold in zip(coefficients, found, strict=True):
        falls = (1 + steps * (3 * k1 + steps * (5 * k2 + steps * (7 * k3 + steps * 9 * k4))) <= 0).nonzero()[:, 0]
        assert steps[falls[0] - 1] < fold <= steps[falls[0]] if len(falls) else fold > 20


def test_a_fisheye_does_not_show_what_is_exactly_behind_it_in_the_middle() -> None:
    camera = Cameras.alike(torch.eye(4)[None], torch.tensor([[10.0, 10.0, 32.0, 24.0]]), None, 64, 48, "fisheye")
    points = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    found, pixels, _ = camera.project_inside(points, 0)
    assert found.tolist() == [0, 2]  # at the rim of a picture of everything; what is at its center is nowhere
    torch.testing.assert_close(pixels, torch.tensor([[32 + 10 * math.pi, 24], [32.0, 24.0]]))
    narrow = Cameras.alike(torch.eye(4)[None], torch.tensor([[20.0, 20.0, 32.0, 24.0]]), None, 64, 48, "fisheye")
    assert narrow.project_inside(points, 0)[0].tolist() == [2]


@pytest.mark.parametrize(("lens", "distortion"), LENSES)
def test_rays_of_pixels_and_of_the_image_agree(lens: LensModel, distortion: list[float]) -> None:
    cameras = cameras_around(3, lens, distortion)
    whole = cameras.image_rays(2)
    chosen = torch.tensor([0, 5, 64 * 20 + 3, 64 * 48 - 1])
    some = cameras.rays(torch.full((4,), 2, dtype=torch.int32), cameras.pixel_centers(2)[chosen])
    torch.testing.assert_close(some.directions, whole.directions[chosen])
    torch.testing.assert_close(some.origins, whole.origins[chosen])
    shared, begin = cameras.directions_in_camera()
    assert shared.shape == (48 * 64, 3) and begin.tolist() == [0, 0, 0]
    torch.testing.assert_close(shared @ cameras.world_from_camera[2, :3, :3].T, whole.directions)
    torch.testing.assert_close(whole.directions.norm(dim=-1), torch.ones(48 * 64, dtype=torch.float64))


def test_cameras_with_lenses_of_their_own_have_maps_of_their_own() -> None:
    cameras = cameras_around(3)
    cameras.intrinsics[1, 0] = 60.0
    maps, begin = cameras.directions_in_camera()
    assert len(maps) == 2 * 48 * 64 and begin[0] == begin[2] != begin[1]
    for view in range(3):
        own = maps[begin[view] : begin[view] + 48 * 64] @ cameras.world_from_camera[view, :3, :3].T
        torch.testing.assert_close(own, cameras.image_rays(view).directions)


def test_downscaling_keeps_the_rays_of_block_centers() -> None:
    cameras = cameras_around(1, "opencv", LENSES[2][1])
    small = cameras.downscaled(4)
    assert (small.width, small.height) == (16, 12)
    view = torch.zeros(1, dtype=torch.int64)
    coarse = small.rays(view, torch.tensor([[3.5, 7.5]], dtype=torch.float64))
    fine = cameras.rays(view, torch.tensor([[14.0, 30.0]], dtype=torch.float64))
    torch.testing.assert_close(coarse.directions, fine.directions)


@pytest.mark.parametrize("factor", [0, -1, 49])
def test_downscaling_below_one_or_beyond_the_image_is_refused(factor: int) -> None:
    with pytest.raises(ValueError, match="downscale"):
        cameras_around(1).downscaled(factor)


def test_selection_and_pinhole() -> None:
    cameras = cameras_around(5, "opencv", LENSES[1][1])
    torch.testing.assert_close(cameras.select([4, 1]).world_from_camera[1], cameras.world_from_camera[1])
    torch.testing.assert_close(cameras[-1].world_from_camera, cameras.world_from_camera[4:])
    assert len(cameras[1:3]) == 2
    with pytest.raises(IndexError, match="view 5"):
        cameras[5]
    assert not cameras.pinhole(2).has_distortion
    torch.testing.assert_close(cameras.pinhole(2).positions[0], cameras.positions[2])


def test_orbit_is_a_level_circle_around_the_origin() -> None:
    cameras = cameras_around(9)
    path = orbit_cameras(cameras, 12)
    positions = path.positions
    torch.testing.assert_close(positions[:, 2], cameras.positions[:, 2].mean().expand(12))
    torch.testing.assert_close(positions.norm(dim=-1), torch.full((12,), 3.0, dtype=torch.float64))
    for view in (0, 5):
        pixels, depth = path.project(torch.zeros(1, 3, dtype=torch.float64), view)
        torch.testing.assert_close(pixels[0], torch.tensor([32.0, 24.0], dtype=torch.float64))
        torch.testing.assert_close(depth[0], torch.tensor(3.0, dtype=torch.float64))
        above, _ = path.project(torch.tensor([[0.0, 0.0, 0.1]], dtype=torch.float64), view)
        assert float(above[0, 1]) < 24.0


def test_arc_spans_the_widest_spread_of_one_sided_cameras() -> None:
    angle = torch.linspace(-0.6, 0.4, 7, dtype=torch.float64)
    height = torch.tensor([0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1], dtype=torch.float64)
    positions = torch.stack((3 * torch.sin(angle), -3 * torch.cos(angle), height), -1)
    poses = look_at(positions, torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    path = arc_cameras(Cameras.alike(poses, torch.full((7, 4), 50.0).double(), torch.zeros(7, 6).double(), 64, 48), 21).positions
    assert float((path[-1] - path[0]).norm()) > 0.9 * float((positions[-1] - positions[0]).norm())
    assert float(path[:, 2].abs().max()) < 0.3
    assert float(path[:, 1].max()) < 0


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_interpolated_path_is_rigid_smooth_and_starts_at_a_camera(count: int) -> None:
    cameras = cameras_around(count)
    path = interpolated_cameras(cameras, 200)
    rotations = path.world_from_camera[:, :3, :3]
    identity = torch.eye(3, dtype=torch.float64).expand(200, 3, 3)
    torch.testing.assert_close(rotations.mT @ rotations, identity)
    torch.testing.assert_close(path.world_from_camera[0], cameras.world_from_camera[0])
    steps = (path.positions[1:] - path.positions[:-1]).norm(dim=-1)
    assert float(steps.max()) <= 6 * float(steps.mean()) + 1e-12
    turns = (rotations[1:] - rotations[:-1]).flatten(1).norm(dim=-1)
    assert float(turns.max()) < 0.5


@pytest.mark.parametrize("path", [orbit_cameras, arc_cameras, spiral_cameras, interpolated_cameras])
def test_a_path_without_frames_is_refused(path) -> None:
    with pytest.raises(ValueError, match="frames is 0"):
        path(cameras_around(3), 0)


def test_quaternions_and_matrices_are_inverse() -> None:
    generator = torch.Generator().manual_seed(0)
    wxyz = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    wxyz[:8] = torch.cat((torch.eye(4), -torch.eye(4)))
    wxyz = wxyz / wxyz.norm(dim=-1, keepdim=True)
    matrix = matrix_from_wxyz(wxyz)
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(200, dtype=torch.float64))
    again = wxyz_from_matrix(matrix)
    torch.testing.assert_close((again * wxyz).sum(-1).abs(), torch.ones(200, dtype=torch.float64))
    torch.testing.assert_close(matrix_from_wxyz(again), matrix)


def test_slerp_turns_at_constant_speed_along_the_shorter_arc() -> None:
    start = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    end = -torch.tensor([math.cos(0.6), 0.0, math.sin(0.6), 0.0], dtype=torch.float64)
    for fraction in (-0.5, 0.0, 0.25, 1.0, 1.5):
        made = slerp(start, end, fraction)
        expected = torch.tensor([math.cos(0.6 * fraction), 0.0, math.sin(0.6 * fraction), 0.0], dtype=torch.float64)
        torch.testing.assert_close(made, expected)
    torch.testing.assert_close(slerp(start, start, 0.3), start)


def test_look_at_along_up_is_still_a_rotation() -> None:
    pose = look_at(torch.tensor([0.0, 0.0, 3.0]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(pose[:3, :3].T @ pose[:3, :3], torch.eye(3))
    torch.testing.assert_close(torch.linalg.det(pose[:3, :3]), torch.tensor(1.0))


@pytest.mark.parametrize("end", [(0.0, 0.0, 1.0), (0.0, 0.0, -1.0), (0.3, -2.0, 0.1)])
def test_rotation_between_maps_one_direction_to_the_other(end: tuple[float, float, float]) -> None:
    start, goal = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64), torch.tensor(end, dtype=torch.float64)
    rotation = rotation_between(start, goal)
    torch.testing.assert_close(rotation @ (start / 2), goal / goal.norm())
    torch.testing.assert_close(torch.linalg.det(rotation), torch.tensor(1.0, dtype=torch.float64))


def test_srgb_round_trip_and_its_gradient_at_black() -> None:
    values = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(srgb_from_linear(linear_from_srgb(values)), values, atol=1e-6, rtol=0)
    black = torch.zeros(3, requires_grad=True)
    srgb_from_linear(black).sum().backward()
    assert black.grad is not None
    torch.testing.assert_close(black.grad, torch.full((3,), 12.92))


def test_over_interpolates_between_background_and_color() -> None:
    generator = torch.Generator().manual_seed(1)
    color, background = torch.rand(4, 5, 3, generator=generator), torch.rand(3, generator=generator)
    torch.testing.assert_close(over(color, torch.ones(4, 5), background), color)
    torch.testing.assert_close(over(color, torch.zeros(4, 5), background), background.expand(4, 5, 3))
