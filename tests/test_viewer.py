from __future__ import annotations

import base64
import gzip
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from PIL import Image
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.color import srgb_from_linear
from unrender.geometry.isosurface import extract_surface
from unrender.geometry.mesh import Mesh
from unrender.ops.raster import texture
from unrender.render.asset import Asset, PbrMaterial
from unrender.runs.figures import color_picture
from unrender.runs.viewer import viewer_page
from unrender.runs.viewer_packing import coarsened, packed
from unrender.runs.viewpoint import UPRIGHT, Viewpoint, viewpoint_of
from unrender.shading.lights import EnvironmentLight, prefiltered
from unrender.shading.reflectance import directional_albedo
from unrender.transforms import look_at


def ball(resolution: int = 24) -> Mesh:
    mesh = extract_surface(lambda points: points.norm(dim=-1) - 0.7, resolution=resolution, device=torch.device("cpu"))
    return mesh.with_colors(mesh.vertices / 2 + 0.5)


class Unpacked:
    """Reads the planes in the order in which the page does."""

    def __init__(self, page: Any) -> None:
        self.data, self.at = gzip.decompress(base64.b64decode(page["data"])), 0

    def columns(self, rows: int, columns: int, width: int) -> ndarray:
        planes = []
        for _ in range(columns):
            part = np.frombuffer(self.data, np.uint8, rows * width, self.at).reshape(width, rows).astype(np.uint64)
            self.at += rows * width
            values = sum(part[byte] << np.uint64(8 * byte) for byte in range(width))
            planes.append(np.cumsum(values) % np.uint64(256**width))
        return np.stack(planes, -1)

    def in_box(self, rows: int, box: list[list[float]]) -> ndarray:
        low, high = np.array(box)
        return self.columns(rows, len(low), 2) / 65535 * (high - low) + low

    def directions(self, rows: int) -> ndarray:
        x, y = (self.columns(rows, 2, 2) / 65535 * 2 - 1).T
        z = 1 - np.abs(x) - np.abs(y)
        below = z < 0
        x, y = np.where(below, (1 - np.abs(y)) * np.copysign(1, x), x), np.where(below, (1 - np.abs(x)) * np.copysign(1, y), y)
        found = np.stack([x, y, z], -1)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def light(self, size: int) -> Tensor:
        words = self.columns(6 * size * size, 1, 4)[:, 0].astype(np.int64)
        mantissas = np.stack([words & 511, words >> 9 & 511, words >> 18 & 511], -1)
        return torch.from_numpy(mantissas * 2.0 ** ((words >> 27) - 24)[:, None]).float().reshape(6, size, size, 3)


def test_the_page_unpacks_the_mesh_it_was_given() -> None:
    mesh = ball()
    page: Any = packed(Asset(mesh), UPRIGHT, most_faces=10**6, lossless=True)
    unpacked = Unpacked(page)
    vertices = unpacked.in_box(len(mesh.vertices), page["box"])
    colors = unpacked.columns(len(mesh.vertices), 3, 1)
    faces = unpacked.columns(3 * len(mesh.faces), 1, 4).reshape(-1, 3)
    assert unpacked.at == len(unpacked.data) and not page["lit"] and page["textures"] == {}
    world = vertices @ UPRIGHT.page_from_world.numpy().astype(np.float64)
    np.testing.assert_allclose(world * 0.7, mesh.vertices.numpy(), atol=2e-3)
    np.testing.assert_array_equal(faces, mesh.faces.numpy())
    assert mesh.colors is not None
    np.testing.assert_allclose(colors / 255, mesh.colors.numpy(), atol=0.51 / 255)


def textured_square() -> Asset:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    uvs = torch.tensor([[0.0, 0], [1, 0], [1, 1.5], [0.25, 0.5], [0.5, 0.5]])
    mesh = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), uvs=uvs, uv_faces=torch.tensor([[0, 1, 2], [3, 2, 4]]))
    normal = torch.tensor([0.6, 0.0, 0.8]).expand(4, 4, 3)
    material = PbrMaterial(torch.rand(4, 4, 3), torch.rand(2, 2, 2), normal)
    return Asset(mesh.with_vertex_normals().with_tangents(), material, EnvironmentLight(torch.rand(6, 16, 16, 3) * 3))


def picture(address: str) -> ndarray:
    kind, data = address.split(";base64,")
    assert kind == "data:image/png"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_material_travels_with_one_coordinate_for_each_vertex() -> None:
    asset = textured_square()
    assert asset.material is not None and asset.material.base_color is not None and asset.mesh.uvs is not None
    page: Any = packed(asset, UPRIGHT, most_faces=1, lossless=True)
    assert page["vertices"] == 6 and page["faces"] == 2 and not page["colors"]  # the diagonal is a seam
    unpacked = Unpacked(page)
    unpacked.in_box(6, page["box"])
    places = unpacked.in_box(6, page["uvBox"])
    normals, tangents = unpacked.directions(6), unpacked.directions(6)
    handedness, faces = unpacked.columns(6, 1, 1), unpacked.columns(6, 1, 4).reshape(-1, 3)
    assert asset.mesh.uv_faces is not None and asset.mesh.tangents is not None
    np.testing.assert_allclose(places[faces], asset.mesh.uvs[asset.mesh.uv_faces].numpy(), atol=3e-5)
    world_from_page = UPRIGHT.page_from_world.numpy()
    np.testing.assert_allclose(normals @ world_from_page, np.tile([0, 0, 1.0], (6, 1)), atol=1e-4)
    stored = asset.mesh.tangents[asset.mesh.uv_faces].numpy()
    np.testing.assert_allclose((tangents @ world_from_page)[faces], stored[..., :3], atol=1e-4)
    np.testing.assert_array_equal(handedness[faces, 0] > 0, stored[..., 3] > 0)
    np.testing.assert_array_equal(picture(page["textures"]["color"]), color_picture(srgb_from_linear(asset.material.base_color)))
    assert picture(page["textures"]["normal"])[0, 0].tolist() == [204, 128, 230]
    assert picture(page["textures"]["gloss"]).shape == (2, 2, 3)
    smaller: Any = packed(asset, UPRIGHT, most_faces=1, lossless=False)
    assert smaller["textures"]["color"].startswith("data:image/jpeg")


def test_the_light_of_a_page_is_that_of_the_renderer() -> None:
    asset = textured_square()
    assert asset.environment is not None
    page: Any = packed(asset, UPRIGHT, most_faces=1, lossless=True)
    unpacked = Unpacked(page)
    unpacked.in_box(6, page["box"])
    unpacked.in_box(6, page["uvBox"])
    unpacked.columns(6, 4, 2)
    unpacked.columns(6, 1, 1)
    unpacked.columns(6, 1, 4)
    unpacked.columns(6, 4, 1)
    light = prefiltered(asset.environment)
    cubes = [unpacked.light(size) for size in page["light"]["sizes"]]
    assert tuple(page["light"]["levels"]) == light.roughness and len(cubes) == 1 + len(light.roughness)
    torch.testing.assert_close(cubes[0], light.irradiance, rtol=0.003, atol=0.004)
    directions = torch.nn.functional.normalize(torch.randn(1, 8, 8, 3), dim=-1)
    for cube, roughness in zip(cubes[1:], light.roughness, strict=True):
        seen = EnvironmentLight(cube).radiance(directions)
        torch.testing.assert_close(seen, light.blurred(directions, torch.full((1, 8, 8), roughness)), rtol=0.003, atol=0.004)
    side = page["reflectance"]
    table = torch.from_numpy(unpacked.columns(side * side, 2, 2).astype(np.uint16).view(np.float16).astype(np.float32)).view(
        1, side, side, 2
    )
    assert unpacked.at == len(unpacked.data)
    cosine, roughness = torch.rand(1, 9, 9), torch.rand(1, 9, 9)
    place = (torch.stack([cosine, roughness], -1) * (side - 1) + 0.5) / side
    found = texture(table, place, filter="linear", boundary="clamp")
    expected = torch.stack(directional_albedo(cosine, roughness), -1)
    assert (found - expected).abs().mean() < 1e-3 and (found - expected).abs().max() < 0.02
    turned = torch.tensor(page["light"]["fromPage"]).view(3, 3).T @ UPRIGHT.page_from_world
    torch.testing.assert_close(turned, torch.eye(3), atol=1e-6, rtol=0)


def test_light_of_any_strength_fits_into_shared_exponents() -> None:
    light = (torch.rand(6, 8, 8, 3) * 10.0 ** torch.linspace(-3, 4, 6)[:, None, None, None]).clamp_min(2e-4)
    page: Any = packed(Asset(replace(ball(), colors=None), environment=EnvironmentLight(light)), UPRIGHT, most_faces=10**6, lossless=True)
    assert page["lit"]
    unpacked = Unpacked(page)
    unpacked.columns(page["vertices"], 5, 2)
    unpacked.columns(3 * page["faces"], 1, 4)
    unpacked.columns(page["vertices"], 4, 1)
    unpacked.light(page["light"]["sizes"][0])
    first = unpacked.light(8)
    assert ((first - light).abs() / light.amax(-1, keepdim=True)).max() < 1 / 512


def modes_of(page: str) -> list[str]:
    return re.findall(r'data-mode="(\w+)"', page)


def test_a_page_offers_what_its_asset_has() -> None:
    colored = viewer_page(Asset(ball()), UPRIGHT, 0.0, title="a <b>")
    plain = viewer_page(Asset(replace(ball(), colors=None)), UPRIGHT, 0.0, title="plain")
    lit = viewer_page(textured_square(), UPRIGHT, 0.0, title="lit")
    assert modes_of(colored) == ["color", "normals", "shape", "wireframe"] and 'name="light"' not in colored
    assert modes_of(plain) == ["normals", "shape", "wireframe"]
    assert modes_of(lit) == ["lit", "color", "roughness", "metallic", "normals", "shape", "wireframe"] and 'name="light"' in lit
    assert "a &lt;b&gt;" in colored and "<b>" not in colored and "2 triangles, texture 4 × 4" in lit


def test_a_page_loads_nothing_and_is_hardly_larger_than_the_mesh(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    fine = unwrapped_ball()
    noisy = PbrMaterial(torch.rand(256, 256, 3, generator=generator), torch.rand(256, 256, 2, generator=generator))
    light = EnvironmentLight(torch.rand(6, 128, 128, 3, generator=generator))
    for asset in (Asset(ball(40)), Asset(fine, noisy, light), textured_square()):
        asset.export(tmp_path / "mesh.glb")
        page = viewer_page(asset, UPRIGHT, 0.0, title="page")
        assert not re.search(r"https?://|(src|href)=\"(?!data:)|import\(|fetch\(", page)
        assert "default-src 'none'" in page
        assert len(page.encode()) <= 1.5 * (tmp_path / "mesh.glb").stat().st_size + 200_000


def unwrapped_ball() -> Mesh:
    """Return a ball whose texture coordinates are its directions."""
    mesh = ball(24)
    return replace(mesh, colors=None, uvs=mesh.vertices[:, :2] / 1.5 + 0.5, uv_faces=mesh.faces)


def test_a_coarsened_mesh_keeps_its_shape_within_a_cell() -> None:
    mesh = ball(64)
    coarse = coarsened(mesh, 2000)
    assert 500 < len(coarse.faces) <= 2000 < len(mesh.faces)
    assert abs(coarse.vertices.norm(dim=-1) - 0.7).max() < 0.03
    assert coarse.colors is not None
    torch.testing.assert_close(coarse.colors, coarse.vertices / 2 + 0.5, atol=1e-5, rtol=0)
    assert coarsened(mesh, len(mesh.faces)) is mesh


def seen_from(azimuths: list[float], up: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Capture:
    """Return a capture whose cameras stand around the axis ``up``, 30° above the horizon."""
    frame = Viewpoint.along(torch.tensor(up), torch.tensor([1.0, 0.3, 0.1]))
    positions = torch.stack([3 * frame.direction(azimuth, 30.0) for azimuth in azimuths])
    poses = torch.stack([look_at(position, torch.zeros(3), torch.tensor(up)) for position in positions])
    cameras = Cameras.alike(poses, torch.tensor([[20.0, 20.0, 8.0, 8.0]]).expand(len(poses), 4).clone(), None, 16, 16)
    return Capture.from_tensors(torch.zeros(len(poses), 16, 16, 3, dtype=torch.uint8), cameras)


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (0.6, 0.0, -0.8)])
def test_one_sided_photos_are_seen_from_their_middle(up: tuple[float, float, float]) -> None:
    viewpoint, azimuths = viewpoint_of(seen_from([-40.0, -10.0, 10.0, 40.0], up), up)
    expected = Viewpoint.along(torch.tensor(up), torch.tensor([1.0, 0.3, 0.1]))
    torch.testing.assert_close(viewpoint.up, expected.up)
    torch.testing.assert_close(viewpoint.front, expected.front, atol=1e-5, rtol=0)
    assert max(map(abs, azimuths)) < 90


def test_photos_from_all_sides_are_seen_from_the_first() -> None:
    capture = seen_from([0.0, 90.0, 180.0, 270.0])
    up = (0.0, 0.0, 1.0)
    viewpoint, azimuths = viewpoint_of(replace(capture, split=replace(capture.split, train=(1, 2, 3), test=(0,))), up)
    assert float(viewpoint.front @ Viewpoint.along(torch.tensor(up), torch.tensor([1.0, 0.3, 0.1])).front) > 0.999
    assert azimuths[1] - azimuths[0] == 180.0


def test_a_viewpoint_looks_along_its_front_and_turns_to_the_right() -> None:
    viewpoint = Viewpoint.along(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 2.0]))
    assert viewpoint.direction(0.0, 0.0).tolist() == pytest.approx([0.0, 0.0, 1.0])
    assert viewpoint.direction(90.0, 0.0).tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    assert viewpoint.direction(0.0, 90.0).tolist() == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)
    assert float(torch.linalg.det(viewpoint.page_from_world)) == pytest.approx(1.0)
    straight_above = Viewpoint.along(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 5.0]))
    assert abs(float(straight_above.front @ straight_above.up)) < 1e-6
