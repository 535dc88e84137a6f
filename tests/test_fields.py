"""Laws of the fields the recipes are made of."""

from __future__ import annotations

import math

import pytest
import torch

from unrender.fields.grid_sdf import GridSdf, sphere_distance
from unrender.fields.hash_sdf import HashSdf, Normals
from unrender.fields.perceptron import truncated_exp
from unrender.fields.radiance import RadianceField
from unrender.geometry.first_surface import hull_distance
from unrender.ops.encodings import HashGrid
from unrender.ops.rays import OccupancyGrid


def _points(count: int = 400, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


def _hash_sdf(normals: Normals = "analytic", **changes) -> HashSdf:
    settings = {"hidden": (64,), "features": 4, "radius": 0.5, "start_level": 6, "level_every": 0.0, "level_start": 0.0} | changes
    grid = HashGrid(levels=6, features=2, log2_entries=12, base_resolution=8, per_level_scale=1.5)
    return HashSdf(grid, normals=normals, generator=torch.Generator().manual_seed(1), **settings)


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
    field = GridSdf(((0.0, 9, 5), (0.5, 17, 9)), 2, sphere_distance(9, 0.5))
    with torch.no_grad():
        field.feature_grid.normal_(generator=torch.Generator().manual_seed(0))
    points = _points()
    before = field.sample(points)
    assert not field.advance(0.4) and field.advance(0.5) and not field.advance(0.9)
    after = field.sample(points)
    torch.testing.assert_close(before.sdf, after.sdf, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before.features, after.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(before.gradient, after.gradient, atol=1e-4, rtol=1e-4)


def test_a_grid_takes_the_size_of_a_saved_state():
    stages = ((0.0, 9, 5), (0.5, 17, 9))
    fine = GridSdf(stages, 2, sphere_distance(9, 0.5))
    fine.advance(0.6)
    other = GridSdf(stages, 2, sphere_distance(9, 0.3))
    other.load_state_dict(fine.state_dict())
    assert other.stage == 1 and torch.equal(other.distance_grid, fine.distance_grid)


def test_a_grid_sphere_has_unit_slope_and_the_right_sign():
    field = GridSdf(((0.0, 65, 9),), 1, sphere_distance(65, 0.5))
    sample = field.sample(_points() + 0.01)
    torch.testing.assert_close(sample.gradient.norm(dim=1).median().detach(), torch.tensor(1.0), atol=1e-2, rtol=0)
    with torch.no_grad():
        assert float(field.sdf(torch.zeros(1, 3))) < 0 < float(field.sdf(torch.full((1, 3), 0.9)))


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
