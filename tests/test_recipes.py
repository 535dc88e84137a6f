"""The recipes on a small analytic capture: they learn, they resume to the bit, and they survive what goes wrong."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from unrender.cameras import Rays
from unrender.captures.capture import Capture
from unrender.captures.images import Images
from unrender.demo import make_demo_capture
from unrender.fields.hash_sdf import HashSdf
from unrender.ops.rays import Samples
from unrender.recipes import nerf, neus
from unrender.recipes.clock import Clock
from unrender.recipes.fitting import Fitting, Progress
from unrender.recipes.settings import override

CPU = torch.device("cpu")
NERF = override(
    nerf.PRESETS["cpu"], steps=60, max_seconds=None, levels=4, log2_entries=12, finest_resolution=64, target_samples=2**13,
    occupancy_resolution=32, samples_per_ray=128, max_rays=2048,
)  # fmt: skip
NEUS = override(
    neus.PRESETS["cpu"], steps=60, max_seconds=None, stages=((0.0, 24), (0.5, 32)), target_samples=2**13,
    occupancy_resolution=32, samples_per_ray=128, max_rays=2048,
)  # fmt: skip
HASH_NEUS = override(
    NEUS, field=neus.HashField(), levels=4, log2_entries=12, base_resolution=8, finest_resolution=32, hidden=(32,), normals="taps4",
    start_level=2, level_every=0.2, curvature_weight=1e-4, eikonal_uniform_weight=0.1, sparsity_weight=0.01, opaque_weight=0.01,
    distortion_weight=0.01, steps=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def capture() -> Capture:
    return make_demo_capture(views=12, size=40, seed=0)


@pytest.mark.parametrize(("recipe", "config"), [(nerf, NERF), (neus, NEUS)])
def test_a_short_fit_learns_the_scene(recipe, config, capture: Capture):
    seen: list[Progress] = []
    steps = 150
    result = recipe.fit(capture, override(config, steps=steps), device=CPU, seed=0, observer=seen.append)
    assert result.outcome == "finished" and result.steps == steps and result.skipped_steps == 0
    assert (seen[-1].psnr or 0.0) > 20
    rendering = result.scene.render_view(capture.cameras, capture.split.test[0])
    assert rendering.color.shape == (40, 40, 3) and bool(torch.isfinite(rendering.color).all())
    assert float(rendering.opacity.min()) >= 0 and float(rendering.opacity.max()) <= 1 + 1e-4


@pytest.mark.parametrize(
    ("recipe", "config"),
    [(nerf, NERF), (neus, NEUS), (neus, HASH_NEUS), (neus, override(HASH_NEUS, normals="analytic", curvature_weight=0.0))],
)
@pytest.mark.parametrize("stop_at", [1, 20])
def test_a_fit_resumed_from_a_snapshot_ends_bit_equal(recipe, config, stop_at: int, capture: Capture, monkeypatch: pytest.MonkeyPatch):
    """Step 1 of a grid surface lies in its density phase, step 20 behind a refinement."""
    config = override(config, steps=24)
    whole = recipe.fit(capture, config, device=CPU, seed=3)

    snapshots: list[dict[str, torch.Tensor]] = []

    def interrupt(progress: Progress) -> None:
        if progress.step == stop_at:
            snapshots.append(progress.snapshot())
            raise KeyboardInterrupt

    for module in ("unrender.recipes.nerf.loop", "unrender.recipes.neus.loop"):
        monkeypatch.setattr(f"{module}.Fitting", partial(Fitting, report_every=0.0))
    first = recipe.fit(capture, config, device=CPU, seed=3, observer=interrupt)
    assert first.outcome == "interrupted" and first.steps < config.steps
    kept = {name: value.clone() for name, value in snapshots[0].items()}
    resumed = recipe.fit(capture, config, device=CPU, seed=3, resume=snapshots[0])
    for name, value in whole.scene.state_dict().items():
        assert torch.equal(value, resumed.scene.state_dict()[name]), name
    assert all(torch.equal(value, snapshots[0][name]) for name, value in kept.items())


def test_a_scene_is_rebuilt_from_its_snapshot(capture: Capture):
    for recipe, config in ((nerf, NERF), (neus, NEUS)):
        kept: list[dict[str, torch.Tensor]] = []
        result = recipe.fit(capture, override(config, steps=4), device=CPU, seed=0, observer=lambda p, kept=kept: kept.append(p.snapshot()))
        again = recipe.load_scene(config, kept[-1], CPU)
        a, b = result.scene.render_view(capture.cameras, 0), again.render_view(capture.cameras, 0)
        assert torch.equal(a.color, b.color)


def test_the_mesh_of_a_fit_is_in_the_source_frame(capture: Capture):
    source_from_world = torch.eye(4, dtype=torch.float64)
    source_from_world[:3, :3] *= 5.0
    source_from_world[:3, 3] = torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64)
    result = neus.fit(replace(capture, source_from_world=source_from_world), override(NEUS, steps=4), device=CPU, seed=0)
    inner, outer = result.mesh(32, frame="normalized"), result.mesh(32)
    assert not inner.is_empty
    torch.testing.assert_close(outer.vertices, inner.vertices * 5 + torch.tensor([10.0, 20.0, 30.0]), atol=1e-4, rtol=1e-4)


def test_a_step_that_is_not_finite_is_skipped_and_counted(capture: Capture, monkeypatch: pytest.MonkeyPatch):
    original = Fitting.take_step
    calls = {"n": 0}

    def poisoned(self, losses, **rest):
        calls["n"] += 1
        if calls["n"] == 3:
            before = {name: value.clone() for name, value in self.scene.state_dict().items()}
            original(self, {"rgb": losses["rgb"] * float("nan")}, **rest)
            for name, parameter in self.scene.named_parameters():
                assert torch.equal(before[name], parameter), name
        else:
            original(self, losses, **rest)

    monkeypatch.setattr(Fitting, "take_step", poisoned)
    result = nerf.fit(capture, override(NERF, steps=6), device=CPU, seed=0)
    assert result.skipped_steps == 1 and result.steps == 6
    assert all(bool(torch.isfinite(p).all()) for p in result.scene.parameters())


def test_surroundings_are_learned_where_there_are_no_masks(capture: Capture):
    gray = torch.tensor([200, 200, 200, 255], dtype=torch.uint8).expand(12, 40, 40, 4)
    open_air = replace(capture, has_masks=False, unbounded=True, photos=Images.stacked(gray))
    config = override(NEUS, steps=40, density_first=0.0)
    scene = neus.fit(open_air, config, device=CPU, seed=0).scene
    color = scene.render_view(capture.cameras, 0).color
    assert float((color - 200 / 255).abs().mean()) < 0.1
    with pytest.raises(ValueError, match="masks=none"):
        neus.fit(capture, override(config, learned_background=True), device=CPU, seed=0)


@pytest.mark.parametrize(("reach", "factor"), [(0.0, 1.0), (0.5, 1.0), (2.0, 0.25), (4.0, 0.0625)])
def test_samples_right_in_front_of_a_camera_get_a_smaller_gradient(reach: float, factor: float):
    scene = nerf.NerfScene(NERF, unbounded=True, masked=False, generator=torch.Generator().manual_seed(0))
    one, ray = torch.zeros(1, dtype=torch.int32), Rays(torch.tensor([[0.1, 0.2, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]]))
    samples = Samples(one, torch.tensor([0.9]), torch.tensor([1.1]), one, torch.ones(1, dtype=torch.int32))

    def gradient() -> torch.Tensor:
        found = scene.evaluate(samples, ray)
        (found.weights.sum() + found.color.square().sum()).backward()
        table = scene.field.table
        assert table.grad is not None
        result, table.grad = table.grad, None
        return result

    whole = gradient()
    scene.reach = reach
    torch.testing.assert_close(gradient(), whole * factor)
    assert float(whole.abs().max()) > 0


def test_a_scene_is_rebuilt_at_the_level_it_was_saved_at(capture: Capture):
    kept: list[dict[str, torch.Tensor]] = []
    neus.fit(capture, HASH_NEUS, device=CPU, seed=0, observer=lambda progress: kept.append(progress.snapshot()))
    early = {**kept[-1], "scene.surface.level": torch.tensor(2)}
    scene = neus.load_scene(HASH_NEUS, early, CPU)
    assert isinstance(scene, neus.NeusScene) and isinstance(scene.surface, HashSdf)
    assert scene.surface.active_levels == 2


def test_a_fit_without_an_observer_still_keeps_its_history(capture: Capture):
    assert nerf.fit(capture, override(NERF, steps=3), device=CPU, seed=0).history[-1].step == 3


def test_priors_of_points_and_normals_enter_the_loss(capture: Capture):
    normals = torch.zeros(12, 40, 40, 3)
    normals[..., 2] = 1.0
    seen: list[Progress] = []
    primed = replace(capture, points=torch.rand(100, 3, generator=torch.Generator().manual_seed(0)) - 0.5, normals=Images.stacked(normals))
    neus.fit(primed, override(NEUS, steps=2, downscale_first=1), device=CPU, seed=0, observer=seen.append)
    assert {"points", "normal"} <= set(seen[-1].losses)


def test_the_clock_follows_the_scarcer_of_steps_and_seconds():
    clock = Clock(10, None)
    clock.step = 5
    assert clock.fraction == 0.5
    clock = Clock(10, 100.0)
    clock.resume(1, 80.0)
    assert clock.fraction == 0.8
    with pytest.raises(ValueError, match="at least 1"):
        Clock(0, None)
    with pytest.raises(ValueError, match="positive number"):
        Clock(1, -1.0)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="curvature"):
        override(NEUS, curvature_weight=1e-4)
    with pytest.raises(ValueError, match="must exceed"):
        override(NERF, finest_resolution=4)
    with pytest.raises(ValueError, match="begin at 0"):
        override(NEUS, stages=((0.5, 32),))
