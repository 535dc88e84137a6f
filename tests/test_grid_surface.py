"""Distances and features in grids at packed samples, against the plain twin, for every number of threads and on a GPU's control flow."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import as_on_a_gpu
from unrender.ops.kernels.work import recycled
from unrender.ops.rays import OccupancyGrid, Samples, grid_surface, grid_visible, march
from unrender.reference.grid_surface import grid_surface as plain
from unrender.reference.grid_surface import grid_visible as plain_visible


def _scene(channels: int, *, count: int = 120) -> tuple[Samples, Rays, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(channels)
    origins = torch.randn(count, 3, generator=generator) * 0.3 - torch.tensor([0.0, 0.0, 2.5])
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator) * 0.3 + torch.tensor([0.0, 0.0, 1.0]), dim=1)
    occupancy = OccupancyGrid(16)
    occupancy.set_from_values(torch.rand(16**3, generator=generator), 0.3)  # with gaps, where intervals do not touch
    rays = Rays(origins, directions)
    samples = march(rays, occupancy, step=0.07, near=0.0, far=9.0, offsets=torch.rand(count, generator=generator), capacity=4000)
    return samples, rays, torch.randn(7, 9, 8, 1, generator=generator), torch.randn(5, 4, 6, channels, generator=generator)


@pytest.mark.parametrize("as_gpu", [False, True])
@pytest.mark.parametrize("channels", [1, 8, 13])
def test_values_and_gradients_are_those_of_the_twin(channels: int, as_gpu: bool) -> None:
    samples, rays, distances, features = _scene(channels)
    assert 1000 < int(samples.used()) < 4000
    ours, twin = ([x.clone().to(kind).requires_grad_() for x in (distances, features)] for kind in (torch.float32, torch.float64))
    expected = plain(samples, rays, *twin)
    # Where an interval is short, its slope is a small difference over a small length.
    lengths = samples.lengths.clamp_min(1e-6).double()
    cotangents = [torch.randn(y.shape, generator=torch.Generator().manual_seed(k)).double() for k, y in enumerate(expected)]
    cotangents[1] *= lengths
    with as_on_a_gpu() if as_gpu else nullcontext():
        found = grid_surface(samples, rays, *ours)
        gradients = torch.autograd.grad(found[1:], ours, [c.float() for c in cotangents])
    torch.testing.assert_close(found.slope.double() * lengths, expected[1] * lengths, rtol=1e-4, atol=1e-5)
    for got, wanted in zip((found.middle, found.sdf, found.gradient, found.features), (expected[0], *expected[2:]), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)
    for got, wanted in zip(gradients, torch.autograd.grad(expected, twin, cotangents), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wanted", [("middle",), ("slope",), ("gradient",), ("sdf",), ("features",)])
def test_outputs_that_no_loss_uses_cost_no_gradient(wanted: tuple[str, ...]) -> None:
    samples, rays, distances, features = _scene(8)
    ours, twin = ([x.clone().requires_grad_() for x in (distances, features)] for _ in range(2))
    names = ["middle", "slope", "sdf", "gradient", "features"]
    found, expected = grid_surface(samples, rays, *ours), plain(samples, rays, *twin)
    weight = samples.lengths.clamp_min(1e-6)
    sum(((getattr(found, name).t() * weight).sum() for name in wanted), torch.zeros(())).backward()
    sum(((expected[names.index(name)].t() * weight).sum() for name in wanted), torch.zeros(())).backward()
    for got, other in zip(ours, twin, strict=True):
        nothing = torch.zeros_like(got)
        gradients = [nothing if x.grad is None else x.grad for x in (got, other)]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_threads_do_not_change_the_bits() -> None:
    samples, rays, distances, features = _scene(8, count=400)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            given = [x.clone().requires_grad_() for x in (distances, features)]
            found = grid_surface(samples, rays, *given)
            total = torch.stack([y.square().mean() for y in found[1:]]).sum()
            results.append([*found, *torch.autograd.grad(total, given)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("as_gpu", [False, True])
@pytest.mark.parametrize("anneal", [0.0, 0.4, 1.0])
def test_the_walk_marks_what_the_twin_marks(anneal: float, as_gpu: bool) -> None:
    samples, rays, distances, _ = _scene(1)
    sharpness = torch.tensor(15.0)
    expected = plain_visible(samples, rays, distances, sharpness, anneal=anneal, threshold=0.05, alpha_threshold=1e-3)
    with as_on_a_gpu() if as_gpu else nullcontext():
        marked = grid_visible(samples, rays, distances, sharpness, anneal=anneal, threshold=0.05, alpha_threshold=1e-3)
    assert torch.equal(marked, expected) and 0 < int(marked.sum()) < int(samples.used())


def test_no_samples_give_zero_gradients() -> None:
    samples, rays, distances, features = _scene(3)
    nothing = samples.starts[:0]
    empty = Samples(samples.ray_index[:0], nothing, nothing, samples.first, torch.zeros_like(samples.count))
    given = [distances.requires_grad_(), features.requires_grad_()]
    recycled(distances.shape).fill_(7.0)  # memory that is given out again, and not cleared
    found = grid_surface(empty, rays, *given)
    gradients = torch.autograd.grad(found.middle.sum() + found.features.sum(), given)
    assert all(not gradient.any() for gradient in gradients)


def test_memory_is_recycled_only_when_its_tensor_is_gone() -> None:
    first = recycled((3, 5))
    address = first.data_ptr()
    view = first[1]
    del first
    assert recycled((15,)).data_ptr() != address  # a view still uses it
    del view
    again = recycled((5, 3))
    assert again.shape == (5, 3) and recycled((15,)).data_ptr() != again.data_ptr()
