"""Locked parts stay as they are given, and the others are recovered: the textures of a known ball, and the light around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from lit_ball import RADIUS, ball, cameras_around, mapped_ball, photographed, sky, stripes
from tiny_captures import BALL, write_blender
from unrender.captures.capture import Capture
from unrender.captures.upright import upward_direction
from unrender.cli.fit_options import help_groups
from unrender.cli.program import main
from unrender.geometry.mesh import Mesh
from unrender.recipes import mesh_pbr
from unrender.recipes.fitting import FitResult, Fitting, Progress
from unrender.recipes.inputs import FittedRun
from unrender.recipes.mesh_pbr.config import Materials, Part
from unrender.recipes.settings import override
from unrender.recipes.table import recipes
from unrender.render.asset import Asset, PbrMaterial, read_asset
from unrender.render.lit import LitScene
from unrender.render.surface import surface_in_texture
from unrender.runs.inputs import read_input
from unrender.runs.read_options import StartOptions
from unrender.shading.latlong import latlong_from_cube, write_environment
from unrender.shading.lights import prefiltered
from unrender.transforms import upright

CPU = torch.device("cpu")
TINY = {
    "levels": 4, "log2_entries": 10, "finest_resolution": 32, "texture_size": 32, "window": 40, "light_size": 8, "faces": 400, "steps": 6,
}  # fmt: skip
MATERIAL = override(mesh_pbr.MATERIAL_PRESETS["cpu"], **TINY)
LIGHT = override(mesh_pbr.LIGHT_PRESETS["cpu"], **TINY)


@pytest.fixture(scope="module")
def truth() -> Asset:
    return Asset(mapped_ball(), stripes(), sky())


@pytest.fixture(scope="module")
def capture(truth: Asset) -> Capture:
    return photographed(truth, cameras_around(16))


def fitted(capture: Capture, given: Asset, config: mesh_pbr.MeshPbrConfig) -> FitResult:
    run = FittedRun("given", "mesh", LitScene(given), capture, "given")
    return mesh_pbr.fit(run, config, device=CPU, seed=1)


def same_shape(found: Mesh, given: Mesh) -> bool:
    assert found.uvs is not None and given.uvs is not None and found.uv_faces is not None and given.uv_faces is not None
    corners = torch.equal(found.uvs[found.uv_faces.long()], given.uvs[given.uv_faces.long()])
    return corners and torch.equal(found.vertices, given.vertices) and torch.equal(found.faces.long(), given.faces.long())


def same_material(found: PbrMaterial | None, given: PbrMaterial) -> bool:
    assert found is not None and found.base_color is not None and found.roughness_metallic is not None
    assert given.base_color is not None and given.roughness_metallic is not None
    return torch.equal(found.base_color, given.base_color) and torch.equal(found.roughness_metallic, given.roughness_metallic)


def test_the_light_around_a_known_ball_is_recovered(capture: Capture, truth: Asset) -> None:
    found = fitted(capture, replace(truth, environment=None), override(LIGHT, steps=100)).asset(frame="normalized")
    assert found.environment is not None and truth.environment is not None and truth.material is not None
    assert same_shape(found.mesh, truth.mesh) and same_material(found.material, truth.material)
    light, expected = found.environment.texels, truth.environment.texels
    assert float((light - expected).abs().mean() / expected.mean()) < 0.03
    cast, wanted = prefiltered(found.environment).irradiance, prefiltered(truth.environment).irradiance
    assert float(((cast - wanted).abs() / wanted).max()) < 0.02
    assert float((0.7 - expected).abs().mean() / expected.mean()) > 0.5, "the start was far from it"


def test_the_textures_of_a_known_ball_under_a_known_light_are_recovered(capture: Capture, truth: Asset) -> None:
    found = fitted(capture, replace(truth, material=None), override(MATERIAL, steps=160)).asset(frame="normalized")
    assert found.environment is not None and truth.environment is not None and found.material is not None and truth.material is not None
    assert same_shape(found.mesh, truth.mesh) and torch.equal(found.environment.texels, truth.environment.texels)
    seen = surface_in_texture(found.mesh, (32, 32)).covered[0]
    assert found.material.base_color is not None and truth.material.base_color is not None
    off = (found.material.base_color - truth.material.base_color)[seen].abs()
    assert float(off.mean()) < 0.03 and float((0.5 - truth.material.base_color)[seen].abs().mean()) > 0.2


@pytest.mark.parametrize("lock", [("light",), ("shape",), ("material",), ("shape", "light"), ("shape", "material"), ("material", "light")])
def test_what_is_locked_ends_bit_equal_and_what_is_not_moves(lock: tuple[Part, ...], capture: Capture, truth: Asset) -> None:
    assert truth.material is not None and truth.environment is not None
    plain = PbrMaterial(torch.full((32, 32, 3), 0.5), torch.full((32, 32, 2), 0.5))
    start = truth if "material" in lock else replace(truth, material=plain)
    found = fitted(capture, start, replace(MATERIAL, lock=lock)).asset(frame="normalized")
    assert start.material is not None and found.environment is not None
    assert same_material(found.material, start.material) == ("material" in lock)
    assert torch.equal(found.environment.texels, truth.environment.texels) == ("light" in lock)
    if "shape" in lock:
        assert same_shape(found.mesh, truth.mesh)
    else:
        assert found.mesh.vertices.shape == truth.mesh.vertices.shape and not torch.equal(found.mesh.vertices, truth.mesh.vertices)


def test_a_known_light_helps_a_lattice_too(capture: Capture, truth: Asset) -> None:
    """Without a mesh the shape begins from the masks."""
    given = FittedRun("ball", "capture", LitScene(Asset.empty()), capture, "given", environment=truth.environment)
    config = override(mesh_pbr.MeshPbrConfig(shape=mesh_pbr.Cubes(resolution=8), lock=("light",)), **TINY)
    found = mesh_pbr.fit(given, config, device=CPU, seed=1)
    light = found.asset(frame="normalized").environment
    assert light is not None and truth.environment is not None and torch.equal(light.texels, truth.environment.texels)
    assert [line.phase for line in found.history][-1] == "textures" and not found.mesh().is_empty


@pytest.mark.parametrize("name", ["material", "light"])
def test_a_resumed_fit_with_locked_parts_ends_bit_equal(name: str, capture: Capture, truth: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrender.recipes.mesh_pbr.loop.Fitting", partial(Fitting, report_every=0.0))
    config = MATERIAL if name == "material" else LIGHT
    given = replace(truth, material=None) if name == "material" else replace(truth, environment=None)
    run = FittedRun("given", "mesh", LitScene(given), capture, "given")
    kept: list[dict[str, torch.Tensor]] = []

    def watch(progress: Progress) -> None:
        if progress.step in (2, 5):
            kept.append(progress.snapshot())

    whole = mesh_pbr.fit(run, config, device=CPU, seed=1, observer=watch)
    for snapshot in kept:
        rebuilt = mesh_pbr.load_scene(config, snapshot, CPU)
        assert rebuilt.render_view(capture.cameras, 0).color.shape == (40, 40, 3)
        resumed = mesh_pbr.fit(run, config, device=CPU, seed=1, resume=snapshot)
        for key, value in whole.scene.state_dict().items():
            assert torch.equal(value, resumed.scene.state_dict()[key]), key


def without_uvs(asset: Asset) -> Asset:
    return replace(asset, mesh=ball(), environment=None)


def repeated(asset: Asset) -> Asset:
    assert asset.mesh.uvs is not None
    return replace(asset, mesh=replace(asset.mesh, uvs=2 * asset.mesh.uvs))


@pytest.mark.parametrize(
    ("change", "config", "sentence"),
    [
        (lambda asset: replace(asset, material=None), LIGHT, r"the material is locked, and ball comes without one.*--mesh FILE"),
        (lambda asset: Asset.empty(), MATERIAL, r"the shape is locked, and ball comes without one.*--mesh FILE"),
        (without_uvs, LIGHT, r"has textures and no texture coordinates"),
        (repeated, LIGHT, r"texture coordinates beyond \[0, 1\]"),
        (lambda asset: asset, replace(LIGHT, lock=("shape", "material", "light")), r"nothing is left to fit"),
    ],
)
def test_what_cannot_be_locked_is_one_sentence(
    change: Callable[[Asset], Asset], config: mesh_pbr.MeshPbrConfig, sentence: str, capture: Capture, truth: Asset
) -> None:
    with pytest.raises(ValueError, match=sentence) as error:
        fitted(capture, change(truth), config)
    assert "\n" not in str(error.value)


def test_a_mesh_and_a_light_are_read_in_the_axes_of_the_photos(tmp_path: Path, truth: Asset) -> None:
    assert truth.environment is not None
    write_environment(tmp_path / "sky.hdr", truth.environment, torch.eye(4), 64)
    move = torch.eye(4)
    move[:3, 3] = torch.from_numpy(BALL)
    truth.transformed(move).export(tmp_path / "ball.glb")
    folder, recipe = write_blender(tmp_path / "photos"), recipes()["light"]
    options = StartOptions(mesh=tmp_path / "ball.glb", env=tmp_path / "sky.hdr")
    given = read_input(recipe, recipe.presets["cpu"], folder, options, recipes=recipes(), device=CPU).input
    assert isinstance(given, FittedRun) and given.environment is not None and given.scene.asset().material is not None
    back = given.scene.asset().transformed(given.capture.source_from_world).mesh.vertices
    torch.testing.assert_close((back - move[:3, 3]).norm(dim=-1), torch.full((len(back),), RADIUS), atol=1e-4, rtol=0)
    axes = upright(given.capture.source_from_world, upward_direction(given.capture))
    seen = latlong_from_cube(given.environment.texels, 32, axes)
    assert float((seen - latlong_from_cube(truth.environment.texels, 32)).abs().mean()) < 0.02
    with pytest.raises(ValueError, match=r"none.hdr is not there"):
        read_input(recipe, recipe.presets["cpu"], folder, StartOptions(env=tmp_path / "none.hdr"), recipes=recipes(), device=CPU)


def test_a_mesh_of_one_color_is_a_known_material(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, mesh, recipe = write_blender(tmp_path / "photos"), tmp_path / "ball.obj", recipes()["light"]
    vertices, faces = ball(8).vertices * 0.5 / RADIUS + torch.from_numpy(BALL).float(), ball(8).faces + 1
    rows = [*(f"v {x} {y} {z}" for x, y, z in vertices.tolist()), "usemtl red", *(f"f {a} {b} {c}" for a, b, c in faces.tolist())]
    mesh.write_text("\n".join(["mtllib ball.mtl", *rows]))
    (tmp_path / "ball.mtl").write_text("newmtl red\nKd 0.6 0.1 0.1\nPr 0.5\n")
    given = read_input(recipe, recipe.presets["cpu"], folder, StartOptions(mesh=mesh), recipes=recipes(), device=CPU).input
    found = mesh_pbr.fit(given, LIGHT, device=CPU, seed=1).asset()
    found.export(tmp_path / "found.glb")
    again = read_asset(tmp_path / "found.glb")
    assert again.material is not None and again.material.roughness == 0.5 and again.material.base_color is not None
    torch.testing.assert_close(again.material.base_color.mean((0, 1)), torch.tensor([0.6, 0.1, 0.1]), atol=0.01, rtol=0)
    fit = ["fit", "light", str(folder), "--out", str(tmp_path / "run"), "--device", "cpu", "--steps", "2"]
    assert main([*fit, "--lock", "shape", "lihgt"]) == 2 and "--lock is 'shape lihgt'" in capfd.readouterr().err
    assert main(fit) == 1 and "the shape is locked, and photos comes without one" in capfd.readouterr().err


OTHER: dict[str, object] = {
    "shape": mesh_pbr.Tetrahedra(5), "first_mask_l1": 3.0, "sign_changes": 9.0, "deviation": 9.0, "laplacian": 7.0,
    "laplacian_of": "positions", "position_rate": 0.5, "distance_rate": 0.5, "shape_betas": (0.1, 0.1),
    "first_share": 0.2, "light_first": 0.9, "faces": 9, "materials": Materials(texture_size=16), "layers": 3, "mask": 40.0,
    "smooth": 4.0, "smooth_gloss": 4.0, "few_colors": 4.0, "keep_to": "neighbors", "keep": 4.0, "keep_gloss": 4.0,
    "texture_rate": 0.9, "first_warm_up": 0.9,
}  # fmt: skip


@pytest.mark.parametrize(("name", "config"), [("material", MATERIAL), ("light", LIGHT)])
def test_settings_that_help_pages_leave_out_do_nothing(name: str, config: mesh_pbr.MeshPbrConfig, capture: Capture, truth: Asset) -> None:
    recipe = recipes()[name]
    listed = {option.path[-1] for group in help_groups(recipe, config, everything=True)[0] for option in group.options}
    assert listed.isdisjoint(recipe.idle) and {"light_rate", "white_light"} <= listed
    given = truth if name == "light" else Asset(truth.mesh, environment=truth.environment)
    first, second = (fitted(capture, given, some) for some in (config, override(config, **{key: OTHER[key] for key in recipe.idle})))
    assert torch.equal(first.scene.render_view(capture.cameras, 0).color, second.scene.render_view(capture.cameras, 0).color)
