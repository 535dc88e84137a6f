"""The recipe ``plenoxels`` on a small capture: it learns, refines and prunes, and resumes to the bit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from test_hierarchical import forward_facing
from unrender.cameras import Rays
from unrender.captures.capture import Capture, Split
from unrender.captures.images import Images
from unrender.demo import AnalyticScene, make_demo_capture, photo_of, render_demo_views
from unrender.fields.voxels import VoxelField
from unrender.losses.metrics import psnr
from unrender.recipes import plenoxels
from unrender.recipes.fitting import Fitting, Progress
from unrender.recipes.ndc import ndc_frame
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


@pytest.fixture(scope="module")
def facing() -> Capture:
    """Nine photos of the demo scene before a gray wall, of which the middle one is held out."""
    cameras = forward_facing(spread=1.0).downscaled(2)
    color, opacity = render_demo_views(AnalyticScene(), cameras)
    photos = photo_of(color, opacity).float() / 255
    photos = photos[..., :3] * photos[..., 3:] + 0.5 * (1 - photos[..., 3:])
    split = Split((0, 1, 2, 3, 5, 6, 7, 8), (4,), "the middle one is held out")
    return Capture.from_tensors((photos * 255).round().to(torch.uint8), cameras, unbounded=True, split=split)


def ndc_scene(facing: Capture, cells: tuple[int, int, int] = (8, 8, 16)) -> plenoxels.PlenoxelsScene:
    """A scene whose voxels are all in use, with the same density everywhere."""
    frame = ndc_frame(facing).containing(facing.cameras)
    used = torch.ones([size + 1 for size in reversed(cells)], dtype=torch.bool)
    field, config = VoxelField(used, bands=1, density=0.4), override(SMALL, step=0.5)
    return plenoxels.PlenoxelsScene(config.voxels, config.sampling, field, None, masked=False, ndc=frame)


def test_rays_and_samples_in_ndc_obey_the_formula(facing: Capture) -> None:
    """A point (x, y, z) of the mean camera is at (s x / z, s y / z, 1 - 2 n / z), so equal steps are equal steps of 1 / z.

    Fog of one density in NDC therefore lets exp(-density times the length of the ray there) pass; half a cell along z is a sample.
    """
    scene, rays = ndc_scene(facing), facing.cameras.image_rays(4)
    rays = Rays(rays.origins[::23], rays.directions[::23])
    frame = scene.ndc
    assert frame is not None
    in_camera = facing.cameras.world_from_camera[4].inverse()  # parallel cameras around this one, so it is the mean camera
    depths = frame.near / torch.linspace(1.0, 0.02, 9)  # from the near plane on, evenly in disparity
    mapped, cosine = scene.in_voxels(rays), rays.directions @ in_camera[2, :3]
    along = []
    for depth in depths.tolist():
        points = rays.origins + (depth / cosine)[:, None] * rays.directions
        x, y, z = (points @ in_camera[:3, :3].t() + in_camera[:3, 3]).unbind(1)
        formula = torch.stack([frame.scale[0] * x / z, frame.scale[1] * y / z, 1 - 2 * frame.near / z], 1)
        along.append(((formula - mapped.origins) * mapped.directions).sum(1))
        torch.testing.assert_close(mapped.origins + along[-1][:, None] * mapped.directions, formula, atol=1e-4, rtol=0)
    steps = torch.stack(along).diff(dim=0)
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), atol=1e-4, rtol=1e-3)
    seen, length = scene.see(rays), frame.rays(rays)[1]
    torch.testing.assert_close(seen.light, torch.exp(-0.4 * length), atol=0.02, rtol=0)
    cells = mapped.directions * torch.tensor([4.0, 4.0, 8.0])
    expected = length * cells.norm(dim=1) / 0.5
    assert bool((seen.voxels.samples - expected).abs().max() <= 1)


def test_a_forward_facing_scene_is_learned_in_ndc_at_its_true_distance(facing: Capture) -> None:
    config = override(SMALL, steps=80, stages=((0.0, 16, 16, 16), (0.4, 32, 32, 32)), layers=3, rows=8)
    scene = plenoxels.fit(facing, config, device=CPU, seed=0).scene
    assert isinstance(scene, plenoxels.PlenoxelsScene) and scene.ndc is not None and scene.around is None
    rendering, truth = scene.render_view(facing.cameras, 4), facing.photos[4][..., :3].float() / 255
    assert float(psnr(rendering.color, truth)) > float(psnr(facing.photos[1][..., :3].float() / 255, truth)) + 3  # than the one beside it
    middle = (slice(10, 14), slice(14, 18))
    assert 1.8 < float((rendering.distance / rendering.opacity)[middle].median()) < 3.4  # the cameras are 3 units away
    kept = {f"scene.{name}": value for name, value in scene.state_dict().items()}
    again = plenoxels.load_scene(config, kept, CPU).render_view(facing.cameras, 4)
    assert torch.equal(again.color, rendering.color) and torch.equal(again.normal, rendering.normal)


def test_the_space_of_the_voxels_follows_the_capture_or_the_setting(facing: Capture, capture: Capture) -> None:
    short = override(SMALL, steps=1, layers=2, rows=4)
    for given, space, inside in ((facing, "auto", True), (facing, "cube", False), (capture, "auto", False)):
        scene = plenoxels.fit(given, override(short, space=space), device=CPU, seed=0).scene
        assert isinstance(scene, plenoxels.PlenoxelsScene) and (scene.ndc is not None) == inside
