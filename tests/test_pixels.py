from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mixed_captures import SIZES, mixed_cameras, mixed_capture, seen
from tiny_captures import write_transforms
from unrender.cameras import Cameras, Rays
from unrender.captures import load_capture
from unrender.captures.capture import Capture, Split
from unrender.captures.images import Images
from unrender.recipes import nerf, neus, pixels
from unrender.recipes.pixels import PixelBatch, PixelSampler
from unrender.recipes.settings import override
from unrender.runs.evaluation import evaluate
from unrender.transforms import rigid_motion

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors(batch: PixelBatch) -> list[Tensor]:
    found = [batch.rays.origins, batch.rays.directions, batch.views, batch.pixels, batch.color, batch.alpha, batch.normal]
    return [tensor for tensor in found if tensor is not None]


@pytest.mark.parametrize("most_mapped", [2**26, 0])
def test_drawn_colors_are_those_of_their_rays_whatever_size_and_lens(most_mapped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_MOST_MAPPED_PIXELS", most_mapped)
    capture = mixed_capture()
    batch = PixelSampler(capture, CPU).draw(4000, generator())
    color, opacity = seen(batch.rays)
    assert batch.alpha is not None
    wrong = (batch.alpha != opacity) | ((batch.color - color).abs() > 0.6 / 255).any(-1)
    assert float(wrong.float().mean()) < 2e-3  # rounding at the outline
    assert sorted(set(batch.views.tolist())) == sorted(capture.split.train)


@pytest.mark.parametrize("most_mapped", [2**26, 0])
def test_cameras_in_double_precision_give_the_rays_of_single_precision(most_mapped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_MOST_MAPPED_PIXELS", most_mapped)
    capture = mixed_capture()
    numbers = {name: getattr(capture.cameras, name).double() for name in ("world_from_camera", "intrinsics", "distortion")}
    exact = replace(capture, cameras=replace(capture.cameras, **numbers))
    rays, expected = (PixelSampler(one, CPU).draw(500, generator()).rays for one in (exact, capture))
    assert rays.directions.dtype == torch.float32
    torch.testing.assert_close((rays.origins, rays.directions), (expected.origins, expected.directions), rtol=0, atol=1e-6)


def test_a_batch_knows_its_views_and_pixels() -> None:
    capture = mixed_capture()
    batch = PixelSampler(capture, CPU).draw(3000, generator())
    column, row = batch.pixels.long().unbind(-1)
    expected = torch.stack([capture.photos[int(v)][int(r), int(c), :3] for v, r, c in zip(batch.views, row, column, strict=True)])
    assert torch.equal((batch.color * 255).round().byte(), expected)
    assert bool((batch.pixels < SIZES[batch.views]).all()) and bool((batch.pixels % 1 == 0.5).all())
    again = capture.cameras.rays(batch.views, batch.pixels)
    torch.testing.assert_close(again.directions, batch.rays.directions, atol=1e-6, rtol=0)
    assert torch.equal(again.origins, batch.rays.origins)


def test_normals_turn_with_the_cameras_and_zero_stays_unknown() -> None:
    """Seen from a camera they are the same, whatever its pose; and their gradient turns it."""
    capture = mixed_capture()
    maps = [torch.nn.functional.normalize(torch.randn(height, width, 3, generator=generator()), dim=-1) for width, height in SIZES.tolist()]
    for normals in maps:
        normals[0] = 0
    capture = replace(capture, normals=Images.of(maps))
    turns = rigid_motion(0.3 * torch.randn(len(capture), 6, generator=generator(1)))
    poses = (turns @ capture.cameras.world_from_camera).requires_grad_()
    before = PixelSampler(capture, CPU).draw(500, generator())
    after = PixelSampler(capture, CPU).draw(500, generator(), replace(capture.cameras, world_from_camera=poses))
    assert before.normal is not None and after.normal is not None
    torch.testing.assert_close(after.normal, (turns[before.views, :3, :3] @ before.normal[:, :, None])[..., 0], atol=1e-5, rtol=0)
    along = (before.normal * before.rays.directions).sum(-1)
    torch.testing.assert_close((after.normal * after.rays.directions).sum(-1), along, atol=1e-5, rtol=0)
    (slope,) = torch.autograd.grad(after.normal.sum(), poses)
    assert bool(slope[list(capture.split.train), :3, :3].any()) and not bool(slope[:, :, 3].any())


def test_pixels_are_drawn_uniformly_over_all_views() -> None:
    views = PixelSampler(mixed_capture(), CPU).draw(200_000, generator()).views
    share = torch.bincount(views, minlength=6)[[0, 1, 3, 5]] / 200_000
    counts = SIZES.prod(1)[[0, 1, 3, 5]].float()
    torch.testing.assert_close(share, counts / counts.sum(), atol=5e-3, rtol=0)


def test_ignored_pixels_are_never_drawn() -> None:
    capture = mixed_capture()
    ignored = Images.of([torch.ones(height, width, dtype=torch.bool) for width, height in SIZES.tolist()])
    ignored[1][2:5, 2:9] = False
    ignored[3][0, 0] = False
    batch = PixelSampler(replace(capture, ignored=ignored), CPU).draw(2000, generator())
    places = {(int(v), *p) for v, p in zip(batch.views, batch.pixels.tolist(), strict=True)}
    assert places == {(1, x + 0.5, y + 0.5) for x in range(2, 9) for y in range(2, 5)} | {(3, 0.5, 0.5)}
    coarse = PixelSampler(replace(capture, ignored=ignored), CPU, downscale=2).draw(500, generator())
    assert {tuple(place) for place in coarse.pixels.tolist()} == {(1.5, 1.5), (2.5, 1.5), (3.5, 1.5)}
    with pytest.raises(ValueError, match="ignores all pixels"):
        PixelSampler(replace(capture, ignored=ignored), CPU, downscale=9)


def test_a_capture_without_training_views_is_refused() -> None:
    with pytest.raises(ValueError, match="no views to fit.*all held out"):
        PixelSampler(replace(mixed_capture(), split=Split((), (0, 1, 2, 3, 4, 5), "all held out")), CPU)


def test_downscaled_pixels_are_blocks_of_each_view() -> None:
    capture = mixed_capture()
    batch = PixelSampler(capture, CPU, downscale=3).draw(500, generator())
    for view, (x, y), color in zip(batch.views.tolist(), batch.pixels.long().tolist(), batch.color, strict=True):
        block = capture.photos[view][3 * y : 3 * y + 3, 3 * x : 3 * x + 3].float().reshape(9, 4)
        if bool((block[:, 3] == 255).all()):
            assert float((block[:, :3].mean(0) / 255 - color).abs().max()) < 0.51 / 255
    fine = capture.cameras.rays(batch.views, 3 * batch.pixels)
    torch.testing.assert_close(fine.directions, batch.rays.directions, atol=1e-6, rtol=0)


def test_a_capture_on_disk_gives_the_same_batches_and_the_same_fit(tmp_path) -> None:
    folder = write_transforms(tmp_path / "ball", alpha=True)
    in_memory, on_disk = load_capture(folder), load_capture(folder, memory=0)
    assert on_disk.photos.on_disk and not in_memory.photos.on_disk
    assert in_memory.fingerprint == on_disk.fingerprint
    assert any("temporary file" in note for note in on_disk.notes)
    # Photos that are decoded while a fit runs are drawn from a pool instead; see test_pixel_pool.py.
    assert all(torch.equal(on_disk.photos[view], in_memory.photos[view]) for view in range(len(on_disk)))
    on_disk = replace(on_disk, photos=replace(on_disk.photos, waits=()))
    for downscale in (1, 2):
        here, there = (PixelSampler(capture, CPU, downscale=downscale).draw(999, generator()) for capture in (in_memory, on_disk))
        assert all(torch.equal(a, b) for a, b in zip(tensors(here), tensors(there), strict=True))
    scenes = [nerf.fit(capture, override(NERF, steps=3), device=CPU, seed=0).scene.state_dict() for capture in (in_memory, on_disk)]
    assert all(torch.equal(scenes[0][name], scenes[1][name]) for name in scenes[0])


NERF = override(
    nerf.PRESETS["cpu"], steps=60, max_seconds=None, levels=4, log2_entries=12, finest_resolution=64, target_samples=2**12,
    occupancy_resolution=32, samples_per_ray=128, max_rays=2048, downscale_first=2,
)  # fmt: skip
NEUS = override(
    neus.PRESETS["cpu"], steps=16, max_seconds=None, stages=((0.0, 24), (0.5, 32)), target_samples=2**12,
    occupancy_resolution=32, samples_per_ray=128, max_rays=2048,
)  # fmt: skip


@pytest.mark.parametrize(("recipe", "config", "better_than"), [(nerf, NERF, 16.0), (neus, NEUS, 8.0)])
def test_fits_and_their_evaluation_take_views_of_several_sizes_and_lenses(recipe, config, better_than: float) -> None:
    capture = mixed_capture()
    shown: list[tuple[int, ...]] = []
    result = recipe.fit(capture, config, device=CPU, seed=0)
    assert result.outcome == "finished" and result.skipped_steps == 0
    evaluate(result.scene, capture, on_view=lambda score, truth, rendering: shown.append(tuple(rendering.color.shape)))
    assert shown == [(36, 48, 3), (44, 30, 3)]
    assert evaluate(result.scene, capture, "train").psnr > better_than


def turned(cameras: Cameras, view: int, turn: Tensor) -> Cameras:
    """The cameras with one of them turned by a rotation vector about its own axes."""
    x, y, z = turn.unbind()
    zero = torch.zeros_like(x)
    rotation = torch.linalg.matrix_exp(torch.stack((zero, -z, y, z, zero, -x, -y, x, zero)).reshape(3, 3))
    motions = torch.eye(4).repeat(len(cameras), 1, 1)
    motions[view, :3, :3] = rotation
    return replace(cameras, world_from_camera=cameras.world_from_camera @ motions)


def inside_a_room(rays: Rays) -> Tensor:
    """Smooth colors on a sphere of radius 4 around the cameras."""
    along = (rays.origins * rays.directions).sum(-1)
    points = rays.origins + (-along + (along**2 - (rays.origins**2).sum(-1) + 16).sqrt())[:, None] * rays.directions
    return 0.5 + 0.4 * torch.sin(points + torch.tensor([0.0, 1.0, 2.0], dtype=points.dtype))


def room_capture() -> Capture:
    cameras = mixed_cameras()
    images = [inside_a_room(cameras.image_rays(view)).reshape(h, w, 3) for view, (w, h) in enumerate(SIZES.tolist())]
    return Capture.from_tensors([(image * 255).round().byte() for image in images], cameras)


@pytest.mark.parametrize("view", [0, 1, 3])
@pytest.mark.parametrize("downscale", [1, 2])
def test_a_turned_pose_is_recovered_through_the_batches(view: int, downscale: int) -> None:
    capture = room_capture()
    sampler, seeds = PixelSampler(capture, CPU, downscale=downscale), generator()
    wrong = turned(capture.cameras, view, torch.tensor([0.03, -0.04, 0.02]))
    back = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([back], lr=5e-3)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 150)
        batch = sampler.draw(1024, seeds, turned(wrong, view, back))
        optimizer.zero_grad()
        (inside_a_room(batch.rays) - batch.color).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(back.detach(), torch.tensor([-0.03, 0.04, -0.02]), atol=2e-3, rtol=0)


def test_gradients_reach_poses_intrinsics_and_distortion_and_nothing_else_changes() -> None:
    capture = room_capture()
    sampler = PixelSampler(capture, CPU)
    fixed = sampler.draw(500, generator())
    leaves = [tensor.clone().requires_grad_() for tensor in (capture.cameras.world_from_camera, capture.cameras.intrinsics)]
    distortion = capture.cameras.distortion.clone().requires_grad_()
    cameras = replace(capture.cameras, world_from_camera=leaves[0], intrinsics=leaves[1], distortion=distortion)
    batch = sampler.draw(500, generator(), cameras)
    assert torch.equal(batch.views, fixed.views) and torch.equal(batch.color, fixed.color)
    torch.testing.assert_close(batch.rays.directions, fixed.rays.directions, atol=1e-6, rtol=0)
    gradients = torch.autograd.grad((inside_a_room(batch.rays) - 0.3).square().mean(), (*leaves, distortion))
    for gradient in gradients:
        assert bool(gradient.isfinite().all()) and bool(gradient.flatten(1).any(1).all())
    with pytest.raises(ValueError, match="all 6 views of the capture, got 2"):
        sampler.draw(10, generator(), capture.cameras[:2])
