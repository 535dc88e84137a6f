"""Rays through the layers of a multi-sphere image: laws, agreement with the twin, and finite differences."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import as_on_a_gpu
from unrender.fields.multi_sphere import MultiSphere
from unrender.ops.rays import render_multi_sphere
from unrender.reference.multi_sphere import render_multi_sphere as plain


def _scene(count: int = 200, shape: tuple[int, int, int] = (6, 7, 12)) -> tuple[Rays, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    origins = torch.randn(count, 3, generator=generator) * 0.7  # some cameras stand between the layers
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    return Rays(origins, directions), 2 * torch.randn(*shape, 4, generator=generator), torch.rand(count, generator=generator)


@pytest.mark.parametrize("as_gpu", [False, True])
def test_pixels_and_gradients_are_those_of_the_twin(as_gpu: bool) -> None:
    rays, image, arriving = _scene()
    ours, twin = image.clone().requires_grad_(), image.double().requires_grad_()
    arguments = {"unit": 3.0, "arriving": arriving, "stop": 0.2}
    expected = plain(rays, twin, **arguments)
    cotangents = [torch.randn(y.shape, generator=torch.Generator().manual_seed(k)) for k, y in enumerate(expected[:2])]
    with as_on_a_gpu() if as_gpu else nullcontext():
        found = render_multi_sphere(rays, ours, **arguments)
        (gradient,) = torch.autograd.grad(found[:2], ours, cotangents)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        gradient.double(), *torch.autograd.grad(expected[:2], twin, [c.double() for c in cotangents]), rtol=1e-3, atol=1e-3
    )
    assert 0.1 < float(found.light.detach().mean()) < 0.9


def test_the_twin_has_the_gradients_of_finite_differences() -> None:
    rays, image, _ = _scene(count=4, shape=(2, 2, 3))
    assert torch.autograd.gradcheck(lambda x: plain(rays, x)[:2], [image.double().requires_grad_()])


def test_threads_do_not_change_the_bits() -> None:
    rays, image, _ = _scene(count=500)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            given = image.clone().requires_grad_()
            found = render_multi_sphere(rays, given)
            results.append([*found, *torch.autograd.grad(found.color.square().sum() + found.light.sum(), given)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_light_is_the_rest_of_the_weights() -> None:
    rays, image, _ = _scene()
    image[..., 1:] = 0.5  # white
    found = render_multi_sphere(rays, image)
    torch.testing.assert_close(found.color, (1 - found.light)[:, None].expand(-1, 3), atol=1e-5, rtol=0)


def test_columns_go_round_without_a_seam() -> None:
    image = torch.zeros(1, 3, 8, 4)
    image[..., 0] = 5.0
    image[:, :, :4, 1] = 0.5  # red on one half of the circle
    angles = torch.linspace(-math.pi, math.pi, 400)
    directions = torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], 1)
    red = render_multi_sphere(Rays(torch.zeros_like(directions), directions), image).color[:, 0]
    assert float(red.diff().abs().max()) < 0.02 and abs(float(red[0] - red[-1])) < 1e-4


def test_the_gradient_of_the_variation_lowers_it() -> None:
    field = MultiSphere(3, 40, unit=2.0)
    with torch.no_grad():
        field.image.copy_(torch.randn(field.image.shape, generator=torch.Generator().manual_seed(0)))
    before = field.regularize(0, density=1.0, color=0.5)["sphere_variation"]
    gradient = field.image.grad
    assert gradient is not None and 0 < int((gradient != 0).any(-1).any(-1).sum()) < 8
    with torch.no_grad():
        field.image.sub_(1e-1 * gradient)
    field.image.grad = None
    after = field.regularize(0, density=1.0, color=0.5)["sphere_variation"]
    torch.testing.assert_close((before - after) / 1e-1, gradient.square().sum(), rtol=0.05, atol=0)
