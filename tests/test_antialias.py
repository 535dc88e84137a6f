"""Antialiasing: exact areas and silhouette derivatives, laws of what must not change, and the kernel against the twin."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hostile_world import remade
from raster_scenes import cube, in_clip_space, orthographic_square, perspective, sphere, turned
from unrender.ops.raster import Raster, Topology, antialias, edge_topology, rasterize
from unrender.reference.antialias import antialias as twin
from unrender.reference.rasterize import rasterize as twin_rasterize

RULES = ("walk", "owner")


def _flat(points: Tensor, side: int) -> Tensor:
    """Return clip positions [1, vertices, 4] of points in pixels from the middle of a square picture."""
    scaled = points / (0.5 * side)
    return torch.cat([scaled, torch.zeros_like(scaled[:, :1]), torch.ones_like(scaled[:, :1])], dim=1)[None]


def _mask(raster: Raster) -> Tensor:
    return (raster.face >= 0).float()[..., None]


def _area(points: Tensor, faces: Tensor) -> Tensor:
    """Return the area of a flat sheet in pixels², or twice that of a closed convex surface's outline."""
    a, b, c = (points[faces[:, k].long()] for k in range(3))
    return 0.5 * ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs().sum()


def _first_moment(points: Tensor, faces: Tensor) -> Tensor:
    """Return the integral of the column over the same area."""
    a, b, c = (points[faces[:, k].long()] for k in range(3))
    doubled = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs()
    return (0.5 * doubled * (a + b + c)[:, 0] / 3).sum()


def _crumpled(seed: int, subdivisions: int = 1) -> tuple[Tensor, Tensor]:
    """Make a closed surface that cuts through itself."""
    vertices, faces = sphere(subdivisions)
    return vertices + 0.4 * torch.randn(vertices.shape, generator=torch.Generator().manual_seed(seed)), faces


# Shapes of the silhouette table, in pixels, y down.


def _square(half: float, cells: int = 1) -> tuple[Tensor, Tensor]:
    steps = torch.linspace(-half, half, cells + 1)
    points = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).view(-1, 2)
    corner = torch.arange((cells + 1) ** 2, dtype=torch.int32).view(cells + 1, cells + 1)
    a, b, c, d = corner[:-1, :-1].flatten(), corner[:-1, 1:].flatten(), corner[1:, :-1].flatten(), corner[1:, 1:].flatten()
    return points, torch.cat([torch.stack([a, b, c], 1), torch.stack([c, b, d], 1)])


def _disc(edges: int, radius: float = 19.0) -> tuple[Tensor, Tensor]:
    angle = torch.arange(edges) * (2 * math.pi / edges)
    points = torch.cat([torch.zeros(1, 2), radius * torch.stack([angle.cos(), angle.sin()], 1)])
    rim = torch.arange(edges, dtype=torch.int32)
    return points, torch.stack([torch.zeros_like(rim), rim + 1, (rim + 1) % edges + 1], 1)


SHAPES = {
    "square of two, half side 4": _square(4.0),
    "square of two, half side 8": _square(8.0),
    "square of two, half side 16": _square(16.0),
    "square of two, half side 32": _square(32.0),
    "disc of 8": _disc(8),
    "disc of 32": _disc(32),
    "disc of 128": _disc(128),
    "disc of 512": _disc(512),
    "square of 4 x 4 cells": _square(16.0, 4),
    "square of 16 x 16 cells": _square(16.0, 16),
    "square of 32 x 32 cells": _square(16.0, 32),
}
OWNER_GRADIENT = {
    "square of two, half side 4": 0.929, "square of two, half side 8": 0.968, "square of two, half side 16": 0.983,
    "square of two, half side 32": 0.992, "disc of 8": 0.973, "disc of 32": 0.937, "disc of 128": 0.791, "disc of 512": 0.397,
    "square of 4 x 4 cells": 0.933, "square of 16 x 16 cells": 0.720, "square of 32 x 32 cells": 0.475,
}  # fmt: skip
"""What the published rule keeps of the derivative, measured independently."""


def _random_poses(poses: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.rand(poses, generator=generator)
    rotations = torch.stack([torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)], dim=1)
    return rotations, torch.rand(poses, 1, 2, generator=generator) - 0.5


def _growth(points: Tensor, faces: Tensor, rule, poses: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Measure d(covered area)/d(scale) over the truth in random poses, and the relative error of the area before and after."""
    side = 2 * math.ceil(float(points.norm(dim=1).max()) + 3)
    rotations, shifts = _random_poses(poses)
    outward = points @ rotations.mT
    clip = torch.cat([_flat(one, side) for one in outward + shifts]).requires_grad_()
    raster = rasterize(clip.detach(), faces, (side, side))
    covered = antialias(_mask(raster), raster, clip, faces, rule=rule).sum((1, 2, 3))
    (slope,) = torch.autograd.grad(covered.sum(), clip)
    area = _area(points, faces)
    growth = (slope[..., :2] * outward).sum((1, 2)) / (0.5 * side)
    return growth / (2 * area), (raster.face >= 0).sum((1, 2)) / area - 1, covered.detach() / area - 1


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


@pytest.mark.parametrize("name", SHAPES)
def test_walk_keeps_the_silhouette_gradient_and_improves_the_area(name: str):
    kept, before, after = _growth(*SHAPES[name], "walk")
    assert 0.95 < float(kept.mean()) < 1.02
    assert _root_mean_square(after) < 0.5 * _root_mean_square(before)


@pytest.mark.parametrize("name", SHAPES)
def test_owner_keeps_what_was_measured_of_the_published_rule(name: str):
    kept, _, _ = _growth(*SHAPES[name], "owner")
    assert abs(float(kept.mean()) - OWNER_GRADIENT[name]) < 0.02


# Laws


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("edge", [-2.5, -1.75, 0.0, 0.125, 0.4, 1.9])
def test_an_upright_edge_gives_every_pixel_its_covered_area(edge: float, rule):
    points = torch.tensor([[-90.0, -90.0], [edge, -90.0], [edge, 90.0], [-90.0, 90.0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    for turned_points in (points, points.flip(1)):
        clip = _flat(turned_points, 8)
        raster = rasterize(clip, faces, (8, 8))
        result = antialias(_mask(raster), raster, clip, faces, rule=rule)[0, :, :, 0]
        expected = (edge + 4 - torch.arange(8)).clamp(0, 1).expand(8, 8)
        torch.testing.assert_close(result, expected if turned_points is points else expected.mT, atol=1e-6, rtol=0)


@pytest.mark.parametrize("slope", [0.0, 0.3, -0.7, 0.99])
def test_each_row_of_a_half_plane_sums_to_its_exact_length(slope: float):
    points = torch.tensor([[-90.0, -90.0], [0.3 - 90 * slope, -90.0], [0.3 + 90 * slope, 90.0], [-90.0, 90.0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    clip = _flat(points, 16)
    raster = rasterize(clip, faces, (16, 16))
    result = antialias(_mask(raster), raster, clip, faces)[0, :, :, 0]
    lengths = 8 + 0.3 + slope * (torch.arange(16) - 7.5)
    torch.testing.assert_close(result.sum(1)[1:-1], lengths[1:-1], atol=2e-5, rtol=0)


@pytest.mark.parametrize("rule", RULES)
def test_a_constant_color_is_unchanged(rule):
    vertices, faces = _crumpled(0)
    clip = in_clip_space(vertices, perspective() @ turned(0.3, 0.2, 4.0))[None]
    raster = rasterize(clip, faces, (40, 40))
    color = torch.full((1, 40, 40, 3), 0.7)
    assert torch.equal(antialias(color, raster, clip, faces, rule=rule), color)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cells", [3, 16, 64])
def test_inner_edges_never_change_a_pixel(cells: int, rule):
    points, faces = orthographic_square(cells, seed=1)
    clip = (points * torch.tensor([1.2, 1.2, 1.0, 1.0]))[None]
    raster = rasterize(clip, faces, (48, 48))
    assert bool((raster.face >= 0).all())
    color = torch.rand(1, 48, 48, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(antialias(color, raster, clip, faces, rule=rule), color)


@pytest.mark.parametrize("rule", RULES)
def test_without_shared_vertices_every_edge_is_an_outline(rule):
    points, faces = orthographic_square(4, seed=1)
    clip = points[faces.long().flatten()][None] * torch.tensor([1.2, 1.2, 1.0, 1.0])
    apart = torch.arange(3 * faces.shape[0], dtype=torch.int32).view(-1, 3)
    assert bool((edge_topology(apart).across == -1).all())
    raster = rasterize(clip, apart, (48, 48))
    color = torch.rand(1, 48, 48, 1, generator=torch.Generator().manual_seed(0))
    changed = antialias(color, raster, clip, apart, rule=rule) != color
    assert int(changed.sum()) > 200


def test_a_crease_that_does_not_fold_is_no_outline():
    vertices, faces = cube()
    clip = in_clip_space(vertices, perspective() @ turned(0.785, 0.1, 1.1))[None]  # from so near that it fills the picture
    raster = rasterize(clip, faces, (32, 32))
    assert bool((raster.face >= 0).all()) and raster.face.unique().numel() > 2
    color = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(antialias(color, raster, clip, faces), color)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("subdivisions", [0, 2, 5])
def test_from_inside_a_sphere_there_is_no_outline(subdivisions: int, rule):
    """Half of its vertices are behind the eye, and edges run from there into the picture."""
    vertices, faces = sphere(subdivisions)
    matrices = torch.stack([perspective(2.2, near=0.01) @ turned(0.7 * k, 0.4 * k, 0.3) for k in range(6)])
    clip = in_clip_space(vertices, matrices)
    raster = rasterize(clip, faces, (40, 40))
    assert bool((clip[..., 3] < 0).any()) and bool((raster.face >= 0).all())
    color = torch.rand(6, 40, 40, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(antialias(color, raster, clip, faces, rule=rule), color)


def test_a_sheet_that_passes_under_the_eye_ends_where_its_side_does():
    """The side runs from behind the eye to the horizon: at depth z it is at the column 8 + 8 · 0.4 / z and the row 8 + 8 · 0.5 / z."""
    corners = torch.tensor([[-9.0, 0.5, -3.0], [0.4, 0.5, -3.0], [0.4, 0.5, 50.0], [-9.0, 0.5, 50.0]])
    clip = torch.cat([corners[:, :2], corners[:, 2:] - 0.2, corners[:, 2:]], dim=1)[None].requires_grad_()
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    raster = rasterize(clip.detach(), faces, (16, 16))
    covered = antialias(_mask(raster), raster, clip, faces)[0, :, :, 0]
    for row in range(10, 16):
        assert abs(float(covered.detach()[row].sum()) - (8 + (row + 0.5 - 8) * 0.8)) < 1e-4
    (slope,) = torch.autograd.grad(covered[10:].sum(), clip)
    assert bool(slope.isfinite().all()) and float(slope[0, 1].abs().max()) > 1e-3


def test_scaling_x_y_z_w_of_a_vertex_together_changes_nothing():
    vertices, faces = sphere(2)
    clip = in_clip_space(vertices, perspective() @ turned(0.3, 0.2, 3.0))[None]
    raster = rasterize(clip, faces, (32, 32))
    factors = 0.5 + torch.rand(1, vertices.shape[0], 1, generator=torch.Generator().manual_seed(0))
    expected = antialias(_mask(raster), raster, clip, faces)
    torch.testing.assert_close(antialias(_mask(raster), raster, factors * clip, faces), expected, atol=1e-5, rtol=0)


def test_the_derivative_to_a_vertex_is_orthogonal_to_its_scaling_and_has_no_z():
    vertices, faces = sphere(2)
    clip = in_clip_space(vertices, perspective() @ turned(0.3, 0.2, 3.0))[None].requires_grad_()
    raster = rasterize(clip.detach(), faces, (32, 32))
    weights = torch.rand(1, 32, 32, 1, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad((weights * antialias(_mask(raster), raster, clip, faces)).sum(), clip)
    assert bool((slope[..., 2] == 0).all()) and float(slope.abs().max()) > 1
    along = (slope * clip.detach()).sum(-1)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-4, rtol=0)


def test_a_picture_turned_by_a_quarter_is_antialiased_turned():
    points, faces = _disc(62, 13.3)  # none of whose edges is at exactly 45°
    clip = _flat(points + torch.tensor([0.21, -0.37]), 40)
    quarter = torch.tensor([[0.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    pictures = []
    for positions in (clip, clip @ quarter.mT):
        raster = rasterize(positions, faces, (40, 40))
        pictures.append(antialias(_mask(raster), raster, positions, faces)[0, :, :, 0])
    torch.testing.assert_close(torch.rot90(pictures[0], -1), pictures[1], atol=1e-5, rtol=0)


# One-parameter scenes against exact derivatives


def _covered(clip: Tensor, faces: Tensor, side: int) -> Tensor:
    raster = rasterize(clip.detach(), faces, (side, side))
    return antialias(_mask(raster), raster, clip, faces)[0, :, :, 0]


@pytest.mark.parametrize("radius", [5.0, 11.0, 24.5])
def test_the_radius_of_a_disc(radius: float):
    kept, _, _ = _growth(*_disc(int(8 * radius), radius), "walk", poses=20)
    assert abs(float(kept.mean()) - 1) < 0.01 and float(kept.std()) < 0.05


def test_the_shift_of_a_square_moves_its_center_of_mass():
    points, faces = _square(9.0, 9)
    rotation = _random_poses(1, seed=5)[0][0]
    columns = torch.arange(40.0) - 19.5
    slopes = []
    for start in torch.linspace(-0.5, 0.5, 9):
        shift = start.clone().requires_grad_()
        clip = _flat(points @ rotation.mT + torch.stack([shift, torch.tensor(0.1)]), 40)
        (slope,) = torch.autograd.grad((_covered(clip, faces, 40) * columns).sum(), shift)
        slopes.append(float(slope) / 18**2)
    assert abs(sum(slopes) / 9 - 1) < 0.02


def test_a_gradient_step_moves_an_edge_as_far_as_a_finite_difference():
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])

    def covered(x: Tensor) -> Tensor:
        right = torch.stack([x, torch.tensor(-90.0)]), torch.stack([x, torch.tensor(90.0)])
        clip = _flat(torch.stack([torch.tensor([-90.0, -90.0]), *right, torch.tensor([-90.0, 90.0])]), 8)
        return _covered(clip, faces, 8).sum()

    x = torch.tensor(0.3, requires_grad=True)
    (slope,) = torch.autograd.grad(covered(x), x)
    finite = (covered(torch.tensor(0.35)) - covered(torch.tensor(0.25))) / 0.1
    torch.testing.assert_close(slope, finite, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(slope, torch.tensor(8.0), atol=1e-4, rtol=1e-4)


def _pixels(clip: Tensor, side: int) -> Tensor:
    return 0.5 * side * clip[0, :, :2] / clip[0, :, 3:]


@pytest.mark.parametrize("subdivisions", [2, 4, 5])  # triangles of 6 pixels down to 0.8
def test_the_radius_of_a_sphere_in_perspective(subdivisions: int):
    vertices, faces = sphere(subdivisions)
    ratios = []
    for k in range(8):
        radius = torch.tensor(1.0 + 0.01 * k, requires_grad=True)
        clip = in_clip_space(radius * vertices, perspective() @ turned(0.7 * k, 0.3 * k, 3.0))[None]
        (slope,) = torch.autograd.grad(_covered(clip, faces, 48).sum(), radius, retain_graph=True)
        (exact,) = torch.autograd.grad(_area(_pixels(clip, 48), faces) / 2, radius)
        ratios.append(float(slope / exact))
    assert abs(sum(ratios) / 8 - 1) < 0.03


@pytest.mark.parametrize("what", [_area, _first_moment])
def test_the_turn_of_a_cube_in_perspective(what):
    """Against the derivative of the exact area and first moment of the outline: half the sum over all faces, for the cube is convex."""
    vertices, faces = cube()
    weight = torch.ones(256) if what is _area else torch.arange(256.0) - 127.5
    angle = (0.26 * torch.arange(24) + 0.05).requires_grad_()
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros(24), torch.ones(24)
    about_y = torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], 1).view(24, 3, 3)
    placed = vertices @ about_y.mT + torch.tensor([0.3, 0.1, 0.0])
    clip = torch.cat([in_clip_space(placed[k], perspective() @ turned(0.0, 0.2 + 0.1 * k, 3.4))[None] for k in range(24)])
    raster = rasterize(clip.detach(), faces, (256, 256))
    covered = antialias(_mask(raster), raster, clip, faces)[..., 0]
    (slope,) = torch.autograd.grad((covered * weight).sum(), angle, retain_graph=True)
    truth = [what(_pixels(clip[k : k + 1], 256), faces) / 2 for k in range(24)]
    (exact,) = torch.autograd.grad(torch.stack(truth).sum(), angle)
    assert abs(float((slope * exact).sum() / exact.square().sum()) - 1) < 0.01
    assert float((slope - exact).norm() / exact.norm()) < 0.04


def test_the_farthest_turn_of_a_folded_strip_is_the_outline():
    """A sheet that ends 0.3 pixels after a center, goes back below itself and comes forward again to 0.8."""
    x = torch.tensor([-9.0, 0.3, 0.1, 0.8, -9.0])
    points = torch.stack([torch.stack([x, torch.full_like(x, y)], 1) for y in (-9.0, 9.0)], dim=1).view(-1, 2)
    clip = _flat(points + torch.tensor([0.5, 0.0]), 8)
    clip[0, :, 2] = torch.tensor([0.0, 0.0, 0.1, 0.2, 0.3]).repeat_interleave(2)
    faces = torch.tensor([face for k in range(4) for face in ((2 * k, 2 * k + 1, 2 * k + 2), (2 * k + 2, 2 * k + 1, 2 * k + 3))])
    raster = rasterize(clip, faces, (8, 8))
    for function in (antialias, twin):
        result = function(_mask(raster), raster, clip, faces)[0, :, :, 0]
        torch.testing.assert_close(result[4], torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.3, 0.0, 0.0]), atol=1e-5, rtol=0)


def test_a_near_square_blends_with_the_far_picture_behind_it():
    """The far sheet moves without effect; the near square's four sides move by what lies on either side of them."""
    points, faces = _square(6.0, 2)
    near = _flat(points + torch.tensor([0.3, 0.4]), 24)
    far = _flat(_square(40.0, 1)[0], 24)
    far[..., 2] = 0.5
    clip = torch.cat([near, far], 1).requires_grad_()
    both = torch.cat([faces, _square(40.0, 1)[1] + near.shape[1]])
    raster = rasterize(clip.detach(), both, (24, 24))
    texture = torch.rand(24, 24, generator=torch.Generator().manual_seed(0))
    color = torch.where(raster.face[0] < faces.shape[0], 2.0, texture)[None, :, :, None]
    result = antialias(color, raster, clip, both)
    row, column = 12, 18  # x of the right side is 12 + 6.3
    assert float(result.detach()[0, row, column - 1, 0]) == 2.0
    expected = 0.3 * 2.0 + 0.7 * texture[row, column]
    torch.testing.assert_close(result[0, row, column, 0], expected, atol=1e-5, rtol=0)
    (slope,) = torch.autograd.grad(result.sum(), clip)
    assert bool((slope[0, near.shape[1] :] == 0).all())
    right = slope[0, : near.shape[1], 0][points[:, 0] == 6.0].sum() / 12  # clip to pixels
    torch.testing.assert_close(right, (2 - texture[6:18, column]).sum(), atol=1e-3, rtol=1e-4)


def test_an_outline_is_found_from_the_farther_center_where_that_surface_is_the_one_that_ends():
    """A sheet rises towards the eye and passes below the end of a board; at the next center it is nearer than the board was."""
    board = torch.tensor([[-9.0, -9.0, 0.0], [0.2, -9.0, 0.0], [0.2, 9.0, 0.0], [-9.0, 9.0, 0.0]])
    ramp = torch.tensor([[-9.0, -9.0, 0.9], [9.0, -9.0, -0.9], [9.0, 9.0, -0.9], [-9.0, 9.0, 0.9]])
    ramp[:, 2] += 0.04
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    points = torch.cat([board, ramp])
    clip = _flat(points[:, :2] + torch.tensor([0.5, 0.0]), 8)
    clip[0, :, 2] = points[:, 2]
    raster = rasterize(clip, faces, (8, 8))
    first, second = raster.depth[0, 4, 4], raster.depth[0, 4, 5]
    assert int(raster.face[0, 4, 4]) < 2 <= int(raster.face[0, 4, 5]) and float(second) < float(first)
    color = (raster.face < 2).float()[..., None]
    for function in (antialias, twin):
        torch.testing.assert_close(function(color, raster, clip, faces)[0, 4, 3:6, 0], torch.tensor([1.0, 0.7, 0.0]), atol=1e-5, rtol=0)


# Kernel and twin


def _soup(seed: int, behind_the_eye: bool) -> tuple[Tensor, Tensor]:
    """Make random triangles over few vertices: edges of any number of faces, degenerate faces, vertices behind the eye."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(2, 40, 4, generator=generator) * torch.tensor([1.0, 1.0, 0.3, 1.0])
    clip[..., 3] = clip[..., 3] + 0.7 if behind_the_eye else clip[..., 3].abs() + 0.3
    return clip, torch.randint(0, 40, (60, 3), generator=generator, dtype=torch.int32)


def _compare(clip: Tensor, faces: Tensor, resolution: tuple[int, int], channels: int, rule, scale: float = 1.0):
    raster = rasterize(clip if clip.ndim == 3 else clip[None], faces, resolution)
    generator = torch.Generator().manual_seed(9)
    color = torch.randn(*raster.face.shape, channels, generator=generator)
    cotangent = torch.randn(color.shape, generator=generator)
    outputs = []
    for function, dtype in ((antialias, torch.float32), (twin, torch.float64)):
        c, p = color.to(dtype).requires_grad_(), clip.to(dtype).requires_grad_()
        result = function(c, raster, p, faces, rule=rule, position_gradient_scale=scale)
        outputs.append((result.detach(), *torch.autograd.grad(result, (c, p), cotangent.to(dtype))))
    assert int((outputs[0][0] != color).sum()) > 50
    for ours, theirs in zip(*outputs, strict=True):
        size = float(theirs.abs().max())
        torch.testing.assert_close(ours.double() / size, theirs / size, atol=2e-6, rtol=0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("behind_the_eye", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_triangle_soup_equals_the_twin(seed: int, behind_the_eye: bool, rule):
    _compare(*_soup(seed, behind_the_eye), (33, 41), 3, rule, scale=1.5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("channels", [1, 3, 17])
def test_closed_meshes_equal_the_twin(channels: int, rule):
    vertices, faces = _crumpled(3, subdivisions=2)
    matrices = torch.stack([perspective() @ turned(0.5 * k, 0.3 * k, 4.0) for k in range(3)])
    _compare(in_clip_space(vertices, matrices), faces, (24, 40), channels, rule)


def test_shared_positions_equal_the_twin_in_every_view():
    vertices, faces = _crumpled(4, subdivisions=2)
    clip = in_clip_space(vertices, perspective() @ turned(0.5, 0.3, 4.0))
    ranges = torch.tensor([[0, faces.shape[0]], [0, faces.shape[0] // 2]], dtype=torch.int32)
    raster = rasterize(clip, faces, (32, 32), ranges)
    generator = torch.Generator().manual_seed(0)
    color, cotangent = (torch.rand(2, 32, 32, 2, generator=generator) for _ in range(2))
    slopes = []
    for function, dtype in ((antialias, torch.float32), (twin, torch.float64)):
        p = clip.to(dtype).requires_grad_()
        slopes.append(torch.autograd.grad(function(color.to(dtype), raster, p, faces), p, cotangent.to(dtype))[0])
    torch.testing.assert_close(slopes[0].double(), slopes[1], atol=1e-5 * float(slopes[1].abs().max()), rtol=0)


@pytest.mark.parametrize("rule", RULES)
def test_the_twin_passes_gradcheck(rule):
    vertices, faces = cube()
    clip = in_clip_space(vertices, perspective() @ turned(0.5, 0.4, 2.0))[None].double().requires_grad_()
    raster = twin_rasterize(clip.detach(), faces, (10, 10))
    color = torch.rand(1, 10, 10, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda c, p: twin(c, raster, p, faces, rule=rule), (color, clip), rtol=2e-3 if rule == "owner" else 1e-3, fast_mode=True
    )


def test_bits_do_not_depend_on_the_number_of_threads():
    vertices, faces = sphere(4)
    clip = in_clip_space(vertices, torch.stack([perspective() @ turned(0.4 * k, 0.3, 3.0) for k in range(2)]))
    raster = rasterize(clip, faces, (100, 100))
    generator = torch.Generator().manual_seed(0)
    color, cotangent = (torch.rand(2, 100, 100, 3, generator=generator) for _ in range(2))
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        c, p = color.clone().requires_grad_(), clip.clone().requires_grad_()
        result = antialias(c, raster, p, faces)
        results.append((result.detach(), *torch.autograd.grad(result, (c, p), cotangent)))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_the_position_gradient_scale_multiplies_that_gradient_alone(rule):
    points, faces = _disc(20, 7.0)
    clip = _flat(points + 0.1, 20).requires_grad_()
    raster = rasterize(clip.detach(), faces, (20, 20))
    color = torch.rand(1, 20, 20, 1, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.rand(1, 20, 20, 1, generator=torch.Generator().manual_seed(1))
    once, thrice = (antialias(color, raster, clip, faces, rule=rule, position_gradient_scale=scale) for scale in (1.0, 3.0))
    assert torch.equal(once, thrice)
    plain, scaled = (torch.autograd.grad((weights * result).sum(), (color, clip)) for result in (once, thrice))
    assert torch.equal(plain[0], scaled[0])
    torch.testing.assert_close(3 * plain[1], scaled[1])


# Edges of more than two faces


@pytest.mark.parametrize("rule", RULES)
def test_an_edge_of_three_faces_is_an_outline_only_if_none_goes_on_beyond_it(rule):
    """Two sheets end on x = 0.3; a third starts there, or ends there as well."""
    corners = torch.tensor([[0.3, -40.0], [0.3, 40.0], [-40.0, 0.0], [-30.0, 5.0], [40.0, 0.0]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]], dtype=torch.int32)
    for continues in (True, False):
        corners[4, 0] = 40.0 if continues else -20.0
        clip = _flat(corners + torch.tensor([0.5, 0.0]), 8)
        clip[0, 3:, 2] = 0.1
        raster = rasterize(clip, faces, (8, 8))
        color = torch.arange(8.0).expand(1, 8, 8)[..., None].contiguous()
        for function in (antialias, twin):
            result = function(color, raster, clip, faces, rule=rule)
            assert bool((result != color).any()) != continues


# Bad input


def _small() -> tuple[Tensor, Raster, Tensor, Tensor]:
    points, faces = _disc(5, 3.0)
    clip = _flat(points, 8)
    raster = rasterize(clip, faces, (8, 8))
    return _mask(raster), raster, clip, faces


@pytest.mark.cpu
def test_bad_arguments_are_refused_with_a_sentence():
    color, raster, clip, faces = _small()
    with pytest.raises(ValueError, match=r"\[views, height, width, channels\] as color, got float64"):
        antialias(color.double(), raster, clip, faces)
    with pytest.raises(ValueError, match=r"as clip_positions, got float64 \["):
        antialias(color, raster, clip.double(), faces)
    with pytest.raises(ValueError, match="as color has, as the raster, got 1 of 8 × 8"):
        antialias(color[:, :4], raster, clip, faces)
    with pytest.raises(ValueError, match="vertex 77 as corner 2 of face 1"):
        wrong = faces.clone()
        wrong[1, 2] = 77
        antialias(color, raster, clip, wrong)
    with pytest.raises(ValueError, match="a topology of the 5 faces as topology, got one of 2"):
        antialias(color, raster, clip, faces, edge_topology(faces[:2]))
    with pytest.raises(ValueError, match="finite number as position_gradient_scale"):
        antialias(color, raster, clip, faces, position_gradient_scale=float("nan"))
    with pytest.raises(ValueError, match="int32 or int64 .* as faces, got int16"):
        edge_topology(faces.short())
    for wrong in (torch.zeros(2, 4, dtype=torch.int32), torch.zeros(3, dtype=torch.int32)):
        with pytest.raises(ValueError, match=r"edge_topology takes int32 or int64 \[faces, 3\] as faces"):
            getattr(edge_topology, "__wrapped__", edge_topology)(wrong)
    with pytest.raises(ValueError, match="int32 or int64 .* as across, got float32"):
        remade(edge_topology(faces), across=edge_topology(faces).across.float())


@pytest.mark.cpu
def test_indices_of_64_bits_give_the_same_picture():
    color, raster, clip, faces = _small()
    wide = Raster(raster.face.long(), raster.barycentrics, raster.depth)
    topology = edge_topology(faces)
    expected = antialias(color, raster, clip, faces, topology)
    assert torch.equal(antialias(color, wide, clip, faces.long(), Topology(topology.across.long())), expected)


def test_more_elements_than_32_bits_count_are_refused():
    _, _, clip, faces = _small()
    face = torch.zeros(1, 1, 1, dtype=torch.int32).expand(1, 2**15, 2**14)
    zero = torch.zeros(1, 1, 1).expand(1, 2**15, 2**14)
    raster = Raster(face, zero[..., None].expand(1, 2**15, 2**14, 2), zero)
    with pytest.raises(ValueError, match=r"antialias takes fewer than 2\^31 elements"):
        antialias(zero[..., None].expand(1, 2**15, 2**14, 2), raster, clip, faces)


def test_a_second_derivative_is_refused_by_name():
    color, raster, clip, faces = _small()
    (slope,) = torch.autograd.grad(antialias(color, raster, clip.requires_grad_(), faces).sum(), clip, create_graph=True)
    with pytest.raises(RuntimeError, match="antialias has a first derivative only"):
        torch.autograd.grad(slope.square().sum(), clip)


def test_non_contiguous_arguments_give_the_same():
    color, raster, clip, faces = _small()
    expected = antialias(color, raster, clip, faces)
    apart = torch.stack([color, color], -1)[..., 0]
    positions = torch.stack([clip, clip], -1)[..., 0]
    corners = faces.mT.contiguous().mT
    assert not (apart.is_contiguous() or positions.is_contiguous() or corners.is_contiguous())
    assert torch.equal(antialias(apart, raster, positions, corners), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_neighbor_that_is_not_finite_counts_as_none(value: float, rule):
    faces = torch.tensor([[0, 1, 2], [1, 2, 3]])
    clip = _flat(torch.tensor([[-40.0, 0.0], [0.8, -40.0], [0.8, 40.0], [40.0, 0.0]]), 8)
    clip[0, 3, 0] = value
    clip.requires_grad_()
    raster = rasterize(clip.detach(), faces, (8, 8))
    result = antialias(_mask(raster), raster, clip, faces, rule=rule)
    (slope,) = torch.autograd.grad(result.sum(), clip)
    assert bool(result.isfinite().all()) and bool(slope.isfinite().all())


def test_empty_meshes_pictures_and_channels_come_back_empty():
    color, raster, clip, faces = _small()
    nothing = replace(raster, face=torch.full_like(raster.face, -1))
    leaf = clip.clone().requires_grad_()
    without_faces = antialias(color, nothing, leaf, faces[:0])
    assert torch.equal(without_faces, color)
    assert torch.equal(torch.autograd.grad(without_faces.sum(), leaf)[0], torch.zeros_like(clip))
    assert torch.equal(antialias(color, nothing, clip, faces), color)
    assert antialias(color[..., :0], raster, clip, faces).shape == (1, 8, 8, 0)


def test_a_raster_and_a_topology_of_another_mesh_do_not_reach_outside_memory():
    color, raster, clip, faces = _small()
    other = replace(raster, face=torch.where(raster.face >= 0, raster.face + 10_000_000, -1))
    assert torch.equal(antialias(color, other, clip, faces), color)
    wild = Topology(torch.full_like(edge_topology(faces).across, 1_000_000))
    assert bool(antialias(color, raster, clip, faces, wild).isfinite().all())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("rule", RULES)
def test_a_gpu_finds_what_the_cpu_finds(rule):
    vertices, faces = _crumpled(3, subdivisions=2)
    clip = in_clip_space(vertices, torch.stack([perspective() @ turned(0.5 * k, 0.3 * k, 4.0) for k in range(2)]))
    raster = rasterize(clip, faces, (64, 64))
    generator = torch.Generator().manual_seed(0)
    color, cotangent = (torch.rand(2, 64, 64, 3, generator=generator) for _ in range(2))
    results = []
    for device in ("cpu", "cuda"):
        c, p = color.to(device).requires_grad_(), clip.to(device).requires_grad_()
        there = Raster(raster.face.to(device), raster.barycentrics.to(device), raster.depth.to(device))
        result = antialias(c, there, p, faces.to(device), rule=rule)
        results.append([t.cpu() for t in (result.detach(), *torch.autograd.grad(result, (c, p), cotangent.to(device)))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(ours.abs().max()), rtol=1e-4)
