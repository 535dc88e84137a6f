"""Rays through sparse voxels: laws, agreement with the twin, and finite differences."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import as_on_a_gpu
from unrender.fields.voxels import VoxelField
from unrender.ops.kernels.work import recycled
from unrender.ops.rays import VoxelGrid, add_voxel_variation, largest_weights, render_voxels, voxel_grid
from unrender.reference.voxel_variation import add_voxel_variation as plain_variation
from unrender.reference.voxels import largest_weights as plain_weights
from unrender.reference.voxels import render_voxels as plain
from unrender.reference.voxels import voxel_grid as plain_grid


def _scene(*, count: int = 150, bands: int = 3, share: float = 0.5, size: tuple[int, int, int] = (9, 14, 12)):
    generator = torch.Generator().manual_seed(2)
    grid = voxel_grid(torch.rand(size, generator=generator) < share)
    rows = grid.vertices.shape[0]
    density = 4 * torch.randn(rows, generator=generator) + 1
    harmonics = torch.randn(rows, 3 * bands**2, generator=generator)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1) * 2.5
    origins[:10] *= 0.1  # some cameras stand inside
    directions = torch.nn.functional.normalize(torch.rand(count, 3, generator=generator) - 0.5 - origins, dim=1)
    return Rays(origins, directions), grid, density, harmonics, torch.rand(count, generator=generator)


def _cotangents(found: tuple[Tensor, ...]) -> list[Tensor]:
    return [torch.randn(y.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k, y in enumerate(found[:3])]


@pytest.mark.parametrize("as_gpu", [False, True])
@pytest.mark.parametrize("bands", [1, 2, 3])
def test_pixels_and_gradients_are_those_of_the_twin(bands: int, as_gpu: bool) -> None:
    rays, grid, density, harmonics, offsets = _scene(bands=bands)
    ours = [x.clone().requires_grad_() for x in (density, harmonics)]
    twin = [x.double().requires_grad_() for x in (density, harmonics)]
    expected = plain(rays, grid, *twin, step=0.35, near=0.4, offsets=offsets, stop=1e-3)
    cotangents = _cotangents(expected)
    with as_on_a_gpu() if as_gpu else nullcontext():
        found = render_voxels(rays, grid, *ours, step=0.35, near=0.4, offsets=offsets, stop=1e-3)
        gradients = torch.autograd.grad(found[:3], ours, [c.float() for c in cotangents])
    assert int(found.samples.sum()) > 500 and float(expected.light.detach().min()) < 0.01 < 0.7 < float(expected.light.detach().max())
    for got, wanted in zip(found[:4], expected[:4], strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)
    for got, wanted in zip(gradients, torch.autograd.grad(expected[:3], twin, cotangents), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=2e-3)


def test_the_twin_has_the_gradients_of_finite_differences() -> None:
    rays, grid, density, harmonics, offsets = _scene(count=3, bands=2, size=(2, 3, 2), share=0.9)
    inputs = [density.double().requires_grad_(), (0.3 * harmonics).double().requires_grad_()]
    assert torch.autograd.gradcheck(lambda d, h: plain(rays, grid, d, h, step=0.3, offsets=offsets)[:3], inputs)


def test_light_is_the_rest_of_the_weights_and_never_grows_with_density() -> None:
    rays, grid, density, harmonics, _ = _scene(share=1.0)  # where vertices have no row, white fades
    white = torch.zeros_like(harmonics)
    white[:, ::9] = 0.5 / 0.28209479
    found = render_voxels(rays, grid, density, white, step=0.3)
    torch.testing.assert_close(found.color[:, 0], 1 - found.light, atol=1e-5, rtol=0)
    assert bool((found.light >= 0).all() and (found.light <= 1).all())
    denser = render_voxels(rays, grid, density + 1, white, step=0.3)
    assert bool((denser.light <= found.light + 1e-6).all())


def test_a_solid_cube_absorbs_as_its_formula_says() -> None:
    grid = voxel_grid(torch.ones(5, 5, 5, dtype=torch.bool))
    rays = Rays(torch.tensor([[-3.0, 0.1, 0.2]]), torch.tensor([[1.0, 0.0, 0.0]]))
    found = render_voxels(rays, grid, torch.full((125,), 0.7), torch.zeros(125, 3), step=0.02)
    torch.testing.assert_close(found.light, torch.tensor([-1.4]).exp(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.color, 0.5 * (1 - found.light)[:, None].expand(1, 3), atol=1e-5, rtol=0)


def test_leaps_over_empty_cells_change_nothing() -> None:
    rays, grid, density, harmonics, offsets = _scene(size=(41, 37, 45), share=0.001)
    everywhere = VoxelGrid(grid.rows, grid.vertices, torch.zeros_like(grid.clearance), grid.places, grid.cells, grid.corners)
    assert int(grid.clearance.max()) >= 2
    arguments = {"step": 0.4, "offsets": offsets}
    for a, b in zip(
        render_voxels(rays, grid, density, harmonics, **arguments),
        render_voxels(rays, everywhere, density, harmonics, **arguments),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_cells_without_a_positive_corner_can_be_left_out() -> None:
    rays, grid, density, harmonics, offsets = _scene()
    fewer = grid.absorbing_where(density > 0)
    assert 0 < fewer.cells.shape[0] < grid.cells.shape[0]
    found = [
        render_voxels(rays, one, density - 3, harmonics, step=0.3, offsets=offsets) for one in (grid, grid.absorbing_where(density > 3))
    ]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_threads_do_not_change_the_bits() -> None:
    rays, grid, density, harmonics, offsets = _scene(count=700)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            inputs = [x.clone().requires_grad_() for x in (density, harmonics)]
            found = render_voxels(rays, grid, *inputs, step=0.3, offsets=offsets)
            total = found.color.square().sum() + found.light.sum() + found.sparsity.sum()
            recycled(density.shape).fill_(7.0)  # memory that is given out again, and not cleared
            results.append([*found, *torch.autograd.grad(total, inputs)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_rows_and_no_rays_are_an_empty_picture() -> None:
    rays, _, _, _, _ = _scene(count=5)
    nothing = voxel_grid(torch.zeros(4, 4, 4, dtype=torch.bool))
    density, harmonics = torch.zeros(0, requires_grad=True), torch.zeros(0, 12, requires_grad=True)
    found = render_voxels(rays, nothing, density, harmonics, step=0.1)
    assert found.light.tolist() == [1.0] * 5 and not found.color.any()
    assert [x.shape for x in torch.autograd.grad(found.color.sum(), (density, harmonics))] == [(0,), (0, 12)]
    none = Rays(torch.zeros(0, 3), torch.zeros(0, 3))
    assert render_voxels(none, nothing, density, harmonics, step=0.1).color.shape == (0, 3)


@pytest.mark.parametrize("as_gpu", [False, True])
def test_variation_and_its_gradient_are_those_of_the_twin(as_gpu: bool) -> None:
    _, grid, _, harmonics, _ = _scene(share=0.7)
    ours, twin = torch.ones_like(harmonics), torch.ones_like(harmonics, dtype=torch.float64)
    part = {"begin": 100, "end": 700, "scale": 3.0}
    with as_on_a_gpu() if as_gpu else nullcontext():
        value = add_voxel_variation(grid, harmonics, ours, **part)
    torch.testing.assert_close(value.double(), plain_variation(grid, harmonics.double(), twin, **part), rtol=1e-4, atol=0)
    torch.testing.assert_close(ours.double(), twin, rtol=1e-4, atol=1e-4)


def test_a_small_step_against_its_gradient_lowers_the_variation_as_far_as_it_says() -> None:
    _, grid, _, harmonics, _ = _scene(share=0.7)
    everything = {"begin": 0, "end": len(harmonics), "scale": 1.0}
    gradient, ignored = torch.zeros_like(harmonics), torch.zeros_like(harmonics)
    before = add_voxel_variation(grid, harmonics, gradient, **everything)
    after = add_voxel_variation(grid, harmonics - 1e-2 * gradient, ignored, **everything)
    torch.testing.assert_close((before - after) / 1e-2, gradient.square().sum(), rtol=1e-2, atol=0)


def test_the_variation_of_a_constant_is_zero() -> None:
    _, grid, density, _, _ = _scene()
    gradient = torch.zeros(len(density), 1)
    assert float(add_voxel_variation(grid, torch.full_like(gradient, 5.0), gradient, begin=0, end=len(density), scale=1.0)) == 0
    assert not gradient.any()


def _field(size: int = 9, bands: int = 2) -> VoxelField:
    _, grid, density, harmonics, _ = _scene(size=(size, size, size), bands=bands)
    field = VoxelField(grid.rows >= 0, bands=bands)
    with torch.no_grad():
        field.density.copy_(density)
        field.harmonics.copy_(harmonics)
    return field


@pytest.mark.parametrize("cells", [(16, 16, 16), (8, 24, 16)])
def test_whole_multiples_of_cells_are_the_same_function(cells: tuple[int, int, int]) -> None:
    field, rays = _field(), _scene()[0]
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    cubes = len(set(cells)) == 1
    before, seen = field.density_at(points), field.render(rays, step=0.5 if cubes else 0.01)
    directions = torch.nn.functional.normalize(points, dim=1)
    colors = field.color_at(points, directions)
    field.refine(cells)
    assert field.grid.rows.shape == tuple(count + 1 for count in reversed(cells))
    torch.testing.assert_close(field.density_at(points), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(field.color_at(points, directions), colors, atol=1e-3, rtol=0)
    after = field.render(rays, step=1.0 if cubes else 0.01)  # other cells have samples at other places
    torch.testing.assert_close(after.color, seen.color, atol=1e-4 if cubes else 1e-2, rtol=1e-4)


def test_samples_are_as_many_cells_apart_on_every_ray() -> None:
    fog = voxel_grid(torch.ones(3, 5, 9, dtype=torch.bool))  # 2, 4 and 8 cells along z, y and x
    axes = torch.eye(3)
    rays = Rays(-3 * axes + 0.01, axes)
    found = render_voxels(rays, fog, torch.full((135,), 0.5), torch.zeros(135, 3), step=0.25)
    assert found.samples.tolist() == [32, 16, 8]
    torch.testing.assert_close(found.light, torch.full((3,), -1.0).exp())  # density is per unit of length whatever the cells are


def test_pruning_by_weight_changes_pixels_by_less_than_the_weights_that_it_drops() -> None:
    field, rays = _field(17), _scene(count=400)[0]
    before = field.render(rays, step=0.5).color.detach()
    weights = field.largest_weights(rays, step=0.5)
    rows, threshold = field.row_count, 0.02
    field.keep(field.visible_vertices(weights, threshold, margin=0))
    after = field.render(rays, step=0.5).color.detach()
    assert 0 < field.row_count < rows
    assert float((before - after).abs().mean()) < threshold
    assert float((before - after).abs().max()) < 0.2


def test_the_largest_weights_are_those_of_the_twin() -> None:
    rays, grid, density, _, offsets = _scene(size=(5, 6, 7))
    found = largest_weights(rays, grid, density, step=0.25, offsets=offsets)
    torch.testing.assert_close(found, plain_weights(rays, grid, density, step=0.25, offsets=offsets), atol=1e-5, rtol=1e-4)
    assert 0.1 < float(found.max()) < 1


@pytest.mark.parametrize("share", [0.0, 0.003, 0.4, 1.0])
def test_a_grid_is_that_of_the_twin(share: float) -> None:
    used = torch.rand(14, 9, 30, generator=torch.Generator().manual_seed(1)) < share
    for field in ("rows", "vertices", "clearance", "places", "cells", "corners"):
        assert torch.equal(getattr(voxel_grid(used), field), getattr(plain_grid(used), field)), field


def test_rays_with_more_samples_than_their_block_has_room_for_are_whole() -> None:
    fog = voxel_grid(torch.ones(3, 3, 3, dtype=torch.bool))
    rays = Rays(torch.tensor([[-3.0, 0.01, 0.02]]).repeat(70, 1), torch.tensor([[1.0, 0.0, 0.0]]).repeat(70, 1))
    for step, samples in ((0.1, 20), (0.02, 100), (0.005, 400)):
        found = render_voxels(rays, fog, torch.full((27,), 0.5), torch.zeros(27, 3), step=step)
        assert abs(int(found.samples.min()) - samples) <= 1
        torch.testing.assert_close(found.light, torch.full((70,), -1.0).exp(), atol=0.02, rtol=0)
