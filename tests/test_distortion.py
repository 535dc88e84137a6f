from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unrender.ops.rays import Samples, distortion
from unrender.reference import distortion as reference

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]),
]


def spaced(counts: list[int], tail: int = 4) -> Samples:
    """Intervals of random length with random gaps between them."""
    random = torch.Generator().manual_seed(0)
    count = torch.tensor(counts, dtype=torch.int32)
    ray_index = torch.cat([torch.repeat_interleave(torch.arange(len(counts)), count), torch.full((tail,), -1)]).int()
    used = ray_index >= 0
    edges = (torch.rand(ray_index.shape[0], 2, generator=random) * 0.1 + 0.01).reshape(-1).cumsum(0).reshape(-1, 2)
    starts, ends = torch.where(used, edges[:, 0], 0.0), torch.where(used, edges[:, 1], 0.0)
    return Samples(ray_index, starts, ends, (count.cumsum(0) - count).int(), count)


SAMPLES = spaced([5, 0, 1, 60, 17])


def drawn(size: int, seed: int = 1) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("device", DEVICES)
def test_prefix_sums_equal_the_double_sum(device: str) -> None:
    exact = drawn(SAMPLES.starts.shape[0]).requires_grad_()
    weights = exact.detach().float().to(device).requires_grad_()
    moved = Samples(*(x.to(device) for x in (SAMPLES.ray_index, SAMPLES.starts, SAMPLES.ends, SAMPLES.first, SAMPLES.count)))
    ours, plain = distortion(weights, moved), reference.distortion(exact, SAMPLES)
    cotangent = drawn(5, 2) - 0.5
    (got,) = torch.autograd.grad(ours, weights, cotangent.float().to(device))
    (expected,) = torch.autograd.grad(plain, exact, cotangent)
    torch.testing.assert_close(ours.detach().cpu().double(), plain.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.cpu().double(), expected, rtol=1e-5, atol=1e-6)


def test_the_twin_differentiates_as_finite_differences_do() -> None:
    few = spaced([3, 0, 4], tail=1)
    assert torch.autograd.gradcheck(lambda w: reference.distortion(w, few), drawn(8).requires_grad_())


def test_distortion_is_least_where_the_weight_is_in_one_sample() -> None:
    number = 20
    one = spaced([number], tail=0)
    together, apart = torch.zeros(number), torch.zeros(number)
    together[7] = 1.0
    apart[[2, 17]] = 0.5
    width = one.lengths[7] / 3.0
    torch.testing.assert_close(distortion(together, one), width.reshape(1))
    assert distortion(apart, one) > 10 * width


def test_distortion_grows_with_the_square_of_the_weights_and_the_length_of_the_scene() -> None:
    weights = drawn(SAMPLES.starts.shape[0]).float()
    larger = Samples(SAMPLES.ray_index, 3 * SAMPLES.starts, 3 * SAMPLES.ends, SAMPLES.first, SAMPLES.count)
    torch.testing.assert_close(distortion(2 * weights, SAMPLES), 4 * distortion(weights, SAMPLES))
    torch.testing.assert_close(distortion(weights, larger), 3 * distortion(weights, SAMPLES), rtol=1e-5, atol=1e-6)


def test_unused_samples_and_empty_rays_count_nothing() -> None:
    weights = torch.ones(SAMPLES.starts.shape[0], requires_grad=True)
    loss = distortion(weights, SAMPLES)
    (grad,) = torch.autograd.grad(loss.sum(), weights)
    assert loss[1] == 0 and (grad[-4:] == 0).all()
