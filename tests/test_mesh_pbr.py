"""Shape, material and light together: on photos of a ball that our own renderer made, which the fit must explain again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from lit_ball import RADIUS, ball, cameras_around
from unrender.captures.capture import Capture, CaptureError, Split
from unrender.color import srgb_from_linear
from unrender.fields.pose_corrections import PoseCorrections
from unrender.geometry.mesh import Mesh
from unrender.recipes import deform, mesh_pbr
from unrender.recipes.fitting import FitResult, Fitting, Progress
from unrender.recipes.inputs import FittedRun
from unrender.recipes.mesh_pbr.scene import MeshPbrScene, scene_in_space
from unrender.recipes.mesh_pbr.shapes import MeshShape, TetrahedralShape
from unrender.recipes.settings import override
from unrender.recipes.windows import WindowSampler
from unrender.render.asset import Asset
from unrender.render.lit import LitScene
from unrender.render.refined_poses import refined
from unrender.render.surface import render_surface
from unrender.runs.evaluation import evaluate
from unrender.shading.lights import AmbientLight, DirectionalLight
from unrender.shading.materials import Lambert, Uniform

CPU = torch.device("cpu")
COLOR = torch.tensor([0.7, 0.35, 0.2])
SMALL = override(
    mesh_pbr.MeshPbrConfig(shape=mesh_pbr.Tetrahedra(resolution=10)), steps=8, levels=4, log2_entries=10, finest_resolution=32,
    texture_size=64, window=40, light_size=8, faces=400, first_share=0.5, light_first=0.2,
)  # fmt: skip


@pytest.fixture(scope="module")
def capture() -> Capture:
    """Sixteen photos of the ball, lit from above and a little from everywhere, with masks; two are held out."""
    cameras = cameras_around(16)
    lights = [AmbientLight(torch.full((3,), 0.3)), DirectionalLight(torch.tensor([0.3, 0.1, 1.0]), torch.full((3,), 0.8))]
    seen = render_surface(ball(24).with_vertex_normals(), Lambert(Uniform(COLOR)), lights, cameras, samples=2)
    color = srgb_from_linear((seen.color / seen.opacity.clamp_min(1e-3)[..., None]).clamp(0, 1))
    images = (color * 255).round().to(torch.uint8)
    masks = (seen.opacity * 255).round().to(torch.uint8)
    split = Split(tuple(view for view in range(16) if view % 8 != 3), (3, 11), "views 3 and 11 are held out")
    return Capture.from_tensors(images, cameras, masks=masks, split=split, name="ball", fingerprint="ball")


def begun(capture: Capture, mesh: Mesh) -> FittedRun:
    """A run that goes on from a mesh."""
    return FittedRun("given", "mesh", LitScene(Asset(mesh)), capture, "given")


def fitted(given: Capture | FittedRun, config: mesh_pbr.MeshPbrConfig) -> FitResult:
    return mesh_pbr.fit(given, config, device=CPU, seed=1)


@pytest.mark.parametrize("stop_at", [2, 6])
@pytest.mark.parametrize("start", ["tets", "cubes", "mesh"])
def test_a_fit_resumed_in_either_pass_ends_bit_equal(start: str, stop_at: int, capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrender.recipes.mesh_pbr.loop.Fitting", partial(Fitting, report_every=0.0))
    given = begun(capture, ball()) if start == "mesh" else capture
    config = replace(SMALL, shape=mesh_pbr.Cubes(resolution=10)) if start == "cubes" else SMALL
    whole = fitted(given, config)
    kept: list[dict[str, torch.Tensor]] = []

    def interrupt(progress: Progress) -> None:
        if progress.step == stop_at:
            kept.append(progress.snapshot())
            raise KeyboardInterrupt

    first = mesh_pbr.fit(given, config, device=CPU, seed=1, observer=interrupt)
    assert first.outcome == "interrupted" and first.steps == stop_at
    rebuilt = mesh_pbr.load_scene(config, kept[0], CPU)
    assert all(torch.equal(value, rebuilt.state_dict()[name]) for name, value in first.scene.state_dict().items())
    resumed = mesh_pbr.fit(given, config, device=CPU, seed=1, resume=kept[0])
    assert resumed.outcome == "finished" and resumed.steps == whole.steps == 8
    for name, value in whole.scene.state_dict().items():
        assert torch.equal(value, resumed.scene.state_dict()[name]), name


def test_the_material_stays_as_it_is_while_the_light_is_gray(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unrender.recipes.mesh_pbr.loop.Fitting", partial(Fitting, report_every=0.0))
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def watch(progress: Progress) -> None:
        kept[progress.step] = progress.snapshot()

    mesh_pbr.fit(begun(capture, ball()), override(SMALL, steps=20, light_first=0.6), device=CPU, seed=1, observer=watch)
    material = [name for name in kept[1] if "appearance.field" in name and kept[1][name].is_floating_point()]
    assert material and all(torch.equal(kept[1][name], kept[5][name]) for name in material)
    assert not all(torch.equal(kept[5][name], kept[9][name]) for name in material)
    light = next(name for name in kept[1] if name.endswith("light_log"))
    assert not torch.equal(kept[1][light], kept[5][light])


@pytest.mark.parametrize("shape", [mesh_pbr.Tetrahedra(resolution=10), mesh_pbr.Cubes(resolution=10)])
def test_a_lattice_finds_the_ball_and_textures_explain_its_photos(shape: mesh_pbr.Tetrahedra | mesh_pbr.Cubes, capture: Capture) -> None:
    config = replace(override(SMALL, steps=100), shape=shape)
    hull = scene_in_space(capture, config, Asset.empty(), None, device=CPU, seed=0).shape.mesh()
    scene = fitted(capture, config).scene
    assert isinstance(scene, MeshPbrScene) and isinstance(scene.shape, MeshShape)
    mesh = scene.shape.mesh()
    assert mesh.is_watertight and mesh.component_count == 1
    before, after = ((found.vertices.detach().norm(dim=-1) - RADIUS).abs().mean() for found in (hull, mesh))
    assert float(after) < 0.7 * float(before)
    inside = evaluate(scene, capture).psnr_masked
    assert inside is not None and inside > 25


def test_an_asset_has_the_phases_of_its_surface_first_and_resumes_in_them(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """So short a fit may find no surface: then a lattice begins from the masks."""
    for module in ("nerf.loop", "neus.loop", "mesh_pbr.loop"):
        monkeypatch.setattr(f"unrender.recipes.{module}.Fitting", partial(Fitting, report_every=0.0))
    config = replace(SMALL, shape=mesh_pbr.FittedSurface())
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def watch(progress: Progress) -> None:
        kept[progress.step] = progress.snapshot() if progress.step == 3 else {}

    whole = mesh_pbr.fit(capture, config, device=CPU, seed=1, observer=watch)
    names = list(dict.fromkeys(line.phase for line in whole.history))
    assert names == ["radiance field", "surface", "materials in space", "textures"] and whole.steps == 8
    assert not isinstance(mesh_pbr.load_scene(config, kept[3], CPU), MeshPbrScene)
    resumed = mesh_pbr.fit(capture, config, device=CPU, seed=1, resume=kept[3])
    for name, value in whole.scene.state_dict().items():
        assert torch.equal(value, resumed.scene.state_dict()[name]), name


@pytest.mark.parametrize("shape_first", [0.5, 0.0])
def test_materials_begin_again_on_the_mesh_of_a_lattice(shape_first: float, capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gray materials are for a shape that is known: on a lattice, dents would explain what is dark."""
    monkeypatch.setattr("unrender.recipes.mesh_pbr.loop.Fitting", partial(Fitting, report_every=0.0))
    config = replace(override(SMALL, steps=16), shape=mesh_pbr.Tetrahedra(resolution=10, shape_first=shape_first))
    kept: dict[str | None, dict[str, torch.Tensor]] = {}

    def watch(progress: Progress) -> None:
        kept[progress.phase] = progress.snapshot()

    whole = mesh_pbr.fit(capture, config, device=CPU, seed=1, observer=watch)
    names = ["shape", "materials in space", "textures"] if shape_first else ["shape and materials in space", "textures"]
    assert list(kept) == names
    shapes = {phase: mesh_pbr.load_scene(config, kept[phase], CPU).shape for phase in names}
    assert isinstance(shapes[names[0]], TetrahedralShape) and all(isinstance(shapes[phase], MeshShape) for phase in names[1:])
    again = mesh_pbr.fit(capture, config, device=CPU, seed=1, resume=kept[names[0]])
    assert all(torch.equal(value, again.scene.state_dict()[name]) for name, value in whole.scene.state_dict().items())
    with pytest.raises(ValueError, match="shape_first is 1"):
        mesh_pbr.Tetrahedra(shape_first=1.0)


def test_the_surface_of_an_asset_may_begin_with_the_visual_hull(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("nerf.loop", "neus.loop", "mesh_pbr.loop"):
        monkeypatch.setattr(f"unrender.recipes.{module}.Fitting", partial(Fitting, report_every=0.0))
    whole = mesh_pbr.fit(capture, replace(SMALL, shape=mesh_pbr.FittedSurface(density_first=0.0)), device=CPU, seed=1)
    assert list(dict.fromkeys(line.phase for line in whole.history)) == ["surface", "materials in space", "textures"]
    with pytest.raises(ValueError, match="density_first is 1"):
        mesh_pbr.FittedSurface(density_first=1.0)


def test_an_asset_is_fitted_at_the_poses_that_its_surface_refined_and_keeps_them(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []

    class Watched(WindowSampler):
        def __init__(self, seen: Capture, device: torch.device, *, largest_side: int, side: int) -> None:
            drawn.append(seen.cameras.world_from_camera.clone())
            super().__init__(seen, device, largest_side=largest_side, side=side)

    monkeypatch.setattr("unrender.recipes.mesh_pbr.loop.WindowSampler", Watched)
    for module in ("nerf.loop", "neus.loop", "mesh_pbr.loop"):
        monkeypatch.setattr(f"unrender.recipes.{module}.Fitting", partial(Fitting, report_every=0.0))
    config = replace(override(SMALL, steps=16), shape=mesh_pbr.FittedSurface(refine_poses=True))
    kept: dict[str | None, dict[str, torch.Tensor]] = {}

    def watch(progress: Progress) -> None:
        kept[progress.phase] = progress.snapshot()

    whole = mesh_pbr.fit(capture, config, device=CPU, seed=1, observer=watch)
    assert list(kept) == ["radiance field", "surface", "materials in space", "textures"]
    poses = [refined(capture, mesh_pbr.load_scene(config, kept[phase], CPU)).cameras.world_from_camera for phase in kept]
    given = capture.cameras.world_from_camera
    assert len(drawn) == 2 and not torch.allclose(poses[1], given, atol=1e-5)
    assert all(torch.equal(one, poses[1]) for one in (*drawn, *poses[2:], refined(capture, whole.scene).cameras.world_from_camera))
    again = mesh_pbr.fit(capture, config, device=CPU, seed=1, resume=kept["materials in space"])
    assert torch.equal(drawn[-1], poses[1])
    assert all(torch.equal(value, again.scene.state_dict()[name]) for name, value in whole.scene.state_dict().items())


def test_a_fit_that_goes_on_from_a_scene_keeps_the_poses_that_were_refined_with_it(capture: Capture) -> None:
    scene = LitScene(Asset(ball()))
    scene.poses = PoseCorrections(capture.cameras.world_from_camera, capture.split.train, capture.split.test)
    with torch.no_grad():
        scene.poses.motions.normal_(std=0.01, generator=torch.Generator().manual_seed(0))
    moved = refined(capture, scene)
    given = FittedRun("given", "mesh", scene, moved, "given")
    config = deform.DeformConfig(steps=1)
    in_textures = fitted(given, SMALL).scene
    textured = FittedRun("textured", "mesh-pbr", in_textures, moved, "textured")
    for found in (in_textures, fitted(textured, SMALL).scene, deform.fit(given, config, device=CPU, seed=0).scene):
        assert torch.equal(refined(capture, found).cameras.world_from_camera, moved.cameras.world_from_camera)
    rebuilt = deform.load_scene(config, {f"scene.{name}": value for name, value in found.state_dict().items()}, CPU)
    assert torch.equal(refined(capture, rebuilt).cameras.world_from_camera, moved.cameras.world_from_camera)
    with pytest.raises(ValueError, match="ball comes with one; leave refine_poses out"):
        fitted(given, replace(SMALL, shape=mesh_pbr.FittedSurface(refine_poses=True)))


def test_the_asset_has_textures_of_the_limits_and_a_light(capture: Capture) -> None:
    asset = fitted(begun(capture, ball()), override(SMALL, steps=8, smallest_roughness=0.3, largest_metallic=0.0)).scene.asset()
    material = asset.material
    assert material is not None and material.base_color is not None and material.roughness_metallic is not None
    assert asset.mesh.uvs is not None and asset.environment is not None
    assert material.base_color.shape == (64, 64, 3) and asset.environment.texels.shape == (6, 8, 8, 3)
    assert float(material.roughness_metallic[..., 0].min()) >= 0.3 - 1e-6 and float(material.roughness_metallic[..., 1].max()) == 0.0
    assert bool((material.base_color >= 0).all()) and bool((material.base_color <= 1).all())


def test_a_lattice_without_a_surface_begins_again(capture: Capture) -> None:
    grid = torch.linspace(-1, 1, 17)
    z, y, x = torch.meshgrid(grid, grid, grid, indexing="ij")
    shape = TetrahedralShape((8, 8, 8), torch.tensor([[-1.0] * 3, [1.0] * 3]), (x * x + y * y + z * z).sqrt() - 0.5)
    faces = len(shape.mesh().faces)
    with torch.no_grad():
        shape.distances.fill_(1.0)
    assert len(shape.mesh().faces) == faces > 0


def test_photos_without_masks_need_a_surface_to_begin_with(capture: Capture) -> None:
    with pytest.raises(CaptureError, match=r"ball has no masks.*--shape neus.*unrender mask"):
        fitted(replace(capture, has_masks=False), SMALL)


def test_photos_without_masks_are_fitted_where_the_mesh_is(capture: Capture) -> None:
    given = begun(replace(capture, has_masks=False), ball())
    result = fitted(given, override(SMALL, steps=40))
    errors = [(line.losses["picture"]) for line in result.history]
    assert errors[-1] < 0.5 * errors[0]
    assert float((result.scene.mesh().vertices.detach().norm(dim=-1) - RADIUS).abs().max()) < 0.1
