"""The camera of a photo against a known scene: the laws of the correction, and known poses that are found again."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lit_ball import cameras_around, mapped_ball, photographed, sky
from tiny_captures import write_blender
from unrender.cameras import Cameras, Rays
from unrender.cli.program import main
from unrender.demo import make_demo_capture
from unrender.recipes import nerf
from unrender.recipes.pose import Where, compared_pixels, locate, pose_error
from unrender.recipes.settings import override
from unrender.render.asset import Asset, PbrMaterial
from unrender.render.lit import LitScene
from unrender.render.rendering import Rendering
from unrender.render.scene import RayScene
from unrender.runs.evaluation import truth_of
from unrender.runs.inserting import posed_photo
from unrender.runs.locating import WantedPhoto, as_frame, camera_at, most_similar_view
from unrender.transforms import angle_between, inverse_similarity, look_at, matrix_from_wxyz, rigid_motion, similarity

CPU = torch.device("cpu")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_motion_is_rigid_and_its_inverse_has_the_opposite_twist() -> None:
    motion = rigid_motion(drawn(5, 6))
    rotation = motion[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand(5, 3, 3))
    torch.testing.assert_close(rigid_motion(-drawn(5, 6)) @ motion, torch.eye(4).double().expand(5, 4, 4))
    assert angle_between(torch.eye(3), rigid_motion(torch.tensor([3.0, 0, 0, 0, 0.02, 0]))[:3, :3]) == pytest.approx(math.degrees(0.02))


def test_the_gradient_at_zero_is_that_of_a_small_motion() -> None:
    twist, point = torch.zeros(6, dtype=torch.float64, requires_grad=True), torch.tensor([0.3, -0.2, 0.5, 1.0], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda one: (rigid_motion(one) @ point)[:3], twist)
    assert isinstance(jacobian, Tensor)
    crossed = torch.linalg.cross(torch.eye(3).double(), point[:3].expand(3, 3)).T
    torch.testing.assert_close(jacobian, torch.cat([torch.eye(3).double(), crossed], 1))


def test_another_frame_of_the_world_gives_the_same_motion() -> None:
    twist, moved = drawn(6), rigid_motion(drawn(6, seed=1))
    rotation, (x, y, z) = moved[:3, :3], moved[:3, 3].tolist()
    across = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    turn = rotation @ twist[3:]
    adjoint = torch.cat([rotation @ twist[:3] + across @ turn, turn])
    torch.testing.assert_close(rigid_motion(adjoint) @ moved, moved @ rigid_motion(twist))


class Ball(RayScene):
    """A ball of radius 0.8 with waves of color on it, over white."""

    def __init__(self, waves: float = 5.0) -> None:
        super().__init__()
        self.waves, self.calls = waves, 0

    def render_chunk(self, rays: Rays) -> Rendering:
        self.calls += 1
        along = (rays.origins * rays.directions).sum(-1)
        inside = along.square() - rays.origins.square().sum(-1) + 0.64
        distance = -along - inside.clamp_min(0).sqrt()
        opacity = torch.sigmoid(40 * inside)
        places = rays.origins + distance[:, None] * rays.directions
        color = 0.5 + 0.4 * (self.waves * places + torch.tensor([0.3, 1.0, 2.0])).sin()
        over = opacity[:, None] * color + (1 - opacity)[:, None]
        return Rendering(over, opacity, distance, torch.zeros_like(color), "srgb")


def one_camera(side: int = 64) -> Cameras:
    pose = look_at(torch.tensor([2.0, -2.0, 1.0]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Cameras.alike(pose[None], torch.tensor([[1.5 * side, 1.5 * side, side / 2, side / 2]]), None, side, side)


def displaced(camera: Cameras, degrees: float, percent: float, seed: int) -> Cameras:
    """Turn a camera about the origin, and move it by a share of its distance."""
    axis = torch.nn.functional.normalize(drawn(2, 3, seed=seed).float(), dim=1)
    motion = rigid_motion(torch.cat([torch.zeros(3), math.radians(degrees) * axis[0]]))
    pose = motion @ camera.world_from_camera[0]
    pose[:3, 3] += 0.01 * percent * camera.positions[0].norm() * axis[1]
    return replace(camera, world_from_camera=pose[None])


def remaining(found: Cameras, true: Cameras) -> tuple[float, float]:
    error = pose_error(found.world_from_camera[0], true.world_from_camera[0])
    return error.degrees, error.percent


@pytest.mark.parametrize(("where", "seed"), [("random", 0), ("random", 1), ("regions", 0), ("regions", 1)])
def test_a_camera_is_found_from_ten_degrees_and_five_percent_away(where: Where, seed: int) -> None:
    scene, true = Ball(), one_camera()
    photo, start = scene.render_view(true, 0).srgb, displaced(true, 10.0, 5.0, seed)
    steps: list[int] = []
    found = locate(scene, photo, start, where=where, pixels=256, on_step=lambda: steps.append(1))
    degrees, percent = remaining(found.camera, true)
    assert degrees < 0.5 and percent < 0.5
    assert len(steps) == len(found.losses) == len(found.poses) == 300
    assert float(found.losses[-30:].mean()) < 0.01 * float(found.losses[:3].mean())
    torch.testing.assert_close(found.poses[0], start.world_from_camera[0])
    torch.testing.assert_close(found.camera.intrinsics, true.intrinsics)


def test_a_search_at_a_minimum_of_its_own_begins_again_and_needs_no_further_steps() -> None:
    """Waves so short that the descent from 15 degrees ends where they fit shifted by one."""
    scene, true = Ball(waves=16.0), one_camera()
    steps: list[int] = []
    photo, start = scene.render_view(true, 0).srgb, displaced(true, 15.0, 5.0, 3)
    found = locate(scene, photo, start, pixels=256, on_step=lambda: steps.append(1))
    assert float(found.losses[75:100].mean()) > 0.3 * float(found.losses[0])
    assert remaining(found.camera, true)[0] < 0.5 and len(steps) == len(found.losses) == len(found.poses) == 300


def test_other_things_around_the_object_are_left_out() -> None:
    scene, true = Ball(), one_camera()
    seen = scene.render_view(true, 0)
    clutter = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(3))
    photo = seen.srgb + (1 - seen.opacity)[..., None] * (clutter - 1)
    start = displaced(true, 6.0, 3.0, 0)
    degrees, _ = remaining(locate(scene, photo, start, where="random", pixels=256, only_object=True).camera, true)
    assert degrees < 0.5


def test_at_the_true_pose_the_camera_stays_and_a_seed_gives_the_same_bits() -> None:
    scene, true = Ball(), one_camera(32)
    photo = scene.render_view(true, 0).srgb
    first, second = (locate(scene, photo, true, steps=20, pixels=64, seed=7) for _ in range(2))
    assert remaining(first.camera, true)[0] < 0.3
    assert torch.equal(first.camera.world_from_camera, second.camera.world_from_camera)


def test_corners_are_where_the_photo_has_them_and_regions_are_around_them() -> None:
    photo = torch.zeros(60, 80, 3)
    photo[20:40, 30:50] = 1.0
    points, regions = (compared_pixels(photo, where) for where in ("points", "regions"))
    wanted = torch.tensor([[x, y] for x in (30.0, 50.0) for y in (20.0, 40.0)])
    assert len(points) == 4 and float(torch.cdist(points, wanted).min(1).values.max()) < 2.5
    assert len(regions) == 4 * 13**2 and float(torch.cdist(regions, points).min(1).values.max()) <= 6 * 2**0.5 + 1e-5
    assert len(compared_pixels(torch.zeros(5, 6, 3), "points")) == 30


def patches() -> PbrMaterial:
    noise = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    return PbrMaterial(torch.nn.functional.interpolate(noise, (64, 64), mode="bilinear")[0].permute(1, 2, 0))


def test_a_camera_is_found_against_a_mesh_with_textures() -> None:
    asset, true = Asset(mapped_ball(16), patches(), sky()), cameras_around(5, 48)[1]
    photo = LitScene(asset, background=1.0).render_view(true, 0).srgb
    found = locate(asset, photo, displaced(true, 10.0, 5.0, 0), steps=150)
    degrees, percent = remaining(found.camera, true)
    assert degrees < 0.1 and percent < 0.1


@pytest.mark.parametrize("what", ["color inside", "opacity"])
def test_the_gradient_of_the_pose_against_a_mesh_is_that_of_finite_differences(what: str) -> None:
    scene, camera = LitScene(Asset(mapped_ball(16), patches(), sky())), cameras_around(5, 48)[1]
    x, y = torch.meshgrid(torch.linspace(0, 3, 48), torch.linspace(0, 3, 48), indexing="ij")
    weights = torch.stack([x.sin(), (x + y).cos(), y.sin()], -1)
    weights = weights * torch.exp(-((x - 1.5) ** 2 + (y - 1.5) ** 2) / 0.08)[..., None] if what == "color inside" else weights

    def seen(twist: Tensor) -> Tensor:
        moved = replace(camera, world_from_camera=rigid_motion(twist)[None] @ camera.world_from_camera)
        rendering = scene.lit_cameras(moved)[0]
        return (weights * (rendering.color if what == "color inside" else rendering.opacity[..., None])).sum()

    twist = torch.zeros(6, requires_grad=True)
    (slope,) = torch.autograd.grad(seen(twist), twist)
    step = 0.02
    differences = torch.stack([(seen(step * axis) - seen(-step * axis)) / (2 * step) for axis in torch.eye(6)]).detach()
    torch.testing.assert_close(slope, differences, atol=0.04 * float(differences.norm()), rtol=0)


@pytest.mark.slow
def test_a_held_out_photo_comes_closer_against_a_fitted_field() -> None:
    capture = make_demo_capture(16, 40)
    scene = nerf.fit(capture, override(nerf.PRESETS["cpu"], steps=120), device=CPU, seed=0).scene
    assert isinstance(scene, RayScene)
    view = capture.split.test[1]
    true = capture.cameras[view]
    start, photo = displaced(true, 10.0, 5.0, 1), truth_of(capture, view, CPU)
    found = locate(scene, photo, start, where="random", pixels=128, steps=100)
    assert remaining(found.camera, true)[0] < 0.5 * remaining(start, true)[0]
    assert remaining(found.camera, true)[1] < 0.5 * remaining(start, true)[1]


def test_the_start_is_the_fitted_view_that_looks_most_alike() -> None:
    asset = Asset(mapped_ball(16), patches(), sky())
    capture = photographed(asset, cameras_around(8, 40))
    near = displaced(capture.cameras[5], 8.0, 2.0, 0)
    scene = LitScene(asset, background=1.0)
    photo = WantedPhoto("new.png", scene.render_view(near, 0).srgb, outlined=True, view=None)
    assert most_similar_view(scene, capture, photo, CPU) == 5
    of_capture = WantedPhoto(capture.names[5], truth_of(capture, 5, CPU), outlined=True, view=5)
    assert most_similar_view(scene, capture, of_capture, CPU) != 5
    wide = WantedPhoto("wide.png", torch.ones(30, 60, 3), outlined=True, view=None)
    with pytest.raises(ValueError, match=r"wide.png has 60 x 30 pixels and 005.png 40 x 40: another lens"):
        camera_at(capture, 5, wide)
    large: Float[Tensor, "80 80 3"] = torch.ones(80, 80, 3)
    assert camera_at(capture, 5, WantedPhoto("large.png", large, True, None)).intrinsics.tolist() == [[120.0, 120.0, 40.0, 40.0]]


def test_the_file_of_a_camera_is_read_as_the_same_camera(tmp_path: Path) -> None:
    camera, source = one_camera(16), similarity(torch.tensor([3.0, -1.0, 2.0]).double(), 2.5, matrix_from_wxyz(drawn(4)))
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps(as_frame("a.png", camera, source)))
    read = posed_photo(tmp_path / "a.png", tmp_path / "a.json", inverse_similarity(source)).camera
    torch.testing.assert_close(read.world_from_camera, camera.world_from_camera, atol=1e-5, rtol=0)
    torch.testing.assert_close(read.intrinsics, camera.intrinsics)


def test_bad_arguments_are_explained() -> None:
    scene, camera = Ball(), one_camera(32)
    with pytest.raises(ValueError, match=r"one camera of the size of the photo, got 1 of \(32, 32\) and \(16, 32\)"):
        locate(scene, torch.ones(16, 32, 3), camera)
    with pytest.raises(ValueError, match="steps and pixels are 0 and 512; they must be at least 1"):
        locate(scene, torch.ones(32, 32, 3), camera, steps=0)


def test_the_command_writes_a_camera_and_a_picture(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, run = write_blender(tmp_path / "ball"), tmp_path / "run"
    words = ["--steps", "10", "--target-samples", "1024", "--mesh-resolution", "16", "--device", "cpu", "--quiet"]
    assert main(["fit", "nerf", str(folder), "--out", str(run), *words]) == 0
    capfd.readouterr()
    locating = ["locate", str(run), "--device", "cpu", "--steps", "2"]
    assert main([*locating, "--photo", "test/r_0.png", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["photo"] == "test/r_0.png" and found["start"].startswith("train/")
    assert set(found["error"]) == {"degrees", "percent"} and found["psnr"] > 0
    frame = json.loads(Path(found["file"]).read_text())
    assert Path(found["file"]) == run / "located/r_0.json" and len(frame["transform_matrix"]) == 4
    with Image.open(found["picture"]) as picture, Image.open(folder / "test/r_0.png") as photo:
        assert picture.size == (3 * photo.width + 16, photo.height)
        photo.save(tmp_path / "other.png")
    outside = [*locating, "--photo", str(tmp_path / "other.png"), "--start", "train/r_1.png", "--out", str(tmp_path / "camera.json")]
    assert main([*outside, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["error"] is None and found["start"] == "train/r_1.png" and (tmp_path / "camera.json").is_file()
    for words, sentence in (
        (["--photo", "nothing.png"], "--photo nothing.png is no picture file and no photo"),
        (["--photo", "test/r_0.png", "--start", "nothing"], "--start nothing is no"),
        (["--photo", "test/r_0.png", "--steps", "0"], "--steps is 0; it must be at least 1"),
        (["--photo", "test/r_0.png", "--out", "camera.txt"], "--out camera.txt is no camera file; give a name that ends in .json"),
    ):
        assert main([*locating, *words, "--quiet"]) == 1
        assert sentence in capfd.readouterr().err
