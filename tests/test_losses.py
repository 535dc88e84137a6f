"""Losses: values worked out by hand, derivatives by finite differences, and the laws each one states."""

from __future__ import annotations

import math
import typing

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from unrender.losses.photometric import Photometric, l1, logl1, logl2, mse, photometric, relmse, smape, smooth_l1
from unrender.losses.regularizers import (
    curvature,
    eikonal,
    few_colors,
    laplacian_smoothness,
    mask_bce,
    opaque,
    sparsity,
    total_variation,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Away from the kinks at zero."""
    values = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (values + 0.1 * values.sign()).requires_grad_()


@pytest.mark.parametrize(("loss", "expected"), [(l1, (0.25 + 0.75 + 2.0) / 3), (mse, (0.0625 + 0.5625 + 4.0) / 3)])
def test_photometric_losses_have_the_values_of_their_formula(loss, expected: float) -> None:
    prediction, target = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.25, 0.25, 0.0]])
    assert float(loss(prediction, target)) == pytest.approx(expected)


def test_smooth_l1_joins_a_parabola_and_a_line_smoothly() -> None:
    error = torch.tensor([0.5, 1.0, 2.0]).requires_grad_()
    values = [float(smooth_l1(e.expand(1, 3), torch.zeros(1, 3))) for e in error.detach()]
    assert values == pytest.approx([0.125, 0.5, 1.5])
    (slope,) = torch.autograd.grad(smooth_l1(error[None], torch.zeros(1, 3)), error)
    assert (3 * slope).tolist() == pytest.approx([0.5, 1.0, 1.0])


@pytest.mark.parametrize("loss", [l1, mse, smooth_l1, logl1, logl2, smape, relmse])
def test_weights_choose_the_rays_that_count(loss) -> None:
    prediction, target = random(6, 3), random(6, 3, seed=1)
    weight = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    chosen = weight > 0
    torch.testing.assert_close(loss(prediction, target, weight), loss(prediction[chosen], target[chosen]))
    torch.testing.assert_close(loss(prediction, target, 7 * weight), loss(prediction, target, weight))
    torch.testing.assert_close(loss(prediction, target, torch.ones_like(weight)), loss(prediction, target))
    assert gradcheck(loss, (prediction, target.detach(), weight))
    none = loss(prediction, target, torch.zeros_like(weight))
    (gradient,) = torch.autograd.grad(none, prediction)
    assert float(none.detach()) == 0.0 and float(gradient.abs().max()) == 0.0


def test_eikonal_is_the_squared_excess_of_the_slope() -> None:
    gradients = torch.tensor([[0.0, 0.0, 1.0], [0.0, 3.0, 4.0], [0.5, 0.0, 0.0]])
    assert float(eikonal(gradients)) == pytest.approx((0 + 16 + 0.25) / 3)
    assert float(eikonal(gradients, torch.tensor([1.0, 1.0, 0.0]))) == pytest.approx(8.0)


def test_eikonal_has_finite_derivatives_where_the_slope_vanishes() -> None:
    gradients = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(eikonal(gradients), gradients, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), gradients)
    assert float(first.detach().abs().max()) == 0.0 and bool(second.isfinite().all())


def test_mask_bce_is_least_where_the_opacity_is_the_mask() -> None:
    mask = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    least = mask_bce(mask, mask)
    for shift in (-0.1, 0.1):
        assert float(mask_bce(mask + shift, mask)) > float(least)
    assert float(mask_bce(torch.tensor([0.25]), torch.tensor([1.0]))) == pytest.approx(-math.log(0.25))
    assert float(mask_bce(torch.tensor([0.0]), torch.tensor([1.0]))) == pytest.approx(-math.log(1e-3), rel=1e-5)
    assert float(mask_bce(torch.tensor([1.0]), torch.tensor([0.0]))) == pytest.approx(-math.log(1e-3), rel=1e-4)


def test_opaque_is_greatest_for_a_ray_in_doubt() -> None:
    assert float(opaque(torch.tensor([0.5]))) == pytest.approx(math.log(2))
    assert float(opaque(torch.tensor([0.25, 0.75]))) == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert float(opaque(torch.tensor([0.0, 1.0]))) < 0.01


def test_sparsity_falls_with_the_distance_from_the_surface() -> None:
    assert float(sparsity(torch.tensor([0.0, 0.5, -0.5]), 2.0)) == pytest.approx((1 + 2 * math.exp(-1)) / 3)
    assert float(sparsity(torch.tensor([0.0, 0.5]), 2.0, torch.tensor([0.0, 2.0]))) == pytest.approx(math.exp(-1))


def test_curvature_of_a_plane_is_zero_and_of_a_paraboloid_its_laplacian() -> None:
    points, step = random(50, 3).detach(), 1e-2

    def measured(field) -> float:
        axes = torch.eye(3, dtype=torch.float64) * step
        plus = torch.stack([field(points + axis) for axis in axes], 1)
        minus = torch.stack([field(points - axis) for axis in axes], 1)
        return float(curvature((plus + minus - 2 * field(points)[:, None]).sum(1) / step**2))

    assert measured(lambda x: x @ x.new_tensor([1.0, -2.0, 0.5]) + 3) == pytest.approx(0.0, abs=1e-9)
    assert measured(lambda x: -(x * x) @ x.new_tensor([1.0, 2.0, 3.0])) == pytest.approx(12.0, rel=1e-9)
    radius = points.norm(dim=1)
    assert measured(lambda x: x.norm(dim=1)) == pytest.approx(float((2 / radius).mean()), rel=1e-2)


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (eikonal, (random(7, 3),)),
        (lambda o: mask_bce(torch.sigmoid(o), torch.linspace(0, 1, 7, dtype=torch.float64)), (random(7),)),
        (lambda o: opaque(torch.sigmoid(o)), (random(7),)),
        (lambda f: sparsity(f, 3.0), (random(7),)),
        (lambda f: curvature(f, torch.linspace(0, 1, 7, dtype=torch.float64)), (random(7),)),
        (total_variation, (random(3, 4, 2, 2),)),
    ],
    ids=["eikonal", "mask_bce", "opaque", "sparsity", "curvature", "total_variation"],
)
def test_derivatives_are_those_of_finite_differences(loss, inputs: tuple[Tensor, ...]) -> None:
    assert gradcheck(loss, inputs)
    assert gradgradcheck(loss, inputs)


def test_total_variation_of_a_ramp_is_its_slope() -> None:
    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (4, 5, 6)), indexing="ij")
    ramp = (2 * x - 3 * y + 6 * z)[..., None].expand(4, 5, 6, 2)
    assert float(total_variation(ramp)) == pytest.approx(7.0, rel=1e-9)
    assert float(total_variation(torch.ones(3, 3, 3, 1, dtype=torch.float64))) == pytest.approx(0.0, abs=2e-6)


def test_smoothness_of_a_plane_is_zero_and_of_a_paraboloid_its_squared_laplacian() -> None:
    spacing = 0.25
    z, y, x = torch.meshgrid(*(spacing * torch.arange(n, dtype=torch.float64) for n in (4, 5, 6)), indexing="ij")
    assert float(laplacian_smoothness(x - 2 * y + 3 * z, spacing)) == pytest.approx(0.0, abs=1e-18)
    assert float(laplacian_smoothness(x**2 + 2 * y**2 - 0.5 * z**2, spacing)) == pytest.approx(25.0, rel=1e-9)


def test_smoothness_of_one_bump_by_hand() -> None:
    """In a 5³ grid a single one makes a Laplacian of -6 in its voxel and 1 in its six neighbors, all of them inner voxels (27)."""
    grid = torch.zeros(5, 5, 5, dtype=torch.float64)
    grid[2, 2, 2] = 1
    assert float(laplacian_smoothness(grid, 1.0)) == pytest.approx((36 + 6) / 27)


def test_the_gradient_of_smoothness_is_that_of_finite_differences() -> None:
    assert gradcheck(lambda grid: laplacian_smoothness(grid, 0.5), (random(3, 4, 5),))


def test_the_gradient_of_smoothness_is_zero_for_a_plane_and_scales_with_the_cotangent() -> None:
    grid = random(5, 4, 6)
    (once,) = torch.autograd.grad(laplacian_smoothness(grid, 1.0), grid)
    (thrice,) = torch.autograd.grad(3 * laplacian_smoothness(grid, 1.0), grid)
    torch.testing.assert_close(thrice, 3 * once)
    plane = torch.arange(5.0, dtype=torch.float64)[:, None, None].expand(5, 5, 5).contiguous().requires_grad_()
    (flat,) = torch.autograd.grad(laplacian_smoothness(plane, 1.0), plane)
    assert float(flat.abs().max()) == 0.0


def test_grids_too_small_for_a_stencil_are_refused() -> None:
    with pytest.raises(ValueError, match="at least two voxels"):
        total_variation(torch.zeros(1, 4, 4, 1))
    with pytest.raises(ValueError, match="at least three voxels"):
        laplacian_smoothness(torch.zeros(4, 2, 4), 1.0)


@pytest.mark.parametrize("kind", typing.get_args(Photometric))
def test_every_name_of_a_photometric_loss_has_its_function(kind: Photometric) -> None:
    assert photometric(kind) in (l1, mse, smooth_l1, logl1, logl2, smape, relmse)


def test_the_gradient_of_smoothness_refuses_to_be_differentiated() -> None:
    grid = random(4, 4, 4)
    (first,) = torch.autograd.grad(laplacian_smoothness(grid, 1.0), grid, create_graph=True)
    with pytest.raises(RuntimeError, match="laplacian_smoothness has a first derivative only"):
        torch.autograd.grad(first.sum(), grid)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_entropy_of_distinct_colors_is_the_logarithm_of_their_number(count: int) -> None:
    colors = torch.logspace(-2, 0, count, dtype=torch.float64)[:, None].expand(-1, 3).repeat(7, 1)
    assert float(few_colors(colors, 0.01)) == pytest.approx(math.log(count), abs=1e-12)


def test_the_entropy_of_two_colors_is_that_of_two_gaussians() -> None:
    """The density of N(0, s²) and N(d, s²), half each, has the quadratic entropy log 2 − log(1 + exp(−d² / 4 s²)), up to a constant."""
    width, apart = 0.2, torch.tensor([0.3, -0.1, 0.2], dtype=torch.float64)
    colors = torch.stack([torch.full((3,), 0.3, dtype=torch.float64), 0.3 * apart.exp()])
    expected = math.log(2) - math.log(1 + math.exp(-float(apart.square().sum()) / (4 * width**2)))
    assert float(few_colors(colors, width)) == pytest.approx(expected, rel=1e-12)


def test_the_entropy_of_colors_does_not_change_with_the_light() -> None:
    colors = random(20, 3).detach().abs() + 0.01
    other = colors * torch.tensor([3.0, 0.5, 1.2], dtype=torch.float64)
    assert float(few_colors(colors, 0.1)) == pytest.approx(float(few_colors(other, 0.1)), rel=1e-12)


def test_the_entropy_of_colors_has_the_derivatives_of_its_formula_and_none_in_the_dark() -> None:
    colors = (random(6, 3).detach().abs() + 0.01).requires_grad_()
    assert gradcheck(lambda c: few_colors(c, 0.3), (colors,))
    dark = torch.zeros(4, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(few_colors(dark, 0.1), dark)
    assert torch.equal(slope, torch.zeros(4, 3))
