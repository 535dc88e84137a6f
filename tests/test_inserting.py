"""Objects in photos: shadows on the ground follow known formulas, and objects stand where they should."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from unrender.cameras import Cameras
from unrender.color import linear_from_srgb
from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset, PbrMaterial
from unrender.render.lit import LitScene
from unrender.runs.inserting import Background, inserted, plain_photo, posed_photo, standing
from unrender.shading.cubes import cube_directions
from unrender.shading.ground_shadows import ground_shadow
from unrender.shading.latlong import turned
from unrender.shading.lights import EnvironmentLight
from unrender.transforms import look_at

CPU = torch.device("cpu")
EVEN = EnvironmentLight(torch.ones(6, 16, 16, 3))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def disc(height: float, radius: float = 1.0) -> Mesh:
    angle = torch.arange(96) / 96 * 2 * math.pi
    rim = torch.stack([radius * angle.cos(), radius * angle.sin(), torch.full_like(angle, height)], 1)
    corners = torch.cat([rim, torch.tensor([[0.0, 0.0, height]])])
    faces = torch.stack([torch.arange(96), (torch.arange(96) + 1) % 96, torch.full((96,), 96)], 1)
    return Mesh(corners, faces)


@pytest.mark.parametrize("height", [0.5, 1.0, 2.0])
def test_under_a_disc_the_light_of_an_even_sky_is_reduced_by_its_form_factor(height: float) -> None:
    shadow = ground_shadow(disc(height), EVEN, 0.0, generator(), cells=65, rays=512)
    found = shadow.at(torch.zeros(1, 2))[0]
    torch.testing.assert_close(found, torch.full((3,), 1 - 1 / (1 + height**2)), atol=0.02, rtol=0)
    assert bool((shadow.at(torch.tensor([[1e3, 0.0]])) == 1).all())


def test_a_shadow_falls_away_from_the_light_in_its_color() -> None:
    directions = cube_directions(16)
    red = (directions[..., 0] > 0.9) & (directions[..., 1].abs() < 0.2) & (directions[..., 2] > 0.5) & (directions[..., 2] < 0.9)
    light = EnvironmentLight(
        torch.stack([0.2 + 50.0 * red, torch.full_like(directions[..., 0], 0.2), torch.full_like(directions[..., 0], 0.2)], -1)
    )
    shadow = ground_shadow(disc(1.0, 0.5), light, 0.0, generator(), cells=64)
    away, towards = shadow.at(torch.tensor([[-1.4, 0.0], [1.4, 0.0]]))
    assert float(away[0]) < 0.6 < 0.9 < float(towards[0])
    assert float(away[1]) > float(away[0]) + 0.2


def test_the_same_seed_gives_the_same_shadow() -> None:
    first, second = (ground_shadow(disc(1.0), EVEN, 0.0, generator(), cells=16, rays=8).shares for _ in range(2))
    assert torch.equal(first, second)


def block(environment: EnvironmentLight | None = EVEN) -> Asset:
    corners = torch.tensor([[x, y, z] for x in (-0.3, 0.3) for y in (-0.2, 0.2) for z in (-0.5, 0.4)])
    quads = torch.tensor([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    vertices, faces = corners[quads].reshape(-1, 3), torch.arange(24).view(6, 4)
    mesh = Mesh(vertices, torch.cat([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]])).with_vertex_normals()
    return Asset(mesh, PbrMaterial(roughness=0.6), environment)


def photo_before(eye: tuple[float, float, float], size: tuple[int, int] = (80, 60)) -> Background:
    width, height = size
    up = torch.tensor([0.0, 0.0, 1.0])
    pose = look_at(torch.tensor(eye), torch.zeros(3), up)
    camera = Cameras.alike(pose[None], torch.tensor([[90.0, 90.0, width / 2, height / 2]]), None, width, height)
    linear = torch.rand(height, width, 3, generator=generator()) * 0.5 + 0.2
    return Background("photo", linear, camera, has_pose=True)


def rows_and_base(asset: Asset, photo: Background) -> tuple[float, list[float]]:
    """Return the height of an object in a photo, and the pixel of the middle of its base."""
    box = asset.mesh.bounding_box
    pixels, _ = photo.camera.project(asset.mesh.vertices, 0)
    base = torch.tensor([[*(box.mean(0)[:2]).tolist(), float(box[0, 2])]])
    return float(pixels[:, 1].max() - pixels[:, 1].min()), photo.camera.project(base, 0)[0][0].tolist()


@pytest.mark.parametrize("turn", [0.0, 130.0])
def test_an_object_stands_on_the_pixel_with_the_size_that_is_asked_for(turn: float, tmp_path: Path) -> None:
    posed, still = standing(block(), photo_before((0.0, -3.0, 1.2)), at=(50.0, 40.0), size=12.0, turn=turn)
    high, base = rows_and_base(posed.asset, still)
    assert base == pytest.approx([50.0, 40.0], abs=0.01) and high == pytest.approx(12.0, abs=0.6)  # a box has corners beyond its vertices
    assert float(posed.asset.mesh.bounding_box[0, 2]) == pytest.approx(posed.ground, abs=1e-5) == pytest.approx(-0.5, abs=1e-5)
    Image.new("RGB", (90, 70), (90, 120, 60)).save(tmp_path / "meadow.png")
    free, photo = standing(block(), plain_photo(tmp_path / "meadow.png", 15.0), at=None, size=None, turn=turn)
    high, base = rows_and_base(free.asset, photo)
    assert base == pytest.approx([45.0, 52.5], abs=0.01) and high == pytest.approx(28.0, abs=1.0)
    assert free.ground == 0.0 == pytest.approx(float(free.asset.mesh.bounding_box[0, 2]), abs=1e-5)


def test_an_object_stays_in_its_own_place() -> None:
    stands, _ = standing(block(), photo_before((0.0, -3.0, 1.2)), at=None, size=None, turn=0.0)
    torch.testing.assert_close(stands.asset.mesh.vertices, block().mesh.vertices)


def test_a_pixel_above_the_horizon_is_no_ground(tmp_path: Path) -> None:
    Image.new("RGB", (90, 70)).save(tmp_path / "sky.png")
    with pytest.raises(ValueError, match="--at 45 5 does not show the ground"):
        standing(block(), plain_photo(tmp_path / "sky.png", 5.0), at=(45.0, 5.0), size=None, turn=0.0)
    with pytest.raises(ValueError, match="out of sight"):
        standing(block(), photo_before((0.0, -3.0, 1.2)), at=(40.0, -5.0), size=None, turn=0.0)


def test_a_photo_changes_only_where_the_object_and_its_shadow_are() -> None:
    photo = photo_before((0.0, -3.0, 2.0))
    stands, _ = standing(block(), photo, at=None, size=None, turn=0.0)
    seen = LitScene(stands.asset, samples=3).lit_view(photo.camera, 0)
    plain = linear_from_srgb(inserted(stands, photo, exposure=0.5, shadow=False, device=CPU))
    dark = linear_from_srgb(inserted(stands, photo, exposure=0.5, shadow=True, device=CPU))
    outside, inside = seen.opacity == 0, seen.opacity > 0.999
    torch.testing.assert_close(plain[outside], photo.linear[outside], atol=1e-5, rtol=0)
    for picture in (plain, dark):
        torch.testing.assert_close(picture[inside], (0.5 * seen.color[inside]).clamp(0, 1), atol=1e-5, rtol=0)
    share = dark[outside] / photo.linear[outside]
    assert float(share.max()) <= 1 + 1e-4 and float(share.min()) < 0.7
    edge = (seen.opacity > 0.2) & (seen.opacity < 0.8)
    assert int(edge.sum()) > 10
    mixed = 0.5 * seen.color + (1 - seen.opacity)[..., None] * photo.linear
    torch.testing.assert_close(plain[edge], mixed[edge].clamp(0, 1), atol=1e-5, rtol=0)


def test_a_camera_comes_from_a_file_of_poses(tmp_path: Path) -> None:
    given = photo_before((1.0, -2.5, 1.2), (40, 30))
    Image.new("RGB", (40, 30), (90, 120, 60)).save(tmp_path / "desk.png")
    source_from_world = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    source_from_world[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    pose = source_from_world @ given.camera.world_from_camera[0].double()
    pose[:3, :3] /= 2
    frame = {"transform_matrix": (pose * torch.tensor([1, -1, -1, 1])).tolist(), "fl_x": 180.0, "cx": 40, "cy": 30, "w": 80, "h": 60}
    (tmp_path / "camera.json").write_text(json.dumps(frame))
    (tmp_path / "all.json").write_text(json.dumps({"frames": [{**frame, "file_path": "images/desk.jpg"}, {"file_path": "other"}]}))
    for name in ("camera.json", "all.json"):
        found = posed_photo(tmp_path / "desk.png", tmp_path / name, torch.linalg.inv(source_from_world)).camera
        torch.testing.assert_close(found.world_from_camera, given.camera.world_from_camera, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.intrinsics, torch.tensor([[90.0, 90.0, 20.0, 15.0]]))
    for broken, sentence in (
        ({"fl_x": 3}, "give transform_matrix and fl_x"),
        ({**frame, "fl_x": -1.0}, "not above zero"),
        ({"frames": []}, "0 frames"),
    ):
        (tmp_path / "broken.json").write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=sentence):
            posed_photo(tmp_path / "desk.png", tmp_path / "broken.json", torch.eye(4))


def test_an_object_without_light_of_its_own_is_rendered_without_a_shadow() -> None:
    photo = photo_before((0.0, -3.0, 2.0))
    stands, _ = standing(replace(block(), environment=None), photo, at=None, size=None, turn=0.0)
    with_shadow, without = (inserted(stands, photo, exposure=1.0, shadow=shadow, device=CPU) for shadow in (True, False))
    assert torch.equal(with_shadow, without)


def test_a_turned_light_comes_from_the_turned_direction() -> None:
    generator = torch.Generator().manual_seed(3)
    light = EnvironmentLight(
        torch.nn.functional.interpolate(torch.rand(6, 3, 2, 2, generator=generator), (64, 64), mode="bilinear").permute(0, 2, 3, 1)
    )
    directions = torch.randn(1, 1, 200, 3, generator=generator)
    x, y, z = directions.unbind(-1)
    a = math.radians(40.0)
    there = torch.stack([math.cos(a) * x - math.sin(a) * y, math.sin(a) * x + math.cos(a) * y, z], -1)
    before, after = light.radiance(directions), turned(light, a).radiance(there)
    assert float((before - after).abs().mean()) < 0.01 and float((before - light.radiance(there)).abs().mean()) > 0.05
