"""Exposures of photos as unknowns: what they correct, what they cost, and how a scene is scored then."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from unrender.cameras import Cameras
from unrender.captures.capture import Capture, Split
from unrender.captures.gains import matched_gains, solved_gains
from unrender.fields.exposure import Exposure
from unrender.losses.photometric import mse
from unrender.ops.encodings import Adam
from unrender.recipes import mesh_pbr, nerf, neus
from unrender.recipes.exposures import exposure_of
from unrender.recipes.settings import override
from unrender.runs.evaluation import evaluate, matched_colors
from unrender.transforms import look_at
from unrender.words import OnOff

CPU = torch.device("cpu")
NERF = override(
    nerf.PRESETS["cpu"], steps=300, max_seconds=None, levels=4, log2_entries=12, finest_resolution=32, target_samples=2**13,
    occupancy_resolution=32, samples_per_ray=64, max_rays=1024,
)  # fmt: skip


def ball(spread: float, *, views: int = 24, size: int = 24, speckled: bool = False) -> Capture:
    """Photos of a ball with smooth colors; those that are fitted have random gains of each channel from 1 - spread to 1 + spread."""
    speckles = 0.5 * torch.rand(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(2)) - 0.25
    focal = 1.25 * size if speckled else 30.0
    turn = 2 * math.pi * torch.arange(views) / views
    places = torch.stack([2.2 * turn.cos(), 2.2 * turn.sin(), 0.6 * torch.sin(3 * turn)], -1)
    poses = look_at(places, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    cameras = Cameras.alike(poses, torch.tensor([[focal, focal, size / 2, size / 2]]).repeat(views, 1), None, size, size)
    gains = 1 + spread * (2 * torch.rand(views, 3, generator=torch.Generator().manual_seed(1)) - 1)
    test = tuple(range(0, views, 4))
    photos, masks = [], []
    for view in range(views):
        rays = cameras.image_rays(view)
        along = (rays.origins * rays.directions).sum(-1)
        inside = along.square() - rays.origins.square().sum(-1) + 0.81
        hit = inside > 0
        points = rays.origins - (along + inside.clamp_min(0).sqrt())[:, None] * rays.directions
        plain = 0.5 + 0.25 * torch.sin(4 * points)
        if speckled:
            plain = 0.8 * plain + F.grid_sample(speckles, points[None, None, None], align_corners=True)[0, 0, 0, 0, :, None]
        color = plain * (1.0 if view in test else gains[view])
        photos.append((torch.where(hit[:, None], color, 0) * 255).round().to(torch.uint8).reshape(size, size, 3))
        masks.append((hit * 255).to(torch.uint8).reshape(size, size))
    train = tuple(view for view in range(views) if view not in test)
    return Capture.from_tensors(photos, cameras, masks=masks, split=Split(train, test, "every 4th view is held out"))


def held_out_psnr(capture: Capture, exposure: OnOff) -> float:
    """The PSNR inside the masks of views without gains."""
    result = nerf.fit(capture, override(NERF, exposure=exposure), device=CPU, seed=0)
    return evaluate(result.scene, capture).psnr_masked or 0.0


@pytest.mark.slow
def test_photos_of_random_exposure_are_explained_by_gains() -> None:
    capture = ball(0.2)
    assert held_out_psnr(capture, exposure="on") > held_out_psnr(capture, exposure="off") + 2.5


@pytest.mark.slow
def test_photos_of_one_exposure_lose_nothing() -> None:
    capture = ball(0.0)
    assert held_out_psnr(capture, exposure="on") > held_out_psnr(capture, exposure="off") - 0.5


def painted(spread: float, *, compensated: bool) -> float:
    """The PSNR of the colors of points that 12 photos show, each two thirds of them, in exposures of their own."""
    generator = torch.Generator().manual_seed(0)
    truth = 0.2 + 0.5 * torch.rand(200, 3, generator=generator)
    gains = 1 + spread * (2 * torch.rand(12, 3, generator=generator) - 1)
    gains = gains / gains.log().mean(0).exp()
    seen = torch.rand(12, 200, generator=generator) < 2 / 3
    views, points = seen.nonzero(as_tuple=True)
    photo = truth[points] * gains[views]
    colors, exposure = torch.nn.Parameter(torch.full((200, 3), 0.5)), Exposure(12, tuple(range(12)))
    groups = [{"params": [colors], "lr": 1e-2}, *(exposure.parameter_groups(1e-2) if compensated else ())]
    optimizer = Adam(groups, lr=1e-2)
    opaque, black = torch.ones(len(views)), torch.zeros(len(views), 3)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] *= 0.99 if step > 100 else 1.0
        color = exposure(colors[points], opaque, black, views) if compensated else colors[points]
        optimizer.zero_grad()
        (mse(color, photo) + exposure.regularization()).backward()
        optimizer.step()
    return -10 * math.log10(float((colors.detach() - truth).square().mean()))


def test_gains_free_the_colors_of_a_scene_from_the_exposures_of_its_photos() -> None:
    assert painted(0.2, compensated=True) > painted(0.2, compensated=False) + 15
    assert painted(0.0, compensated=True) > 50


def test_drawn_background_is_not_exposed() -> None:
    exposure = Exposure(3, (1, 2))
    with torch.no_grad():
        exposure.raw[:] = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])
    background, views = torch.rand(2, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2])
    assert torch.equal(exposure(background, torch.zeros(2), background, views), background)
    seen = exposure(torch.full((2, 3), 0.5), torch.ones(2), background, views)
    torch.testing.assert_close(seen, 0.5 * exposure.raw.exp())


def test_gains_of_linear_light_are_the_power_of_those_of_its_srgb_values() -> None:
    exposure = Exposure(2, (0, 1), torch.tensor([[0.1, 0.2, -0.1], [-0.1, -0.2, 0.1]]))
    views, black = torch.tensor([0, 1]), torch.zeros(2, 3)
    seen = exposure(torch.full((2, 3), 0.5), torch.ones(2), black, views, linear=True, learned=False)
    torch.testing.assert_close((seen / 0.5).log(), 2.2 * exposure.raw.detach())
    assert not seen.requires_grad


def test_features_that_photos_share_tell_their_gains() -> None:
    capture = ball(0.2, size=96, speckled=True)
    gains = 1 + 0.2 * (2 * torch.rand(24, 3, generator=torch.Generator().manual_seed(1)) - 1)
    true = gains[list(capture.split.train)].log()
    left = matched_gains(capture, capture.split.train) - (true - true.mean(0))
    assert float(left.square().mean().sqrt()) < 0.3 * float(true.std())


def test_gains_solve_the_differences_of_pairs_though_some_are_wrong() -> None:
    generator = torch.Generator().manual_seed(0)
    true = 0.3 * torch.randn(12, 3, generator=generator)
    one, two = torch.triu_indices(12, 12, 1)
    differences = true[one] - true[two]
    differences[::7] += 1.0
    found = solved_gains(one, two, differences, torch.full((len(one),), 30.0), 12)
    torch.testing.assert_close(found, true - true.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(found.mean(0), torch.zeros(3))


def test_photos_without_features_have_no_gains() -> None:
    blank = ball(0.0, views=4, size=8)
    assert torch.equal(matched_gains(blank, (0, 1, 2)), torch.zeros(3, 3))


def test_gains_have_mean_zero_and_their_gradient_too() -> None:
    exposure = Exposure(3, (0, 1, 2))
    with torch.no_grad():
        exposure.raw[:] = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(exposure.log_gains().mean(0), torch.zeros(3))
    color = torch.rand(8, 3, generator=torch.Generator().manual_seed(1))
    exposure(color, torch.ones(8), torch.zeros(8, 3), torch.arange(8) % 3).sum().backward()
    assert exposure.raw.grad is not None
    torch.testing.assert_close(exposure.raw.grad.sum(0), torch.zeros(3), atol=1e-5, rtol=0)


def test_exposures_are_only_fitted_on_request() -> None:
    capture = ball(0.0, views=4, size=4)
    assert exposure_of(capture, "off", CPU) is None and exposure_of(capture, "on", CPU) is not None
    assert {recipe.PRESETS["cpu"].exposure for recipe in (nerf, neus, mesh_pbr)} == {"off"}


def test_exposures_are_part_of_a_snapshot() -> None:
    """That a resumed fit ends bit equal, with exposures, is tested with the recipes."""
    kept: list[dict[str, torch.Tensor]] = []
    capture = ball(0.2, views=8, size=8)
    nerf.fit(
        capture, override(NERF, steps=8, exposure="on"), device=CPU, seed=0, observer=lambda progress: kept.append(progress.snapshot())
    )
    assert float(kept[-1]["part.exposure.raw"].abs().max()) > 0


MESH = override(
    mesh_pbr.MeshPbrConfig(shape=mesh_pbr.Tetrahedra(resolution=12)), levels=4, log2_entries=12, finest_resolution=64, texture_size=64,
    light_size=16, faces=500, light_first=0.2, exposure="on",
)  # fmt: skip


def test_a_mesh_resumes_with_the_exposures_of_its_photos() -> None:
    kept: list[dict[str, torch.Tensor]] = []
    capture, config = ball(0.2, views=8, size=16), override(MESH, steps=16)
    whole = mesh_pbr.fit(capture, config, device=CPU, seed=0, observer=lambda progress: kept.append(progress.snapshot()))
    assert float(kept[-1]["part.exposure.raw"].abs().max()) > 0
    resumed = mesh_pbr.fit(capture, config, device=CPU, seed=0, resume=kept[len(kept) // 2])
    for name, tensor in whole.scene.state_dict().items():
        assert torch.equal(tensor, resumed.scene.state_dict()[name]), name


@pytest.mark.slow
def test_a_mesh_finds_the_gains_of_its_photos() -> None:
    """They are those of sRGB values, although a mesh is fitted in linear light."""
    kept: list[dict[str, torch.Tensor]] = []
    capture = ball(0.2)
    mesh_pbr.fit(capture, override(MESH, steps=240), device=CPU, seed=0, observer=lambda progress: kept.append(progress.snapshot()))
    gains = 1 + 0.2 * (2 * torch.rand(24, 3, generator=torch.Generator().manual_seed(1)) - 1)
    true = gains[list(capture.split.train)].log()
    found, true = (values - values.mean(0) for values in (kept[-1]["part.exposure.raw"], true))
    assert float(torch.corrcoef(torch.stack([found.flatten(), true.flatten()]))[0, 1]) > 0.75


def test_a_rendering_is_scored_as_it_is_and_after_a_color_fit() -> None:
    truth = torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    where = torch.ones(6, 5, dtype=torch.bool)
    where[0] = False
    changed = matched_colors(truth * torch.tensor([0.5, 1.5, 1.0]) + torch.tensor([0.1, 0.0, 0.2]), truth, where)
    torch.testing.assert_close(changed[1:], truth[1:], atol=1e-6, rtol=0)
    assert not torch.allclose(changed[0], truth[0], atol=0.01)
    flat = matched_colors(torch.full_like(truth, 0.3), truth, where)
    torch.testing.assert_close(flat[1:], truth[1:].mean((0, 1)).expand(5, 5, 3))
