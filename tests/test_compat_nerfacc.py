"""The stand-in of nerfacc: values by hand, laws, and a program of two callbacks against our own radiance field."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from unrender.cameras import Rays
from unrender.captures.capture import Capture
from unrender.compat import nerfacc
from unrender.compat import tinycudann as tcnn
from unrender.compat.nerfacc.estimators.prop_net import get_proposal_requires_grad_fn
from unrender.demo import make_demo_capture
from unrender.losses.metrics import psnr
from unrender.ops.rays.box_marching import march_boxes
from unrender.ops.rays.cumulative import cumulative_product, cumulative_sum
from unrender.recipes import nerf
from unrender.recipes.settings import override
from unrender.reference import box_marching, cumulative
from unrender.render.scene import Scene

PROGRAM = Path(__file__).parents[1] / "examples" / "nerfacc_radiance_field.py"
BOX = torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads of PyTorch cost more than they save at these sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def close(found: object, wanted: object, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(wanted), atol=tolerance, rtol=tolerance)


def packed(counts: list[int]) -> tuple[Tensor, Tensor]:
    count = torch.tensor(counts)
    return count.cumsum(0) - count, count


# ---------------------------------------------------------------------------------------------------------------------------------
# Cumulative sums and products
# ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [False, True])
def test_cumulative_sums_and_products_equal_the_twin(exclusive: bool) -> None:
    """Also with a factor of zero, whose gradient a division would lose."""
    first, count = packed([3, 0, 1, 40, 6])
    values = torch.rand(50) + 0.2
    values[[1, 10]] = 0.0
    cotangent = torch.randn(50)
    for ours, twin in ((cumulative_sum, cumulative.cumulative_sum), (cumulative_product, cumulative.cumulative_product)):
        single, double = values.clone().requires_grad_(), values.double().requires_grad_()
        found, wanted = ours(single, first, count, exclusive=exclusive), twin(double, first, count, exclusive=exclusive)
        close(found.double(), wanted)
        (slope,) = torch.autograd.grad(found, single, cotangent)
        (expected,) = torch.autograd.grad(wanted, double, cotangent.double())
        close(slope.double(), expected, 1e-4)
    assert torch.autograd.gradgradcheck(lambda x: twin(x, first, count, exclusive=exclusive), double, fast_mode=True)


def test_second_derivatives_of_a_sum_and_none_of_a_product() -> None:
    first, count = packed([2, 3])
    values = torch.rand(5, requires_grad=True)
    (slope,) = torch.autograd.grad(cumulative_sum(values.square(), first, count).sum(), values, create_graph=True)
    close(torch.autograd.grad(slope.sum(), values)[0], 2.0 * torch.tensor([2.0, 1.0, 3.0, 2.0, 1.0]))
    (slope,) = torch.autograd.grad(cumulative_product(values, first, count).sum(), values, create_graph=True)
    with pytest.raises(RuntimeError, match="cumulative_product has a first derivative only"):
        torch.autograd.grad(slope.sum(), values)


@pytest.mark.parametrize("name", ["inclusive_sum", "exclusive_sum", "inclusive_prod", "exclusive_prod"])
def test_a_table_and_the_packed_rays_agree(name: str) -> None:
    table = torch.rand(4, 6)
    packing = torch.stack([torch.arange(0, 24, 6), torch.full((4,), 6)], 1)
    verb: Callable[..., Tensor] = getattr(nerfacc, name)
    close(verb(table.flatten(), packing).view(4, 6), verb(table))
    close(verb(table.flatten(), indices=torch.arange(4).repeat_interleave(6)).view(4, 6), verb(table))
    assert verb(torch.zeros(0), torch.zeros(3, 2, dtype=torch.long)).shape == (0,)


# ---------------------------------------------------------------------------------------------------------------------------------
# Volume rendering
# ---------------------------------------------------------------------------------------------------------------------------------

STARTS, ENDS = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([1.0, 2.0, 1.0])
SIGMAS, RAYS = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2])


def test_weights_of_two_rays_by_hand() -> None:
    weights, trans, alphas = nerfacc.render_weight_from_density(STARTS, ENDS, SIGMAS, ray_indices=RAYS, n_rays=3)
    close(trans, [1.0, math.exp(-1.0), 1.0])
    close(alphas, [1 - math.exp(-1), 1 - math.exp(-2), 1 - math.exp(-2)])
    close(weights, trans * alphas)
    again, other = nerfacc.render_weight_from_alpha(alphas, packed_info=nerfacc.pack_info(RAYS, 3))
    close(again, weights)
    close(other, trans)
    close(nerfacc.render_transmittance_from_alpha(alphas, ray_indices=RAYS, n_rays=3), trans)
    halved = nerfacc.render_transmittance_from_density(STARTS, ENDS, SIGMAS, ray_indices=RAYS, n_rays=3, prefix_trans=torch.full((3,), 0.5))
    close(halved[0], trans / 2)


def test_visible_samples_are_lit_and_dense() -> None:
    density = torch.tensor([20.0, 5.0, 0.01])
    keys = {"ray_indices": RAYS, "n_rays": 3}
    assert nerfacc.render_visibility_from_density(STARTS, ENDS, density, **keys).tolist() == [True, False, True]
    assert nerfacc.render_visibility_from_density(STARTS, ENDS, density, **keys, early_stop_eps=0.0).tolist() == [True] * 3
    assert nerfacc.render_visibility_from_density(STARTS, ENDS, density, **keys, alpha_thre=0.1).tolist() == [True, False, False]
    alphas = 1 - torch.exp(-density * (ENDS - STARTS))
    assert nerfacc.render_visibility_from_alpha(alphas, **keys, alpha_thre=0.1).tolist() == [True, False, False]


def test_rendering_adds_up_what_the_callback_returns() -> None:
    colors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], requires_grad=True)
    sigmas = SIGMAS.clone().requires_grad_()
    asked = []

    def field(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor) -> tuple[Tensor, Tensor]:
        asked.append((t_starts, t_ends, ray_indices))
        return colors, sigmas

    color, opacity, distance, extras = nerfacc.rendering(STARTS, ENDS, RAYS, 3, rgb_sigma_fn=field, render_bkgd=torch.ones(3))
    assert torch.equal(asked[0][2], RAYS)
    w = extras["weights"]
    close(opacity[:, 0], torch.stack([w[0] + w[1], torch.zeros(()), w[2]]))
    close(color[1], [1.0, 1.0, 1.0])
    close(color[0], torch.stack([w[0], w[1], torch.zeros(())]) + (1 - opacity[0]))
    close(distance[0, 0], (w[0] * 0.5 + w[1] * 1.5) / opacity[0, 0])
    assert color.shape == (3, 3) and distance.shape == (3, 1) and set(extras) == {"weights", "trans", "alphas", "sigmas", "rgbs"}
    color.sum().backward()
    assert colors.grad is not None and sigmas.grad is not None
    table = nerfacc.rendering(STARTS[None, :2], ENDS[None, :2], rgb_alpha_fn=lambda *_: (colors[None, :2], extras["alphas"][None, :2]))
    close(table[1], opacity[:1])
    nothing = nerfacc.rendering(STARTS[:0], ENDS[:0], RAYS[:0], 2, rgb_sigma_fn=field, render_bkgd=torch.ones(3))
    close(nothing[0], torch.ones(2, 3))
    with pytest.raises(ValueError, match="one of rgb_sigma_fn and rgb_alpha_fn, got none"):
        nerfacc.rendering(STARTS, ENDS, RAYS, 3)
    with pytest.raises(ValueError, match=r"from rgb_sigma_fn, got float32 \[3, 3\] and float32 \[3, 1\]"):
        nerfacc.rendering(STARTS, ENDS, RAYS, 3, rgb_sigma_fn=lambda *_: (colors, sigmas[:, None]))


def test_accumulation_is_in_any_order_and_of_any_width() -> None:
    weights, values, rays = torch.rand(20), torch.rand(20, 5), torch.randint(0, 4, (20,))
    wanted = torch.stack([(weights[rays == k, None] * values[rays == k]).sum(0) for k in range(6)])
    close(nerfacc.accumulate_along_rays(weights, values, rays, 6), wanted)
    close(nerfacc.accumulate_along_rays(weights.view(4, 5), values.view(4, 5, 5)), (weights[:, None] * values).view(4, 5, 5).sum(1))
    with pytest.raises(ValueError, match=r"\[20, channels\] as values, as weights, got float32 \[20\]"):
        nerfacc.accumulate_along_rays(weights, weights, rays, 6)


def test_distortion_by_hand() -> None:
    spread = nerfacc.distortion(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 3.0]), torch.tensor([3.0, 6.0]), torch.tensor([0, 0]), 2)
    close(spread, [[2.0], [0.0]])
    close(nerfacc.distortion(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 3.0]]), torch.tensor([[3.0, 6.0]])), [[2.0]])


# ---------------------------------------------------------------------------------------------------------------------------------
# Boxes and grids
# ---------------------------------------------------------------------------------------------------------------------------------


def test_rays_meet_boxes() -> None:
    origins = torch.tensor([[-3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [-3.0, 2.0, 0.0]])
    directions = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    entry, leave, hits = nerfacc.ray_aabb_intersect(origins, directions, BOX)
    assert hits[:, 0].tolist() == [True, True, False, False]
    close(entry[:2, 0], [1.0, -1.0])
    close(leave[:2, 0], [2.0, 1.0])
    assert bool(entry[2:].isinf().all() and leave[2:].isinf().all())
    entry, leave, _ = nerfacc.ray_aabb_intersect(origins, directions, BOX, near_plane=0.0, far_plane=1.5, miss_value=-1.0)
    close(entry[:, 0], [1.0, 0.0, -1.0, -1.0])
    close(leave[:, 0], [1.5, 1.0, -1.0, -1.0])


@pytest.mark.parametrize("cone", [0.0, 0.03])
@pytest.mark.parametrize(("levels", "resolution"), [(1, (9, 17, 6)), (3, (16, 16, 16)), (2, (7, 3, 5))])
def test_marching_equals_the_twin_that_tests_every_interval(levels: int, resolution: tuple[int, int, int], cone: float) -> None:
    occupied = torch.rand(levels, *resolution) < 0.3
    occupied[:, : resolution[0] // 2] &= False
    middle, half = torch.tensor([0.0, 0.1, 0.2]), torch.tensor([1.0, 0.8, 0.6])
    boxes = torch.stack([torch.cat([middle - half * 2.0**k, middle + half * 2.0**k]) for k in range(levels)])
    origins = torch.randn(200, 3) * 2
    rays = Rays(origins, (middle + half * (torch.rand(200, 3) * 2 - 1) - origins) * 0.7)
    rays.directions[::7, 1] = 0.0
    keys = {"near": torch.rand(200) * 0.2, "far": torch.full((200,), 3.0), "step": 0.04, "cone_angle": cone}
    for most in (None, 3):
        ours = march_boxes(rays, occupied, boxes, **keys, max_samples_per_ray=most)
        plain = box_marching.march_boxes(rays, occupied, boxes, **keys, max_samples_per_ray=most)
        assert torch.equal(ours.count, plain.count) and torch.equal(ours.ray_index, plain.ray_index) and len(ours.starts) > 100
        close(ours.starts, plain.starts)
        close(ours.ends, plain.ends)


def test_edges_are_shared_by_intervals_that_touch() -> None:
    binaries = torch.tensor([True, False, True, True]).view(1, 4, 1, 1)  # cells of 0.5 along x
    origin, direction = torch.tensor([[-2.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    edges, samples, ends = nerfacc.traverse_grids(origin, direction, binaries, BOX, step_size=0.25)
    close(samples.vals, [1.125, 1.375, 2.125, 2.375, 2.625, 2.875])
    close(edges.vals, [1.0, 1.25, 1.5, 2.0, 2.25, 2.5, 2.75, 3.0])
    assert edges.is_left is not None and edges.is_right is not None and edges.packed_info is not None and samples.packed_info is not None
    assert edges.is_left.tolist() == [True, True, False, True, True, True, True, False]
    assert edges.is_right.tolist() == [False, True, True, False, True, True, True, True]
    assert edges.packed_info.tolist() == [[0, 8]] and samples.packed_info.tolist() == [[0, 6]] and ends.isinf().all()
    _, first, ends = nerfacc.traverse_grids(origin, direction, binaries, BOX, step_size=0.25, traverse_steps_limit=3)
    close(ends, [2.25])
    _, rest, _ = nerfacc.traverse_grids(origin, direction, binaries, BOX, near_planes=ends, step_size=0.25)
    close(torch.cat([first.vals, rest.vals]), samples.vals)
    none = nerfacc.traverse_grids(origin, direction, binaries, BOX, step_size=0.25, rays_mask=torch.tensor([False]))[1]
    assert len(none.vals) == 0


def ball(x: Tensor) -> Tensor:
    return 50.0 * (x.norm(dim=-1) < 0.5).float()


def test_an_occupancy_grid_finds_a_ball_and_samples_it(one_thread: None) -> None:
    estimator = nerfacc.OccGridEstimator(torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]), resolution=32, levels=2)
    origins, directions = torch.tensor([[-3.0, 0.0, 0.0], [-3.0, 0.9, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]] * 2)
    assert len(estimator.sampling(origins, directions)[0]) == 0  # empty before the first update
    for step in range(300):
        estimator.update_every_n_steps(step, occ_eval_fn=lambda x: ball(x)[:, None] * 0.01)
    share = estimator.binaries.float().mean((1, 2, 3))
    volume = 4 / 3 * math.pi * 0.5**3
    close(share, [volume / 8, volume / 64], 0.015)
    close(estimator.aabbs[1], [-2.0, -2.0, -2.0, 2.0, 2.0, 2.0])
    rays, starts, ends = estimator.sampling(origins, directions, render_step_size=0.01)
    assert rays.tolist() == [0] * len(rays) and 2.35 < starts.min() < 2.51 and 3.49 < ends.max() < 3.65
    close(ends - starts, torch.full_like(starts, 0.01), 1e-4)

    def density(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor) -> Tensor:
        return ball(origins[ray_indices] + directions[ray_indices] * (0.5 * (t_starts + t_ends))[:, None])

    visible = estimator.sampling(origins, directions, sigma_fn=density, render_step_size=0.01)[1]
    assert 2.35 < visible.min() and visible.max() < 2.5 + math.log(1e4) / 50 + 0.02  # until the transmittance is 1e-4
    opaque = estimator.sampling(origins, directions, alpha_fn=lambda *t: 0.01 * density(*t), render_step_size=0.01, alpha_thre=0.001)[1]
    assert opaque.min() >= 2.49
    shifted = estimator.sampling(origins, directions, render_step_size=0.01, stratified=True)[1]
    assert len(torch.unique(((shifted * 100) % 1 * 50).round() % 50)) <= 2 and not torch.equal(shifted[:20], starts[:20])  # one shift a ray
    later = estimator.sampling(origins, directions, render_step_size=0.01, t_min=torch.tensor([3.0, 0.0]))[1]
    assert later.min() >= 2.99
    with pytest.raises(RuntimeError, match="training mode"):
        estimator.eval().update_every_n_steps(0, occ_eval_fn=ball)
    restored = nerfacc.OccGridEstimator([-1, -1, -1, 1, 1, 1], resolution=[32, 32, 32], levels=2)
    restored.load_state_dict(estimator.state_dict())
    assert torch.equal(restored.binaries, estimator.binaries)


def test_cells_that_no_camera_sees_stay_empty() -> None:
    estimator = nerfacc.OccGridEstimator([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], resolution=8)
    intrinsics = torch.tensor([[[49.0, 0.0, 50.0], [0.0, 49.0, 50.0], [0.0, 0.0, 1.0]]])
    pose = torch.eye(4)[None]
    pose[0, 2, 3] = -1.0  # at z = -1, looks along +z with 90 degrees
    estimator.mark_invisible_cells(intrinsics, pose, 100, 100, near_plane=0.5)
    middles = (estimator.grid_coords + 0.5) / 4 - 1
    depth = middles[:, 2] + 1
    seen = (middles[:, :2].abs() < depth[:, None] * 50 / 49).all(1) & (depth >= 0.5)
    assert torch.equal(estimator.occs >= 0, seen)
    for step in (0, 16, 1000):
        estimator._update(step, lambda x: torch.ones(len(x)))
    assert torch.equal(estimator.binaries.flatten(), seen)


# ---------------------------------------------------------------------------------------------------------------------------------
# Distributions along rays
# ---------------------------------------------------------------------------------------------------------------------------------


def test_a_search_in_packed_rays_is_that_in_a_table() -> None:
    sequence, wanted = torch.rand(6, 9).sort(1).values, torch.rand(6, 5) * 1.4 - 0.2
    left, right = nerfacc.searchsorted(nerfacc.RayIntervals(sequence), nerfacc.RaySamples(wanted))
    rays = torch.arange(6)

    def info(size: int) -> Tensor:
        return torch.stack([rays * size, torch.full((6,), size)], 1)

    flat = nerfacc.RayIntervals(sequence.flatten(), info(9)), nerfacc.RaySamples(wanted.flatten(), info(5))
    packed_left, packed_right = nerfacc.searchsorted(*flat)
    assert torch.equal(packed_left.view(6, 5), left + 9 * rays[:, None]) and torch.equal(packed_right.view(6, 5), right + 9 * rays[:, None])
    inside = (wanted >= sequence[:, :1]) & (wanted < sequence[:, -1:])
    assert bool((sequence.gather(1, left) <= wanted)[inside].all() and (sequence.gather(1, right) > wanted)[inside].all())


def test_samples_follow_the_distribution() -> None:
    edges = nerfacc.RayIntervals(torch.tensor([[0.0, 1.0, 2.0, 10.0]]))
    cdf = torch.tensor([[0.0, 0.5, 0.5, 1.0]])
    intervals, samples = nerfacc.importance_sampling(edges, cdf, 4)
    close(samples.vals, [[0.25, 0.75, 4.0, 8.0]])
    close(intervals.vals, [[0.0, 0.5, 2.375, 6.0, 10.0]])
    drawn = nerfacc.importance_sampling(edges, cdf, 1000, stratified=True)[1].vals[0]
    close([(drawn < 1).float().mean().item(), (drawn > 6).float().mean().item()], [0.5, 0.25], 2e-3)
    first, counts = torch.tensor([0, 4]), torch.tensor([4, 2])
    both = nerfacc.RayIntervals(torch.tensor([0.0, 1.0, 2.0, 10.0, 3.0, 5.0]), torch.stack([first, counts], 1))
    heights = torch.tensor([0.0, 0.5, 0.5, 1.0, 0.0, 1.0])
    intervals, samples = nerfacc.importance_sampling(both, heights, torch.tensor([4, 1]))
    close(samples.vals, [0.25, 0.75, 4.0, 8.0, 4.0])
    close(intervals.vals, [0.0, 0.5, 2.375, 6.0, 10.0, 3.0, 5.0])
    assert samples.ray_indices is not None and samples.ray_indices.tolist() == [0, 0, 0, 0, 1]
    assert intervals.packed_info is not None and intervals.packed_info.tolist() == [[0, 5], [5, 2]]


def test_a_proposal_network_learns_where_the_wall_is(one_thread: None) -> None:
    """Its loss falls, and the final samples gather at the wall."""
    network = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 1))
    estimator = nerfacc.PropNetEstimator(torch.optim.Adam(network.parameters(), lr=1e-2))
    due = get_proposal_requires_grad_fn(target=2.0, num_steps=50)

    def proposed(t_starts: Tensor, t_ends: Tensor) -> Tensor:
        return nn.functional.softplus(network((0.5 * (t_starts + t_ends))[..., None])[..., 0] * 5)

    def wall(t_starts: Tensor, t_ends: Tensor) -> Tensor:
        return 40.0 * ((0.5 * (t_starts + t_ends) - 4.0).abs() < 0.3).float()

    losses, updates = [], 0
    for step in range(150):
        asked = due(step)
        updates += asked
        keys = {"stratified": True, "requires_grad": asked, "sampling_type": "uniform"}
        starts, ends = estimator.sampling([proposed], [24], 32, 16, 1.0, 6.0, **keys)
        trans, _ = nerfacc.render_transmittance_from_density(starts, ends, wall(starts, ends))
        loss = estimator.update_every_n_steps(trans, asked)
        losses += [loss] if asked else []
    assert 60 < updates < 130 and sum(losses[-10:]) < 0.5 * sum(losses[5:15])
    starts, ends = estimator.sampling([proposed], [24], 32, 16, 1.0, 6.0, sampling_type="uniform")
    assert ((starts + ends - 8.0).abs() < 1.2).float().mean() > 0.4  # of 0.24 if they were equally spaced
    inverse = estimator.sampling([], [], 4, 1, 1.0, 4.0)[0]
    close(1 / inverse, 1 - (1 - 0.25) * torch.arange(4)[None] / 4)
    with pytest.raises(ValueError, match="'uniform' or 'lindisp' as sampling_type, got 'lindsip': did you mean 'lindisp'"):
        estimator.sampling([], [], 4, 1, 1.0, 4.0, sampling_type="lindsip")


# ---------------------------------------------------------------------------------------------------------------------------------
# A program
# ---------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, with the stand-ins under the names that it imports."""
    monkeypatch.setitem(sys.modules, "nerfacc", nerfacc)
    monkeypatch.setitem(sys.modules, "tinycudann", tcnn)
    spec = importlib.util.spec_from_file_location("nerfacc_radiance_field", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def settings_of(program: ModuleType, steps: int) -> object:
    """Sizes for a capture of few pixels."""
    sizes = {"steps_of_diagonal": 128, "samples": 2**13, "first_rays": 128, "most_rays": 2048, "cells": 32, "levels": 4}
    return program.Settings(steps=steps, radius=1.0, log2_entries=12, finest=64, **sizes)


def views_of(program: ModuleType, capture: Capture, views: Sequence[int]) -> object:
    """Photos and cameras as the program takes them."""
    intrinsics = torch.eye(3).repeat(len(views), 1, 1)
    fx, fy, cx, cy = capture.cameras.intrinsics[list(views)].float().unbind(1)
    intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 2] = fx, fy, cx, cy
    photos = torch.stack([capture.photos[view].float() / 255 for view in views])
    return program.Views(photos, intrinsics, capture.cameras.world_from_camera[list(views)].float())


def test_a_program_of_two_callbacks_learns_the_scene(program: ModuleType, one_thread: None) -> None:
    capture = make_demo_capture(views=12, size=40, seed=0)
    renderer = program.train(views_of(program, capture, capture.split.train), settings_of(program, 120))
    assert program.score(renderer, views_of(program, capture, capture.split.test)) > 17.0


@pytest.mark.slow
def test_a_program_of_two_callbacks_reaches_what_our_recipe_reaches(program: ModuleType, one_thread: None) -> None:
    """The same capture, widths, step length, budget of samples and number of steps."""
    capture = make_demo_capture(views=12, size=40, seed=0)
    config = override(
        nerf.PRESETS["cpu"], steps=400, max_seconds=None, levels=4, log2_entries=12, finest_resolution=64, target_samples=2**13,
        occupancy_resolution=32, samples_per_ray=128, max_rays=2048,
    )  # fmt: skip
    test = views_of(program, capture, capture.split.test)
    scene = nerf.fit(capture, config, device=torch.device("cpu"), seed=0).scene
    ours = mean_psnr_over_white(capture, scene)
    theirs = program.score(program.train(views_of(program, capture, capture.split.train), settings_of(program, 400)), test)
    assert ours > 25 and abs(theirs - ours) < 1.0, (theirs, ours)


def mean_psnr_over_white(capture: Capture, scene: Scene) -> float:
    scores = []
    for view in capture.split.test:
        photo = capture.photos[view].float() / 255
        truth = photo[..., :3] * photo[..., 3:] + 1 - photo[..., 3:]
        scores.append(float(psnr(scene.render_view(capture.cameras, view).color.clamp(0, 1), truth)))
    return sum(scores) / len(scores)


def test_the_program_reads_a_capture_of_the_layout_that_it_says(program: ModuleType, tmp_path: Path) -> None:
    """A pixel in the middle of the photo looks along -z of the written pose."""
    Image.new("RGBA", (4, 2), (255, 0, 0, 128)).save(tmp_path / "a.png")
    pose = [[1.0, 0, 0, 1], [0, 0, -1, 2], [0, 1, 0, 3], [0, 0, 0, 1]]  # y up becomes z, backward becomes -y
    told = {"camera_angle_x": math.pi / 2, "frames": [{"file_path": "a", "transform_matrix": pose}]}
    (tmp_path / "transforms_train.json").write_text(json.dumps(told))
    views = program.read(tmp_path, "train")
    origins, directions = views.rays()
    close(views.photos[0, 0, 0], [1.0, 0.0, 0.0, 128 / 255])
    close(origins[0, 0], [1.0, 2.0, 3.0])
    close(directions[0].view(2, 4, 3).mean((0, 1)) / directions[0, :, 1].mean(), [0.0, 1.0, 0.0])


def test_names_of_the_modules_resolve() -> None:
    code = """
import unrender.compat
assert unrender.compat.install()
import nerfacc, sys
from nerfacc.estimators.occ_grid import OccGridEstimator
from nerfacc.estimators.prop_net import PropNetEstimator, get_proposal_requires_grad_fn
from nerfacc.volrend import accumulate_along_rays_, rendering
from nerfacc import grid, pack, scan, pdf, losses, data_specs
from nerfacc.losses import distortion
assert OccGridEstimator is nerfacc.OccGridEstimator and rendering is nerfacc.rendering and nerfacc.__version__.startswith("0.5")
import unrender.compat.nerfacc
assert sys.modules["unrender.compat.nerfacc"] is nerfacc and nerfacc.grid is grid
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
