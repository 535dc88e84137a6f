"""The configurations of nvdiffrec: every number of them, and what they need that the defaults do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lit_ball import ball, cameras_around, mapped_ball, photographed, sky, stripes
from unrender.captures.capture import Capture
from unrender.recipes import mesh_pbr
from unrender.recipes.inputs import FittedRun
from unrender.recipes.mesh_pbr.appearance import InTextures
from unrender.recipes.mesh_pbr.config import Imaging, Materials, MeshPbrConfig
from unrender.recipes.mesh_pbr.scene import MeshPbrScene
from unrender.recipes.mesh_pbr.shapes import KnownShape
from unrender.recipes.schedules import ramp
from unrender.recipes.settings import override
from unrender.render.asset import Asset
from unrender.render.lit import LitScene
from unrender.render.turning_light import LightAxes

CPU = torch.device("cpu")
NERF = {"iterations": 5000, "batch": 8, "side": 800, "texels": 2048, "cells": 128, "rates": (0.03, 0.01), "laplacian": 3000}
SMALL = {"iterations": 5000, "batch": 8, "side": 512, "texels": 1024, "cells": 64, "rates": (0.03, 0.003), "laplacian": 10000}
EXPECTED: dict[str, dict[str, Any]] = {
    "bob": {**SMALL, "iterations": 1000, "batch": 4, "roughness": 0.25},
    "bob-flexi": {**SMALL, "iterations": 1000, "batch": 4, "roughness": 0.25, "cells": 48, "betas": (0.7, 0.9), "mask_l1": 5.0},
    "spot": {**SMALL, "roughness": 0.1},
    "spot-fixlight": {**SMALL, "roughness": 0.1, "lock": ("light",)},
    "spot-metal": {**SMALL, "roughness": 0.2, "texels": 512, "rates": (None, 0.01), "lock": ("shape",)},
    "nerd-ehead": {**SMALL, "roughness": 0.08, "texels": 2048, "rates": (0.03, 0.03), "color": (0.03, 0.8), "light_axes": "camera"},
    "nerd-gold": {**SMALL, "roughness": 0.08, "texels": 2048, "cells": 128, "rates": (0.03, 0.01), "color": (0.03, 0.8)},
    "nerf-chair": {**NERF, "roughness": 0.08},
    "nerf-drums": {**NERF, "roughness": 0.1, "layers": 4},
    "nerf-ficus": {**NERF, "roughness": 0.25, "layers": 8},
    "nerf-hotdog": {**NERF, "roughness": 0.25, "keep_light": True},
    "nerf-lego": {**NERF, "roughness": 0.25},
    "nerf-materials": {**NERF, "roughness": 0.1, "rates": (0.03, 0.003), "absolute": True, "keep_light": True},
    "nerf-mic": {**NERF, "roughness": 0.25, "layers": 4},
    "nerf-ship": {**NERF, "roughness": 0.1, "layers": 4},
}


@pytest.fixture(scope="module")
def capture() -> Capture:
    return photographed(Asset(mapped_ball(), stripes(), sky()), cameras_around(8))


def preset(name: str) -> MeshPbrConfig:
    return mesh_pbr.PRESETS[f"nvdiffrec-{name}"]


def tiny(name: str) -> MeshPbrConfig:
    config = preset(name)
    assert not isinstance(config.shape, mesh_pbr.FittedSurface)
    return override(
        replace(config, shape=replace(config.shape, resolution=8)), steps=4, levels=2, log2_entries=8, finest_resolution=32,
        texture_size=32, windows=1, window=24, light_size=8,
    )  # fmt: skip


def test_all_of_them_are_there() -> None:
    assert {name for name in mesh_pbr.PRESETS if name.startswith("nvdiffrec-")} == {f"nvdiffrec-{name}" for name in EXPECTED}


@pytest.mark.parametrize("name", EXPECTED)
def test_sizes_limits_and_weights_are_the_released_ones(name: str) -> None:
    config, expected = preset(name), EXPECTED[name]
    one_pass = name == "spot-metal"
    assert config.steps == expected["iterations"] * (1 if one_pass else 2) and config.first_share == (0.0 if one_pass else 0.5)
    assert (config.windows, config.largest_side, config.window) == (expected["batch"], expected["side"], expected["side"])
    assert not isinstance(config.shape, mesh_pbr.FittedSurface) and config.shape.resolution == expected["cells"]
    assert isinstance(config.shape, mesh_pbr.Cubes) == (name == "bob-flexi")
    materials, losses = config.materials, config.losses
    assert (materials.texture_size, materials.smallest_roughness) == (expected["texels"], expected["roughness"])
    assert (materials.smallest_base_color, materials.largest_base_color) == expected.get("color", (0.0, 1.0))
    grid = materials.hash
    assert (grid.levels, grid.features, grid.log2_entries, grid.base_resolution, grid.finest_resolution) == (16, 2, 19, 16, 4096)
    assert config.imaging == Imaging(layers=expected.get("layers", 1), light_axes=expected.get("light_axes", "world"))
    assert (losses.picture_loss, losses.within_masks, losses.mask, losses.white_light, losses.deviation) == (
        "logl1",
        True,
        1.0,
        0.005,
        0.25,
    )
    assert losses.first_mask_l1 == expected.get("mask_l1", 0.0) and (config.light_size, config.start_light) == (512, 0.5)
    assert losses.laplacian_of == ("positions" if expected.get("absolute") else "moves") and config.lock == expected.get("lock", ())
    assert config.rates.shape_betas == expected.get("betas", (0.9, 0.999)) and config.rates.other_betas == (0.9, 0.999)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("step", [100, 250, 500, 900])
def test_schedules_have_the_released_values_at_every_step(name: str, step: int) -> None:
    config, expected = preset(name), EXPECTED[name]
    fraction = step / expected["iterations"]
    rates, losses = config.rates, config.losses
    first, second = expected["rates"]
    later = rates.of_second_pass()
    if first is not None:
        wanted = first * 10 ** (-0.0002 * step)
        assert [base * rates.factor(fraction, first=True) for base in (rates.distance_rate, rates.material_rate, rates.light_rate)] == (
            pytest.approx([wanted] * 3)
        )
        assert later.position_rate * later.factor(fraction, first=False) == pytest.approx(second * 10 ** (-0.0002 * (step - 100)))
    wanted = second * 10 ** (-0.0002 * (step - 100))
    assert later.texture_rate * later.factor(fraction, first=False) == pytest.approx(wanted)
    assert later.light_rate * later.factor(fraction, first=False) == pytest.approx(0.0 if expected.get("keep_light") else wanted)
    smooth = 0.03 * min(1, step / 500)
    assert (ramp(losses.smooth, fraction), ramp(losses.keep, fraction)) == (pytest.approx(smooth), pytest.approx(smooth))
    assert ramp(losses.sign_changes, fraction) == pytest.approx(0.2 - 0.19 * min(1, 4 * fraction))
    assert ramp(losses.laplacian, fraction) == pytest.approx(expected["laplacian"] * (1 - fraction))


def test_rates_rise_over_a_hundred_steps_of_the_second_pass_only() -> None:
    rates = preset("spot").rates
    assert rates.factor(0.0, first=True) == 1.0
    assert rates.factor(50 / 5000, first=False) == pytest.approx(0.5 * 10 ** (-0.0002 * 50), rel=0.02)


@pytest.mark.parametrize("name", ["bob", "bob-flexi", "spot-metal", "nerd-ehead", "nerf-ficus", "nerf-materials"])
def test_each_kind_runs_and_its_scene_is_rebuilt(name: str, capture: Capture) -> None:
    kept: list[dict[str, torch.Tensor]] = []
    given = FittedRun("given", "mesh", LitScene(Asset(ball())), capture, "given") if name == "spot-metal" else capture
    config = tiny(name)
    result = mesh_pbr.fit(given, config, device=CPU, seed=0, observer=lambda progress: kept.append(progress.snapshot()))
    assert result.outcome == "finished" and result.steps == 4 and result.skipped_steps == 0
    rebuilt = mesh_pbr.load_scene(config, kept[-1], CPU)
    seen, again = (scene.render_view(capture.cameras, 0).color for scene in (result.scene, rebuilt))
    torch.testing.assert_close(seen, again, atol=1e-5, rtol=0)
    color = result.asset().material
    assert color is not None and color.base_color is not None and color.base_color.shape[-1] == (4 if name == "nerf-ficus" else 3)


def scene_of(imaging: Imaging, opacity: float = 1.0, *, turns: bool = False, first_camera: torch.Tensor | None = None) -> MeshPbrScene:
    """A gray ball under the sky, which may turn with the camera."""
    mesh = mapped_ball(24)
    textures = InTextures(Materials(texture_size=16), translucent=imaging.layers > 1)
    with torch.no_grad():
        textures.texels[..., 8:] = opacity
    axes, light = LightAxes(turns), sky().texels
    return MeshPbrScene(KnownShape(mesh), textures, light, True, masked=True, axes=axes, imaging=imaging, first_camera=first_camera)


def test_a_light_that_turns_with_the_camera_looks_the_same_from_everywhere() -> None:
    cameras = cameras_around(8)
    same, other = (scene_of(Imaging(), turns=turns) for turns in (True, False))
    first, second = (same.render_view(cameras, view).color for view in (0, 5))
    assert float((first - second).abs().mean()) < 0.01
    first, second = (other.render_view(cameras, view).color for view in (0, 5))
    assert float((first - second).abs().mean()) > 0.01


def test_the_light_of_the_first_photo_is_exported_where_it_turns_with_the_camera() -> None:
    """Under it, the asset looks like the scene in that photo, and not like it in others."""
    cameras = cameras_around(8)
    scene = scene_of(Imaging(), turns=True, first_camera=cameras.world_from_camera[3, :3, :3])
    lit = LitScene(scene.asset(), background=1.0)
    for view, alike in ((3, True), (6, False)):
        difference = (lit.render_view(cameras, view).color - scene.render_view(cameras, view).color).abs()
        assert (float(difference.mean()) < 0.003) == alike, view


def test_a_translucent_ball_shows_its_back() -> None:
    """Two surfaces of opacity 0.5 let a quarter through."""
    opacity = scene_of(Imaging(layers=2), 0.5).render_view(cameras_around(8), 0).opacity
    assert float(opacity[20, 20]) == pytest.approx(0.75, abs=1e-3)
    assert float(scene_of(Imaging()).render_view(cameras_around(8), 0).opacity[20, 20]) == 1.0


def test_more_samples_soften_silhouettes_like_a_larger_picture() -> None:
    cameras = cameras_around(8)
    plain, fine = (scene_of(Imaging(samples=count)).render_view(cameras, 0).opacity for count in (1, 3))
    assert plain.shape == fine.shape and float((plain - fine).abs().max()) > 0.01
    assert float(plain.sum()) == pytest.approx(float(fine.sum()), rel=0.02)
