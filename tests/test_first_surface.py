"""What a surface starts with: depths that agree, the box of the object, and the features and colors of a radiance field."""

from __future__ import annotations

import math

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Cameras, Rays
from unrender.captures.capture import Capture, Split
from unrender.captures.rendered import cameras_around
from unrender.fields.grid_sdf import GridSdf, sphere_distance
from unrender.fields.perceptron import Perceptron
from unrender.geometry.first_surface import seen_through
from unrender.ops.encodings import spherical_harmonics_encode
from unrender.ops.rays import OccupancyGrid
from unrender.recipes import nerf, neus
from unrender.recipes.neus.config import SurfaceStart
from unrender.recipes.neus.first_surface import FirstDepths
from unrender.recipes.neus.scene import new_scene
from unrender.recipes.settings import override
from unrender.recipes.visual_hull import box_of_object, close_outside

_RADIUS = 0.6


def _ball(rays: Rays, deeper: float = 0.0) -> Float[Tensor, " rays"]:
    """Distance to a ball along unit rays, and as much farther as a mirror image may lie behind it."""
    middle = -(rays.origins * rays.directions).sum(1)
    reach = _RADIUS**2 - (rays.origins.square().sum(1) - middle.square())
    return torch.where(reach > 0, middle - reach.clamp_min(0).sqrt() + deeper, torch.inf)


def _cameras() -> Cameras:
    return cameras_around(12, 32, distance=3.0, field_of_view=math.radians(30), elevations=(0.0, 40.0))


def test_depths_of_one_surface_do_not_contradict_each_other() -> None:
    cameras = _cameras()
    distances = [_ball(cameras.image_rays(view)).reshape(32, 32) for view in range(12)]
    # at the outline, half a pixel changes the depth by much more than elsewhere
    assert seen_through(cameras, distances, tolerance=0.1) < 0.01


def test_depths_behind_the_surface_are_seen_through() -> None:
    cameras = _cameras()
    shares = []
    for deeper in (0.0, 0.15, 0.3, 0.45):
        distances = [_ball(cameras.image_rays(view), deeper).reshape(32, 32) for view in range(12)]
        shares.append(seen_through(cameras, distances, tolerance=0.06))
    assert shares == sorted(shares) and shares[-1] > 0.3


def test_no_surface_means_no_contradiction() -> None:
    assert seen_through(_cameras(), [torch.full((32, 32), torch.inf)] * 12, tolerance=0.1) == 0


class _Mirror(nerf.NerfScene):
    """A radiance field that has its surface some way behind a ball in every view."""

    deeper = 0.0

    def median_distance(self, rays: Rays) -> Float[Tensor, " rays"]:
        return _ball(rays, self.deeper)


@pytest.mark.parametrize(("deeper", "useful"), [(0.0, True), (0.45, False)])
def test_depths_that_contradict_each_other_are_not_fused(deeper: float, useful: bool) -> None:
    cameras = _cameras()
    masks = torch.stack([(_ball(cameras.image_rays(view)).isfinite() * 255).to(torch.uint8).reshape(32, 32) for view in range(12)])
    images = torch.zeros(12, 32, 32, 3, dtype=torch.uint8)
    capture = Capture.from_tensors(images, cameras, masks=masks, split=Split(tuple(range(12)), (), "none"), name="ball", fingerprint="ball")
    config = neus.GridField().density(neus.PRESETS["cpu"])
    scene = _Mirror(config, unbounded=False, masked=True, generator=torch.Generator().manual_seed(0))
    scene.deeper = deeper
    depths = FirstDepths.of(scene, capture, 48)
    assert depths.are_usable == useful == (depths.missing is None)
    assert depths.shown > 0.1
    if useful:
        fused = depths.surface()
        assert fused is not None
        assert float((fused - sphere_distance(48, _RADIUS)).abs()[sphere_distance(48, _RADIUS).abs() < 0.1].median()) < 2 * 2 / 47


def test_a_radiance_field_that_is_empty_in_the_cube_has_no_depths_yet() -> None:
    cameras = _cameras()
    images = torch.zeros(12, 32, 32, 3, dtype=torch.uint8)
    capture = Capture.from_tensors(images, cameras, split=Split(tuple(range(12)), (), "none"), name="fog", fingerprint="fog")
    config = neus.GridField().density(neus.PRESETS["cpu"])
    scene = _Mirror(config, unbounded=True, masked=False, generator=torch.Generator().manual_seed(0))
    scene.deeper = 10.0
    depths = FirstDepths.of(scene, capture, 48)
    assert depths.shown == depths.contradicted == 0
    assert depths.missing is not None and "still empty in the region of interest" in depths.missing


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
    directions = torch.nn.functional.normalize(torch.randn(50, 3, generator=generator), dim=1)
    harmonics = spherical_harmonics_encode(directions, 4)
    ray = torch.arange(50, dtype=torch.int32)
    found = scene.surface.sample(points)
    torch.testing.assert_close(
        scene.color(points, found.normals, found.features, directions, ray), density.color(density.features(points), harmonics, ray)
    )
    assert (scene.around is scene.surface.radiance) == surroundings and (scene.around is None) == (not surroundings)


def test_an_object_that_the_photos_crop_may_reach_as_far_as_its_hull() -> None:
    """Its first surface is a part of the initial sphere, but its grid of distances is as large as the hull."""
    cameras = _cameras()
    photos, masks = torch.zeros(12, 32, 32, 3, dtype=torch.uint8), torch.full((12, 32, 32), 255, dtype=torch.uint8)
    capture = Capture.from_tensors(photos, cameras, masks=masks, split=Split(tuple(range(12)), (), "none"), name="near", fingerprint="near")
    config = override(neus.PRESETS["cpu"], steps=1, density_first=0.0)
    scene = neus.fit(capture, config, device=torch.device("cpu"), seed=0).scene
    assert isinstance(scene, neus.NeusScene) and isinstance(scene.surface, GridSdf)
    assert float((scene.surface.box[1] - scene.surface.box[0]).min()) > 1.9
