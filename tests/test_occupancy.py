from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unrender.cameras import Cameras, LensModel, Rays
from unrender.ops.rays import OccupancyGrid, march
from unrender.reference.occupancy import occupied_at, seen_cells


def ball(points: Tensor) -> Tensor:
    """Density of a ball of radius one half."""
    return (points.norm(dim=1) < 0.5).float()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def looking(eyes: list[list[float]], *, focal: float = 60.0, size: int = 64, lens: LensModel = "opencv", k1: float = 0.0) -> Cameras:
    """Cameras at ``eyes`` that look at the origin."""
    poses = []
    for eye in eyes:
        forward = -torch.nn.functional.normalize(torch.tensor(eye), dim=0)
        right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.1, 0.2, 1.0])), dim=0)
        pose = torch.eye(4)
        pose[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
        pose[:3, 3] = torch.tensor(eye)
        poses.append(pose)
    number = len(eyes)
    intrinsics = torch.tensor([focal, focal, size / 2, size / 2]).repeat(number, 1)
    distortion = torch.zeros(number, 6)
    distortion[:, 0] = k1
    return Cameras.alike(torch.stack(poses), intrinsics, distortion, size, size, lens)


EYES = [[4.0, 0.3, 0.5], [-0.4, 4.0, 0.2], [2.0, -2.0, 3.0]]


def test_a_new_grid_is_full_and_bits_follow_values() -> None:
    grid = OccupancyGrid(16, 2)
    assert grid.occupied_fraction == 1.0
    values = torch.rand(2 * 16**3, generator=generator())
    grid.set_from_values(values, 0.7)
    assert torch.equal(grid.occupied(), values > 0.7)


def test_cell_centers_lie_in_their_own_cells() -> None:
    grid = OccupancyGrid(16, 3)
    centers = grid.cell_centers()
    for level in range(3):
        part = slice(level * 16**3, (level + 1) * 16**3)
        assert centers[part].abs().max() == (1 - 1 / 16) * 2**level
    values = torch.rand(centers.shape[0], generator=generator())
    grid.set_from_values(values, 0.5)
    inner = centers[: 16**3]
    assert torch.equal(occupied_at(grid, inner, torch.zeros(16**3)), values[: 16**3] > 0.5)


def test_a_full_update_finds_the_cells_of_a_ball() -> None:
    grid = OccupancyGrid(32)
    random = generator()
    for _ in range(20):
        grid.update(ball, threshold=0.01, cells=None, generator=random)
    radius, half = grid.cell_centers().norm(dim=1), 3**0.5 / 32
    assert grid.occupied()[radius < 0.5 - half].all()
    assert not grid.occupied()[radius > 0.5 + half].any()


def test_a_partial_update_visits_as_many_cells_as_asked_and_never_drops_occupied_ones() -> None:
    grid = OccupancyGrid(32)
    random = generator()
    for _ in range(3):
        grid.update(ball, threshold=0.01, cells=None, generator=random)
    inner = grid.cell_centers().norm(dim=1) < 0.45
    visits: list[int] = []

    def counted(points: Tensor) -> Tensor:
        visits.append(points.shape[0])
        return ball(points)

    for _ in range(30):
        grid.update(counted, threshold=0.01, cells=500, generator=random)
    assert visits == [1000] * 30
    assert grid.occupied()[inner].all()


def test_values_decay_where_nothing_is_found() -> None:
    grid = OccupancyGrid(16)
    grid.update(lambda points: torch.ones(points.shape[0]), threshold=0.01, cells=None, generator=generator())
    for _ in range(3):
        grid.update(lambda points: torch.zeros(points.shape[0]), threshold=0.01, decay=0.5, cells=None, generator=generator())
    torch.testing.assert_close(grid.values, torch.full((16**3,), 0.125))


@pytest.mark.parametrize("density", [1e-9, 3e-4, 0.37, 1e6])
def test_thresholding_never_empties_the_grid(density: float) -> None:
    grid = OccupancyGrid(16)
    grid.update(lambda points: torch.full((points.shape[0],), density), threshold=0.01, cells=None, generator=generator())
    assert grid.occupied_fraction == 1.0


def test_a_field_of_zeros_or_nan_leaves_no_sample_and_nothing_breaks() -> None:
    rays = Rays(torch.tensor([[0.0, 0.0, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]]))
    for value in (0.0, torch.nan):
        grid = OccupancyGrid(16)
        grid.update(lambda points, value=value: torch.full((points.shape[0],), value), threshold=0.01, cells=None, generator=generator())
        assert grid.values.isfinite().all() and grid.occupied_fraction == 0.0
        assert march(rays, grid, step=0.1).count.tolist() == [0]
        grid.update(ball, threshold=0.01, cells=200, generator=generator())
        assert grid.occupied_fraction > 0.0


def test_evaluation_comes_in_pieces_of_bounded_size_that_cover_each_cell_once() -> None:
    grid = OccupancyGrid(80)
    seen: list[Tensor] = []

    def recorded(points: Tensor) -> Tensor:
        seen.append(points)
        return torch.ones(points.shape[0])

    grid.update(recorded, threshold=0.01, cells=None, generator=generator())
    assert max(p.shape[0] for p in seen) <= 2**18
    offset = (torch.cat(seen) - grid.cell_centers()).abs() * 80
    assert offset.max() <= 1 + 1e-4 and offset.mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("with_masks", [False, True])
def test_marking_equals_the_twin(levels: int, with_masks: bool) -> None:
    cameras = looking(EYES, focal=200.0)
    masks: list[torch.Tensor] | None = None
    if with_masks:
        y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        masks = [(255 * ((x - 32) ** 2 + (y - 32) ** 2 < 15**2)).to(torch.uint8)] * 3
    grid = OccupancyGrid(16, levels)
    grid.mark_seen(cameras, [0, 2], masks)
    # The outer cube reaches past the cameras, where the twin's plain projection has no meaning.
    cells = slice(0, 16**3)
    expected = seen_cells(OccupancyGrid(16), cameras, [0, 2], masks, 2.0)
    assert torch.equal(grid.seen[cells], expected)
    assert 0.05 < expected.float().mean() < 0.95


def test_a_view_without_a_mask_carves_nothing() -> None:
    cameras = looking(EYES, focal=200.0)
    empty, full = torch.zeros(64, 64, dtype=torch.uint8), torch.full((64, 64), 255, dtype=torch.uint8)
    some, all_full, carved = OccupancyGrid(16), OccupancyGrid(16), OccupancyGrid(16)
    some.mark_seen(cameras, range(3), [full, None, full])
    all_full.mark_seen(cameras, range(3), [full] * 3)
    carved.mark_seen(cameras, range(3), [full, empty, full])
    assert torch.equal(some.seen, all_full.seen) and int(carved.seen.sum()) < int(some.seen.sum())


@pytest.mark.parametrize(("lens", "k1"), [("opencv", 0.0), ("opencv", -0.08), ("fisheye", 0.02)])
def test_every_point_on_a_pixel_ray_lies_in_a_seen_cell(lens: LensModel, k1: float) -> None:
    cameras = looking(EYES, lens=lens, k1=k1)
    grid = OccupancyGrid(32, 3)
    grid.mark_seen(cameras, range(3))
    pixel = torch.rand(400, 2, generator=generator()) * 64
    bent = (pixel - 32) / 60
    length = bent.norm(dim=1, keepdim=True)
    plain = length.clone()
    for _ in range(50):
        plain = length / (1 + k1 * plain**2)
    depth = torch.cos(plain) if lens == "fisheye" else torch.ones_like(plain)
    local = torch.cat([bent / length * (torch.sin(plain) if lens == "fisheye" else plain), depth], dim=1)
    for view in range(3):
        pose = cameras.world_from_camera[view]
        directions = torch.nn.functional.normalize(local @ pose[:3, :3].T, dim=1)
        points = (pose[:3, 3] + torch.linspace(0.05, 8.0, 60)[:, None, None] * directions).reshape(-1, 3)
        points = points[points.abs().amax(dim=1) < 4]
        assert occupied_at(grid, points, torch.zeros(points.shape[0])).all()


def test_what_no_camera_sees_never_marches() -> None:
    cameras = looking([[0.0, 0.1, 0.2]], focal=64.0)
    grid = OccupancyGrid(32)
    grid.mark_seen(cameras, [0])
    centers = grid.cell_centers()
    behind = (centers - torch.tensor([0.0, 0.1, 0.2])) @ cameras.world_from_camera[0, :3, 2] < -0.3
    assert behind.any() and not grid.seen[behind].any()
    grid.update(lambda points: torch.ones(points.shape[0]), threshold=0.01, cells=None, generator=generator())
    grid.update(lambda points: torch.ones(points.shape[0]), threshold=0.01, cells=300, generator=generator())
    assert torch.equal(grid.occupied(), grid.seen) and (grid.values[~grid.seen] == -1).all()
    grid.set_from_values(torch.ones(32**3), 0.5)
    assert torch.equal(grid.occupied(), grid.seen)


def test_the_visual_hull_keeps_the_object() -> None:
    cameras = looking(EYES)
    y, x = torch.meshgrid(torch.arange(64.0) + 0.5, torch.arange(64.0) + 0.5, indexing="ij")
    local = torch.stack([(x - 32) / 60, (y - 32) / 60, torch.ones_like(x)], dim=-1)
    masks = []
    for view in range(3):
        pose = cameras.world_from_camera[view]
        directions = torch.nn.functional.normalize(local @ pose[:3, :3].T, dim=-1)
        nearest = (directions @ -pose[:3, 3]).unsqueeze(-1) * directions + pose[:3, 3]
        masks.append((nearest.norm(dim=-1) < 0.5).to(torch.uint8) * 255)
    grid = OccupancyGrid(32)
    grid.mark_seen(cameras, range(3), masks)
    radius = grid.cell_centers().norm(dim=1)
    assert grid.seen[radius < 0.5].all()
    assert grid.occupied_fraction < 0.25


@pytest.mark.parametrize("levels", [1, 2])
def test_the_clearance_is_the_distance_to_the_next_occupied_brick(levels: int) -> None:
    grid = OccupancyGrid(32, levels)
    grid.set_from_values((torch.rand(levels * 32**3, generator=generator(3)) < 1e-4).float(), 0.5)
    bricks = torch.stack(torch.meshgrid(*[torch.arange(8)] * 3, indexing="ij"), dim=-1).reshape(-1, 3)
    cells = grid.occupied().view(levels, 8, 4, 8, 4, 8, 4)
    for level in range(levels):
        obstacle = cells[level].any(dim=5).any(dim=3).any(dim=1).reshape(-1)
        if level > 0:
            obstacle |= ((bricks >= 2) & (bricks < 6)).all(dim=1)
        expected = (bricks[:, None] - bricks[obstacle]).abs().amax(dim=2).amin(dim=1)
        assert torch.equal(grid.clearance.view(levels, -1)[level].long(), expected)
        assert expected.max() > 1


def test_the_state_dict_restores_everything() -> None:
    grid, other = OccupancyGrid(16), OccupancyGrid(16)
    grid.mark_seen(looking(EYES, focal=200.0), [0])
    grid.update(ball, threshold=0.01, cells=None, generator=generator())
    other.load_state_dict(grid.state_dict())
    for name in ("values", "bits", "clearance", "seen"):
        assert torch.equal(getattr(grid, name), getattr(other, name))


def test_impossible_grids_and_masks_are_refused() -> None:
    for resolution, levels in ((0, 1), (20, 1), (16, 0), (2048, 1)):
        with pytest.raises(ValueError, match="^OccupancyGrid takes .*(, got|: split)"):
            OccupancyGrid(resolution, levels)
    grid = OccupancyGrid(16)
    with pytest.raises(ValueError, match="view"):
        grid.mark_seen(looking(EYES), [])
    with pytest.raises(ValueError, match="masks"):
        grid.mark_seen(looking(EYES), [0], list(torch.zeros(3, 10, 10, dtype=torch.uint8)))


def test_pruned_rendering_equals_full_rendering() -> None:
    grid, full = OccupancyGrid(32), OccupancyGrid(32)
    random = generator()

    def blob(points: Tensor) -> Tensor:
        return 20.0 * torch.relu(1.0 - 3.0 * points.norm(dim=1))

    for _ in range(30):
        grid.update(lambda points: blob(points) * 0.02, threshold=0.001, cells=None, generator=random)
    origins = torch.tensor([[0.0, 0.0, -2.0]]) + 0.3 * torch.rand(64, 3, generator=random)
    rays = Rays(origins, torch.nn.functional.normalize(-origins, dim=1))
    depths = []
    for cells in (grid, full):
        samples = march(rays, cells, step=0.02)
        extinction = blob(samples.positions(rays)) * samples.lengths
        depths.append(torch.zeros(64).index_add_(0, samples.ray_index.long(), extinction))
    torch.testing.assert_close(depths[0], depths[1], rtol=0, atol=1e-3)
    assert grid.occupied_fraction < 0.1
