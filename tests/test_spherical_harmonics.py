from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unrender.ops.encodings import spherical_harmonics_encode
from unrender.reference import spherical_harmonics_encoding as reference
from unrender.spherical_harmonics import real_spherical_harmonics

BANDS = [slice(band * band, (band + 1) ** 2) for band in range(4)]


def directions(count: int = 3000, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)


def quadrature() -> tuple[Tensor, Tensor]:
    """Directions and weights that integrate polynomials up to degree 15 over the sphere exactly: Gauss in z, uniform in longitude."""
    z, w = np.polynomial.legendre.leggauss(8)
    longitude = 2 * math.pi * torch.arange(16, dtype=torch.float64) / 16
    heights = torch.from_numpy(z)[:, None].expand(8, 16)
    radius = (1 - heights**2).sqrt()
    nodes = torch.stack([radius * longitude.cos(), radius * longitude.sin(), heights], dim=-1).reshape(-1, 3)
    return nodes, (torch.from_numpy(w)[:, None] * 2 * math.pi / 16).expand(8, 16).reshape(-1)


def derivatives(encode, points: Tensor, degree: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    points = points.detach().requires_grad_()
    encoded = encode(points, degree)
    cotangent = torch.randn(encoded.shape, generator=generator).to(points).requires_grad_()
    along = torch.randn(points.shape, generator=generator).to(points)
    (grad,) = torch.autograd.grad(encoded, points, cotangent, create_graph=True)
    return [encoded, grad, *torch.autograd.grad(grad, (points, cotangent), along, allow_unused=True, materialize_grads=True)]


def test_harmonics_are_orthonormal_over_the_sphere():
    nodes, weights = quadrature()
    values = real_spherical_harmonics(nodes, 4)
    torch.testing.assert_close(values.T @ (weights[:, None] * values), torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12)


def test_addition_theorem_holds_in_every_band():
    one, other = directions(seed=1).double(), directions(seed=2).double()
    products = real_spherical_harmonics(one, 4) * real_spherical_harmonics(other, 4)
    t = (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))
    legendre = [torch.ones_like(t), t, (3 * t**2 - 1) / 2, (5 * t**3 - 3 * t) / 2]
    for band, polynomial in enumerate(legendre):
        torch.testing.assert_close(products[:, BANDS[band]].sum(-1), (2 * band + 1) / (4 * math.pi) * polynomial, rtol=1e-6, atol=1e-6)


def test_squares_of_a_band_sum_to_a_constant():
    squares = spherical_harmonics_encode(directions(), 4).square()
    for band in range(4):
        total = squares[:, BANDS[band]].sum(-1)
        torch.testing.assert_close(total, torch.full_like(total, (2 * band + 1) / (4 * math.pi)), rtol=1e-5, atol=0)


def test_degree_one_is_the_constant_and_band_one_is_minus_y_z_minus_x():
    points = directions()
    assert torch.equal(spherical_harmonics_encode(points, 1), torch.full((3000, 1), 0.28209479177387814))
    band = torch.stack([-points[:, 1], points[:, 2], -points[:, 0]], dim=1) * 0.48860251190291992
    torch.testing.assert_close(spherical_harmonics_encode(points, 2)[:, 1:], band)


def test_recorded_values_of_tiny_cuda_nn():
    """Its polynomials with its decimal constants at (0.48, -0.6, 0.64), in double precision."""
    expected = [0.28209479, 0.29316151, 0.31270561, -0.23452921, -0.31465395, 0.4195386, 0.07216159, -0.33563088, -0.07079714]
    expected += [0.11725346, -0.5327975, 0.2873904, -0.22736888, -0.22991232, -0.11987944, 0.2406245]
    encoded = spherical_harmonics_encode(torch.tensor([[0.48, -0.6, 0.64]]), 4)
    torch.testing.assert_close(encoded[0], torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_kernels_match_the_twin_in_value_and_in_both_orders(degree: int):
    ours = derivatives(spherical_harmonics_encode, directions(), degree)
    theirs = derivatives(reference.spherical_harmonics_encode, directions(), degree)
    for mine, twin in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, twin, rtol=1e-5, atol=2e-6)


def test_twin_has_the_gradients_of_finite_differences():
    inputs = directions(3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda d: reference.spherical_harmonics_encode(d, 4), inputs)
    assert torch.autograd.gradgradcheck(lambda d: reference.spherical_harmonics_encode(d, 4), inputs)


def test_results_are_the_same_bits_for_any_number_of_threads():
    points = directions(20_001)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(derivatives(spherical_harmonics_encode, points, 4)[:2])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_no_directions_and_layout():
    assert spherical_harmonics_encode(torch.zeros(0, 3), 3).shape == (0, 9)
    points = directions()
    assert spherical_harmonics_encode(points, 4).T.is_contiguous()
    assert torch.equal(spherical_harmonics_encode(points.T.contiguous().T, 4), spherical_harmonics_encode(points, 4))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="degree"):
        spherical_harmonics_encode(directions(), 5)
    with pytest.raises(ValueError, match="float32"):
        spherical_harmonics_encode(directions().double(), 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_matches_the_cpu():
    on_gpu = derivatives(spherical_harmonics_encode, directions().cuda(), 4)
    for one, other in zip(on_gpu, derivatives(spherical_harmonics_encode, directions(), 4), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=2e-6)
