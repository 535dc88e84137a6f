from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unrender.ops.encodings import contract, uncontract
from unrender.reference import contraction as reference

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]),
]


def scattered(number: int = 500) -> Tensor:
    """Points at distances from 0.01 to 1000."""
    random = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(number, 3, generator=random, dtype=torch.float64), dim=1)
    return directions * 10 ** (torch.rand(number, 1, generator=random, dtype=torch.float64) * 5 - 2)


@pytest.mark.parametrize("device", DEVICES)
def test_contraction_equals_the_twin(device: str) -> None:
    exact = scattered().requires_grad_()
    points = exact.detach().float().to(device).requires_grad_()
    ours, plain = contract(points), reference.contract(exact)
    cotangent = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (got,) = torch.autograd.grad(ours, points, cotangent.float().to(device))
    (expected,) = torch.autograd.grad(plain, exact, cotangent)
    torch.testing.assert_close(ours.detach().cpu().double(), plain.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.cpu().double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(uncontract(ours).cpu().double(), reference.uncontract(ours.detach().cpu().double()), rtol=1e-2, atol=1e-6)


def test_the_twin_differentiates_as_finite_differences_do() -> None:
    assert torch.autograd.gradcheck(reference.contract, scattered(20).requires_grad_())


def test_contraction_is_the_identity_inside_the_unit_ball() -> None:
    inside = scattered().float()
    inside = inside[inside.norm(dim=1) < 1]
    assert torch.equal(contract(inside), inside) and torch.equal(uncontract(inside), inside)


def test_contraction_stays_within_radius_two_and_keeps_directions() -> None:
    points = scattered().float()
    folded = contract(points)
    assert folded.norm(dim=1).max() < 2
    torch.testing.assert_close(torch.cosine_similarity(folded, points), torch.ones(500))


def test_contraction_and_its_inverse_meet_across_the_unit_sphere() -> None:
    points = scattered(100).float()
    points = points / points.norm(dim=1, keepdim=True)
    for fold in (contract, uncontract):
        torch.testing.assert_close(fold(points * (1 + 1e-4)), fold(points * (1 - 1e-4)), rtol=0, atol=3e-4)
    near = points * torch.linspace(0.5, 8.0, 100)[:, None]
    torch.testing.assert_close(uncontract(contract(near)), near, rtol=1e-4, atol=1e-5)


def test_the_origin_has_an_identity_gradient() -> None:
    origin = torch.zeros(1, 3, requires_grad=True)
    assert torch.autograd.grad(contract(origin).sum(), origin)[0].tolist() == [[1.0, 1.0, 1.0]]
