"""Texture lookups and mip levels: kernels against their twins, and laws of filtering."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from unrender.ops.kernels.native import native_sections
from unrender.ops.raster import Boundary, Filter, build_mips, texture
from unrender.ops.raster import _texture_kernels as kernels
from unrender.ops.raster._mip_levels import rows_of_levels
from unrender.ops.raster.texture import _band_count
from unrender.reference.mips import build_mips as build_mips_twin
from unrender.reference.texture import texture as twin

BOUNDARIES: tuple[Boundary, ...] = ("wrap", "clamp", "zero", "cube")
FILTERS: tuple[Filter, ...] = ("nearest", "linear", "linear-mipmap-nearest", "linear-mipmap-linear")


def _case(boundary: Boundary, channels: int = 3, texture_views: int = 1, pixels: int = 20, side: int = 16, dtype=torch.float32):
    """Texels, coordinates that leave [0, 1], derivatives of every size, biases."""
    generator = torch.Generator().manual_seed(0)
    cube = boundary == "cube"
    shape = (texture_views, 6, side, side, channels) if cube else (texture_views, side, 2 * side, channels)
    texels = torch.randn(shape, generator=generator, dtype=dtype)
    axes = 3 if cube else 2
    uv = torch.randn(2, pixels, pixels, axes, generator=generator, dtype=dtype) if cube else (
        torch.rand(2, pixels, pixels, axes, generator=generator, dtype=dtype) * 2.4 - 0.7
    )  # fmt: skip
    size = torch.exp(torch.randn(2, pixels, pixels, 1, generator=generator, dtype=dtype) * 1.5 - 2)
    derivatives = torch.randn(2, pixels, pixels, 2 * axes, generator=generator, dtype=dtype) * size
    bias = torch.randn(2, pixels, pixels, generator=generator, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (texels, uv, derivatives, bias)], generator


def _assert_same(function, inputs, generator, **options) -> None:
    """Values and the gradients of a random cotangent, relative to their size."""
    ours, theirs = texture(*inputs, **options), function(*inputs, **options)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    cotangent = torch.randn(ours.shape, generator=generator)
    mips = options.get("mips") or []
    wanted = [tensor for tensor in (*inputs, *mips) if tensor is not None]
    ours = torch.autograd.grad(ours, wanted, cotangent, allow_unused=True)
    theirs = torch.autograd.grad(theirs, wanted, cotangent, allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None:
            assert a is None and (b is None or not b.any())
        else:
            torch.testing.assert_close(a, b, atol=3e-5 * float(b.abs().max() + 1), rtol=3e-5)


@pytest.mark.parametrize("boundary, filter", list(itertools.product(BOUNDARIES, FILTERS)))
@pytest.mark.parametrize("channels, texture_views", [(1, 2), (3, 1), (4, 1), (5, 2)])
def test_values_and_gradients_equal_the_twin(boundary: Boundary, filter: Filter, channels: int, texture_views: int):
    inputs, generator = _case(boundary, channels, texture_views)
    _assert_same(twin, inputs, generator, boundary=boundary, filter=filter)


@pytest.mark.parametrize("boundary", ["clamp", "cube"])
@pytest.mark.parametrize("side", [2, 64])
def test_gradients_summed_in_copies_and_in_bands_equal_the_twin(boundary: Boundary, side: int):
    inputs, generator = _case(boundary, 3, 1, pixels=60, side=side)
    assert (_band_count(inputs[0:1], 2 * 60 * 60) == 0) == (side == 2)
    _assert_same(twin, inputs, generator, boundary=boundary)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_given_mips_receive_gradients_of_their_own(boundary: Boundary):
    inputs, generator = _case(boundary)
    sizes = [level.shape for level in build_mips(inputs[0], cube=boundary == "cube")]
    mips = [torch.randn(shape, generator=generator).requires_grad_() for shape in sizes]
    _assert_same(twin, inputs, generator, boundary=boundary, mips=mips)
    _assert_same(twin, inputs, generator, boundary=boundary, mips=mips[:2])


@pytest.mark.parametrize("boundary", ["wrap", "cube"])
def test_bias_alone_and_derivatives_alone_equal_the_twin(boundary: Boundary):
    (texels, uv, derivatives, bias), generator = _case(boundary)
    level = (bias.detach() * 2 + 1).requires_grad_()
    _assert_same(twin, (texels, uv, None, level), generator, boundary=boundary)
    _assert_same(twin, (texels, uv, derivatives, None), generator, boundary=boundary, max_level=2)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_twin_passes_gradcheck(boundary: Boundary):
    inputs, _ = _case(boundary, channels=1, pixels=2, side=2 if boundary == "cube" else 4, dtype=torch.float64)

    def run(*given: Tensor) -> Tensor:
        return twin(*given, boundary=boundary)

    assert torch.autograd.gradcheck(run, inputs)


def test_the_twin_of_nearest_passes_gradcheck_to_its_texels():
    (texels, uv, _, _), _ = _case("wrap", channels=2, pixels=2, side=4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: twin(t, uv.detach(), filter="nearest"), texels)


# Laws.


@pytest.mark.parametrize("boundary, filter", list(itertools.product(["wrap", "clamp", "cube"], FILTERS)))
def test_a_constant_is_reproduced(boundary: Boundary, filter: Filter):
    (texels, uv, derivatives, bias), _ = _case(boundary)
    values = texture(torch.full_like(texels, 0.75), uv, derivatives, bias, boundary=boundary, filter=filter)
    torch.testing.assert_close(values, torch.full_like(values, 0.75), atol=1e-6, rtol=0)


def test_bilinear_reproduces_affine_functions_and_their_slope():
    columns, rows = torch.meshgrid((torch.arange(8) + 0.5) / 8, (torch.arange(4) + 0.5) / 4, indexing="xy")
    texels = (3 * columns - 2 * rows + 0.25)[None, ..., None]
    uv = torch.rand(1, 20, 20, 2) * torch.tensor([7 / 8, 3 / 4]) + torch.tensor([0.5 / 8, 0.5 / 4])
    uv.requires_grad_()
    values = texture(texels, uv, boundary="clamp")
    torch.testing.assert_close(values[..., 0], 3 * uv[..., 0] - 2 * uv[..., 1] + 0.25, atol=1e-5, rtol=1e-5)
    (slope,) = torch.autograd.grad(values.sum(), uv)
    torch.testing.assert_close(slope, torch.tensor([3.0, -2.0]).expand_as(slope), atol=1e-4, rtol=1e-4)


def test_texel_centers_give_the_texels_and_row_0_is_at_0():
    texels = torch.randn(1, 4, 8, 3)
    rows, columns = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(8) + 0.5) / 8, indexing="ij")
    uv = torch.stack([columns, rows], dim=-1)[None]
    for filter, boundary in itertools.product(("nearest", "linear"), ("wrap", "clamp", "zero")):
        assert torch.equal(texture(texels, uv, filter=filter, boundary=boundary), texels)


def test_wrapped_coordinates_are_periodic():
    (texels, uv, derivatives, _), _ = _case("wrap")
    uv = (uv.detach() * 1024).round() / 1024  # so that adding integers is exact
    for shift in ([1.0, 0.0], [0.0, -2.0], [3.0, 5.0]):
        for filter in FILTERS:
            shifted = texture(texels, uv + torch.tensor(shift), derivatives, filter=filter)
            torch.testing.assert_close(shifted, texture(texels, uv, derivatives, filter=filter), atol=1e-6, rtol=0)


def test_clamped_coordinates_read_the_border_and_have_no_slope():
    texels = torch.randn(1, 4, 4, 2)
    uv = torch.tensor([[-3.0, 0.5], [0.01, 0.5], [1.7, 0.5]]).reshape(1, 1, 3, 2).requires_grad_()
    values = texture(texels, uv, boundary="clamp")
    torch.testing.assert_close(values[0, 0, 0], (texels[0, 1, 0] + texels[0, 2, 0]) / 2)
    torch.testing.assert_close(values[0, 0, 2], (texels[0, 1, 3] + texels[0, 2, 3]) / 2)
    (slope,) = torch.autograd.grad(values.square().sum(), uv)
    assert torch.equal(slope[..., 0], torch.zeros(1, 1, 3)) and (slope[..., 1] != 0).all()


def test_zero_boundaries_fade_within_half_a_texel_and_are_zero_beyond():
    texels = torch.ones(1, 4, 4, 1)
    uv = torch.tensor([[0.5, 0.5], [0.0, 0.5], [-0.125, 0.5], [-0.2, 0.5], [0.0, 0.0], [9.0, 0.5]]).reshape(1, 1, 6, 2)
    assert texture(texels, uv, boundary="zero").flatten().tolist() == [1.0, 0.5, 0.0, 0.0, 0.25, 0.0]


def test_the_gradient_to_the_texels_sums_to_the_cotangent():
    for boundary in ("wrap", "clamp", "cube"):
        (texels, uv, derivatives, bias), generator = _case(boundary, pixels=60)
        values = texture(texels, uv, derivatives, bias, boundary=boundary)
        cotangent = torch.randn(values.shape, generator=generator)
        (gradient,) = torch.autograd.grad(values, texels, cotangent)
        torch.testing.assert_close(gradient.flatten(0, -2).sum(0), cotangent.flatten(0, -2).sum(0), atol=1e-2, rtol=1e-4)


# Mip levels.

SHAPES = [(2, 64, 32, 3), (1, 1, 16, 2), (1, 8, 1, 1), (1, 6, 16, 16, 3), (1, 512, 128, 1), (3, 2, 2, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_mips_equal_the_twin(shape: tuple[int, ...]):
    texels = torch.randn(shape)
    ours, theirs = build_mips(texels, cube=len(shape) == 5), build_mips_twin(texels, cube=len(shape) == 5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert ours[-1].shape[-3:-1] == (1, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_of_mips_is_their_transpose(shape: tuple[int, ...]):
    """⟨build_mips(x), y⟩ = ⟨x, transpose(y)⟩."""
    texels = torch.randn(shape, requires_grad=True)
    levels = build_mips(texels, cube=len(shape) == 5)
    others = [torch.randn_like(level) for level in levels]
    left = sum((level.detach().double() * other.double()).sum() for level, other in zip(levels, others, strict=True))
    (transpose,) = torch.autograd.grad(levels, texels, others)
    right = (texels.detach().double() * transpose.double()).sum()
    torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-5)


def test_every_level_keeps_the_mean():
    texels = torch.rand(1, 64, 32, 3)
    for level in build_mips(texels):
        torch.testing.assert_close(level.mean((1, 2)), texels.mean((1, 2)), atol=1e-6, rtol=1e-5)


def test_gradients_through_own_and_given_mips_are_the_same():
    (texels, uv, derivatives, bias), generator = _case("wrap")
    cotangent = torch.randn(2, 20, 20, 3, generator=generator)
    (own,) = torch.autograd.grad(texture(texels, uv, derivatives, bias), texels, cotangent)
    (given,) = torch.autograd.grad(texture(texels, uv, derivatives, bias, mips=build_mips(texels)), texels, cotangent)
    torch.testing.assert_close(own, given, atol=1e-5, rtol=1e-5)


# Levels of detail.


def _levels_as_texture(side: int) -> tuple[Tensor, list[Tensor]]:
    """A texture whose level k has the value k everywhere: what is looked up is the level."""
    count = side.bit_length()
    stack = [torch.full((1, side >> k, side >> k, 1), float(k)) for k in range(count)]
    return stack[0], stack[1:]


def test_the_level_of_a_scaled_and_turned_picture_is_the_logarithm_of_its_longer_side():
    base, mips = _levels_as_texture(256)
    angles = torch.linspace(0, 3, 7)
    for longer, shorter in ((3.0, 3.0), (10.0, 1.0), (20.0, 0.0)):
        turn = torch.stack([torch.cos(angles), -torch.sin(angles), torch.sin(angles), torch.cos(angles)], -1).reshape(7, 2, 2)
        slopes = (turn @ torch.diag(torch.tensor([longer, shorter])) @ turn.flip(0) / 256).reshape(1, 1, 7, 4)
        level = texture(base, torch.rand(1, 1, 7, 2), slopes, mips=mips)
        torch.testing.assert_close(level, torch.full_like(level, math.log2(longer)), atol=1e-4, rtol=0)


def test_the_level_of_a_tilted_plane_grows_with_its_distance():
    """A floor seen along the horizon: row y of the picture meets it at distance d = f h / y, where a pixel covers d² / (f h) along it."""
    focal, height, side = 500.0, 2.0, 256
    y = torch.arange(40.0, 240.0, 20.0)
    distance = focal * height / y
    across, along = distance / focal, distance**2 / (focal * height)
    zero = torch.zeros_like(y)
    slopes = torch.stack([across, zero, zero, along], dim=-1)[None, None]  # one unit of the floor is one repetition of the texture
    base, mips = _levels_as_texture(side)
    level = texture(base, torch.stack([zero, distance], -1)[None, None], slopes, mips=mips)
    expected = torch.log2(torch.maximum(across, along) * side)
    assert expected.min() > 0.5 and expected.max() < 7.5
    torch.testing.assert_close(level.flatten(), expected, atol=1e-4, rtol=0)


def test_a_magnified_texture_is_plain_bilinear_to_the_bit():
    (texels, uv, derivatives, _), _ = _case("wrap")
    for filter in ("linear-mipmap-nearest", "linear-mipmap-linear"):
        assert torch.equal(texture(texels, uv, derivatives * 1e-6, filter=filter), texture(texels, uv))


def test_mipmap_nearest_takes_the_level_below():
    base, mips = _levels_as_texture(16)
    bias = torch.tensor([-1.0, 0.0, 0.99, 1.0, 2.7, 4.0, 99.0]).reshape(1, 1, 7)
    level = texture(base, torch.rand(1, 1, 7, 2), level_bias=bias, mips=mips, filter="linear-mipmap-nearest")
    assert level.flatten().tolist() == [0.0, 0.0, 0.0, 1.0, 2.0, 4.0, 4.0]


def test_bias_without_derivatives_is_the_level():
    base, mips = _levels_as_texture(16)
    bias = torch.tensor([-1.0, 0.25, 1.0, 2.75, 99.0]).reshape(1, 1, 5).requires_grad_()
    level = texture(base, torch.rand(1, 1, 5, 2), level_bias=bias, mips=mips)
    torch.testing.assert_close(level.flatten(), torch.tensor([0.0, 0.25, 1.0, 2.75, 4.0]))
    (slope,) = torch.autograd.grad(level.sum(), bias)
    torch.testing.assert_close(slope.flatten(), torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]))


def test_max_level_is_the_last_level_used():
    base, mips = _levels_as_texture(16)
    far = torch.full((1, 1, 1), 9.0)
    assert texture(base, torch.rand(1, 1, 1, 2), level_bias=far, mips=mips, max_level=2).item() == 2.0
    assert texture(base, torch.rand(1, 1, 1, 2), level_bias=far, mips=mips[:1]).item() == 1.0
    assert texture(torch.ones(1, 6, 10, 1), torch.rand(1, 1, 1, 2), level_bias=far, max_level=1).item() == 1.0


# Cube maps.


def _directions_on_seams(side: int) -> Tensor:
    """Directions exactly on the twelve edges and eight corners of the cube, on texel centers and corners of the faces, and at random."""
    ends = torch.tensor([-1.0, 1.0])
    steps = torch.cat([torch.linspace(-1, 1, 2 * side + 1), torch.rand(20) * 2 - 1])
    edges = [
        torch.stack(torch.meshgrid(*(steps if axis == free else ends for axis in range(3)), indexing="ij"), -1).reshape(-1, 3)
        for free in range(3)
    ]
    return torch.cat([*edges, torch.randn(2000, 3), torch.randn(200, 3) * 1e-20, torch.randn(200, 3) * 1e20])


@pytest.mark.parametrize("side", [1, 2, 16])
def test_white_furnace_returns_one_in_every_direction_and_level(side: int):
    directions = _directions_on_seams(side)[None, None]
    texels = torch.ones(1, 6, side, side, 3)
    for level in torch.linspace(0, side.bit_length() - 1, 9).tolist():
        values = texture(texels, directions, level_bias=torch.full(directions.shape[:-1], level), boundary="cube")
        assert (values - 1).abs().max() < 1e-5
    for filter in ("nearest", "linear"):
        assert (texture(texels, directions, boundary="cube", filter=filter) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("side, level", [(1, 0.0), (2, 0.0), (16, 0.0), (16, 1.5), (16, 3.25)])
def test_cube_maps_are_continuous_across_edges_and_corners(side: int, level: float):
    texels = torch.randn(1, 6, side, side, 2)
    seams = _directions_on_seams(side)[: 3 * 4 * (2 * side + 21)]
    values = []
    for nudge in (torch.randn(8, 1, 3) * 1e-5).unbind(0):
        directions = (seams + nudge)[None, None]
        values.append(texture(texels, directions, level_bias=torch.full(directions.shape[:-1], level), boundary="cube"))
    spread = torch.stack(values).amax(0) - torch.stack(values).amin(0)
    assert spread.max() < 2e-3 * max(side, 2) / 4
    assert texels.std() > 0.5


def test_faces_lie_where_opengl_has_them():
    texels = torch.arange(6.0).reshape(1, 6, 1, 1, 1).expand(1, 6, 2, 2, 1)
    axes = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])[None, None]
    for filter in ("nearest", "linear"):
        assert texture(texels, axes, boundary="cube", filter=filter).flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_s_and_t_of_a_face_run_as_in_opengl():
    texels = torch.zeros(1, 6, 4, 4, 2)
    texels[..., 0], texels[..., 1] = torch.arange(4.0), torch.arange(4.0)[:, None]
    directions = torch.tensor([[4.0, 1, -3], [-4, 1, 3], [1, 4, 3], [1, -4, -3], [1, -3, 4], [-1, -3, -4]])[None, None]
    expected = [[3.0, 1.0], [3.0, 1.0], [2.0, 3.0], [2.0, 3.0], [2.0, 3.0], [2.0, 3.0]]
    assert texture(texels, directions, boundary="cube", filter="nearest")[0, 0].tolist() == expected


def test_a_corner_of_the_cube_is_the_mean_of_its_three_texels():
    texels = torch.randn(1, 6, 4, 4, 1)
    corner = texture(texels, torch.tensor([1.0, 1.0, 1.0]).reshape(1, 1, 1, 3), boundary="cube").item()
    meeting = texels[0, 0, 0, 0] + texels[0, 2, 3, 3] + texels[0, 4, 0, 3]
    assert corner == pytest.approx(meeting.item() / 3, abs=1e-6)


def test_a_cube_map_of_the_directions_reproduces_them_everywhere():
    """Texel centers hold their direction on the cube's surface; filtering is exact within a face and flattens the seams by half a texel."""
    side = 64
    centers = (torch.arange(side) + 0.5) / side * 2 - 1
    s, t = torch.meshgrid(centers, centers, indexing="xy")
    one = torch.ones_like(s)
    faces = [(one, -t, -s), (-one, -t, s), (s, one, t), (s, -one, -t), (s, -t, one), (-s, -t, -one)]
    texels = torch.stack([torch.stack(face, -1) for face in faces])[None]
    directions = torch.randn(1, 50, 50, 3)
    surface = directions / directions.abs().amax(-1, keepdim=True)
    error = (texture(texels, directions, boundary="cube") - surface).abs()
    assert error.max() < 1.01 / side
    inner = surface.abs().sort(-1).values[..., 1] < 1 - 1 / side
    assert error[inner].max() < 1e-5


def test_the_length_of_a_direction_does_not_matter():
    (texels, uv, _, _), _ = _case("cube")
    expected = texture(texels, uv, boundary="cube")
    torch.testing.assert_close(texture(texels, uv * 0.03125, boundary="cube"), expected, atol=0, rtol=0)
    torch.testing.assert_close(texture(texels, uv * 1024.0, boundary="cube"), expected, atol=0, rtol=0)


# Determinism, layout, and input that is not what it should be.


@pytest.mark.parametrize("side", [2, 64])
def test_bits_do_not_depend_on_the_number_of_threads(side: int):
    inputs, generator = _case("wrap", pixels=100, side=side)
    cotangent = torch.randn(2, 100, 100, 3, generator=generator)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(torch.autograd.grad(texture(*inputs), inputs, cotangent))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_tensors_that_are_not_contiguous_are_accepted():
    inputs, _ = _case("wrap")
    strided = [tensor.detach().transpose(1, 2).contiguous().transpose(1, 2) for tensor in inputs]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert torch.equal(texture(*strided), texture(*inputs))


@pytest.mark.parametrize("boundary, filter", list(itertools.product(BOUNDARIES, FILTERS)))
def test_a_coordinate_that_is_not_finite_gives_zero_and_no_gradient(boundary: Boundary, filter: Filter):
    inputs, _ = _case(boundary, pixels=6)
    bad = inputs[1].detach().clone()
    for k, value in enumerate((float("nan"), float("inf"), -float("inf"))):
        bad[0, k, :, k % 2] = value
    if boundary == "cube":
        bad[0, 3] = 0
    inputs[1] = bad.requires_grad_()
    values = texture(*inputs, boundary=boundary, filter=filter)
    rows = 4 if boundary == "cube" else 3
    assert torch.equal(values[0, :rows], torch.zeros_like(values[0, :rows])) and values.isfinite().all()
    gradients = torch.autograd.grad(values.sum() + 0 * values.square().sum(), inputs, allow_unused=True)
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
    assert all(gradient is None or not gradient[0, :rows].any() for gradient in gradients[1:])
    reached = torch.autograd.grad(texture(*inputs, boundary=boundary, filter=filter)[0, :rows].sum(), inputs[0])[0]
    assert not reached.any()


def test_huge_coordinates_neither_crash_nor_escape():
    texels = torch.rand(1, 8, 8, 1)
    uv = torch.tensor([[1e30, -1e30], [3e9, 0.5], [-3e38, 3e38], [-1e-9, -1e-45]]).reshape(1, 1, 4, 2)
    for boundary, filter in itertools.product(("wrap", "clamp", "zero"), ("nearest", "linear")):
        values = texture(texels, uv, boundary=boundary, filter=filter)
        assert (values >= 0).all() and (values <= 1).all()


def test_derivatives_that_are_not_finite_choose_the_ends_of_the_levels():
    base, mips = _levels_as_texture(16)
    slopes = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30, 0.0])[None, None, :, None].expand(1, 1, 5, 4)
    slopes = slopes.clone().requires_grad_()
    level = texture(base, torch.rand(1, 1, 5, 2), slopes, mips=mips)
    assert level.flatten().tolist() == [0.0, 4.0, 4.0, 4.0, 0.0]
    assert torch.equal(level, twin(base, torch.rand(1, 1, 5, 2), slopes, mips=mips))
    assert not torch.autograd.grad(level.sum(), slopes)[0].any()
    nan_bias = torch.full((1, 1, 1), float("nan"), requires_grad=True)
    value = texture(base, torch.rand(1, 1, 1, 2), level_bias=nan_bias, mips=mips)
    assert value.item() == 0.0 and torch.autograd.grad(value.sum(), nan_bias)[0].item() == 0.0


def test_texels_at_the_far_edge_do_not_reach_samples_that_fade_at_this_one():
    """0 times infinity is NaN: a texel that is not mixed must not be multiplied either."""
    texels = torch.ones(1, 4, 4, 3)
    texels[0, 0] = texels[0, :, 0] = float("inf")
    uv = torch.tensor([[0.97, 0.6], [0.6, 0.97], [0.97, 0.97]]).reshape(1, 1, 3, 2).requires_grad_()
    ours, theirs = texture(texels, uv, boundary="zero"), twin(texels, uv, boundary="zero")
    assert ours.isfinite().all()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), uv), torch.autograd.grad(theirs.sum(), uv))


def test_an_infinite_cotangent_reaches_only_what_was_mixed():
    texels = torch.rand(1, 4, 4, 1, requires_grad=True)
    uv = torch.tensor([[0.375, 0.375]]).reshape(1, 1, 1, 2)  # the center of a texel
    (gradient,) = torch.autograd.grad(texture(texels, uv), texels, torch.full((1, 1, 1, 1), float("inf")))
    assert gradient[0, 1, 1, 0] == float("inf") and int((gradient != 0).sum()) == 1


def test_the_level_of_derivatives_that_are_hardly_a_number_equals_the_twin():
    base, mips = _levels_as_texture(64)
    sizes = torch.tensor([1e-21, 1e-20, 1e-19, 1e-15, 1.0])
    slopes = (sizes[:, None] * torch.tensor([1.0, 0.0, 0.0, 1.0]) / 64)[None, None]
    bias = torch.tensor([70.0, 70.0, 65.0, 52.0, 1.0])[None, None]
    ours, theirs = (function(base, torch.rand(1, 1, 5, 2), slopes, bias, mips=mips) for function in (texture, twin))
    torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=0)  # a square of 1e-42 has two digits


def test_derivatives_of_directions_that_are_not_finite_choose_the_level_of_the_twin():
    (texels, uv, derivatives, _), _ = _case("cube")
    broken = derivatives.detach().clone()
    for k, value in enumerate((float("nan"), float("inf"), -float("inf"))):
        broken[:, 2 * k, :, k] = value  # of one coordinate only
        broken[:, 2 * k + 1] = value
    broken.requires_grad_()
    ours, theirs = texture(texels, uv, broken, boundary="cube"), twin(texels, uv, broken, boundary="cube")
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    for gradient, other in zip(*(torch.autograd.grad(v.sum(), (texels, uv, broken)) for v in (ours, theirs)), strict=True):
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient, other, atol=3e-5 * float(other.abs().max() + 1), rtol=3e-5)


def test_no_pixels_give_no_values():
    texels = torch.rand(1, 4, 4, 3, requires_grad=True)
    values = texture(texels, torch.zeros(2, 0, 5, 2), torch.zeros(2, 0, 5, 4))
    assert values.shape == (2, 0, 5, 3)
    values.sum().backward()
    assert texels.grad is not None and not texels.grad.any()


def test_an_odd_side_with_mips_suggests_a_max_level():
    uv = torch.rand(1, 2, 2, 2)
    with pytest.raises(ValueError, match=r"mip level 1 is 3 × 5 texels.*pass max_level=1"):
        texture(torch.rand(1, 6, 10, 1), uv, torch.rand(1, 2, 2, 4))
    with pytest.raises(ValueError, match="max_level=0"):
        build_mips(torch.rand(1, 3, 4, 1))
    assert build_mips(torch.rand(1, 3, 4, 1), 0) == []
    assert texture(torch.rand(1, 3, 5, 1), uv).shape == (1, 2, 2, 1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"boundary": "mirror"}, "texture takes 'wrap' or 'clamp' or 'zero' or 'cube' as boundary, got 'mirror'"),
        ({"filter": "cubic"}, "texture takes 'auto' or 'nearest' or .* as filter, got 'cubic'"),
    ],
)
def test_unknown_names_are_refused(options: dict, message: str):
    unchecked = getattr(texture, "__wrapped__", texture)  # the tests' own type checker would refuse them first
    with pytest.raises(ValueError, match=message):
        unchecked(torch.rand(1, 4, 4, 1), torch.rand(1, 2, 2, 2), **options)


T, U, D, B = torch.rand(1, 4, 4, 3), torch.rand(2, 5, 5, 2), torch.rand(2, 5, 5, 4), torch.rand(2, 5, 5)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((T.double(), U), {}, "as texels, got float64.*unrender.reference"),
        ((T, U.double()), {}, "as uv, got float64"),
        ((T, U, D.double()), {}, "as uv_derivatives, got float64"),
        ((T, U, None, B.double()), {}, "as level_bias, got float64"),
        ((T[0], U), {}, r"\[views, height, width, channels\] as texels, got float32 \[4, 4, 3\]"),
        ((T, U), {"boundary": "cube"}, r"\[views, 6, side, side, channels\] as texels"),
        ((T[:, :0], U), {}, "sides of 1 to 65536"),
        ((T[..., :0], U), {}, "a view and a channel"),
        ((torch.rand(1, 1, 70_000, 1), U), {}, "sides of 1 to 65536"),
        ((torch.rand(1, 6, 4, 4, 3), U), {"boundary": "cube"}, r"\[views, height, width, 3\] as uv, got float32 \[2, 5, 5, 2\]"),
        ((T, U[0]), {}, r"\[views, height, width, 2\] as uv, got float32 \[5, 5, 2\]"),
        ((T, U, D[..., :3]), {}, r"\[2 views, 5 rows, 5 columns, 4\] as uv_derivatives"),
        ((T, U, D[:1]), {}, r"\[2 views, 5 rows, 5 columns, 4\] as uv_derivatives"),
        ((T, U, None, B[:, :2]), {}, r"\[2 views, 5 rows, 5 columns\] as level_bias"),
        ((T.expand(3, -1, -1, -1), U), {}, "1 view for all or 2, as uv has, as texels, got 3 views"),
        ((T, U), {"filter": "linear-mipmap-linear"}, "pass uv_derivatives or level_bias"),
        ((T, U, D), {"max_level": -1}, "an integer of at least 0 as max_level, got -1"),
        (
            (T, U, D),
            {"mips": [torch.rand(1, 2, 2, 3), torch.rand(1, 2, 1, 3)]},
            r"float32 \[1, 1, 1, 3\] as mip level 2, got float32 \[1, 2, 1, 3\]",
        ),
        ((T, U, D), {"mips": [torch.rand(1, 2, 2, 3).double()]}, "as mip level 1, got float64.*: convert it"),
        ((T, U.to("meta")), {}, "one device, got texels on cpu and uv on meta"),
    ],
)
def test_bad_input_is_named(arguments, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        texture(*arguments, **options)


def test_a_level_that_is_no_integer_is_refused():
    unchecked: Any = getattr(build_mips, "__wrapped__", build_mips)  # the tests' own type checker would refuse it first
    with pytest.raises(ValueError, match="an integer of at least 0 as max_level, got 1.5"):
        unchecked(torch.rand(1, 4, 4, 1), 1.5)


def test_rows_beyond_32_bits_are_not_marked():
    few, many = (torch.empty(views, 65536, 1, 1, device="meta") for views in (1, 2048))
    noted = rows_of_levels([few] * 17)
    assert noted is not None and noted.shape == (17, 65536) and rows_of_levels([many] * 17) is None


@pytest.mark.parametrize("function", [texture, twin])
def test_a_direction_too_short_to_have_a_gradient_counts_as_none(function):
    texels = torch.rand(1, 6, 64, 64, 1)
    uv = torch.tensor([[1e-40, 2e-41, 0], [1e-31, -2e-32, 0], [2e-30, 1e-30, 0], [1.0, 0.5, 0]]).reshape(1, 1, 4, 3).requires_grad_()
    values = function(texels, uv, boundary="cube")
    (gradient,) = torch.autograd.grad(values.sum(), uv)
    assert values[0, 0, :2].eq(0).all() and gradient[0, 0, :2].eq(0).all()
    assert torch.allclose(values[0, 0, 2], values[0, 0, 3]) and gradient[0, 0, 2:].norm(dim=-1).gt(0).all() and gradient.isfinite().all()


def test_a_second_derivative_is_refused_by_name():
    uv = U.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(texture(T, uv).sum(), uv, create_graph=True)
    with pytest.raises(RuntimeError, match="texture has a first derivative only"):
        torch.autograd.grad(gradient.sum(), uv)


def test_a_second_derivative_of_mips_is_refused_by_name():
    texels = T.clone().requires_grad_()
    (gradient,) = torch.autograd.grad([level.square().sum() for level in build_mips(texels)], texels, create_graph=True)
    with pytest.raises(RuntimeError, match="build_mips has a first derivative only"):
        torch.autograd.grad(gradient.sum(), texels)


@pytest.mark.parametrize("name", ["WRAP", "CLAMP", "ZERO", "CUBE", "NEAREST", "LINEAR_MIPMAP_NEAREST", "LINEAR_MIPMAP_LINEAR"])
def test_python_and_its_header_number_the_modes_alike(name: str):
    constants = native_sections(kernels.__file__, "texture_lookup.h").constants
    assert re.findall(rf"\b{name} = (\d+)", constants) == [str(getattr(kernels, name))]


def test_bad_texels_for_mips_are_named():
    with pytest.raises(ValueError, match="build_mips takes float32 .*, got float64"):
        build_mips(T.double())
    with pytest.raises(ValueError, match="a cube map is asked for"):
        build_mips(torch.rand(1, 6, 4, 4, 3))
    with pytest.raises(ValueError, match=r"\[views, 6, side, side, channels\] as texels"):
        build_mips(torch.rand(1, 5, 4, 4, 3), cube=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("boundary, filter", list(itertools.product(BOUNDARIES, FILTERS)))
def test_values_and_gradients_on_a_gpu_equal_those_of_the_cpu(boundary: Boundary, filter: Filter):
    inputs, generator = _case(boundary, texture_views=2)
    cotangent = torch.randn(2, 20, 20, 3, generator=generator)
    results = []
    for device in ("cpu", "cuda"):
        moved = [tensor.detach().to(device).requires_grad_() for tensor in inputs]
        values = texture(*moved, boundary=boundary, filter=filter)
        gradients = torch.autograd.grad(values, moved, cotangent.to(device), allow_unused=True)
        results.append([values.detach().cpu(), *(gradient.cpu() for gradient in gradients if gradient is not None)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4 * float(b.abs().max() + 1), rtol=1e-4)
