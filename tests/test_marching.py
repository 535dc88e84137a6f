from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from unrender.cameras import Rays
from unrender.ops.rays import OccupancyGrid, Samples, aabb_intersection, march, prune, visible
from unrender.reference import marching as reference
from unrender.reference import ray_ranges, visibility
from unrender.reference.occupancy import occupied_at

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def speckled(levels: int = 1, resolution: int = 16, share: float = 0.08, seed: int = 0) -> OccupancyGrid:
    """Random cells and one solid block, so that cells and whole bricks are skipped."""
    grid = OccupancyGrid(resolution, levels)
    values = (torch.rand(levels, resolution, resolution, resolution, generator=torch.Generator().manual_seed(seed)) < share).float()
    values[:, : resolution // 2, resolution // 2 :] = 0.0
    values[:, 4:7, 1:9, 3:12] = 1.0
    grid.set_from_values(values.reshape(-1), 0.5)
    return grid


def aimed(number: int, reach: float = 3.0, seed: int = 1) -> Rays:
    """Rays from outside and inside, aimed at the grid, some past it, some along an axis."""
    random = torch.Generator().manual_seed(seed)
    origins = (torch.rand(number, 3, generator=random) * 2 - 1) * reach
    targets = (torch.rand(number, 3, generator=random) * 2 - 1) * 1.2
    directions = normalize(targets - origins, dim=1)
    axis = torch.eye(3)[torch.randint(3, (number,), generator=random)] * torch.where(
        torch.rand(number, 1, generator=random) < 0.5, 1.0, -1.0
    )
    directions[::5] = axis[::5]
    origins[1::4] = targets[1::4] * 0.8
    return Rays(origins, directions)


def assert_same(ours: Samples, plain: Samples) -> None:
    for name in ("count", "first", "ray_index", "starts", "ends"):
        assert torch.equal(getattr(ours, name), getattr(plain, name)), name


@pytest.mark.parametrize(
    ("levels", "cone_angle", "step"), [(1, 0.0, 0.02), (1, 0.0, 0.3), (1, 0.02, 0.01), (3, 0.0, 0.02), (3, 0.01, 0.015), (2, 0.2, 0.02)]
)
def test_march_equals_testing_every_interval(levels: int, cone_angle: float, step: float) -> None:
    grid, rays = speckled(levels), aimed(300, reach=1.5 * 2**levels)
    offsets = torch.rand(300, generator=torch.Generator().manual_seed(3))
    arguments = {"step": step, "cone_angle": cone_angle, "offsets": offsets}
    ours = march(rays, grid, **arguments)
    assert ours.starts.shape[0] > 100
    assert_same(ours, reference.march(rays, grid, **arguments))


@pytest.mark.parametrize("beyond", [1e300, 3.5e38])
def test_bounds_beyond_float32_are_infinite(beyond: float) -> None:
    grid, rays = speckled(), aimed(50)
    assert_same(march(rays, grid, step=0.02, near=-beyond, far=beyond), march(rays, grid, step=0.02, near=-torch.inf, far=torch.inf))
    assert march(rays, grid, step=0.02, near=beyond).count.sum() == 0


@pytest.mark.parametrize(("levels", "cone_angle", "reach"), [(1, 0.0, 60.0), (2, 0.0, 4.0), (2, 0.004, 4.0)])
def test_leaps_through_empty_space_miss_nothing(levels: int, cone_angle: float, reach: float) -> None:
    grid, rays = OccupancyGrid(64, levels), aimed(600, reach=reach)
    grid.set_from_values((torch.rand(levels * 64**3, generator=torch.Generator().manual_seed(7)) < 2e-3).float(), 0.5)
    ours = march(rays, grid, step=0.02, cone_angle=cone_angle)
    assert ours.starts.shape[0] > 50 and grid.clearance.max() > 1
    assert_same(ours, reference.march(rays, grid, step=0.02, cone_angle=cone_angle))


def test_march_respects_near_far_and_the_largest_number_of_samples() -> None:
    grid, rays = speckled(), aimed(200)
    near = torch.rand(200, generator=torch.Generator().manual_seed(5)) * 3
    plain = {"step": 0.01, "near": near, "far": near + 1.0, "max_samples_per_ray": 9}
    ours = march(rays, grid, **plain)
    assert_same(ours, reference.march(rays, grid, **plain))
    index = ours.ray_index.long()
    assert ours.count.max() == 9 and (ours.starts >= near[index]).all() and (ours.ends <= near[index] + 1.0).all()


@pytest.mark.parametrize("cone_angle", [0.0, 0.01])
def test_every_sample_lies_in_an_occupied_cell_and_in_order(cone_angle: float) -> None:
    grid, rays = speckled(2), aimed(300, reach=4.0)
    samples = march(rays, grid, step=0.03, cone_angle=cone_angle)
    index = samples.ray_index.long()
    middles = rays.origins[index] + samples.midpoints[:, None] * rays.directions[index]
    lengths = (samples.starts * cone_angle).clamp_min(0.03)
    assert occupied_at(grid, middles, lengths).all()
    assert (samples.ray_index.diff() >= 0).all()
    same_ray = samples.ray_index.diff() == 0
    assert (samples.starts[1:][same_ray] >= samples.ends[:-1][same_ray] - 1e-6).all()
    assert samples.used().item() == samples.starts.shape[0]


def test_march_cuts_a_full_grid_into_all_of_the_ray() -> None:
    grid, rays = OccupancyGrid(16), aimed(100)
    samples = march(rays, grid, step=0.037)
    near, far = aabb_intersection(rays)
    covered = torch.zeros(100).index_add_(0, samples.ray_index.long(), samples.lengths)
    torch.testing.assert_close(covered, far - near, rtol=1e-4, atol=1e-5)


def test_rays_inside_axis_parallel_missing_and_broken() -> None:
    inf, nan = torch.inf, torch.nan
    origins = torch.tensor([[0.0, 0, 0], [0, 0, -5], [0, 3, -5], [0, 0, -5], [nan, 0, 0], [0, 0, -5], [1, 0, -5], [0, 0, 0], [inf, 0, 0]])
    directions = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, -1], [0, 0, 1], [nan, nan, nan], [0, 0, 1], [0, 0, 0], [1, 0, 0]])
    samples = march(Rays(origins, directions), OccupancyGrid(16), step=0.125)
    assert samples.count.tolist() == [8, 16, 0, 0, 0, 0, 16, 0, 0]
    assert samples.starts[0] == 0.0 and samples.starts[8] == 4.0


def test_an_empty_grid_gives_no_samples() -> None:
    grid = OccupancyGrid(16)
    grid.set_from_values(torch.zeros(16**3), 0.5)
    samples = march(aimed(50), grid, step=0.01)
    assert samples.starts.shape == (0,) and samples.count.sum() == 0
    padded = march(aimed(50), grid, step=0.01, capacity=7)
    assert (padded.ray_index == -1).all() and (padded.lengths == 0).all() and padded.ray_index.shape == (7,)
    assert march(Rays(torch.zeros(0, 3), torch.zeros(0, 3)), grid, step=0.01).first.shape == (0,)


def test_rays_beyond_the_capacity_are_left_out_and_reported() -> None:
    grid, rays = speckled(), aimed(200)
    full = march(rays, grid, step=0.02)
    capacity = full.starts.shape[0] // 2
    cut = march(rays, grid, step=0.02, capacity=capacity)
    assert_same(cut, reference.march(rays, grid, step=0.02, capacity=capacity))
    fit = full.count.cumsum(0) <= capacity
    assert torch.equal(cut.count, torch.where(fit, full.count, 0))
    used = int(cut.used())
    assert used <= capacity and torch.equal(cut.starts[:used], full.starts[:used]) and (cut.ray_index[used:] == -1).all()


def test_march_refuses_impossible_steps() -> None:
    for step, cone_angle in ((0.0, 0.0), (float("nan"), 0.0), (0.1, -1.0)):
        with pytest.raises(ValueError, match="^march takes a finite number of at least .* as (step|cone_angle), got"):
            march(aimed(3), OccupancyGrid(16), step=step, cone_angle=cone_angle)


def test_no_value_makes_a_march_endless() -> None:
    """A step too short is refused; rays of tiny directions and offsets of any size end within the grid."""
    grid, rays = OccupancyGrid(16), aimed(8)
    for step in (1e-9, 1e-45):
        with pytest.raises(ValueError, match="as step, got"):
            march(rays, grid, step=step)
    tiny = Rays(0 * rays.origins, 1e-12 * rays.directions)
    assert march(tiny, grid, step=0.1).count.max() <= 36
    assert_same(march(rays, grid, step=0.1, offsets=torch.full((8,), -1e9)), march(rays, grid, step=0.1))
    for wrong in (float("nan"), 1e9, float("inf")):
        samples = march(rays, grid, step=0.1, offsets=torch.full((8,), wrong))
        assert (samples.starts >= 0).all() and (samples.ends <= 10).all()


def test_box_intersection_equals_the_twin() -> None:
    rays = aimed(500)
    for half_extent in (1.0, 2.0):
        for ours, plain in zip(aabb_intersection(rays, half_extent), reference.aabb_intersection(rays, half_extent), strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)


def test_visibility_and_pruning_equal_the_twins() -> None:
    samples = march(aimed(300), speckled(), step=0.02, capacity=9000)
    alpha = torch.rand(9000, generator=torch.Generator().manual_seed(2)) * 0.3
    keep = visible(samples, alpha, threshold=0.1, alpha_threshold=0.05)
    assert torch.equal(keep, visibility.visible(samples, alpha, threshold=0.1, alpha_threshold=0.05))
    kept = prune(samples, keep)
    assert_same(kept, ray_ranges.prune(samples, keep))
    assert 0 < kept.starts.shape[0] < int(samples.used())


def test_march_does_not_depend_on_the_number_of_threads() -> None:
    grid, rays = speckled(2, 32), aimed(3000, reach=4.0)
    kept = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(march(rays, grid, step=0.01))
    torch.set_num_threads(kept)
    assert_same(*results)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_march_on_a_gpu_finds_what_the_cpu_finds(device: str) -> None:
    grid, rays = speckled(2, 32), aimed(2000, reach=4.0)
    plain = march(rays, grid, step=0.02)
    capacity = plain.starts.shape[0] + 100
    moved = Rays(rays.origins.to(device), rays.directions.to(device))
    with pytest.raises(ValueError, match="capacity"):
        march(moved, grid.to(device), step=0.02)
    ours = march(moved, grid, step=0.02, capacity=capacity)
    # A fused multiply-add may move a middle across a cell's face.
    assert ((ours.count.cpu() - plain.count).abs() > 0).float().mean() < 0.01
    kept = prune(ours, torch.ones(capacity, dtype=torch.bool, device=device))
    assert_same(kept, ours)
