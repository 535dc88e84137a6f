"""Laws of the fields the recipes are made of."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
import torch

from unrender.cameras import Rays
from unrender.fields import grid_sdf
from unrender.fields.grid_sdf import GridSdf, sphere_distance
from unrender.fields.hash_sdf import HashSdf, Normals
from unrender.fields.perceptron import truncated_exp
from unrender.fields.radiance import RadianceField
from unrender.fields.stages import Stage
from unrender.fields.surface import SurfaceField
from unrender.geometry.first_surface import hull_distance
from unrender.losses.regularizers import laplacian_smoothness
from unrender.ops.encodings import HashGrid, smoothed_grid
from unrender.ops.encodings.adam import Adam, RmsProp
from unrender.ops.rays import OccupancyGrid, Samples, march, sdf_alpha, visible


def _points(count: int = 400, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


def _hash_sdf(normals: Normals = "analytic", **changes) -> HashSdf:
    settings = {"hidden": (64,), "features": 4, "radius": 0.5, "start_level": 6, "level_every": 0.0, "level_start": 0.0} | changes
    grid = HashGrid(levels=6, features=2, log2_entries=12, base_resolution=8, per_level_scale=1.5)
    return HashSdf(grid, normals=normals, generator=torch.Generator().manual_seed(1), **settings)


def _radiance() -> RadianceField:
    return RadianceField(
        HashGrid(levels=2, features=2, log2_entries=10, base_resolution=4, per_level_scale=2.0),
        density_hidden=(8,),
        color_hidden=(8,),
        geometry_features=3,
        unbounded=False,
        generator=torch.Generator().manual_seed(2),
    )


def _grid_of(initial: torch.Tensor, *stages: Stage, **settings) -> GridSdf:
    """A grid field of one stage, the size of ``initial``, if no stages are given."""
    return GridSdf(stages or ((0.0, initial.shape[0]),), _radiance(), initial, **settings)


def _grid_sdf() -> GridSdf:
    return _grid_of(sphere_distance(33, 0.5))


def _boxed_grid_sdf() -> GridSdf:
    return _grid_of(sphere_distance(33, 0.5), box=torch.tensor([[-0.7, -0.64, -0.65], [0.64, 0.7, 0.66]]))


FIELDS = pytest.mark.parametrize("field", [_grid_sdf, _boxed_grid_sdf, _hash_sdf], ids=["grid", "grid in a box", "hash"])


def _rays(count: int) -> Rays:
    directions = torch.nn.functional.normalize(_points(count, seed=5), dim=1)
    return Rays(-2 * directions + 0.2 * _points(count, seed=6), directions)


def _marched(rays: Rays, step: float) -> Samples:
    """The samples of rays through a full grid around the sphere, without the unused tail that a GPU has."""
    around = OccupancyGrid(16)
    around.set_from_values((around.cell_centers().abs().amax(1) < 0.6).float(), 0.5)
    samples = march(rays, around, step=step, near=0.0, far=10.0, capacity=2**16)
    used = int(samples.used())
    return replace(samples, ray_index=samples.ray_index[:used], starts=samples.starts[:used], ends=samples.ends[:used])


def test_a_hash_sdf_starts_as_a_sphere():
    points = _points()
    sdf = _hash_sdf().sdf(points).detach()
    wanted = points.norm(dim=1) - 0.5
    assert float((sdf - wanted).abs().max()) < 0.05


@pytest.mark.parametrize("normals", ["taps6", "taps4"])
def test_finite_differences_of_a_smooth_field_equal_its_analytic_gradient(normals: Normals):
    exact, taps = _hash_sdf(), _hash_sdf(normals, start_level=6)
    taps.load_state_dict(exact.state_dict())
    points = _points()
    a, b = exact.sample(points), taps.sample(points)
    torch.testing.assert_close(a.sdf, b.sdf)
    assert b.laplacian is not None
    error = (a.gradient - b.gradient).detach().norm(dim=1)
    assert float(error.median()) < 0.1


def test_taps_find_the_laplacian_of_a_quadratic(monkeypatch: pytest.MonkeyPatch):
    for normals in ("taps4", "taps6"):
        field = _hash_sdf(normals)
        monkeypatch.setattr(field, "outputs", lambda x: (x * x).sum(1, keepdim=True) * 0.5)
        sample = field.sample(_points() * 0.9)
        assert sample.laplacian is not None
        torch.testing.assert_close(sample.laplacian, torch.full_like(sample.laplacian, 3.0), atol=2e-2, rtol=0)
        torch.testing.assert_close(sample.gradient, _points() * 0.9, atol=1e-3, rtol=0)


def test_an_analytic_normal_trains_every_parameter():
    field = _hash_sdf()
    with torch.no_grad():  # the sphere starts without the features of the hash grid
        field.directions[0].normal_(generator=torch.Generator().manual_seed(0))
    field.sample(_points()).gradient.square().sum().backward()
    for name, parameter in field.named_parameters():
        if name == "biases.1":  # the last bias shifts f and leaves its slope alone
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name


def test_levels_join_one_by_one():
    field = _hash_sdf(start_level=2, level_every=0.1, level_start=0.2)
    active = []
    for fraction in (0.0, 0.25, 0.31, 0.45, 0.9):
        field.advance(fraction)
        active.append(field.active_levels)
    assert active == [2, 2, 3, 4, 6]
    assert field.sample(_points()).features.shape[1] == 5


def test_refining_a_grid_keeps_its_function_at_the_old_vertices():
    field = _grid_of(sphere_distance(9, 0.5), (0.0, 9), (0.5, 17))
    points = _points()
    before = field.sample(points)
    assert not field.advance(0.4) and field.advance(0.5) and not field.advance(0.9)
    after = field.sample(points)
    torch.testing.assert_close(before.sdf, after.sdf, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before.features, after.features, atol=1e-5, rtol=1e-5)


def test_a_grid_takes_the_box_and_the_size_of_a_saved_state():
    stages = (0.0, 9), (0.5, 17)
    fine = _grid_of(sphere_distance(9, 0.5), *stages, box=torch.tensor([[-0.7, -0.5, -0.6], [0.5, 0.6, 1.0]]))
    fine.advance(0.6)
    other = _grid_of(sphere_distance(9, 0.3), *stages)
    other.load_state_dict(fine.state_dict())
    assert other.stage == 1 and torch.equal(other.distance_grid, fine.distance_grid) and torch.equal(other.box, fine.box)
    torch.testing.assert_close(other.sdf(_points()), fine.sdf(_points()))


def test_a_box_needs_fewer_vertices_for_the_same_cells():
    field = _grid_of(sphere_distance(65, 0.4), box=torch.tensor([[-0.5, -0.5, -0.5], [0.5, 0.5, 0.75]]))
    assert field.distance_grid.shape == (41, 33, 33, 1) and field.voxel == 2 / 64
    whole = _grid_of(sphere_distance(65, 0.4))
    points = _points()
    points = points[(points.abs() < 0.5).all(1)]
    torch.testing.assert_close(field.sample(points).sdf, whole.sample(points).sdf, atol=1e-4, rtol=1e-4)
    inner = points[(points.abs() < 0.5 - 2 * field.voxel).all(1)]  # the gradient is averaged over neighbors, which end with the box
    assert len(inner) > 50
    for name in ("gradient", "normals"):
        torch.testing.assert_close(getattr(field.sample(inner), name), getattr(whole.sample(inner), name), atol=1e-4, rtol=1e-4)


def test_normals_of_a_grid_are_those_of_the_averaged_grid_along_rays_and_at_points():
    generator = torch.Generator().manual_seed(0)
    field = _grid_of(sphere_distance(17, 0.5) + 0.05 * torch.randn(17, 17, 17, generator=generator))
    directions = torch.nn.functional.normalize(torch.randn(40, 3, generator=generator), dim=1)
    rays = Rays(-0.8 * directions, directions)
    index = torch.arange(40, dtype=torch.int32)
    samples = Samples(index, torch.full((40,), 0.3), torch.full((40,), 0.4), index, torch.ones(40, dtype=torch.int32))
    along = field.along(samples, rays)
    here = field.sample(along.positions)
    for name in ("gradient", "facing", "normals"):
        torch.testing.assert_close(getattr(along.surface, name), getattr(here, name), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(along.surface.sdf, here.sdf, atol=1e-5, rtol=1e-5)
    # A bump of one vertex turns it less than it turns the distances beside it.
    bumpy = _grid_of(torch.zeros(17, 17, 17))
    with torch.no_grad():
        bumpy.distance_grid[8, 8, 8] = 1.0
        slope = (bumpy.sdf(torch.tensor([[0.05, 0.0, 0.0]])) - bumpy.sdf(torch.tensor([[0.07, 0.0, 0.0]]))) / 0.02
        assert 0 < float(-bumpy.sample(torch.tensor([[0.06, 0.0, 0.0]])).facing[0, 0]) < 0.25 * float(slope)


def test_views_smooth_a_grid_once_and_never_see_an_earlier_one(monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(grid_sdf, "smoothed_grid", lambda grid: calls.append(None) or smoothed_grid(grid))
    field = _grid_of(sphere_distance(9, 0.5), (0.0, 9), (0.5, 12))
    fitted = _grid_of(sphere_distance(9, 0.3), (0.0, 9), (0.5, 12))

    def is_current(smoothings: int) -> bool:
        with torch.no_grad():
            before = len(calls)
            first, second = field.sample(_points()).facing, field.sample(_points()).facing
            assert len(calls) == before + smoothings
        return torch.equal(first, second) and torch.equal(first, field.sample(_points()).facing.detach())

    def step(kind: type[torch.optim.Optimizer]) -> None:
        field.distance_grid.grad = torch.rand(field.distance_grid.shape, generator=torch.Generator().manual_seed(0))
        kind([field.distance_grid], lr=0.1).step()  # pyright: ignore[reportCallIssue]

    def averaged() -> None:
        for _ in range(5):
            field.advance(0.9)
            step(Adam)

    changes = {
        "nothing": lambda: None,
        "our Adam": lambda: step(Adam),
        "RMSProp": lambda: step(RmsProp),
        "PyTorch's Adam": lambda: step(torch.optim.Adam),
        "a loaded state": lambda: field.load_state_dict(fitted.state_dict()),
        "a finer stage": lambda: field.advance(0.6),
        "the mean of the last steps": lambda: (averaged(), field.settle()),
        "a loaded coarser state": lambda: field.load_state_dict(fitted.state_dict()),
    }
    with torch.no_grad():
        before = field.sample(_points()).facing
    for name, change in changes.items():
        change()
        assert is_current(int(name != "nothing")), name
        with torch.no_grad():
            after = field.sample(_points()).facing
        assert torch.equal(before, after) == (name == "nothing"), name
        before = after


def test_distances_grow_beyond_a_box():
    field = _grid_of(sphere_distance(65, 0.4), box=torch.tensor([[-0.5] * 3, [0.5] * 3]))
    with torch.no_grad():
        found = field.sdf(torch.tensor([[0.5, 0.0, 0.0], [0.9, 0.0, 0.0], [0.0, -0.8, 0.9]]))
    torch.testing.assert_close(found, torch.tensor([0.1, 0.5, 2**0.5 * 0.5 - 0.4 + 0.5]), atol=2e-3, rtol=0)


def test_a_surface_that_leaves_its_box_ends_there():
    field = _grid_of(torch.full((9, 9, 9), -0.01), box=torch.tensor([[-0.5] * 3, [0.5] * 3]))
    with torch.no_grad():
        assert bool((field.sdf(torch.tensor([[0.4, 0.0, 0.0], [0.52, 0.0, 0.0], [0.52, 0.6, 0.0]])) < 0).tolist() == [True, False, False])


def test_distances_end_as_their_mean_over_the_last_steps():
    field = _grid_of(sphere_distance(9, 0.5), (0.0, 9), (0.5, 12))
    for fraction in (0.1, 0.5, 0.84):
        field.advance(fraction)
    seen = []
    for step in range(9):
        if step == 5:  # a fit that resumes here goes on as if it had not stopped
            again = _grid_of(sphere_distance(9, 0.5), (0.0, 9), (0.5, 12))
            again.load_state_dict(field.state_dict())
            field = again
        field.distance_grid.data += 0.01 * (step + 1)
        field.advance(0.85 + 0.01 * step)
        seen.append(field.distance_grid.detach().clone())
    field.settle()
    torch.testing.assert_close(field.distance_grid.detach(), torch.stack(seen[::4]).mean(0))
    settled = field.distance_grid.detach().clone()
    field.settle()
    assert torch.equal(field.distance_grid, settled) and field.mean.numel() == 0


def test_a_state_of_another_device_is_taken_to_that_of_the_field_near_the_end():
    """A fit on a GPU resumes from a state on the CPU; ``meta`` stands for the GPU."""
    field = _grid_of(sphere_distance(9, 0.5))
    for _ in range(6):
        field.advance(0.9)
    state = field.state_dict()
    assert int(state["entered"]) == 6
    again = _grid_of(sphere_distance(9, 0.5)).to("meta")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying to meta does nothing, of which PyTorch warns
        again.load_state_dict(state)
    assert {value.device.type for value in again.state_dict().values()} == {"meta"}
    for _ in range(4):  # reads nothing from the device, which has nothing
        again.advance(0.9)
    assert again.mean.shape == field.mean.shape and again.mean.device.type == "meta"


def test_distances_without_last_steps_stay():
    field = _grid_sdf()
    before = field.distance_grid.detach().clone()
    field.settle()
    assert torch.equal(field.distance_grid, before)


def test_a_grid_sphere_has_unit_slope_and_the_right_sign():
    field = _grid_of(sphere_distance(65, 0.5))
    sample = field.sample(_points() + 0.01)
    torch.testing.assert_close(sample.gradient.norm(dim=1).median().detach(), torch.tensor(1.0), atol=1e-2, rtol=0)
    with torch.no_grad():
        assert float(field.sdf(torch.zeros(1, 3))) < 0 < float(field.sdf(torch.full((1, 3), 0.9)))


@FIELDS
def test_secants_of_touching_intervals_join(field):
    sdf, rays = field(), _rays(40)
    samples = _marched(rays, 0.05)
    middle, slope = sdf.secant(samples, rays)
    half = 0.5 * slope * samples.lengths
    joined = (samples.ray_index[1:] == samples.ray_index[:-1]) & ((samples.starts[1:] - samples.ends[:-1]).abs() < 1e-6)
    assert int(joined.sum()) > 500
    torch.testing.assert_close((middle + half)[:-1][joined], (middle - half)[1:][joined], atol=1e-5, rtol=0)


@FIELDS
def test_the_slope_along_a_ray_is_that_of_the_distance(field):
    sdf, rays = field(), _rays(60)
    samples = _marched(rays, 0.02)
    along = sdf.along(samples, rays)
    surface, middle, slope = along.surface, along.middle.detach(), along.slope.detach()
    torch.testing.assert_close(along.positions, samples.positions(rays))
    torch.testing.assert_close(surface.gradient, sdf.sample(along.positions).gradient)
    true = (rays.directions[samples.ray_index] * samples.positions(rays)).sum(1) / samples.positions(rays).norm(dim=1)
    far_from_the_center = samples.positions(rays).norm(dim=1) > 0.2
    assert float((middle - surface.sdf.detach())[far_from_the_center].abs().max()) < 0.02
    assert float((slope - true)[far_from_the_center].abs().mean()) < 0.05


@FIELDS
def test_every_parameter_is_in_one_group(field):
    sdf = field()
    groups = sdf.parameter_groups(0.01, weight_decay=0.1)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, sdf.parameters()))
    of_networks = {id(parameter) for group in groups for parameter in group["params"] if group["weight_decay"] > 0}
    assert not of_networks & {id(parameter) for name, parameter in sdf.named_parameters() if "grid" in name or "table" in name}


def test_distances_have_a_rate_of_their_own():
    sdf = _grid_of(sphere_distance(21, 0.5), (0.0, 21), (0.5, 41), distance_rate=0.2)
    rates = {group["params"][0].dim(): group["lr"] for group in sdf.parameter_groups(0.01, weight_decay=0.1)}
    assert rates[4] == pytest.approx(0.2 * 2 / 20)


@FIELDS
def test_cells_that_the_surface_crosses_are_occupied(field):
    sdf, resolution = field(), 16
    occupancy = OccupancyGrid(resolution)
    half_diagonal = math.sqrt(3) / resolution

    def opacity(nearest: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        return ((nearest.abs() < half_diagonal) & (largest > -0.2)).float()

    sdf.refresh_occupancy(occupancy, opacity, threshold=0.5, all_cells=True, generator=torch.Generator().manual_seed(0))
    distance = occupancy.cell_centers().norm(dim=1) - 0.5
    occupied = occupancy.occupied()
    assert bool(occupied[distance.abs() < 0.25 * half_diagonal].all())
    assert not bool(occupied[distance.abs() > 3 * half_diagonal].any())


@FIELDS
def test_the_number_of_features_is_told(field):
    sdf: SurfaceField = field()
    assert sdf.sample(_points(4)).features.shape == (4, sdf.feature_count)


@FIELDS
def test_samples_are_visible_where_little_is_in_front_of_them(field):
    sdf, rays = field(), _rays(60)
    samples, sharpness = _marched(rays, 0.02), torch.tensor(50.0)
    middle, slope = sdf.secant(samples, rays)
    alpha = sdf_alpha(middle, slope, samples.lengths, sharpness, 0.3)
    expected = visible(samples, alpha, threshold=1e-3, alpha_threshold=1e-4)
    found = sdf.visible(samples, rays, sharpness, anneal=0.3, threshold=1e-3, alpha_threshold=1e-4)
    assert torch.equal(found, expected) and 0 < int(found.sum()) < len(found) / 2


def test_rays_that_are_fitted_get_gradients_from_a_grid():
    sdf, rays = _grid_sdf(), _rays(20)
    samples = _marched(rays, 0.05)
    fitted = Rays(rays.origins.clone().requires_grad_(), rays.directions)
    along, fixed = sdf.along(samples, fitted), sdf.along(samples, rays)
    for ours, other in ((along.middle, fixed.middle), (along.slope, fixed.slope), (along.surface.features, fixed.surface.features)):
        torch.testing.assert_close(ours, other, atol=1e-3, rtol=1e-4)
    along.middle.sum().backward()
    assert fitted.origins.grad is not None and float(fitted.origins.grad.abs().max()) > 0.1


def test_a_plane_does_not_bend_and_a_bump_does():
    flat = torch.linspace(-1, 1, 24)[:, None, None].expand(24, 24, 24).contiguous()
    sdf = _grid_of(flat)
    assert float(sdf.regularize(3, 1.0)["bending"]) < 1e-6
    bumpy = flat.clone()
    bumpy[12, 12, 12] += 0.5
    assert float(_grid_of(bumpy).regularize(1, 1.0)["bending"]) > 1e-3


def test_slabs_of_successive_steps_reach_every_layer():
    sdf = _grid_of(torch.rand(40, 40, 40, generator=torch.Generator().manual_seed(0)))
    for step in range(25):
        sdf.regularize(step, 1.0)
    assert sdf.distance_grid.grad is not None and bool((sdf.distance_grid.grad.abs().amax((1, 2, 3)) > 0).all())


def test_the_gradient_of_bending_is_added_to_that_of_the_rendering():
    distances = torch.rand(20, 20, 20, generator=torch.Generator().manual_seed(0))
    sdf = _grid_of(distances)
    sdf.distance_grid.sum().backward()
    term = sdf.regularize(0, 0.3)["bending"]
    whole = distances.clone().requires_grad_()
    expected = 0.3 * laplacian_smoothness(whole[:16] / sdf.voxel, 1.0)
    expected.backward()
    assert sdf.distance_grid.grad is not None and whole.grad is not None
    torch.testing.assert_close(term, expected.detach())
    torch.testing.assert_close(sdf.distance_grid.grad[..., 0], 1 + whole.grad)


def test_a_hash_field_has_no_terms_of_its_own():
    assert not _hash_sdf().regularize(0, 1.0)


def test_the_hull_distance_of_a_ball_of_cells_is_the_distance_to_the_ball():
    hull = OccupancyGrid(32)
    hull.seen.copy_((hull.cell_centers().norm(dim=1) < 0.6).to(hull.seen.dtype))
    distance = hull_distance(hull)
    assert distance is not None and distance.shape == (33, 33, 33)
    error = (distance - sphere_distance(33, 0.6)).abs()
    near = sphere_distance(33, 0.6).abs() < 0.3
    assert float(error[near].max()) < 2 * 2 / 32


def test_an_empty_or_full_hull_has_no_border():
    hull = OccupancyGrid(16)
    hull.seen.fill_(1)
    assert hull_distance(hull) is None
    hull.seen.fill_(0)
    assert hull_distance(hull) is None


def test_truncated_exp_is_exp_with_a_bounded_slope():
    x = torch.tensor([-2.0, 3.0, 20.0], requires_grad=True)
    y = truncated_exp(x)
    torch.testing.assert_close(y.detach(), x.detach().exp())
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([math.exp(-2), math.exp(3), math.exp(15)]))


def test_a_radiance_field_gives_positive_density_and_colors_within_range():
    field = RadianceField(
        HashGrid(levels=2, log2_entries=10), density_hidden=(16,), color_hidden=(16,), geometry_features=4, unbounded=True,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    points = _points() * 10
    density, features = field.density(points)
    directions = torch.nn.functional.normalize(_points(3, seed=2), dim=1)
    color = field.color(features, field.encode_directions(directions), torch.arange(400, dtype=torch.int32) % 3)
    assert bool((density > 0).all()) and bool(((color > 0) & (color < 1)).all())
    groups = field.parameter_groups(0.01, weight_decay=0.1)
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(map(id, field.parameters()))
    assert [group["weight_decay"] for group in groups if group["params"][0] is field.table] == [0.0]
