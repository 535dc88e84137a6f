"""Photos under a light that turns with the camera are told from those under a light that stands still."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from lit_ball import cameras_around, mapped_ball, photographed, sky, stripes
from unrender.captures.capture import Capture, Split
from unrender.recipes import mesh_pbr
from unrender.recipes.mesh_pbr.scene import scene_in_space
from unrender.recipes.settings import override
from unrender.render.asset import Asset
from unrender.render.turning_light import LightAxes, axes_of_light
from unrender.shading.lights import EnvironmentLight

CPU = torch.device("cpu")
LAMPS = EnvironmentLight(0.3 * sky().texels ** 3)
MATTE = Asset(mapped_ball(24), stripes(), LAMPS)
GLOSSY = replace(MATTE, material=replace(stripes(), roughness_metallic=torch.tensor([0.25, 1.0]).expand(32, 32, 2)))
TINY = override(
    mesh_pbr.PRESETS["cpu"],
    **{"resolution": 24, "levels": 4, "log2_entries": 10, "finest_resolution": 32, "texture_size": 32, "window": 40, "light_size": 8},
    faces=400,
    steps=6,
)


@lru_cache
def matte(*, turning: bool) -> Capture:
    return photographed(MATTE, cameras_around(16, side=64), turning=turning)


@pytest.mark.parametrize("glossy", [True, False])
@pytest.mark.parametrize("turning", [True, False])
def test_a_turning_light_is_told_from_one_that_stands_still(glossy: bool, turning: bool) -> None:
    capture = photographed(GLOSSY, cameras_around(16, side=64), turning=turning) if glossy else matte(turning=turning)
    found = axes_of_light(MATTE.mesh, capture)
    assert found.turn == turning
    assert (found.turning if turning else found.still) > 0.3


def test_exposures_of_the_photos_do_not_look_like_a_turning_light() -> None:
    capture = matte(turning=False)
    gains = 0.6 + 0.4 * torch.rand(len(capture), generator=torch.Generator().manual_seed(0))
    photos = [capture.photos[view].clone() for view in range(len(capture))]
    for photo, gain in zip(photos, gains.tolist(), strict=True):
        photo[..., :3] = (photo[..., :3].float() * gain).round().byte()
    darker = replace(capture, photos=type(capture.photos).of(photos))
    assert not axes_of_light(MATTE.mesh, darker).turn


def test_light_from_everywhere_stands_still() -> None:
    """Turned or not, it is the same."""
    even = replace(MATTE, environment=EnvironmentLight(torch.full((6, 8, 8, 3), 0.7)))
    assert not axes_of_light(even.mesh, photographed(even, cameras_around(16, side=64), turning=True)).turn


def test_nothing_is_decided_without_a_surface_or_with_hardly_any_photos() -> None:
    assert not axes_of_light(Asset.empty().mesh, matte(turning=True)).turn
    few = matte(turning=True)
    few = replace(few, split=Split((0,), (), "one view is fitted"))
    assert axes_of_light(MATTE.mesh, few) == LightAxes(turn=False)


def test_photos_of_opposite_sides_decide_nothing() -> None:
    """No vertex is seen twice, however many are seen."""
    opposite = matte(turning=True)
    facing = opposite.cameras.world_from_camera[:, :3, 2]
    other = int((facing @ facing[0]).argmin())
    opposite = replace(opposite, split=Split((0, other), (), "two views are fitted"))
    assert axes_of_light(MATTE.mesh, opposite) == LightAxes(turn=False)


@pytest.mark.parametrize("turning", [True, False])
def test_a_visual_hull_is_enough(turning: bool) -> None:
    capture = matte(turning=turning)
    scene = scene_in_space(capture, TINY, Asset.empty(), None, device=CPU, seed=0)
    assert scene.axes.turn == turning
    told = scene_in_space(capture, override(TINY, light_axes="world"), Asset.empty(), None, device=CPU, seed=0)
    assert not told.axes.turn and told.axes.sentence is None


def test_a_fit_says_that_the_light_turns_and_resumes_with_it() -> None:
    capture = matte(turning=True)
    kept: list[dict[str, torch.Tensor]] = []
    whole = mesh_pbr.fit(capture, TINY, device=CPU, seed=0, observer=lambda progress: kept.append(progress.snapshot()))
    assert "turns with the camera" in whole.remarks[0]
    assert "environment.hdr" in whole.remarks[0]
    resumed = mesh_pbr.fit(capture, TINY, device=CPU, seed=0, resume=kept[0])
    assert resumed.remarks == whole.remarks
    seen, again = (result.scene.render_view(capture.cameras, 0).color for result in (whole, resumed))
    assert torch.equal(seen, again)
