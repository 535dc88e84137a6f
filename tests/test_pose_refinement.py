"""Poses as unknowns of a fit: their gauge, the gradients along rays, what they reach, and what a run says about them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import unrender.runs.outputs
from test_exposure import ball
from unrender import open_run
from unrender.cameras import Rays
from unrender.captures import load_capture
from unrender.captures.blender import write_blender
from unrender.captures.capture import Capture
from unrender.captures.errors import CaptureError
from unrender.cli.program import main
from unrender.fields.pose_corrections import PoseCorrections, basis_of
from unrender.fields.radiance import RadianceField, level_weights
from unrender.ops.encodings import HashGrid
from unrender.recipes import fitting, nerf, neus
from unrender.recipes.fitting import FitResult, Progress
from unrender.recipes.neus.config import SurfaceStart
from unrender.recipes.neus.scene import NeusScene, new_scene
from unrender.recipes.settings import override
from unrender.render.refined_poses import refined
from unrender.render.scene import RayScene
from unrender.render.volume import render_volume
from unrender.runs.pose_measures import aligned, pose_measures
from unrender.runs.scoring import photos_of
from unrender.transforms import aligning_similarity, angle_between, matrix_from_wxyz, rigid_motion, similarity, transformed

CPU, SIDE = torch.device("cpu"), 32
NERF = override(
    nerf.PRESETS["cpu"], steps=300, max_seconds=None, levels=4, log2_entries=12, finest_resolution=32, target_samples=2**13,
    occupancy_resolution=32, samples_per_ray=64, max_rays=2048, refine_poses=True,
)  # fmt: skip
TINY_NEUS = override(
    neus.PRESETS["cpu"], steps=24, max_seconds=None, target_samples=2**11, occupancy_resolution=16, samples_per_ray=64, max_rays=256,
    refine_poses=True,
)  # fmt: skip


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def disturbed(capture: Capture, degrees: float) -> Capture:
    """The capture with fitted cameras that are turned about random axes through their centers; the true poses are known."""
    poses = capture.cameras.world_from_camera.clone()
    train = list(capture.split.train)
    turns = math.radians(degrees) * torch.nn.functional.normalize(drawn(len(train), 3), dim=1)
    poses[train] = poses[train] @ rigid_motion(torch.cat([torch.zeros_like(turns), turns], 1))
    return replace(capture, cameras=replace(capture.cameras, world_from_camera=poses), true_poses=capture.cameras.world_from_camera)


@cache
def photos() -> Capture:
    return disturbed(ball(0.0, views=24, size=SIDE), 6.0)


@cache
def fitted() -> FitResult:
    return nerf.fit(photos(), NERF, device=CPU, seed=0)


def rotations(capture: Capture) -> float:
    """The mean error of the rotations of the fitted views up to a similarity, in degrees."""
    assert capture.true_poses is not None
    train = capture.split.train
    poses = aligned(capture.cameras.world_from_camera.double(), capture.true_poses.double(), train)
    return sum(angle_between(capture.true_poses[view, :3, :3].double(), poses[view, :3, :3]) for view in train) / len(train)


def some_corrections() -> PoseCorrections:
    corrections = PoseCorrections(ball(0.0, views=8, size=4).cameras.world_from_camera, tuple(range(6)), (6, 7))
    with torch.no_grad():
        corrections.motions.copy_(0.02 * drawn(6, 6))
        corrections.held_out_motions.copy_(0.02 * drawn(2, 6, seed=1))
    return corrections


def test_corrections_contain_no_similarity_of_the_whole() -> None:
    corrections = some_corrections()
    places = corrections.start[:6, :3, 3]
    moves, turns = corrections.twists().detach().split(3, 1)
    torch.testing.assert_close(turns.sum(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(moves.sum(0), torch.zeros(3), atol=1e-6, rtol=0)
    assert abs(float((moves * (places - places.mean(0))).sum())) < 1e-6


def test_a_similarity_of_all_cameras_is_projected_out() -> None:
    corrections = some_corrections()
    before = corrections.twists().detach()
    start = corrections.start[:6]
    constant = torch.cat([drawn(6, seed=2).expand(6, 6), torch.zeros(0, 6)])
    scaling = torch.cat([0.1 * start[:, :3, 3], torch.zeros(6, 3)], 1)
    with torch.no_grad():
        corrections.motions += torch.linalg.solve(basis_of(start), (constant + scaling)[:, :, None])[:, :, 0]
    torch.testing.assert_close(corrections.twists().detach(), before, atol=1e-5, rtol=0)


def test_motions_change_the_picture_of_the_middle_as_they_say() -> None:
    cameras = ball(0.0, views=8, size=4).cameras
    for motion, shifts in ((0, True), (1, True), (2, False), (3, False), (4, False), (5, False)):
        twist = 1e-2 * basis_of(cameras.world_from_camera)[:, :, motion]
        moved = replace(cameras, world_from_camera=rigid_motion(twist) @ cameras.world_from_camera)
        pixel = torch.stack([moved.project(torch.zeros(1, 3), view)[0][0] for view in range(8)])
        assert bool(((pixel - 2.0).norm(dim=1) > 0.1).all()) == shifts
        stays = bool((moved.positions - cameras.positions).norm(dim=1).max() < 1e-5)
        assert stays == (motion < 3)


def test_fitted_and_held_out_poses_have_gradients_of_their_own() -> None:
    corrections = some_corrections()
    (own, other) = torch.autograd.grad(
        corrections.fitted_poses().square().sum(), (corrections.motions, corrections.held_out_motions), allow_unused=True
    )
    assert other is None and bool(own.any())
    assert torch.equal(corrections.poses()[6:], corrections.held_out_poses()[6:])
    assert torch.equal(corrections.poses()[:6], corrections.fitted_poses()[:6])


def test_levels_of_a_grid_come_in_from_coarse_to_fine() -> None:
    field = RadianceField(
        HashGrid(levels=4, features=2, log2_entries=10, base_resolution=4), density_hidden=(8,), color_hidden=(8,), geometry_features=4,
        unbounded=False, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    with torch.no_grad():
        field.table.copy_(drawn(*field.table.shape))
    points = torch.rand(64, 3) - 0.5
    everything = field.features(points)
    assert level_weights(1.0, 4, like=points).tolist() == [1.0]
    seen = []
    for detail in (1.0, 2.0, 3.0, 4.0 - 1e-4, 4.0):
        field.detail = detail
        seen.append(float((field.features(points) - everything).detach().square().mean()))
    assert seen[0] > seen[1] > seen[2] > seen[3] and seen[3] < 1e-6 and seen[4] == 0
    field.detail = 1.0
    assert torch.equal(field.encode_directions(points)[:, 1:], torch.zeros(64, 15))
    field.features(points).sum().backward()
    assert field.table.grad is not None and not bool(field.table.grad[field.grid.offsets[1] :].any())


@pytest.mark.parametrize("kind", ["nerf", "grid", "hash"])
def test_the_gradient_of_a_ray_is_that_of_finite_differences(kind: str) -> None:
    """With the samples fixed; a smooth field, because a linear interpolation has kinks."""
    capture = ball(0.0, views=4, size=8)
    scene = small_scene(kind)
    rays = capture.cameras.image_rays(1)
    rays = Rays(rays.origins.contiguous(), rays.directions.contiguous())
    samples = scene.march(rays, None, None)
    weights = torch.rand(len(rays.origins), 3, generator=torch.Generator().manual_seed(3))

    def value(origins: Tensor, directions: Tensor) -> Tensor:
        rendering, _ = render_volume(scene.evaluate, samples, Rays(origins, directions), torch.zeros_like(origins))
        return (rendering.color * weights).sum()

    inputs = [tensor.clone().requires_grad_() for tensor in (rays.origins, rays.directions)]
    slopes = torch.autograd.grad(value(*inputs), inputs)
    for seed in range(3):
        directions = [torch.nn.functional.normalize(drawn(1, 3, seed=seed + 5 * k), dim=1).expand_as(inputs[k]) for k in range(2)]
        step = 2e-3
        ends = [value(*(one.detach() + sign * step * way for one, way in zip(inputs, directions, strict=True))).item() for sign in (1, -1)]
        expected = sum(float((slope * way).sum()) for slope, way in zip(slopes, directions, strict=True))
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expected, rel=0.05, abs=0.02)


def small_scene(kind: str) -> nerf.NerfScene | NeusScene:
    """A scene whose fields have coarse cells and values that differ."""
    generator = torch.Generator().manual_seed(0)
    if kind == "nerf":
        config = override(NERF, levels=2, base_resolution=2, finest_resolution=4)
        scene = nerf.NerfScene(config, unbounded=False, masked=True, generator=generator)
        with torch.no_grad():
            scene.field.table.copy_(0.5 * drawn(*scene.field.table.shape))
        return scene
    base = TINY_NEUS if kind == "grid" else override(neus.PRESETS["neus-blender"], levels=2, base_resolution=2, finest_resolution=4)
    config = override(base, occupancy_resolution=16, samples_per_ray=64)
    scene = new_scene(config, SurfaceStart(), surroundings=False, masked=True, generator=generator)
    scene.set_fraction(1.0)
    with torch.no_grad():
        # Normals, and what is mirrored at them, jump from cell to cell, which differences see and slopes do not.
        first = scene.color_net.weights[0].shape[1] - 16 - scene.surface.feature_count - 6
        scene.color_net.weights[0][:, :first] = 0
        scene.color_net.weights[0][:, first + 3 : first + 6] = 0
    return scene


def test_a_fit_cuts_the_errors_of_poses() -> None:
    found = refined(photos(), fitted().scene)
    assert rotations(photos()) > 5 and rotations(found) < rotations(photos()) / 2.5
    groups = {measure.group: measure.value for measure in reversed(pose_measures(photos(), found))}
    assert groups["refined poses against the true ones, up to a similarity"] == pytest.approx(rotations(found), abs=1e-3)
    assert groups["poses of the capture against the true ones, up to a similarity"] == pytest.approx(rotations(photos()), abs=1e-3)


def test_held_out_photos_do_not_change_the_scene() -> None:
    config = override(NERF, steps=24)
    other = photos().photos.pixels.clone()
    begin, count = photos().photos.offsets.tolist(), SIDE * SIDE
    for view in photos().split.test:
        other[begin[view] : begin[view] + count, :3] = 255 - other[begin[view] : begin[view] + count, :3]
    changed = replace(photos(), photos=replace(photos().photos, pixels=other))
    first, second = (nerf.fit(capture, config, device=CPU, seed=0).scene.state_dict() for capture in (photos(), changed))
    unlike = {name for name in first if not torch.equal(first[name], second[name])}
    assert unlike == {"poses.held_out_motions"}


@pytest.mark.parametrize("recipe", ["nerf", "neus"])
def test_a_resumed_fit_ends_bit_equal(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = override(NERF, steps=24) if recipe == "nerf" else TINY_NEUS
    fit: Callable[..., FitResult] = nerf.fit if recipe == "nerf" else neus.fit
    kept: list[dict[str, Tensor]] = []

    def keep(progress: Progress) -> None:
        if progress.step == 16:
            kept.append(progress.snapshot())
            raise KeyboardInterrupt

    whole = fit(photos(), config, device=CPU, seed=0)
    monkeypatch.setattr(fitting, "Fitting", partial(fitting.Fitting, report_every=0.0))
    monkeypatch.setattr(f"unrender.recipes.{recipe}.loop.Fitting", fitting.Fitting)
    monkeypatch.setattr("unrender.recipes.nerf.loop.Fitting", fitting.Fitting)
    fit(photos(), config, device=CPU, seed=0, observer=keep)
    again = fit(photos(), config, device=CPU, seed=0, resume=kept[0])
    states = whole.scene.state_dict(), again.scene.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]) and bool(states[0]["poses.motions"].any())


def test_a_similarity_is_found_from_points() -> None:
    points = drawn(7, 3).double()
    matrix = similarity(torch.tensor([1.0, -2.0, 0.5]).double(), 1.7, matrix_from_wxyz(drawn(4, seed=1).double()))
    torch.testing.assert_close(aligning_similarity(points, transformed(points, matrix)), matrix)
    mirrored = points * torch.tensor([1.0, 1.0, -1.0])
    assert torch.linalg.det(aligning_similarity(points, mirrored)[:3, :3]) > 0


def test_true_poses_are_read_beside_inexact_ones(tmp_path: Path) -> None:
    write_blender(photos(), tmp_path)
    read = load_capture(tmp_path)
    assert read.true_poses is None
    contents = [json.loads((tmp_path / f"transforms_{part}.json").read_text()) for part in ("train", "test")]
    poses = {f"{frame['file_path'][2:]}.png": frame["transform_matrix"] for content in contents for frame in content["frames"]}
    (tmp_path / "true_poses.json").write_text(json.dumps(poses))
    again = load_capture(tmp_path)
    assert again.true_poses is not None
    torch.testing.assert_close(again.true_poses, again.cameras.world_from_camera)
    (tmp_path / "true_poses.json").write_text(json.dumps(dict(list(poses.items())[1:])))
    with pytest.raises(CaptureError, match="true_poses.json has no pose of"):
        load_capture(tmp_path)


def test_a_run_keeps_its_refined_poses_for_later_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrender.runs.outputs, "VIDEO_FRAMES", 2)
    monkeypatch.setattr(unrender.runs.outputs, "SMALLEST_VIDEO_SIDE", 16)
    write_blender(photos(), tmp_path / "capture")
    words = ["fit", "nerf", str(tmp_path / "capture"), "--out", str(tmp_path / "run"), "--refine-poses", "--steps", "30", "--device", "cpu"]
    words += ["--target-samples", "2048", "--max-rays", "256", "--levels", "2", "--log2-entries", "10", "--finest-resolution", "32"]
    assert main([*words, "--quiet"]) == 0
    run = open_run(tmp_path / "run")
    assert isinstance(run.scene, RayScene) and run.scene.poses is not None
    capture = photos_of(run, None)
    given = load_capture(tmp_path / "capture")
    assert not torch.allclose(capture.cameras.world_from_camera, given.cameras.world_from_camera, atol=1e-4)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["poses"].startswith("refined") and any("refined poses" in measure["group"] for measure in metrics["measures"])
    written = load_capture(tmp_path / "run" / "cameras")
    assert written.split.train == capture.split.train and written.split.test == capture.split.test
    back = torch.linalg.inv(capture.source_from_world) @ written.source_from_world
    places = transformed(written.cameras.positions.double(), back)
    torch.testing.assert_close(places, capture.cameras.positions.double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(written.cameras.intrinsics, capture.cameras.intrinsics)
