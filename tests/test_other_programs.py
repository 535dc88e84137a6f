"""What we export, with the eyes of other programs: Khronos' validator, trimesh, three.js, and our own page in a browser."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from jaxtyping import Float
from numpy import ndarray
from scipy.ndimage import binary_erosion
from torch import Tensor

import unrender
from benchmark_programs import benchmark
from browser import npm_packages, seen_by_chromium, served
from lit_ball import cameras_around, mapped_ball, photographed, sky, stripes
from unrender.cameras import Cameras
from unrender.color import srgb_from_linear
from unrender.geometry.isosurface import extract_surface
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.geometry.unwrapping import unwrapped
from unrender.numerics import normalized
from unrender.recipes.inputs import FittedRun
from unrender.render.asset import Asset, PbrMaterial, read_asset
from unrender.render.lit import LitScene, material_of
from unrender.render.surface import render_surface
from unrender.runs.outputs import write_light
from unrender.runs.viewer import viewer_page
from unrender.runs.viewpoint import ELEVATION, UPRIGHT
from unrender.shading.cubes import cube_directions
from unrender.shading.latlong import write_environment
from unrender.shading.lights import EnvironmentLight, prefiltered
from unrender.shading.materials import Unlit, VertexColor
from unrender.transforms import look_at, rotation_between, similarity

VALIDATOR = "gltf-validator@2.0.0-dev.3.10"
THREE = "three@0.187.0"
GLTF_FROM_Z_UP = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
OPENGL_FROM_OPENCV = torch.diag(torch.tensor([1.0, -1, -1, 1]))


def knob(bumps: float) -> Mesh:
    """Return a ball with bumps, unwrapped, in a world with +Z up."""

    def distance(points: Tensor) -> Tensor:
        return points.norm(dim=-1) - 0.6 - bumps * (9 * points).sin().prod(-1)

    mesh = extract_surface(distance, resolution=32, device=torch.device("cpu")).simplified(1500)
    return unwrapped(mesh, resolution=256).with_vertex_normals().with_tangents()


def sunset(size: int = 32) -> EnvironmentLight:
    """Return a bright and warm window on one side, and a dim and blue rest."""
    directions = normalized(cube_directions(size))
    window = ((directions @ normalized(torch.tensor([0.6, 0.5, 0.6])) - 0.85) * 8).clamp(0, 1)[..., None]
    sky = 0.5 + 0.5 * directions[..., 2:]
    return EnvironmentLight(window * torch.tensor([6.0, 4.5, 3.0]) + sky * torch.tensor([0.2, 0.3, 0.5]) + 0.05)


def material() -> PbrMaterial:
    """Return smooth textures: a color, from matte to shiny, half metal, with waves."""
    place = torch.linspace(0, 1, 256)
    v, u = torch.meshgrid(place, place, indexing="ij")
    color = torch.stack([0.2 + 0.6 * u, 0.7 - 0.4 * v, 0.3 + 0.3 * (12 * u).sin() * (12 * v).sin()], -1)
    gloss = torch.stack([0.25 + 0.6 * v, 0.5 + 0.5 * (9 * u).sin()], -1)
    normal = normalized(torch.stack([0.25 * (40 * u).sin(), 0.25 * (40 * v).sin(), torch.ones_like(u)], -1))
    return PbrMaterial(color, gloss, normal)


@pytest.fixture(scope="module")
def shiny(tmp_path_factory: pytest.TempPathFactory) -> Asset:
    """An asset as it comes from its GLB, with textures of 8 bits."""
    file = tmp_path_factory.mktemp("shiny") / "shiny.glb"
    Asset(knob(0.05), material()).export(file)
    return replace(read_asset(file), environment=sunset())


def colored() -> Asset:
    """Return an asset as `neus` exports it."""
    mesh = extract_surface(lambda points: points.norm(dim=-1) - 0.6, resolution=16, device=torch.device("cpu"))
    return Asset(mesh.with_colors(mesh.vertices / 2 + 0.5))


def avocado(folder: Path) -> Asset:
    """Return the avocado of glTF's samples under the light of a studio."""
    asset = read_asset(folder / "avocado_512" / "avocado.gltf")
    return benchmark("lit_assets").lit(asset, folder / "hdri" / "studio_small_03_1k.hdr")


def camera(side: int) -> Cameras:
    pose = look_at(torch.tensor([1.9, 1.3, 1.1]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Cameras.alike(pose[None], torch.tensor([[1.3 * side, 1.3 * side, side / 2, side / 2]]), None, side, side)


def test_trimesh_sees_the_bounds_and_textures(shiny: Asset, tmp_path: Path) -> None:
    shiny.export(tmp_path / "shiny.glb")
    scene = trimesh.load_scene(tmp_path / "shiny.glb")
    corners = torch.nn.functional.pad(shiny.mesh.vertices, (0, 1), value=1.0) @ GLTF_FROM_Z_UP.T
    np.testing.assert_allclose(scene.bounds, torch.stack([corners[:, :3].amin(0), corners[:, :3].amax(0)]).numpy(), atol=1e-5)
    (found,) = scene.geometry.values()
    visual: Any = found.visual
    assert visual.material.baseColorTexture.size == (256, 256) and len(visual.uv) == len(found.vertices)


def issues_of(file: Path) -> list[str]:
    """Return the errors and warnings of Khronos' validator."""
    script = (
        'const fs = require("fs"); require("gltf-validator").validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))'
        ".then((report) => console.log(JSON.stringify(report.issues)))"
    )
    modules = npm_packages(VALIDATOR)
    done = subprocess.run(["node", "-e", script, str(file.resolve())], cwd=modules.parent, capture_output=True, text=True, check=True)
    return [f"{issue['code']} {issue['message']}" for issue in json.loads(done.stdout)["messages"] if issue["severity"] < 2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["colored", "plain", "shiny", "far away", "opacity"])
def test_khronos_finds_no_errors_and_no_warnings(kind: str, shiny: Asset, tmp_path: Path) -> None:
    assert shiny.material is not None and shiny.material.base_color is not None
    clear = torch.cat([shiny.material.base_color, torch.full((256, 256, 1), 0.5)], -1)
    far = torch.eye(4, dtype=torch.float64)
    far[:3, 3] = torch.tensor([431_000.25, 5_411_878.5, 200.0])
    asset = {
        "colored": colored(),
        "plain": Asset(replace(colored().mesh, colors=None)),
        "shiny": shiny,
        "far away": colored().transformed(far),
        "opacity": replace(shiny, material=replace(shiny.material, base_color=clear)),
    }[kind]
    asset.export(tmp_path / "asset.glb")
    assert issues_of(tmp_path / "asset.glb") == []


@pytest.mark.slow
@pytest.mark.data
def test_khronos_finds_no_errors_and_no_warnings_in_the_avocado(data_dir: Path, tmp_path: Path) -> None:
    avocado(data_dir).export(tmp_path / "avocado.glb")
    assert issues_of(tmp_path / "avocado.glb") == []


PAGE = """<!doctype html><meta charset="utf-8"><style>body { margin: 0 } canvas { display: block }</style><canvas></canvas>
<script type="importmap">{"imports": {"three": "/three/build/three.module.js", "addons/": "/three/examples/jsm/"}}</script>
<script type="module">
import * as three from "three";
import { GLTFLoader } from "addons/loaders/GLTFLoader.js";
import { HDRLoader } from "addons/loaders/HDRLoader.js";
const given = GIVEN, renderer = new three.WebGLRenderer({ canvas: document.querySelector("canvas"), antialias: true });
renderer.setSize(given.side, given.side);
renderer.toneMapping = three.NoToneMapping;
const scene = new three.Scene(), camera = new three.Camera();
camera.projectionMatrix.fromArray(given.projection);
camera.projectionMatrixInverse.copy(camera.projectionMatrix).invert();
scene.background = new three.Color(0);
camera.matrixAutoUpdate = false;
camera.matrix.fromArray(given.matrix);
camera.updateMatrixWorld(true);
const [asset, light] = await Promise.all([new GLTFLoader().loadAsync("/asset.glb"), new HDRLoader().loadAsync("/light.hdr")]);
light.mapping = three.EquirectangularReflectionMapping;
scene.environment = light;
scene.add(asset.scene);
renderer.render(scene, camera);
</script>"""


def seen_by_three(asset: Asset, view: Cameras, folder: Path) -> ndarray:
    """Return the picture that three.js renders of an asset with +Z up and its light, over black."""
    assert asset.environment is not None
    asset.export(folder / "asset.glb")
    write_environment(folder / "light.hdr", asset.environment, torch.eye(4), 256)
    return files_seen_by_three(folder, view, GLTF_FROM_Z_UP)


def files_seen_by_three(folder: Path, view: Cameras, gltf_from_world: Float[Tensor, "4 4"]) -> ndarray:
    """Return the picture that three.js renders of ``asset.glb`` and ``light.hdr`` in a folder, over black.

    Args:
        folder: of the files.
        view: a camera in the world.
        gltf_from_world: a similarity to the axes of the file.
    """
    modules = npm_packages(THREE)
    (folder / "three").symlink_to(modules / "three")
    pose = gltf_from_world @ view.world_from_camera[0] @ OPENGL_FROM_OPENCV
    scale = float(pose[:3, :3].det().abs() ** (1 / 3))
    pose[:3, :3] /= scale
    up_first = torch.diag(torch.tensor([1.0, -1, 1, 1]))  # clip space of a raster has its first row on top, with y = -1
    projection = up_first @ view.clip_from_camera(0.05 * scale, 50 * scale)[0] @ OPENGL_FROM_OPENCV
    given = {"side": view.height, "projection": projection.T.flatten().tolist(), "matrix": pose.T.flatten().tolist()}
    (folder / "index.html").write_text(PAGE.replace("GIVEN", json.dumps(given)), encoding="utf-8")
    with served(folder) as address:
        picture, console = seen_by_chromium(f"{address}/index.html", view.height, view.height, folder)
    assert [line for line in console if "favicon" not in line] == []
    return picture


def rendered(asset: Asset, view: Cameras) -> tuple[ndarray, ndarray]:
    """Return our picture over black, and which pixels lie well inside of the surface."""
    seen = LitScene(asset).render_view(view, 0)
    return seen.srgb.clamp(0, 1).double().numpy(), binary_erosion(seen.opacity.numpy() > 0.999, iterations=2)


def without_shadows(asset: Asset, view: Cameras) -> ndarray:
    """Return our picture over black with the split sum alone, as other programs compute it."""
    assert asset.material is not None and asset.environment is not None
    lights = [prefiltered(asset.environment)]
    seen = render_surface(asset.mesh, material_of(asset.material), lights, view, depth_range=(0.05, 50.0))
    return srgb_from_linear(seen.color[0].clamp(0, 1)).double().numpy()


def decibels(ours: ndarray, theirs: ndarray, inside: ndarray) -> float:
    return float(-10 * np.log10(np.square(ours - theirs)[inside].mean()))


@pytest.mark.slow
def test_three_renders_our_glb_as_we_do(shiny: Asset, tmp_path: Path) -> None:
    """It blurs the light by a limited number of samples, and adds the light of further reflections to rough metals."""
    view = camera(256)
    _, inside = rendered(shiny, view)
    assert decibels(without_shadows(shiny, view), seen_by_three(shiny, view, tmp_path), inside) > 32.7


@pytest.mark.slow
@pytest.mark.data
def test_three_renders_the_avocado_as_we_do(data_dir: Path, tmp_path: Path) -> None:
    asset, view = avocado(data_dir), camera(256)
    _, inside = rendered(asset, view)
    assert decibels(without_shadows(asset, view), seen_by_three(asset, view, tmp_path), inside) > 35.6


@pytest.mark.slow
def test_three_renders_the_files_of_a_fit_from_its_own_cameras_as_we_do(tmp_path: Path) -> None:
    """The frame of the poses is scaled, moved and tilted, and the principal point is not in the middle of the photos."""
    up = normalized(torch.tensor([0.3, -0.8, 0.4]))
    source_from_world = similarity(torch.tensor([5.0, -2.0, 1.0]), 2.5, rotation_between(torch.tensor([0.0, 0, 1]), up)).double()
    shifted = cameras_around(8, side=256)
    shifted = replace(shifted, intrinsics=shifted.intrinsics + torch.tensor([0.0, 0.0, 15.0, -10.0]))
    capture = replace(
        photographed(Asset(mapped_ball(24), stripes(), sky()), shifted), source_from_world=source_from_world, up=tuple(up.tolist())
    )
    given = FittedRun("given", "mesh", LitScene(Asset(mapped_ball(24))), capture, "given")
    small = {"levels": 4, "log2_entries": 12, "finest_resolution": 64, "texture_size": 128, "light_size": 16}
    result = unrender.fit("material", given, steps=30, settings=small, device="cpu")
    made = result.asset()
    assert made.environment is not None
    made.export(tmp_path / "asset.glb")
    write_light(tmp_path / "light.hdr", made.environment, source_from_world, result.up)
    written = read_mesh(tmp_path / "asset.glb", own_axes=True)
    gltf_from_source = torch.eye(4).double()
    gltf_from_source[:3, :3] = GLTF_FROM_Z_UP[:3, :3].double() @ rotation_between(up.double(), torch.tensor([0.0, 0, 1]).double())
    gltf_from_world = gltf_from_source @ source_from_world
    expected = result.mesh(frame="normalized").transformed(gltf_from_world)
    torch.testing.assert_close(written.bounding_box.double(), expected.bounding_box.double(), atol=1e-4, rtol=1e-4)
    asset, view = result.asset(frame="normalized"), capture.cameras[3]
    _, inside = rendered(asset, view)
    assert inside.mean() > 0.1
    assert decibels(without_shadows(asset, view), files_seen_by_three(tmp_path, view, gltf_from_world.float()), inside) > 28


def wall(up: bool) -> Asset:
    """Return a wall that faces +X whose normal map tilts up, towards the top of the image, lit from above or from below."""
    corners = torch.tensor([[0.0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    uvs = torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]])
    mesh = Mesh(corners, faces, uvs=uvs, uv_faces=faces).with_vertex_normals().with_tangents()
    tilted = torch.tensor([0.0, 0.6, 0.8]).expand(4, 4, 3)
    light = torch.zeros(6, 16, 16, 3)
    light[4 if up else 5] = 1.0  # the faces of +Z and -Z
    return Asset(mesh, PbrMaterial(torch.full((4, 4, 3), 0.5), normal=tilted), EnvironmentLight(light))


def middle(picture: ndarray) -> float:
    height, width = picture.shape[:2]
    return float(picture[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4].mean())


def in_front(side: int) -> Cameras:
    pose = look_at(torch.tensor([3.0, 0.0, 0.0]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Cameras.alike(pose[None], torch.tensor([[side, side, side / 2, side / 2]]).float(), None, side, side)


def test_a_normal_that_points_up_is_lit_from_above() -> None:
    above, below = (middle(rendered(wall(up), in_front(64))[0]) for up in (True, False))
    assert above > 2 * below


@pytest.mark.slow
def test_three_lights_a_normal_that_points_up_from_above(tmp_path: Path) -> None:
    for up in (True, False):
        folder = tmp_path / str(up)
        folder.mkdir()
        ours, theirs = (middle(picture) for picture in (rendered(wall(up), in_front(64))[0], seen_by_three(wall(up), in_front(64), folder)))
        assert theirs == pytest.approx(ours, abs=0.04)


def seen_in_page(asset: Asset, folder: Path, side: int, hash: str) -> ndarray:
    """Return the canvas of the page of an asset, of which nothing but the canvas is left."""
    hidden = "header, .controls, .viewer > img { display: none !important } .viewer canvas { background: black !important }</style>"
    page = viewer_page(asset, UPRIGHT, 0.0, title="asset").replace("</style>", hidden, 1)
    (folder / "page.html").write_text(page, encoding="utf-8")
    picture, console = seen_by_chromium(f"{(folder / 'page.html').as_uri()}#{hash}", side, side, folder)
    assert console == []
    return picture


def first_view(asset: Asset, side: int) -> Cameras:
    """Return the camera of the page."""
    vertices = asset.mesh.vertices.double() @ UPRIGHT.page_from_world.double().T
    center = (vertices.amin(0) + vertices.amax(0)) / 2
    radius = (vertices - center).norm(dim=1).max()
    elevation = math.radians(ELEVATION)
    eye = center + 4 * radius * torch.tensor([0.0, math.sin(elevation), math.cos(elevation)], dtype=torch.float64)
    eye, target = ((point @ UPRIGHT.page_from_world.double()).float() for point in (eye, center))
    focal = 0.97 * 4 * side / 2
    return Cameras.alike(look_at(eye, target, UPRIGHT.up)[None], torch.tensor([[focal, focal, side / 2, side / 2]]), None, side, side)


@pytest.mark.slow
def test_the_page_shows_what_the_renderer_renders(shiny: Asset, tmp_path: Path) -> None:
    side = 500  # the narrowest window of the browser
    ours, inside = rendered(shiny, first_view(shiny, side))
    assert inside.mean() > 0.2
    assert decibels(ours, seen_in_page(shiny, tmp_path, side, ""), inside) > 45


@pytest.mark.slow
def test_the_light_of_the_page_turns_about_the_upward_direction(tmp_path: Path) -> None:
    """A ball, which casts no shadow on itself."""
    asset = Asset(knob(0.0), material(), sunset())
    turned, view = replace(asset, environment=EnvironmentLight(quarter_turned(asset))), first_view(asset, 500)
    ours, inside = rendered(turned, view)
    assert decibels(ours, seen_in_page(asset, tmp_path, 500, "light=90"), inside) > 40


def quarter_turned(asset: Asset) -> Tensor:
    """Return the light of an asset, turned by 90 degrees about +Z, counterclockwise seen from above."""
    assert asset.environment is not None
    x, y, z = cube_directions(asset.environment.texels.shape[1]).unbind(-1)
    return asset.environment.radiance(torch.stack([y, -x, z], -1))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["color", "roughness", "metallic", "normals", "shape", "wireframe", "lit&background=1"])
def test_every_view_of_the_page_shows_the_surface(mode: str, shiny: Asset, tmp_path: Path) -> None:
    _, inside = rendered(shiny, first_view(shiny, 500))
    picture = seen_in_page(shiny, tmp_path, 500, f"mode={mode}")
    assert picture[inside].mean() > 0.1 and picture[inside].std() > 0.02
    assert (picture[~inside].mean() < 0.05) == ("background" not in mode)


@pytest.mark.slow
def test_colors_that_have_the_light_in_them_are_shown_as_they_are(tmp_path: Path) -> None:
    asset, view = colored(), first_view(colored(), 500)
    picture = seen_in_page(asset, tmp_path, 500, "")
    seen = render_surface(asset.mesh, Unlit(VertexColor()), [], view, depth_range=(0.1, 10.0))
    inside = binary_erosion(seen.opacity[0].numpy() > 0.999, iterations=2)
    assert decibels(seen.srgb[0].double().numpy(), picture, inside) > 45
