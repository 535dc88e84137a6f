from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unrender.ops.encodings import frequency_encode
from unrender.reference import frequency_encoding as reference


def derivatives(encode, positions: Tensor, **options) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    positions = positions.detach().requires_grad_()
    encoded = encode(positions, 6, **options)
    cotangent = torch.randn(encoded.shape, generator=generator).to(positions).requires_grad_()
    along = torch.randn(positions.shape, generator=generator).to(positions)
    (grad,) = torch.autograd.grad(encoded, positions, cotangent, create_graph=True)
    return [encoded, grad, *torch.autograd.grad(grad, (positions, cotangent), along)]


def points(count: int = 1300, axes: int = 3) -> Tensor:
    return torch.randn(count, axes, generator=torch.Generator().manual_seed(0))


def test_columns_are_input_then_sine_and_cosine_of_each_octave():
    encoded = frequency_encode(torch.tensor([[0.3, -2.0]]), 2)
    expected = [0.3, -2.0]
    for octave in (1.0, 2.0):
        expected += [math.sin(0.3 * octave), math.sin(-2.0 * octave), math.cos(0.3 * octave), math.cos(-2.0 * octave)]
    torch.testing.assert_close(encoded[0], torch.tensor(expected))
    assert torch.equal(frequency_encode(torch.tensor([[0.3, -2.0]]), 2, include_input=False), encoded[:, 2:])


def test_angles_of_any_size_are_exact_to_float32():
    angles = torch.cat([torch.linspace(-40, 40, 4001), torch.tensor([1e4, -3e5, 2e6, 1.5707964, 0.0])])[:, None]
    exact = reference.frequency_encode(angles.double(), 12, include_input=False)
    error = (frequency_encode(angles, 12, include_input=False).double() - exact).abs().max()
    assert error < 2e-7


@pytest.mark.parametrize("options", [{}, {"include_input": False}, {"active_frequencies": 2.3}], ids=["plain", "no_input", "masked"])
def test_kernels_match_the_twin_in_value_and_in_both_orders(options: dict):
    ours = derivatives(frequency_encode, points(), **options)
    theirs = derivatives(reference.frequency_encode, points(), **options)
    for mine, twin in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, twin, rtol=1e-5, atol=2e-6 * float(twin.detach().abs().max()))


def test_twin_has_the_gradients_of_finite_differences():
    inputs = points(4, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: reference.frequency_encode(x, 3, active_frequencies=2.4), inputs)
    assert torch.autograd.gradgradcheck(lambda x: reference.frequency_encode(x, 3, active_frequencies=2.4), inputs)


def test_masked_octaves_are_exactly_zero_and_give_no_gradient():
    positions = points().requires_grad_()
    encoded = frequency_encode(positions, 5, active_frequencies=2.0)
    assert torch.equal(encoded[:, :15], frequency_encode(positions, 5)[:, :15])
    assert torch.count_nonzero(encoded[:, 15:]) == 0
    (grad,) = torch.autograd.grad(encoded[:, 15:].sum(), positions)
    assert torch.count_nonzero(grad) == 0


def test_the_mask_opens_each_octave_by_a_raised_cosine():
    for active in (0.0, 0.25, 0.5, 1.0, 1.75):
        amplitude = frequency_encode(points(), 2, include_input=False, active_frequencies=active).square()
        for k in (0, 1):
            reached = min(max(active - k, 0.0), 1.0)
            weight = (1 - math.cos(math.pi * reached)) / 2
            radius = (amplitude[:, 6 * k : 6 * k + 3] + amplitude[:, 6 * k + 3 : 6 * k + 6]).sqrt()
            torch.testing.assert_close(radius, torch.full_like(radius, weight), rtol=1e-5, atol=1e-6)


def test_results_are_the_same_bits_for_any_number_of_threads():
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(derivatives(frequency_encode, points(5003)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_no_points_layout_and_bad_numbers():
    assert frequency_encode(torch.zeros(0, 3), 4).shape == (0, 27)
    positions = points()
    encoded = frequency_encode(positions, 4)
    assert encoded.T.is_contiguous()
    assert torch.equal(frequency_encode(positions.T.contiguous().T, 4), encoded)
    assert frequency_encode(torch.tensor([[math.nan, math.inf]]), 2, include_input=False).isnan().all()


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="float32"):
        frequency_encode(points().double(), 4)
    with pytest.raises(ValueError, match="frequencies"):
        frequency_encode(points(), 25)
    with pytest.raises(ValueError, match="frequencies"):
        frequency_encode(points(), 0, include_input=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_matches_the_cpu():
    for one, other in zip(derivatives(frequency_encode, points().cuda()), derivatives(frequency_encode, points()), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=4e-6 * float(other.detach().abs().max()))
