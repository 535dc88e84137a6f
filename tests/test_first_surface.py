"""What a surface starts with: the box of the object, and the features and colors of a radiance field."""

from __future__ import annotations

import pytest
import torch

from unrender.fields.grid_sdf import sphere_distance
from unrender.fields.perceptron import Perceptron
from unrender.ops.encodings import spherical_harmonics_encode
from unrender.ops.rays import OccupancyGrid
from unrender.recipes import nerf, neus
from unrender.recipes.neus.config import SurfaceStart
from unrender.recipes.neus.scene import new_scene
from unrender.recipes.settings import override
from unrender.recipes.visual_hull import box_of_object, close_outside


def _hull(low: tuple[float, float, float], high: tuple[float, float, float], size: int = 32) -> OccupancyGrid:
    hull = OccupancyGrid(size)
    close_outside(hull, torch.tensor([low, high]))
    return hull


def test_the_box_of_an_object_is_that_of_its_inside_a_little_wider() -> None:
    box = box_of_object(sphere_distance(65, 0.5), OccupancyGrid(32))
    assert box is not None
    cell = 2 / 64
    torch.testing.assert_close(box, torch.tensor([[-1.0] * 3, [1.0] * 3]) * (0.5 + 0.05 * 1.0), atol=2 * cell, rtol=0)
    assert float((box[1] - 0.5).min()) > cell


def test_the_box_of_an_object_lies_within_the_visual_hull() -> None:
    box = box_of_object(sphere_distance(65, 0.5), _hull((-1, -0.25, -1), (1, 1, 0.375)))
    assert box is not None and float(box[0, 1]) == -0.25 and float(box[1, 2]) == 0.375
    assert float(box[0, 0]) < -0.5 and float(box[1, 1]) > 0.5


@pytest.mark.parametrize("radius", [-0.1, 0.0])
def test_nothing_has_no_box(radius: float) -> None:
    assert box_of_object(sphere_distance(17, radius).clamp_min(0), OccupancyGrid(16)) is None


def test_cells_wholly_outside_of_a_box_are_closed() -> None:
    hull = _hull((-0.5, -1.0, 0.01), (0.5, 0.99, 0.13), size=16)
    seen = hull.seen.reshape(16, 16, 16).bool()  # z, y, x
    assert seen.any(0).any(0).tolist() == [False] * 4 + [True] * 8 + [False] * 4
    assert bool(seen.any(0).any(1).all())
    assert seen.any(1).any(1).tolist() == [False] * 8 + [True] * 2 + [False] * 6


def test_a_perceptron_that_starts_as_another_ignores_its_further_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    small, large = Perceptron((5, 8, 3), generator), Perceptron((7, 8, 3), generator)
    torch.nn.init.normal_(small.biases[0], generator=generator)
    large.start_as(small)
    inputs, further = torch.randn(20, 5, generator=generator), torch.randn(20, 2, generator=generator)
    torch.testing.assert_close(large(torch.cat([further, inputs], 1)), small(inputs))


@pytest.mark.parametrize("surroundings", [False, True])
def test_a_surface_starts_with_the_colors_of_its_radiance_field(surroundings: bool) -> None:
    config = override(neus.PRESETS["cpu"], stages=((0.0, 24),), occupancy_resolution=16)
    assert isinstance(config.field, neus.GridField)
    generator = torch.Generator().manual_seed(0)
    density = nerf.NerfScene(config.field.density(config), unbounded=surroundings, masked=not surroundings, generator=generator).field
    with torch.no_grad():
        density.table.normal_(generator=generator)
    scene = new_scene(config, SurfaceStart(), surroundings=surroundings, masked=not surroundings, generator=generator)
    scene.start_as(density)
    points = torch.rand(50, 3, generator=generator) * 2 - 1
    harmonics = spherical_harmonics_encode(torch.nn.functional.normalize(torch.randn(50, 3, generator=generator), dim=1), 4)
    ray = torch.arange(50, dtype=torch.int32)
    found = scene.surface.sample(points)
    torch.testing.assert_close(
        scene.color(points, found.normals, found.features, harmonics, ray), density.color(density.features(points), harmonics, ray)
    )
    assert (scene.around is scene.surface.radiance) == surroundings and (scene.around is None) == (not surroundings)
