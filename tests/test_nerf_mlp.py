"""The recipe ``nerf-mlp``: it learns, resumes to the bit, masks octaves, and lives in three spaces."""

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
from unrender.fields.frequency_radiance import FrequencyRadiance
from unrender.losses.metrics import psnr
from unrender.recipes import nerf_mlp
from unrender.recipes.fitting import Fitting, Progress
from unrender.recipes.nerf_mlp.loop import place_in
from unrender.recipes.pixels import PixelSampler, central_part
from unrender.recipes.settings import override

CPU = torch.device("cpu")
TINY = override(
    nerf_mlp.PRESETS["cpu"], steps=16, trunk=(32, 32), geometry_features=15, color_hidden=(16,), octaves=5, rays=256, coarse_samples=12,
    fine_samples=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def capture() -> Capture:
    return make_demo_capture(views=8, size=24, seed=0)


def open_air(capture: Capture) -> Capture:
    """The same photos without masks, before a gray wall."""
    photos = torch.stack([capture.photos[view] for view in range(len(capture))]).clone()
    photos[..., :3] = torch.where(photos[..., 3:] > 127, photos[..., :3], torch.full_like(photos[..., :3], 128))
    photos[..., 3] = 255
    return replace(capture, has_masks=False, unbounded=True, photos=Images.stacked(photos))


def test_a_short_fit_learns_the_scene(capture: Capture) -> None:
    seen: list[Progress] = []
    result = nerf_mlp.fit(capture, override(TINY, steps=150), device=CPU, seed=0, observer=seen.append)
    assert result.outcome == "finished" and result.skipped_steps == 0 and set(seen[-1].losses) == {"fine", "coarse"}
    assert (seen[-1].psnr or 0.0) > 17
    rendering = result.scene.render_view(capture.cameras, capture.split.test[0])
    assert rendering.color.shape == (24, 24, 3) and bool(torch.isfinite(rendering.color).all() & torch.isfinite(rendering.normal).all())
    assert float(rendering.opacity.min()) >= 0 and float(rendering.opacity.max()) <= 1 + 1e-4
    inside = rendering.opacity > 0.9
    assert bool(inside.any()) and 2.0 < float(rendering.distance[inside].mean()) < 6.0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"trunk": (24, 24, 24), "skip": 2, "density": "relu", "density_noise": 1.0, "coarse_to_fine": 0.8},
        {"precrop_until": 0.5, "background": "white", "space": "disparity"},
        {"space": "ndc"},
    ],
)
def test_a_fit_resumed_from_a_snapshot_ends_bit_equal(changes: dict, capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    config, snapshots = override(TINY, **changes), []
    given = open_air(capture) if "space" in changes else capture
    whole = nerf_mlp.fit(given, config, device=CPU, seed=3)
    monkeypatch.setattr("unrender.recipes.nerf_mlp.loop.Fitting", partial(Fitting, report_every=0.0))

    def interrupt(progress: Progress) -> None:
        if progress.step == 6:
            snapshots.append(progress.snapshot())
            raise KeyboardInterrupt

    assert nerf_mlp.fit(given, config, device=CPU, seed=3, observer=interrupt).outcome == "interrupted"
    resumed = nerf_mlp.fit(given, config, device=CPU, seed=3, resume=snapshots[0])
    for name, value in whole.scene.state_dict().items():
        assert torch.equal(value, resumed.scene.state_dict()[name]), name
    kept = nerf_mlp.load_scene(config, {f"scene.{name}": value for name, value in whole.scene.state_dict().items()}, CPU)
    assert torch.equal(kept.render_view(capture.cameras, 0).color, whole.scene.render_view(capture.cameras, 0).color)


def scene_of(capture: Capture, **changes: object) -> nerf_mlp.NerfMlpScene:
    config = override(TINY, **changes)
    place = place_in(capture, config.sampling.space, config.sampling.near)
    return nerf_mlp.NerfMlpScene(
        config.network, config.sampling, place, masked=capture.has_masks, generator=torch.Generator().manual_seed(0)
    )


def test_rays_that_miss_the_cube_show_the_background_and_the_others_are_unchanged(capture: Capture) -> None:
    scene = scene_of(capture)
    meets, misses = torch.tensor([[0.0, -3.0, 0.0]]), torch.tensor([[0.0, -3.0, 5.0]])
    ahead, background = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.2, 0.4, 0.6]])
    with torch.no_grad():
        _, both = scene.render(Rays(torch.cat([misses, meets]), ahead.repeat(2, 1)), background.repeat(2, 1))
        _, alone = scene.render(Rays(meets, ahead), background)
    assert torch.equal(both.color[:1], background) and float(both.opacity[0]) == 0
    torch.testing.assert_close(both.color[1:], alone.color)


def test_the_picture_is_that_of_a_ray_of_its_own_whatever_is_rendered_with_it(capture: Capture) -> None:
    scene = scene_of(capture)
    whole = scene.render_view(capture.cameras, 0).color
    rays = capture.cameras.image_rays(0)
    some = scene.render_rays(Rays(rays.origins[300:310], rays.directions[300:310])).color
    torch.testing.assert_close(whole.reshape(-1, 3)[300:310], some, atol=1e-5, rtol=1e-4)


def test_masked_octaves_have_no_effect() -> None:
    field = FrequencyRadiance(
        octaves=4, direction_octaves=2, trunk=(16, 16), skip=1, features=7, color_hidden=(8,), generator=torch.Generator().manual_seed(0)
    )
    points = torch.rand(10, 3, generator=torch.Generator().manual_seed(1))
    before = field.raw(points, 2.0)
    with torch.no_grad():
        assert field.before is not None
        field.before.weights[0][:, 3 + 2 * 2 * 3 :] = 100.0  # columns of the third and fourth octave
        field.after.weights[0][:, 16 + 3 + 2 * 2 * 3 :] = 100.0
    assert torch.equal(before, field.raw(points, 2.0)) and not torch.allclose(before, field.raw(points, 4.0))


def test_the_space_follows_the_capture(capture: Capture) -> None:
    assert place_in(capture, "auto", None).space == "cube"
    around = open_air(capture)
    assert place_in(around, "auto", None).space == "disparity" and place_in(around, "auto", 0.7).near == 0.7
    cameras = forward_facing()
    facing = Capture.from_tensors(torch.zeros(9, 48, 64, 3, dtype=torch.uint8), cameras, unbounded=True)
    place = place_in(facing, "auto", None)
    assert place.space == "ndc" and place.ndc is not None and 0.1 < place.near < 3.0
    near_points = replace(facing, points=torch.tensor([[0.0, -1.0, 0.0], [0.0, 5.0, 0.0]]))
    assert place_in(near_points, "auto", None).near == pytest.approx(0.9 * 2.0, abs=0.2)


def test_a_forward_facing_scene_is_learned_in_ndc_at_its_true_distance() -> None:
    cameras, held_out = forward_facing(spread=1.0).downscaled(2), 4
    color, opacity = render_demo_views(AnalyticScene(), cameras)
    photos = photo_of(color, opacity).float() / 255
    photos = photos[..., :3] * photos[..., 3:] + 0.5 * (1 - photos[..., 3:])
    split = Split(tuple(view for view in range(9) if view != held_out), (held_out,), "the middle one is held out")
    facing = Capture.from_tensors((photos * 255).round().to(torch.uint8), cameras, unbounded=True, split=split)
    scene = nerf_mlp.fit(facing, override(TINY, steps=150), device=CPU, seed=0).scene
    assert isinstance(scene, nerf_mlp.NerfMlpScene) and scene.place.space == "ndc"
    rendering, truth = scene.render_view(cameras, held_out), photos[held_out]
    assert float(psnr(rendering.color, truth)) > float(psnr(photos[1], truth)) + 5  # than the photo from beside it
    seen = (opacity[held_out] > 0.95) & (rendering.opacity > 0.9)
    assert 2.2 < float(rendering.distance[seen].median()) < 3.2  # the cameras are 3 units away


def test_at_first_only_the_middle_of_the_photos_is_drawn(capture: Capture) -> None:
    batch = PixelSampler(central_part(capture, 0.5), CPU).draw(500, torch.Generator().manual_seed(0))
    assert float(batch.pixels.min()) == 6.5 and float(batch.pixels.max()) == 17.5


def test_the_surface_of_a_dense_ball_is_extracted(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(capture)
    monkeypatch.setattr(scene, "density", lambda points: 100.0 * (0.5 - points.norm(dim=1)).clamp_min(0))
    mesh = scene.mesh(24)
    assert mesh.colors is not None and float(mesh.vertices.norm(dim=1).mean()) == pytest.approx(0.45, abs=0.06)


def test_settings_that_make_no_sense_are_one_sentence() -> None:
    for changes, sentence in (
        ({"skip": 2}, "skip is 2; it must be at least 0 and less than the 2 layers"),
        ({"rays": 0}, "rays is 0"),
        ({"near": -1.0}, "near is -1.0"),
        ({"precrop": 0.0}, "precrop is 0.0"),
        ({"octaves": 30}, "octaves is 30"),
    ):
        with pytest.raises(ValueError, match=sentence):
            override(TINY, **changes)
