"""Distances in a grid at packed samples, against the plain twin, for every number of threads and on a GPU's control flow."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import as_on_a_gpu
from unrender.ops.encodings import grid_lookup
from unrender.ops.kernels import work
from unrender.ops.kernels.work import recycled
from unrender.ops.rays import OccupancyGrid, Samples, grid_surface, grid_visible, march
from unrender.reference.grid_surface import grid_surface as plain
from unrender.reference.grid_surface import grid_visible as plain_visible


def _scene(*, count: int = 120) -> tuple[Samples, Rays, Tensor]:
    generator = torch.Generator().manual_seed(1)
    origins = torch.randn(count, 3, generator=generator) * 0.3 - torch.tensor([0.0, 0.0, 2.5])
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator) * 0.3 + torch.tensor([0.0, 0.0, 1.0]), dim=1)
    occupancy = OccupancyGrid(16)
    occupancy.set_from_values(torch.rand(16**3, generator=generator), 0.3)  # with gaps, where intervals do not touch
    rays = Rays(origins, directions)
    samples = march(rays, occupancy, step=0.07, near=0.0, far=9.0, offsets=torch.rand(count, generator=generator), capacity=4000)
    return samples, rays, torch.randn(7, 9, 8, 1, generator=generator)


BOX = torch.tensor([[-1.5, -0.5, -0.7], [0.5, 1.0, 2.0]])


@pytest.mark.parametrize("box", [None, BOX])
@pytest.mark.parametrize("as_gpu", [False, True])
def test_values_and_gradients_are_those_of_the_twin(as_gpu: bool, box: Tensor | None) -> None:
    samples, rays, distances = _scene()
    assert 1000 < int(samples.used()) < 4000
    ours, twin = (distances.clone().to(kind).requires_grad_() for kind in (torch.float32, torch.float64))
    expected = plain(samples, rays, twin, box=box)
    # Where an interval is short, its slope is a small difference over a small length.
    lengths = samples.lengths.clamp_min(1e-6).double()
    cotangents = [torch.randn(y.shape, generator=torch.Generator().manual_seed(k)).double() for k, y in enumerate(expected)]
    cotangents[1] *= lengths
    with as_on_a_gpu() if as_gpu else nullcontext():
        found = grid_surface(samples, rays, ours, box=box)
        (gradient,) = torch.autograd.grad(found[1:5], ours, [c.float() for c in cotangents])
    torch.testing.assert_close(found.slope.double() * lengths, expected[1] * lengths, rtol=1e-4, atol=1e-5)
    for got, wanted in zip((found.middle, found.sdf, found.gradient), (expected[0], *expected[2:]), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient.double(), *torch.autograd.grad(expected, twin, cotangents), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("as_gpu", [False, True])
@pytest.mark.parametrize("wanted", [("other_gradient",), ("gradient",), ("middle", "slope", "sdf", "gradient", "other_gradient")])
def test_the_gradient_of_another_grid_comes_with_it(wanted: tuple[str, ...], as_gpu: bool) -> None:
    samples, rays, distances = _scene()
    others = distances.flip(0) ** 2
    ours, twins = ([grid.clone().to(kind).requires_grad_() for grid in (distances, others)] for kind in (torch.float32, torch.float64))
    names = ["middle", "slope", "sdf", "gradient", "other_gradient"]
    expected = dict(zip(names, plain(samples, rays, twins[0], other=twins[1], box=BOX), strict=True))
    weight = samples.lengths.clamp_min(1e-6)
    with as_on_a_gpu() if as_gpu else nullcontext():
        found = grid_surface(samples, rays, ours[0], other=ours[1], box=BOX)
        torch.stack([(getattr(found, name).t() * weight).sum() for name in wanted]).sum().backward()
    torch.stack([(expected[name].t() * weight).sum() for name in wanted]).sum().backward()
    assert found.other_gradient is not None
    torch.testing.assert_close(found.gradient.double(), expected["gradient"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.other_gradient.double(), expected["other_gradient"], rtol=1e-4, atol=1e-5)
    for got, twin in zip(ours, twins, strict=True):
        known = torch.zeros_like(twin) if twin.grad is None else twin.grad
        assert got.grad is not None
        torch.testing.assert_close(got.grad.double(), known, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wanted", ["middle", "slope", "gradient", "sdf"])
def test_outputs_that_no_loss_uses_change_no_gradient(wanted: str) -> None:
    samples, rays, distances = _scene()
    ours, twin = (distances.clone().requires_grad_() for _ in range(2))
    expected = dict(zip(["middle", "slope", "sdf", "gradient"], plain(samples, rays, twin), strict=True))
    weight = samples.lengths.clamp_min(1e-6)
    (getattr(grid_surface(samples, rays, ours), wanted).t() * weight).sum().backward()
    (expected[wanted].t() * weight).sum().backward()
    torch.testing.assert_close(ours.grad, twin.grad, rtol=1e-3, atol=1e-4)


def test_a_grid_over_another_box_is_the_one_over_the_cube_in_its_coordinates() -> None:
    samples, rays, distances = _scene()
    center, half = BOX.mean(0), (BOX[1] - BOX[0]) / 2
    found = grid_surface(samples, rays, distances, box=BOX)
    inner = grid_surface(samples, Rays((rays.origins - center) / half, rays.directions / half), distances)
    positions, used = samples.positions(rays), samples.ray_index >= 0
    torch.testing.assert_close(found.positions[used], positions[used], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.middle, inner.middle, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.gradient[used] * half, inner.gradient[used], rtol=1e-2, atol=1e-2)
    outer = grid_lookup((positions - BOX[0]) / (BOX[1] - BOX[0]), distances)[:, 0]
    torch.testing.assert_close(found.sdf[used], outer[used], rtol=1e-3, atol=1e-3)


def test_threads_do_not_change_the_bits() -> None:
    samples, rays, distances = _scene(count=400)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            given = distances.clone().requires_grad_()
            found = grid_surface(samples, rays, given, other=given.square())
            total = torch.stack([y.square().mean() for y in found[1:] if y is not None]).sum()
            results.append([*found, *torch.autograd.grad(total, given)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("as_gpu", "box"), [(False, None), (True, None), (False, BOX)])
@pytest.mark.parametrize("anneal", [0.0, 0.4, 1.0])
def test_the_walk_marks_what_the_twin_marks(anneal: float, as_gpu: bool, box: Tensor | None) -> None:
    samples, rays, distances = _scene()
    sharpness = torch.tensor(15.0)
    limits = {"anneal": anneal, "threshold": 0.05, "alpha_threshold": 1e-3, "box": box}
    expected = plain_visible(samples, rays, distances, sharpness, **limits)
    with as_on_a_gpu() if as_gpu else nullcontext():
        marked = grid_visible(samples, rays, distances, sharpness, **limits)
    assert torch.equal(marked, expected) and 0 < int(marked.sum()) < int(samples.used())


def test_no_samples_give_a_gradient_of_zero() -> None:
    samples, rays, distances = _scene()
    nothing = samples.starts[:0]
    empty = Samples(samples.ray_index[:0], nothing, nothing, samples.first, torch.zeros_like(samples.count))
    recycled(distances.shape).fill_(7.0)  # memory that is given out again, and not cleared
    (gradient,) = torch.autograd.grad(grid_surface(empty, rays, distances.requires_grad_()).middle.sum(), distances)
    assert not gradient.any()


def test_memory_is_recycled_only_when_its_tensor_is_gone() -> None:
    first = recycled((3, 5))
    address = first.data_ptr()
    view = first[1]
    del first
    assert recycled((15,)).data_ptr() != address  # a view still uses it
    del view
    again = recycled((5, 3))
    assert again.shape == (5, 3) and recycled((15,)).data_ptr() != again.data_ptr()


def test_memory_of_other_sizes_is_dropped_when_none_of_the_right_size_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_kept", work._Kept())
    held, _ = recycled((10,)), recycled((20,))
    del _
    again = recycled((30,))
    assert [array.size for array in work._kept.arrays] == [10, 30]
    assert held.shape == (10,) and again.shape == (30,)


def test_no_memory_is_kept_where_references_cannot_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_kept", work._Kept())
    monkeypatch.setattr(work, "_FREE", None)
    assert recycled((2, 5)).shape == (2, 5) and not work._kept.arrays
    monkeypatch.setattr(work.sys, "getrefcount", lambda array: 1)
    assert work._references_to_a_free_one() is None
