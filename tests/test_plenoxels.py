"""The recipe ``plenoxels`` on a small capture: it learns, refines and prunes, and resumes to the bit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from unrender.captures.capture import Capture
from unrender.captures.images import Images
from unrender.demo import make_demo_capture
from unrender.recipes import plenoxels
from unrender.recipes.fitting import Fitting, Progress
from unrender.recipes.plenoxels.config import PRESETS, VoxelRates
from unrender.recipes.plenoxels.loop import rates_at, seen_vertices
from unrender.recipes.settings import override

CPU = torch.device("cpu")
SMALL = override(PRESETS["cpu"], steps=60, stages=((0.0, 16, 16, 16), (0.4, 32, 32, 32)), rays=2048, most_rays=4096, target_samples=2**14)


@pytest.fixture(scope="module")
def capture() -> Capture:
    return make_demo_capture(views=12, size=40, seed=0)


def test_a_short_fit_learns_the_scene_refines_and_prunes(capture: Capture) -> None:
    seen: list[Progress] = []
    result = plenoxels.fit(capture, override(SMALL, steps=80), device=CPU, seed=0, observer=seen.append)
    assert result.outcome == "finished" and result.skipped_steps == 0
    assert (seen[-1].psnr or 0) > 20
    assert isinstance(result.scene, plenoxels.PlenoxelsScene)
    field = result.scene.field
    assert field.grid.rows.shape == (33, 33, 33)
    assert seen[-1].counts["voxels"] == field.row_count < 33**3
    rendering = result.scene.render_view(capture.cameras, capture.split.test[0])
    assert bool(rendering.color.isfinite().all()) and 0 <= float(rendering.opacity.min()) <= float(rendering.opacity.max()) <= 1
    lengths = rendering.normal.norm(dim=-1)
    assert bool((lengths <= rendering.opacity + 1e-4).all()) and float(lengths.max()) > 0.9
    mesh = result.mesh(32, frame="normalized")
    assert not mesh.is_empty and mesh.colors is not None


@pytest.mark.parametrize(("stop_at", "open_air"), [(1, False), (19, False), (19, True)])
def test_a_fit_resumed_from_a_snapshot_ends_bit_equal(
    stop_at: int, open_air: bool, capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 1 lies before the refinement, step 19 behind it and between two searches for empty cells."""
    capture = replace(capture, has_masks=False, unbounded=True) if open_air else capture
    config = override(SMALL, steps=24, beta=1e-4, sparsity=1e-5, layers=3, rows=8)
    whole = plenoxels.fit(capture, config, device=CPU, seed=3)
    snapshots: list[dict[str, torch.Tensor]] = []

    def interrupt(progress: Progress) -> None:
        if progress.step == stop_at:
            snapshots.append(progress.snapshot())
            raise KeyboardInterrupt

    monkeypatch.setattr("unrender.recipes.plenoxels.loop.Fitting", partial(Fitting, report_every=0.0))
    assert plenoxels.fit(capture, config, device=CPU, seed=3, observer=interrupt).outcome == "interrupted"
    resumed = plenoxels.fit(capture, config, device=CPU, seed=3, resume=snapshots[0])
    for name, value in whole.scene.state_dict().items():
        assert torch.equal(value, resumed.scene.state_dict()[name]), name
    scene = plenoxels.load_scene(config, snapshots[0], CPU)
    assert bool(scene.render_view(capture.cameras, 0).color.isfinite().all())


def test_a_scene_is_rebuilt_from_its_snapshot(capture: Capture) -> None:
    kept: list[dict[str, torch.Tensor]] = []
    short = override(SMALL, steps=5)
    result = plenoxels.fit(capture, short, device=CPU, seed=0, observer=lambda progress: kept.append(progress.snapshot()))
    again = plenoxels.load_scene(short, kept[-1], CPU)
    assert torch.equal(result.scene.render_view(capture.cameras, 0).color, again.render_view(capture.cameras, 0).color)


def test_masks_leave_out_what_lies_outside_the_visual_hull(capture: Capture) -> None:
    with_masks, without = (seen_vertices(one, (32, 32, 32), CPU) for one in (capture, replace(capture, has_masks=False)))
    assert bool((without | ~with_masks).all()) and 0 < int(with_masks.sum()) < 0.7 * int(without.sum())


def test_the_rates_begin_rise_and_end_as_they_say() -> None:
    rates = VoxelRates(density_rate=30.0, density_final=1.0, density_delay=0.1, color_rate=0.01, color_final=0.001)
    assert rates_at(rates, 0.0) == pytest.approx((0.3, 0.01))
    assert rates_at(rates, 0.5) == pytest.approx((30**0.5, 0.01 * 0.1**0.5))
    assert rates_at(rates, 1.0) == pytest.approx((1.0, 0.001))


def test_settings_that_contradict_each_other_are_refused() -> None:
    for settings, text in (
        ({"stages": ((0.5, 8, 8, 8),)}, "begin at 0"),
        ({"stages": ((0.0, 8, 8, 1),)}, "at least 2 cells"),
        ({"sh_degree": 3}, "0, 1 or 2"),
        ({"step": 0.0}, "positive"),
        ({"density_rate": 0.0}, "density_rate is 0.0; it must be a positive number"),
        ({"sphere_final": -1.0}, "sphere_final is -1.0; it must be a positive number"),
        ({"rays": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=text):
            override(SMALL, **settings)


def test_surroundings_are_learned_where_there_are_no_masks(capture: Capture) -> None:
    gray = torch.tensor([200, 200, 200, 255], dtype=torch.uint8).expand(12, 40, 40, 4)
    open_air = replace(capture, has_masks=False, unbounded=True, photos=Images.stacked(gray))
    config = override(SMALL, steps=40, layers=4, rows=16)
    scene = plenoxels.fit(open_air, config, device=CPU, seed=0).scene
    assert isinstance(scene, plenoxels.PlenoxelsScene) and scene.around is not None
    color = scene.render_view(capture.cameras, 0).color
    assert float((color - 200 / 255).abs().mean()) < 0.1
    without = plenoxels.fit(open_air, override(config, steps=1, layers=0), device=CPU, seed=0).scene
    assert isinstance(without, plenoxels.PlenoxelsScene) and without.around is None


def test_voxels_around_which_there_is_more_fill_the_unit_ball(capture: Capture) -> None:
    used = seen_vertices(replace(capture, has_masks=False), (16, 16, 16), CPU, within_ball=True)
    axis = torch.linspace(-1, 1, 17).square()
    radius = (axis[:, None, None] + axis[:, None] + axis).sqrt()
    assert not used[radius > 1.13].any() and bool(used[radius < 0.9].any())
