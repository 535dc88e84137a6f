"""Rasterization: exact coverage as a law of closed surfaces, agreement with the twin forwards and backwards, peeling, and bad input."""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from hostile_world import remade
from raster_scenes import cube, in_clip_space, orthographic_square, perspective, random_closed_meshes, sphere, turned
from unrender.devices import as_on_a_gpu
from unrender.geometry.mesh import read_mesh
from unrender.ops.kernels.checks import Arguments
from unrender.ops.raster import Raster, checks, rasterize, rasterize_layers
from unrender.reference import rasterize as twin


def scene(seed: int, *, views: int = 2, vertices: int = 30, faces: int = 40) -> tuple[Tensor, Tensor]:
    """Make random triangles, some of which reach behind the eye and through every plane of the frustum."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randn(views, vertices, 4, generator=generator)
    positions[..., 3] = 0.6 * positions[..., 3] + 1.1
    return positions, torch.randint(0, vertices, (faces, 3), generator=generator).int()


def tensors(raster: Raster) -> list[Tensor]:
    slopes = raster.barycentric_derivatives
    return [raster.barycentrics, raster.depth] + ([] if slopes is None else [slopes])


def weights_of(raster: Raster) -> Tensor:
    """Return all three weights of each pixel."""
    return torch.cat([raster.barycentrics, 1 - raster.barycentrics.sum(-1, keepdim=True)], dim=-1)


def coverage_of_each_face(positions: Tensor, faces: Tensor, size: int) -> Tensor:
    """Tell which pixels each face covers when it is drawn alone, [faces, size, size]."""
    alone = torch.stack([torch.arange(len(faces)), torch.ones(len(faces), dtype=torch.long)], dim=1).int()
    return rasterize(positions, faces, (size, size), alone).face >= 0


def signs(positions: Tensor, faces: Tensor) -> Tensor:
    """Return +1 or -1 by the side of each face that is seen, in float64."""
    return torch.linalg.det(positions.double()[faces.long()][:, :, [0, 1, 3]]).sign()


def flat(vertices: Tensor) -> Tensor:
    """Map (x, y, z) to clip positions (x, y, 0, z), of which the planes z = ±w cut nothing off."""
    return torch.cat([vertices[..., :2], torch.zeros_like(vertices[..., :1]), vertices[..., 2:]], dim=-1)


def crossings(positions: Tensor, faces: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return at each pixel the sum of the sides of all faces and how many faces cover it, [meshes, size, size]."""
    meshes, vertices = positions.shape[:2]
    each = (faces + vertices * torch.arange(meshes, dtype=torch.int32)[:, None, None]).view(-1, 3)
    together = positions.reshape(-1, 4)
    covered = coverage_of_each_face(together, each, size).view(meshes, -1, size, size)
    sides = signs(together, each).float().view(meshes, -1, 1, 1)
    return (covered * sides).sum(1), covered.sum(1)


def test_front_and_back_of_random_closed_meshes_cover_each_pixel_equally_often():
    """A ray from outside enters a closed surface as often as it leaves it: one crack or one double hit on an edge breaks the sum."""
    hits = 0
    for seed in range(5):
        vertices, faces = random_closed_meshes(100, seed)
        clip_from_world = perspective(near=0.01) @ turned(0.7 * seed, 0.3, 1.8)
        total, count = crossings(in_clip_space(0.5 * vertices, clip_from_world), faces, 32)
        assert (total == 0).all()
        hits += int(count.sum())
    assert hits > 200_000


def test_a_closed_mesh_around_the_eye_is_crossed_equally_often_in_every_direction():
    """Vertices lie behind the eye, and the sum is how often the surface winds around the eye."""
    vertices, faces = random_closed_meshes(100)
    positions = flat(vertices + torch.tensor([0.1, 0.05, 0.2]))
    assert (positions[..., 3] < 0).any(1).all()
    total, _ = crossings(positions, faces, 32)
    assert (total == total[:, :1, :1]).all()
    assert len(set(total[:, 0, 0].tolist())) > 1


def test_vertices_and_edges_through_pixel_centers_are_covered_once():
    """On a lattice of half pixels many centers lie exactly on an edge or a corner, where only the rule for equality decides."""
    vertices, faces = random_closed_meshes(100)
    lattice = torch.cat(
        [(vertices[..., :2] * 16).round() / 16, torch.zeros_like(vertices[..., :1]), torch.ones_like(vertices[..., :1])], dim=-1
    )
    total, count = crossings(lattice, faces, 16)
    assert (total == 0).all()
    assert (count.sum((1, 2)) > 0).all()


@pytest.mark.parametrize("size", [16, 33, 50])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_plane_cut_into_triangles_is_covered_exactly_once(size, seed):
    for cells in (1, 5, 16):
        positions, faces = orthographic_square(cells, seed if cells > 1 else None)
        assert (coverage_of_each_face(positions, faces, size).sum(0) == 1).all()


def test_slivers_thinner_than_float64_sees_leave_no_crack():
    """Two triangles between which a third has a width of one float32 step, in perspective, through a corner beside pixel centers."""
    for seed in range(25):
        generator = torch.Generator().manual_seed(seed)
        scale = 0.5 + torch.rand(5, 1, generator=generator)
        middle = torch.tensor([0.3, -0.2])
        beside = torch.nextafter(middle, torch.tensor([1.0, 1.0]))
        ring = torch.tensor([[-3.0, -3.0], [3.0, -3.0], [0.0, 3.0]])
        points = torch.cat([torch.cat([ring, middle[None], beside[None]]), torch.zeros(5, 1), torch.ones(5, 1)], dim=1) * scale
        faces = torch.tensor([[0, 1, 3], [1, 4, 3], [1, 2, 4], [2, 3, 4], [2, 0, 3]], dtype=torch.int32)
        total = (coverage_of_each_face(points, faces, 64) * signs(points, faces)[:, None, None]).sum(0)
        assert (total == total[0, 0]).all()
        assert total[0, 0].abs() == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("resolution", [(33, 47), (16, 64), (1, 1)])
def test_every_pixel_has_the_triangle_of_the_float64_twin(seed, resolution):
    positions, faces = scene(seed)
    ours = rasterize(positions, faces, resolution, derivatives=True)
    exact = twin.rasterize(positions.double(), faces, resolution, derivatives=True)
    assert torch.equal(ours.face, exact.face)
    assert (ours.barycentrics - exact.barycentrics).abs().max() < 1e-6
    assert (ours.depth - exact.depth).abs().max() < 1e-6
    assert ours.barycentric_derivatives is not None
    assert exact.barycentric_derivatives is not None
    assert torch.allclose(ours.barycentric_derivatives.double(), exact.barycentric_derivatives, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("yaw", [0.0, 0.7])
def test_a_sphere_has_the_triangles_of_the_float64_twin(yaw):
    vertices, faces = sphere(3)
    positions = in_clip_space(vertices, perspective() @ turned(yaw, 0.3, 3.0))[None]
    assert torch.equal(rasterize(positions, faces, (64, 64)).face, twin.rasterize(positions.double(), faces, (64, 64)).face)


@pytest.mark.data
@pytest.mark.slow
def test_spot_has_the_triangles_of_the_float64_twin(data_dir):
    mesh = read_mesh(data_dir / "meshes" / "spot.obj")
    positions = in_clip_space(mesh.vertices, perspective() @ turned(0.5, 0.3, 2.6))[None]
    faces = mesh.faces.int()
    assert torch.equal(rasterize(positions, faces, (128, 128)).face, twin.rasterize(positions.double(), faces, (128, 128)).face)


@pytest.mark.parametrize("seed", range(3))
def test_weights_give_back_the_pixel_center(seed):
    positions, faces = scene(seed, views=1)
    height, width = 40, 56
    raster = rasterize(positions, faces, (height, width))
    seen = raster.face[0] >= 0
    assert seen.any()
    corners = positions[0].double()[faces.long()[raster.face[0][seen].long()]]
    point = (weights_of(raster)[0][seen][..., None] * corners).sum(1)
    row, column = torch.nonzero(seen).T
    # The weights are rounded to float32, which matters more close to the eye.
    slack = 1e-6 * corners.abs().amax((1, 2)) / point[:, 3]
    assert (point[:, 3] > 0).all()
    assert ((point[:, 0] / point[:, 3] - ((2 * column + 1) / width - 1)).abs() < slack).all()
    assert ((point[:, 1] / point[:, 3] - ((2 * row + 1) / height - 1)).abs() < slack).all()
    assert ((point[:, 2] / point[:, 3] - raster.depth[0][seen]).abs() < 2 * slack).all()


def test_weights_lie_between_zero_and_one_and_depth_between_the_planes():
    for seed in range(4):
        raster = rasterize(*scene(seed), (64, 64))
        u, v = raster.barycentrics.unbind(-1)
        assert (u >= 0).all()
        assert (v >= 0).all()
        assert (u + v <= 1).all()
        assert (raster.depth.abs() <= 1).all()
        nothing = raster.face < 0
        assert (raster.barycentrics[nothing] == 0).all()
        assert (raster.depth[nothing] == 0).all()


def test_near_and_far_planes_cut_pixel_by_pixel():
    """z / w = 1.5 x over the whole picture: seen where |x| <= 2/3."""
    positions = torch.tensor([[[-1.0, -1.0, -1.5, 1.0], [3.0, -1.0, 4.5, 1.0], [-1.0, 3.0, -1.5, 1.0]]])
    raster = rasterize(positions, torch.tensor([[0, 1, 2]], dtype=torch.int32), (4, 64))
    x = (2 * torch.arange(64) + 1) / 64 - 1
    assert torch.equal(raster.face[0] >= 0, (1.5 * x.abs() <= 1).expand(4, 64))
    assert (raster.depth[0, 0] - torch.where(1.5 * x.abs() <= 1, 1.5 * x, 0.0)).abs().max() < 1e-6


def test_a_floor_that_runs_behind_the_eye_ends_at_the_horizon():
    """The plane y = 1 (down) through a camera of 90 degrees is seen below the middle, at z = 1 / y_ndc between near and far."""
    floor = torch.tensor([[-1e3, 1.0, -1e3], [1e3, 1.0, -1e3], [0.0, 1.0, 2e3]])
    positions = in_clip_space(floor, perspective(math.pi / 2, near=0.5, far=50.0))
    raster = rasterize(positions, torch.tensor([[0, 1, 2]], dtype=torch.int32), (200, 200))
    y = (2 * torch.arange(200) + 1) / 200 - 1
    assert torch.equal(raster.face[0, :, 100] >= 0, (y > 0) & (1 / y < 50))
    seen = raster.face[0, :, 100] >= 0
    expected = (50.5 - 2 * 50 * 0.5 * y[seen]) / 49.5
    assert (raster.depth[0, :, 100][seen] - expected).abs().max() < 1e-5


def test_both_sides_of_a_triangle_are_seen():
    positions, faces = scene(0)
    there, back = rasterize(positions, faces, (48, 48)), rasterize(positions, faces.flip(1), (48, 48))
    assert torch.equal(there.face, back.face)
    assert (weights_of(there).flip(-1) - weights_of(back))[there.face >= 0].abs().max() < 1e-6


def test_the_lower_face_wins_at_equal_depth():
    positions, faces = orthographic_square(4)
    doubled = torch.cat([faces.flip(0), faces, faces])
    assert torch.equal(rasterize(positions, doubled, (32, 32)).face, rasterize(positions, faces.flip(0), (32, 32)).face)


def test_derivatives_are_the_differences_between_neighbors_of_a_flat_triangle():
    positions = torch.tensor([[[-4.0, -2.5, 0.1, 1.0], [4.6, -2.0, 0.2, 1.0], [0.0, 6.0, 0.3, 1.0]]])
    raster = rasterize(positions, torch.tensor([[0, 1, 2]], dtype=torch.int32), (20, 30), derivatives=True)
    assert (raster.face == 0).all()
    slopes = raster.barycentric_derivatives
    assert slopes is not None
    along_x = raster.barycentrics[:, :, 1:] - raster.barycentrics[:, :, :-1]
    along_y = raster.barycentrics[:, 1:] - raster.barycentrics[:, :-1]
    assert (along_x - slopes[:, :, 1:, 0::2]).abs().max() < 1e-6
    assert (along_y - slopes[:, 1:, :, 1::2]).abs().max() < 1e-6


def test_views_are_independent_and_ranges_name_parts_of_the_faces():
    positions, faces = scene(5, views=3)
    together = rasterize(positions, faces, (32, 40), derivatives=True)
    for view in range(3):
        alone = rasterize(positions[view], faces, (32, 40), derivatives=True)
        assert torch.equal(alone.face[0], together.face[view])
        assert all(torch.equal(a[0], b[view]) for a, b in zip(tensors(alone), tensors(together), strict=True))
    ranges = torch.tensor([[0, 10], [10, 25], [35, 0], [0, 40]], dtype=torch.int32)
    parts = rasterize(positions[0], faces, (32, 40), ranges)
    for view, (start, count) in enumerate(ranges.tolist()):
        alone = rasterize(positions[:1], faces[start : start + count], (32, 40))
        assert torch.equal(torch.where(alone.face[0] >= 0, alone.face[0] + start, -1), parts.face[view])
    assert torch.equal(parts.face, twin.rasterize(positions[0], faces, (32, 40), ranges).face)


# Gradients.


def test_the_twin_has_the_gradient_of_finite_differences():
    positions, faces = scene(1, views=2, vertices=8, faces=8)
    seen = twin.rasterize(positions.double(), faces, (5, 4)).face

    def function(p: Tensor) -> tuple[Tensor, ...]:
        raster = twin.rasterize(p, faces, (5, 4), derivatives=True)
        assert torch.equal(raster.face, seen)
        return tuple(tensors(raster))

    assert (seen >= 0).float().mean() > 0.3
    assert torch.autograd.gradcheck(function, positions.double().requires_grad_(), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("what", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("as_ranges", [False, True])
def test_gradients_are_those_of_the_twin(what, as_ranges):
    positions, faces = scene(3)
    ranges = torch.tensor([[0, 25], [10, 30]], dtype=torch.int32) if as_ranges else None
    positions = positions[0] if as_ranges else positions
    results = []
    cotangents = None
    for function, dtype in ((rasterize, torch.float32), (twin.rasterize, torch.float64)):
        x = positions.to(dtype).requires_grad_()
        outputs = [tensors(function(x, faces, (31, 37), ranges, derivatives=True))[k] for k in what]
        cotangents = cotangents or [torch.randn_like(output) for output in outputs]
        gradient = torch.autograd.grad(outputs, x, [c.to(dtype) for c in cotangents])[0]
        results.append(gradient)
    ours, exact = results
    assert exact.abs().max() > 0.1
    assert (ours - exact).abs().max() < 1e-5 * exact.abs().max()


def test_depth_follows_a_triangle_that_is_pushed_away():
    """d(mean depth) / dz of a flat triangle with w = 1 that covers everything is 1, and the twin agrees to the last corner."""
    positions = torch.tensor([[[-4.0, -4.0, 0.1, 1.0], [4.0, -4.0, 0.2, 1.0], [0.0, 8.0, -0.3, 1.0]]], requires_grad=True)
    raster = rasterize(positions, torch.tensor([[0, 1, 2]], dtype=torch.int32), (16, 16))
    (gradient,) = torch.autograd.grad(raster.depth.mean(), positions)
    assert abs(gradient[0, :, 2].sum().item() - 1) < 1e-5


def test_a_call_without_gradients_has_none():
    positions, faces = scene(0)
    raster = rasterize(positions, faces, (8, 8), derivatives=True)
    assert not raster.barycentrics.requires_grad
    raster = rasterize(positions.requires_grad_(), faces, (8, 8), derivatives=True)
    assert raster.barycentrics.requires_grad
    assert not raster.face.requires_grad


def test_results_have_the_same_bits_with_any_number_of_threads():
    vertices, faces = sphere(4)
    positions = in_clip_space(vertices, perspective() @ turned(0.4, 0.3, 3.0))[None].requires_grad_()
    cotangents = None
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        raster = rasterize(positions, faces, (200, 200), derivatives=True)
        outputs = tensors(raster)
        cotangents = cotangents or [torch.randn_like(output) for output in outputs]
        results.append([raster.face, *outputs, *torch.autograd.grad(outputs, positions, cotangents)])
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_nan_gradient_reaches_the_positions():
    positions, faces = scene(3)
    x = positions.requires_grad_()
    raster = rasterize(x, faces, (31, 37))
    cotangent = torch.zeros_like(raster.depth)
    view, row, column = torch.nonzero(raster.face >= 0)[0].tolist()
    cotangent[view, row, column] = math.nan
    (gradient,) = torch.autograd.grad(raster.depth, x, cotangent)
    seen = faces[int(raster.face[view, row, column])].long()
    assert gradient[view, seen].isnan().any(1).all()
    assert gradient.isnan().any(-1).sum() == len(seen.unique())


@pytest.mark.parametrize("what", ["a function of the gradient", "the gradient to one vertex alone"])
def test_a_second_derivative_is_refused_by_name(what):
    positions, faces = scene(3)
    x = positions.requires_grad_()
    (gradient,) = torch.autograd.grad(rasterize(x, faces, (8, 8)).depth.sum(), x, create_graph=True)
    assert gradient.requires_grad
    again = gradient.square().sum() if what == "a function of the gradient" else gradient[0, 0].sum()
    with pytest.raises(RuntimeError, match="rasterize has a first derivative only"):
        torch.autograd.grad(again, x)


# Peeling.


def test_peeling_nested_spheres_meets_them_in_order():
    parts = [sphere(3, radius) for radius in (0.5, 0.8, 1.1)]
    vertices = torch.cat([v for v, _ in parts])
    count, triangles = len(parts[0][0]), len(parts[0][1])
    faces = torch.cat([f + k * count for k, (_, f) in enumerate(parts)])
    positions = in_clip_space(vertices, perspective() @ turned(0.2, 0.1, 4.0))[None]
    layers = rasterize_layers(positions, faces, (65, 65), layers=7)
    assert [int(layer.face[0, 32, 32]) // triangles for layer in layers[:6]] == [2, 1, 0, 0, 1, 2]
    assert (layers[6].face == -1).all()
    for nearer, farther in zip(layers, layers[1:], strict=False):
        both = farther.face >= 0
        assert (nearer.face[both] >= 0).all()
        assert (farther.depth[both] > nearer.depth[both]).all()


@pytest.mark.parametrize("seed", range(3))
def test_layers_are_those_of_the_twin(seed):
    positions, faces = scene(seed, vertices=12, faces=20)
    ours = rasterize_layers(positions, faces, (24, 20), layers=5, derivatives=True)
    exact = twin.rasterize_layers(positions.double(), faces, (24, 20), layers=5, derivatives=True)
    assert (ours[2].face >= 0).any()
    for a, b in zip(ours, exact, strict=True):
        assert torch.equal(a.face, b.face)
        assert (a.depth - b.depth).abs().max() < 1e-6
    x = positions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rasterize_layers(x, faces, (24, 20), layers=2)[1].depth.sum(), x)
    y = positions.double().requires_grad_()
    (expected,) = torch.autograd.grad(twin.rasterize_layers(y, faces, (24, 20), layers=2)[1].depth.sum(), y)
    assert (gradient - expected).abs().max() < 1e-5 * expected.abs().max()


def test_peeling_meets_every_triangle_once():
    positions, faces = scene(2, views=1, vertices=9, faces=9)
    layers = rasterize_layers(positions, faces, (40, 40), layers=9)
    count = sum((layer.face >= 0).int() for layer in layers)[0]  # pyright: ignore[reportIndexIssue]
    away = positions[0].clone()
    covered = coverage_of_each_face(away, faces, 40)
    assert torch.equal(count, covered.sum(0))


# Bad input: a clear error or a defined result.


@pytest.mark.cpu
def test_errors_say_what_is_wrong_and_where():
    positions, faces = scene(0)
    with pytest.raises(ValueError, match=r"as clip_positions, got float64.*unrender\.reference"):
        rasterize(positions.double(), faces, (8, 8))
    bad = faces.clone()
    bad[7, 2] = 30
    with pytest.raises(ValueError, match="rows of the 30 vertices, counted from 0, as faces, got vertex 30 as corner 2 of face 7"):
        rasterize(positions, bad, (8, 8))
    bad[3, 0] = -1
    with pytest.raises(ValueError, match="vertex -1 as corner 0 of face 3"):
        rasterize(positions, bad, (8, 8))
    for resolution in ((0, 8), (8, 0), (8193, 8), (8, -1)):
        with pytest.raises(ValueError, match="an integer from 1 to 8192 as a side of resolution, got"):
            rasterize(positions, faces, resolution)
    with pytest.raises(ValueError, match="int32 or int64 .* as faces, got int16"):
        rasterize(positions, faces.to(torch.int16), (8, 8))
    with pytest.raises(ValueError, match=r"float32 \[vertices, 4\] as clip_positions with ranges, got float32 \["):
        rasterize(positions, faces, (8, 8), torch.tensor([[0, 1], [0, 1]], dtype=torch.int32))
    for start, count in ((-1, 3), (0, -1), (39, 2)):
        with pytest.raises(ValueError, match=f"got {count} faces from face {start} in view 1"):
            rasterize(positions[0], faces, (8, 8), torch.tensor([[0, 1], [start, count]], dtype=torch.int32))
    with pytest.raises(ValueError, match="a raster of 2 views of 8 × 8 pixels as behind, got 2 of 8 × 9"):
        rasterize(positions, faces, (8, 8), behind=rasterize(positions, faces, (8, 9)))
    with pytest.raises(ValueError, match="an integer from 1 to 1024 as layers, got 0"):
        rasterize_layers(positions, faces, (8, 8), layers=0)
    with pytest.raises(ValueError, match="an integer of at least 1 as layers, got 1.5"):
        Arguments("rasterize_layers").integer(1.5, "layers", 1)
    for resolution in ((4.5, 4), 4, ("4", 4), (4, 4, 4), (True, 4), (4,), "44", None):
        with pytest.raises(ValueError, match=r"^rasterize takes .* resolution, got"):
            checks.checked_resolution(Arguments("rasterize"), resolution)
    for ranges in (torch.tensor([0, 1]), torch.zeros(2, 3, dtype=torch.int32), torch.zeros(1, 2, 2, dtype=torch.int32)):
        with pytest.raises(ValueError, match=r"int32 or int64 \[views, 2\] as ranges, got"):
            checks.checked_ranges(Arguments("rasterize"), ranges, 40)
    with pytest.raises(ValueError, match=r"\[views, vertices, 4\] or \[vertices, 4\] as clip_positions, got float32 \[2, 30, 3\]"):
        checks.checked_positions(Arguments("rasterize"), positions[..., :3])
    with pytest.raises(ValueError, match=r"\[faces, 3\] as faces, got int32 \[40, 2\]"):
        checks.checked_faces(Arguments("rasterize"), faces[:, :2], 30)
    with pytest.raises(ValueError, match="on one device, got clip_positions on cpu and faces on meta"):
        rasterize(positions, faces.to("meta"), (8, 8))


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("face", lambda t: t[0], r"int32 or int64 \[views, height, width\] as face, got int32 \[8, 9\]"),
        ("face", lambda t: t.float(), "as face, got float32"),
        ("face", lambda t: t[:, :4], r"\[2 views, 4 rows, 9 columns, 2\] as barycentrics, got float32 \[2, 8, 9, 2\]"),
        ("depth", lambda t: t[:1], r"\[2 views, 8 rows, 9 columns\] as depth, got float32 \[1, 8, 9\]"),
        ("depth", lambda t: t.half(), "as depth, got float16"),
        ("barycentrics", lambda t: t[..., :1], r"as barycentrics, got float32 \[2, 8, 9, 1\]"),
        ("barycentric_derivatives", lambda t: t[..., :2], r"as barycentric_derivatives, got float32 \[2, 8, 9, 2\]"),
        ("depth", lambda t: t.to("meta"), "one device"),
    ],
)
def test_a_raster_whose_tensors_do_not_fit_each_other_cannot_be_made(name, change, message):
    positions, faces = scene(0)
    raster = rasterize(positions, faces, (8, 9), derivatives=True)
    with pytest.raises(ValueError, match=message):
        remade(raster, **{name: change(getattr(raster, name))})


def test_a_raster_of_the_twin_in_float64_is_refused():
    positions, faces = scene(0)
    raster = rasterize(positions, faces, (8, 9))
    double = dataclasses.replace(raster, depth=raster.depth.double())
    with pytest.raises(ValueError, match=r"as behind.depth, got float64 \[2, 8, 9\]: convert it"):
        rasterize(positions, faces, (8, 9), behind=double)


def test_a_tensor_is_no_raster():
    with pytest.raises(ValueError, match=r"takes a Raster as behind, got float32 \[1, 8, 8, 4\]"):
        checks.checked_raster(Arguments("rasterize"), torch.zeros(1, 8, 8, 4), "behind")


def test_more_elements_than_32_bits_count_are_refused():
    with pytest.raises(ValueError, match=r"fewer than 2\^31 elements in clip_positions, got 2147483648: split the call"):
        checks.checked_positions(Arguments("rasterize"), torch.zeros(1, 1, 4).expand(1, 2**29, 4))
    with pytest.raises(ValueError, match=r"fewer than 2\^31 elements"):
        checks.checked_faces(Arguments("rasterize"), torch.zeros(1, 3, dtype=torch.int32).expand(2**30, 3), 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", range(4))
def test_triangles_with_a_corner_that_is_not_finite_are_left_out(value, axis):
    positions, faces = scene(0)
    broken = positions.clone()
    broken[:, 4, axis] = value
    whole = ~(faces == 4).any(1)
    kept = torch.nonzero(whole).flatten().int()
    ours = rasterize(broken.requires_grad_(), faces, (32, 32), derivatives=True)
    expected = rasterize(positions, faces[whole], (32, 32), derivatives=True)
    renamed = torch.where(expected.face >= 0, kept[expected.face.clamp_min(0).long()], -1)
    assert torch.equal(ours.face, renamed)
    assert all(torch.equal(a, b) for a, b in zip(tensors(ours), tensors(expected), strict=True))
    (gradient,) = torch.autograd.grad([t.sum() for t in tensors(ours)], broken)
    assert gradient.isfinite().all()


def test_triangles_without_area_cover_nothing():
    line = torch.tensor([[[-0.9, -0.9, 0.0, 1.0], [0.9, 0.9, 0.0, 1.0], [0.1, 0.1, 0.0, 1.0], [0.1, 0.1, 0.0, 2.0]]], requires_grad=True)
    faces = torch.tensor([[0, 1, 2], [0, 0, 0], [2, 2, 1]], dtype=torch.int32)
    raster = rasterize(line, faces, (33, 33))
    assert (raster.face == -1).all()
    (gradient,) = torch.autograd.grad(raster.barycentrics.sum() + raster.depth.sum(), line)
    assert (gradient == 0).all()


@pytest.mark.parametrize("w", [0.0, -1.0])
def test_triangles_at_or_behind_the_eye_are_not_seen(w):
    positions = torch.tensor([[[-1.0, -1.0, 0.0, w], [1.0, -1.0, 0.0, w], [0.0, 1.0, 0.0, w]]])
    assert (rasterize(positions, torch.tensor([[0, 1, 2]], dtype=torch.int32), (16, 16)).face == -1).all()


def test_an_empty_mesh_is_all_background():
    none = torch.zeros(0, 3, dtype=torch.int32)
    for positions in (torch.zeros(2, 0, 4), torch.zeros(2, 5, 4)):
        for function in (rasterize, twin.rasterize):
            raster = function(positions, none, (5, 7), derivatives=True)
            assert raster.face.shape == (2, 5, 7)
            assert (raster.face == -1).all()
            assert all((tensor == 0).all() for tensor in tensors(raster))
    assert rasterize(torch.zeros(0, 5, 4), none, (5, 7)).face.shape == (0, 5, 7)
    assert rasterize(torch.zeros(5, 4), none, (5, 7), torch.zeros(0, 2, dtype=torch.int32)).depth.shape == (0, 5, 7)
    raster = rasterize(torch.zeros(1, 5, 4, requires_grad=True), none, (5, 7))
    assert raster.depth.requires_grad
    raster.depth.sum().backward()


def test_tensors_may_be_strided_and_faces_long():
    positions, faces = scene(0)
    expected = rasterize(positions, faces, (16, 16))
    strided = positions.repeat_interleave(2, dim=1)[:, ::2]
    assert not strided.is_contiguous()
    assert torch.equal(rasterize(strided, faces.long().T.contiguous().T, (16, 16)).face, expected.face)
    shared = positions[:1].expand(3, -1, -1)
    assert torch.equal(rasterize(shared, faces, (16, 16)).face[2], expected.face[0])
    x = positions.clone().requires_grad_()
    turned_cotangent = torch.randn(16, 16, 2).permute(2, 0, 1)
    (one,) = torch.autograd.grad(rasterize(x, faces, (16, 16)).depth, x, turned_cotangent)
    (two,) = torch.autograd.grad(rasterize(x, faces, (16, 16)).depth, x, turned_cotangent.contiguous())
    assert torch.equal(one, two)


@pytest.mark.parametrize("resolution", [(8192, 1), (1, 8192), (8192, 40)])
def test_the_largest_sides(resolution):
    vertices, faces = cube()
    positions = in_clip_space(vertices, perspective() @ turned(0.5, 0.3, 2.0))[None]
    raster = rasterize(positions, faces, resolution)
    share = (rasterize(positions, faces, (256, 256)).face >= 0).float().mean()
    if min(resolution) > 1:
        assert abs((raster.face >= 0).float().mean() - share) < 0.01
    assert (raster.face >= 0).any()


def test_face_numbers_beyond_2_to_the_24_are_exact():
    positions = torch.tensor([[-1.0, -1.0, 0.0, 1.0], [3.0, -1.0, 0.0, 1.0], [-1.0, 3.0, 0.0, 1.0]])
    faces = torch.zeros(2**24 + 4, 3, dtype=torch.int32)
    faces[-1] = torch.tensor([0, 1, 2])
    raster = rasterize(positions, faces, (4, 4), torch.tensor([[2**24, 4]], dtype=torch.int32))
    assert (raster.face == 2**24 + 3).all()


@pytest.mark.parametrize("as_ranges", [False, True])
def test_the_kernels_of_a_gpu_find_the_same_on_one_thread(as_ranges):
    """Triangle by triangle, small and large, and pixel by pixel; on one CPU thread their atomic operations are plain ones."""
    positions, faces = scene(4, faces=300)
    positions[:, :15, :2] *= 0.2
    ranges = torch.tensor([[0, 120], [100, 200]], dtype=torch.int32) if as_ranges else None
    positions = positions[0] if as_ranges else positions
    cotangents: list[Tensor] = []
    results = []
    for ways in (nullcontext, as_on_a_gpu):
        with ways():
            x = positions.clone().requires_grad_()
            front = rasterize(x, faces, (90, 70), ranges, derivatives=True)
            after = rasterize(x, faces, (90, 70), ranges, derivatives=True, behind=front)
            outputs = [*tensors(front), *tensors(after)]
            cotangents = cotangents or [torch.randn_like(output) for output in outputs]
            (gradient,) = torch.autograd.grad(outputs, x, cotangents)
            results.append(([front.face, after.face, *outputs], gradient))
    (here, gradient), (there, other) = results
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert (gradient - other).abs().max() < 1e-5 * gradient.abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("seed", range(3))
def test_a_gpu_finds_what_the_cpu_finds(seed):
    positions, faces = scene(seed, faces=400)
    x, y = positions.clone().requires_grad_(), positions.cuda().requires_grad_()
    ours = rasterize_layers(x, faces, (130, 70), layers=2, derivatives=True)
    there = rasterize_layers(y, faces.cuda(), (130, 70), layers=2, derivatives=True)
    for a, b in zip(ours, there, strict=True):
        assert torch.equal(a.face, b.face.cpu())
        for one, two in zip(tensors(a), tensors(b), strict=True):
            assert torch.allclose(one, two.cpu(), rtol=1e-5, atol=1e-6)
    cotangents = [torch.randn_like(t) for t in tensors(ours[0])]
    (expected,) = torch.autograd.grad(tensors(ours[0]), x, cotangents)
    (gradient,) = torch.autograd.grad(tensors(there[0]), y, [c.cuda() for c in cotangents])
    assert (gradient.cpu() - expected).abs().max() < 1e-4 * expected.abs().max()
