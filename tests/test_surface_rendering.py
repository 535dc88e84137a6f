"""The surface renderer: laws of light and transparency, areas, baking, finite differences, and agreement with cast rays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.visual.texture import TextureVisuals

from unrender.cameras import Cameras
from unrender.color import linear_from_srgb, srgb_from_linear
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.numerics import normalized
from unrender.ops.raster import cast_rays, edge_topology, rasterize
from unrender.render.rendering import Rendering
from unrender.render.surface import _face_normals, render_surface, surface_in_texture, surface_seen
from unrender.shading.cubes import cube_directions
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import AmbientLight, DirectionalLight, EnvironmentLight, Light, PointLight
from unrender.shading.materials import BlinnPhong, Lambert, Shaded, Texture, Uniform, Unlit, VertexColor
from unrender.shading.prefilter import _kernel
from unrender.transforms import look_at

WHITE = torch.ones(3)
SHOW = Unlit(Uniform(WHITE))


def camera(size: int = 64, eye: Sequence[float] = (0.0, -3.0, 0.0), focal: float = 1.2) -> Cameras:
    pose = look_at(torch.tensor([eye]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Cameras.alike(pose, torch.tensor([[focal * size, focal * size, size / 2, size / 2]]), torch.zeros(1, 6), size, size)


def ball(subdivisions: int = 3) -> Mesh:
    """Return a unit sphere with the sphere's own normals."""
    solid = trimesh.creation.icosphere(subdivisions)
    vertices = torch.from_numpy(solid.vertices.copy()).float()
    return Mesh(vertices, torch.from_numpy(solid.faces.copy()), normals=vertices)


def square(half: float = 1.0, y: float = 0.0, angle: float = 0.0) -> Mesh:
    """Return a square in the plane of that y, facing −Y; texture coordinates (0, 0) are at the least x and greatest z."""
    x, z = torch.tensor([-1.0, 1, 1, -1]) * half, torch.tensor([-1.0, -1, 1, 1]) * half
    c, s = math.cos(angle), math.sin(angle)
    vertices = torch.stack([c * x - s * z, torch.full((4,), y), s * x + c * z], -1)
    uvs = torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return Mesh(vertices, faces, uvs=uvs, uv_faces=faces)


def joined(*meshes: Mesh) -> Mesh:
    faces, start = [], 0
    for mesh in meshes:
        faces.append(mesh.faces + start)
        start += len(mesh.vertices)
    return Mesh(torch.cat([mesh.vertices for mesh in meshes]), torch.cat(faces))


def by_triangle(mesh: Mesh, colors: Tensor) -> Unlit:
    """Return a material with one color and opacity for each triangle."""
    assert len(colors) == len(mesh.faces)
    return Unlit(lambda surface: colors[surface.raster.face.clamp_min(0).long()])


def unchecked(function: Callable[..., Rendering]) -> Callable[..., Rendering]:
    """Remove the tests' own type checker, which would refuse bad arguments first."""
    return getattr(function, "__wrapped__", function)


# Cameras


def test_clip_space_and_projection_agree() -> None:
    cameras = replace(camera(), intrinsics=torch.tensor([[90.0, 70.0, 30.0, 35.0]]), sizes=torch.tensor([[80, camera().height]]))
    points = torch.randn(100, 3) * 0.5
    clip = cameras.clip_positions(points, 0.5, 20.0)[0]
    pixels, depth = cameras.project(points, 0)
    sizes = torch.tensor([80.0, 64.0])
    torch.testing.assert_close(sizes * (clip[:, :2] / clip[:, 3:] + 1) / 2, pixels, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(clip[:, 3], depth)


def test_clip_depth_runs_from_minus_one_at_the_near_plane_to_one_at_the_far_plane() -> None:
    points = torch.tensor([[0.0, -2.5, 0], [0, 17, 0]])
    clip = camera().clip_positions(points, 0.5, 20.0)[0]
    torch.testing.assert_close(clip[:, 2] / clip[:, 3], torch.tensor([-1.0, 1.0]))


def test_clip_positions_are_those_of_the_matrices() -> None:
    cameras = camera(eye=(1.0, -2.0, 0.7))
    points = torch.randn(20, 3)
    clip_from_world = cameras.clip_from_camera(0.5, 20.0)[0] @ torch.linalg.inv(cameras.world_from_camera[0])
    expected = torch.cat([points, torch.ones(20, 1)], -1) @ clip_from_world.T
    torch.testing.assert_close(cameras.clip_positions(points, 0.5, 20.0)[0], expected, atol=1e-5, rtol=1e-5)


def test_a_lens_with_distortion_is_refused() -> None:
    bent = replace(camera(), distortion=torch.full((1, 6), 0.1))
    with pytest.raises(ValueError, match="distortion.*pinhole"):
        render_surface(ball(1), SHOW, [], bent)
    with pytest.raises(ValueError, match="fisheye"):
        replace(camera(), fisheye=torch.tensor([True])).clip_from_camera(0.1, 10.0)
    with pytest.raises(ValueError, match="0 < near < far"):
        camera().clip_from_camera(1.0, 1.0)


# Texture coordinates of meshes


def test_a_mesh_keeps_its_texture_coordinates_when_it_is_cut_and_mirrored() -> None:
    mesh = replace(square(), uv_faces=torch.tensor([[0, 1, 2], [0, 2, 3]]))
    part = mesh.submesh(torch.tensor([False, True]))
    assert part.uvs is not None and part.uv_faces is not None and mesh.uvs is not None
    assert torch.equal(part.uvs[part.uv_faces], mesh.uvs[torch.tensor([[0, 2, 3]])])
    moved = mesh.to("meta")
    assert moved.vertices.device.type == "meta" and moved.uvs is not None and moved.uvs.device.type == "meta"
    mirrored = mesh.transformed(torch.diag(torch.tensor([-1.0, 1, 1, 1])))
    assert mirrored.uv_faces is not None and mirrored.uvs is not None
    assert torch.equal(mirrored.vertices[mirrored.faces][..., 0] * -0.5 + 0.5, mirrored.uvs[mirrored.uv_faces][..., 0])


def test_texture_coordinates_come_with_their_triangles() -> None:
    with pytest.raises(ValueError, match="uvs and uv_faces, or neither"):
        Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]), uvs=torch.zeros(3, 2))


def test_an_obj_keeps_its_vertices_whole_at_texture_seams(tmp_path: Path) -> None:
    text = "v 0 0 0\nv 1 0 0\nv 1 0 1\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nvt 0.5 0.25\nf 1/1 2/2 3/3 4/4\nf -4/5/1 -2/3/1 -3/-4/1\n"
    (tmp_path / "quad.obj").write_text(text)
    mesh = read_mesh(tmp_path / "quad.obj")
    assert mesh.vertices.shape == (4, 3) and mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 2, 1]]
    assert mesh.uvs is not None and mesh.uv_faces is not None
    assert mesh.uv_faces.tolist() == [[0, 1, 2], [0, 2, 3], [4, 2, 1]]
    assert mesh.uvs.tolist() == [[0, 1], [1, 1], [1, 0], [0, 0], [0.5, 0.75]]
    (tmp_path / "wrong.obj").write_text(text + "f 1/1 2/2 3/9\n")
    with pytest.raises(ValueError, match="wrong.obj.*texture coordinate"):
        read_mesh(tmp_path / "wrong.obj")


def test_the_texture_coordinates_of_a_glb_start_at_the_top_left(tmp_path: Path) -> None:
    uv = np.array([[0.0, 0], [1, 0], [0.25, 1]])  # Trimesh counts v upwards
    visual = TextureVisuals(uv, image=Image.new("RGB", (4, 4)))
    trimesh.Trimesh(np.eye(3), [[0, 1, 2]], visual=visual, process=False).export(tmp_path / "one.glb")
    mesh = read_mesh(tmp_path / "one.glb")
    assert mesh.uvs is not None
    torch.testing.assert_close(mesh.uvs, torch.tensor([[0.0, 1], [1, 1], [0.25, 0]]))


# Light


@pytest.mark.parametrize("light", [AmbientLight(WHITE), EnvironmentLight(torch.ones(6, 8, 8, 3))])
def test_a_white_furnace_returns_one(light: Light) -> None:
    rendering = render_surface(ball(), Lambert(Uniform(WHITE)), [light], camera(), background=WHITE, samples=2)
    assert (rendering.color - 1).abs().max() < 1e-5


def test_a_headlight_on_a_sphere_gives_the_cosine() -> None:
    cameras = camera()
    rendering = render_surface(ball(5), Lambert(Uniform(WHITE)), [DirectionalLight(torch.tensor([0.0, -5, 0]), WHITE)], cameras)
    normal = _sphere_normal(cameras)
    clear = normal[..., 1] < -0.5
    torch.testing.assert_close(rendering.color[clear][:, 0], -normal[clear][:, 1], atol=3e-3, rtol=0)
    torch.testing.assert_close(rendering.normal[clear], normal[clear], atol=1e-2, rtol=0)


def test_a_highlight_follows_its_formula() -> None:
    cameras, exponent = camera(), torch.tensor(20.0)
    light = DirectionalLight(torch.tensor([1.0, -2, 1]), torch.tensor([1.0, 0.5, 0.25]))
    material = BlinnPhong(Uniform(torch.zeros(3)), torch.full((3,), 0.5), exponent)
    rendering = render_surface(ball(5), material, [light], cameras)
    normal = _sphere_normal(cameras)
    clear = normal[..., 1] < -0.5
    to_viewer = normalized(cameras.positions[0] - normal[clear])
    towards = normalized(light.towards)
    along = (normal[clear] * normalized(towards + to_viewer)).sum(-1).clamp_min(0)
    expected = 0.5 * 28 / 8 * along**20 * (normal[clear] @ towards).clamp_min(0)
    torch.testing.assert_close(rendering.color[clear], expected[:, None] * light.color, atol=1e-2, rtol=0)


def test_a_highlight_sends_back_as_much_whatever_its_width() -> None:
    """∫ f(l) (n · l) dl over all directions of light, for a viewer along the normal, is one within a few per cent."""
    directions = normalized(torch.randn(1, 1, 200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    up = torch.tensor([0.0, 0, 1], dtype=torch.float64).expand_as(directions)
    for exponent in (1.0, 10.0, 100.0):
        half = normalized(directions + up)
        lobe = (exponent + 8) / (8 * math.pi) * half[..., 2] ** exponent * directions[..., 2].clamp_min(0)
        assert 0.9 < float(lobe.mean() * 4 * math.pi) < 1.1


def test_a_point_light_falls_with_the_square_of_the_distance() -> None:
    cameras = camera()
    values = []
    for distance in (2.0, 4.0):
        light = PointLight(torch.tensor([0.0, -distance, 0.0]), WHITE)
        values.append(
            render_surface(
                square(0.01), Lambert(Uniform(WHITE)), [light], replace(cameras, intrinsics=torch.tensor([[9000.0, 9000, 32, 32]]))
            )
        )
    ratio = values[0].color[0, 32, 32, 0] / values[1].color[0, 32, 32, 0]
    assert ratio.item() == pytest.approx(4.0, rel=1e-3) and values[0].color[0, 32, 32, 0].item() == pytest.approx(0.25, rel=1e-3)


def test_the_directions_of_a_cube_map_are_where_it_is_looked_up() -> None:
    directions = normalized(cube_directions(8))
    light = EnvironmentLight(directions)
    found = light.radiance(directions.reshape(1, 48, 8, 3))
    torch.testing.assert_close(found.reshape(6, 8, 8, 3), directions, atol=1e-5, rtol=0)


def test_the_irradiance_of_a_sky_that_brightens_upwards_is_analytic() -> None:
    """(1/π) ∫ (1 + k · l) max(n · l, 0) dl = 1 + ⅔ k · n."""
    k = torch.tensor([0.3, -0.2, 0.8])
    sky = 1 + (normalized(cube_directions(32)) @ k)[..., None].expand(-1, -1, -1, 3)
    light = EnvironmentLight(sky)
    normals = normalized(cube_directions(16))
    torch.testing.assert_close(light.irradiance()[..., 0], 1 + 2 / 3 * (normals @ k), atol=5e-3, rtol=0)
    rendering = render_surface(ball(4), Lambert(Uniform(WHITE)), [light], camera())
    normal = _sphere_normal(camera())
    clear = normal[..., 1] < -0.5
    torch.testing.assert_close(rendering.color[clear][:, 0], 1 + 2 / 3 * (normal[clear] @ k), atol=1e-2, rtol=0)


def test_irradiance_is_the_same_under_autocast_and_after_inference_mode() -> None:
    texels = torch.rand(6, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    _kernel.cache_clear()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        first = EnvironmentLight(texels).irradiance().clone()
    leaf = texels.clone().requires_grad_()
    later = EnvironmentLight(leaf).irradiance()
    later.sum().backward()
    _kernel.cache_clear()
    assert first.dtype == torch.float32 and torch.equal(first, later) and torch.equal(first, EnvironmentLight(texels).irradiance())
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad.sum(), torch.tensor(6.0 * 8 * 8 * 3))


def test_a_mirror_shows_the_environment_along_the_reflected_ray() -> None:
    directions = normalized(cube_directions(64))
    light = EnvironmentLight(directions * 0.5 + 0.5)
    material = BlinnPhong(Uniform(torch.zeros(3)), WHITE, torch.tensor(1000.0))
    cameras = camera()
    rendering = render_surface(ball(5), material, [light], cameras)
    normal = _sphere_normal(cameras)
    clear = normal[..., 1] < -0.5
    to_viewer = normalized(cameras.positions[0] - normal[clear])
    mirrored = 2 * (normal[clear] * to_viewer).sum(-1, keepdim=True) * normal[clear] - to_viewer
    torch.testing.assert_close(rendering.color[clear], mirrored * 0.5 + 0.5, atol=2e-2, rtol=0)


def test_lights_add_up() -> None:
    lights = [AmbientLight(WHITE * 0.2), DirectionalLight(torch.tensor([1.0, -1, 0]), WHITE), PointLight(torch.tensor([0.0, -2, 1]), WHITE)]
    material = BlinnPhong(Uniform(torch.tensor([0.8, 0.5, 0.2])), torch.full((3,), 0.3), torch.tensor(15.0))
    together = render_surface(ball(2), material, lights, camera(32)).color
    apart = sum((render_surface(ball(2), material, [light], camera(32)).color for light in lights), torch.zeros(()))
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    assert render_surface(ball(2), material, [], camera(32)).color.abs().max() == 0


# Coverage and transparency


def test_layers_compose_front_to_back() -> None:
    squares = [square(2.0, y) for y in (0.0, 0.5, 1.0)]
    mesh = joined(*squares)
    colors = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, 0)
    background = torch.tensor([0.1, 0.2, 0.3])
    c, a = colors[::2, :3], colors[::2, 3]
    for layers in (1, 2, 3, 5):
        expected, left = torch.zeros(3), torch.ones(())
        for k in range(min(layers, 3)):
            expected, left = expected + left * a[k] * c[k], left * (1 - a[k])
        rendering = render_surface(mesh, by_triangle(mesh, colors), [], camera(16), background=background, layers=layers)
        torch.testing.assert_close(rendering.color, (expected + left * background).expand(1, 16, 16, 3), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(rendering.opacity, (1 - left).expand(1, 16, 16), atol=1e-5, rtol=1e-5)


def test_what_is_behind_an_opaque_surface_does_not_show() -> None:
    one, two = (
        render_surface(ball(), Lambert(Uniform(WHITE)), [AmbientLight(WHITE)], camera(32), layers=n, antialiasing=None) for n in (1, 2)
    )
    assert torch.equal(one.color, two.color) and torch.equal(one.distance, two.distance)


def test_samples_converge_to_the_area_covered() -> None:
    mesh, cameras = square(0.7, angle=0.3), camera(32)
    exact = (1.4 * 1.2 * 32 / 3) ** 2
    fine = render_surface(mesh, SHOW, [], cameras, samples=16, antialiasing=None).opacity
    assert abs(float(fine.sum()) / exact - 1) < 2e-4
    errors = [float((render_surface(mesh, SHOW, [], cameras, samples=n, antialiasing=None).opacity - fine).abs().sum()) for n in (1, 2, 4)]
    assert errors[0] > 1.6 * errors[1] > 1.6**2 * errors[2]


def test_antialiasing_is_nearer_to_the_area_than_bare_coverage() -> None:
    mesh, cameras = square(0.7, angle=0.3), camera(32)
    fine = render_surface(mesh, SHOW, [], cameras, samples=16, antialiasing=None).opacity
    bare = render_surface(mesh, SHOW, [], cameras, antialiasing=None).opacity
    for rule in ("walk", "owner"):
        smooth = render_surface(mesh, SHOW, [], cameras, antialiasing=rule, topology=edge_topology(mesh.faces)).opacity
        assert float((smooth - fine).abs().sum()) < 0.3 * float((bare - fine).abs().sum())


def test_a_texture_too_fine_for_the_pixels_turns_gray() -> None:
    checks = (torch.arange(256)[:, None] + torch.arange(256)) % 2
    mesh = square(4.0)
    material = Unlit(Texture(checks.float()[..., None].expand(-1, -1, 3).contiguous()))
    for samples in (1, 2):
        rendering = render_surface(mesh, material, [], camera(16), samples=samples)
        assert rendering.opacity.min() == 1 and (rendering.color - 0.5).abs().max() < 0.05


def test_a_background_may_be_an_image() -> None:
    background = torch.rand(16, 16, 3)
    rendering = render_surface(square(0.4), SHOW, [], camera(16), background=background, antialiasing=None)
    assert torch.equal(rendering.color[0], torch.where(rendering.opacity[0, ..., None] > 0, 1.0, background))


def test_a_background_of_another_size_is_refused() -> None:
    rendering = render_surface(square(0.4), SHOW, [], camera(16), background=torch.rand(1, 16, 1, 3))
    assert rendering.color.shape == (1, 16, 16, 3)
    for shape in ((16, 3), (8, 16, 3), (2, 16, 16, 3), (16, 16, 4), (1, 1, 16, 16, 3), ()):
        with pytest.raises(ValueError, match=r"background is one color.*for 1 views of 16 x 16 pixels") as complaint:
            unchecked(render_surface)(square(0.4), SHOW, [], camera(16), background=torch.zeros(shape))
        assert f"got {shape}" in str(complaint.value)


def test_a_picture_has_its_first_row_at_the_top_and_its_first_column_on_the_left() -> None:
    picture = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(0))
    cameras = replace(camera(8), intrinsics=torch.tensor([[12.0, 12, 4, 4]]))
    rendering = render_surface(square(1.0), Unlit(Texture(picture)), [], cameras)
    torch.testing.assert_close(rendering.color[0], picture, atol=1e-4, rtol=0)


def test_a_surface_seen_from_behind_turns_its_normal_to_the_viewer() -> None:
    for eye, towards in (((0.0, -3.0, 0.0), -1.0), ((0.0, 3.0, 0.0), 1.0)):
        rendering = render_surface(square(4.0), SHOW, [], camera(4, eye))
        torch.testing.assert_close(rendering.normal, torch.tensor([0.0, towards, 0.0]).expand(1, 4, 4, 3))


def test_an_empty_mesh_shows_the_background() -> None:
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    rendering = render_surface(empty, SHOW, [], camera(8), background=torch.tensor([0.5, 0.25, 1.0]))
    assert torch.equal(rendering.color, torch.tensor([0.5, 0.25, 1.0]).expand(1, 8, 8, 3)) and rendering.opacity.abs().max() == 0


def test_cameras_without_one_size_for_all_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no cameras"):
        render_surface(ball(1), SHOW, [], camera(8)[:0])
    poses, intrinsics = camera(8).world_from_camera.expand(2, 4, 4), camera(8).intrinsics.expand(2, 4)
    mixed = replace(Cameras.alike(poses, intrinsics, None, 8, 8), sizes=torch.tensor([[8, 8], [6, 8]]))
    with pytest.raises(ValueError, match="the views differ in size.*cameras.view."):
        render_surface(ball(1), SHOW, [], mixed)
    assert render_surface(ball(1), SHOW, [], mixed[1]).color.shape == (1, 8, 6, 3)


def test_a_far_plane_at_infinity_shows_what_a_far_one_shows() -> None:
    light: list[Light] = [DirectionalLight(torch.tensor([0.3, -1, 0.5]), WHITE)]
    near, endless = (
        render_surface(ball(2), Lambert(Uniform(WHITE)), light, camera(24), depth_range=(0.1, far)) for far in (50.0, math.inf)
    )
    assert near.opacity.max() == 1
    for field in ("color", "opacity", "distance", "normal"):
        torch.testing.assert_close(getattr(endless, field), getattr(near, field), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("smooth", [False, True])
def test_a_vertex_that_is_not_finite_spoils_no_gradient(smooth: bool, broken: float) -> None:
    """The picture and every gradient are as without its triangles."""
    whole = ball(1) if smooth else replace(ball(1), normals=None)
    bad = 5
    kept = (whole.faces != bad).all(-1)
    spoilt = torch.where(torch.arange(42)[:, None] == bad, torch.tensor([0.0, broken, 0.0]), whole.vertices)
    results = []
    for vertices, faces in ((whole.vertices, whole.faces[kept]), (spoilt, whole.faces)):
        leaf, pose = vertices.clone().requires_grad_(), camera().world_from_camera.requires_grad_()
        cameras = replace(camera(24), world_from_camera=pose)
        lights: list[Light] = [PointLight(torch.tensor([1.0, -2, 1]), WHITE)]
        mesh = replace(whole, vertices=leaf, faces=faces)
        rendering = render_surface(mesh, Lambert(Uniform(WHITE)), lights, cameras, layers=2)
        gradients = torch.autograd.grad(_loss(rendering), (leaf, pose))
        results.append([rendering.color, rendering.opacity, rendering.normal, gradients[0], gradients[1]])
    for without, with_it in zip(*results, strict=True):
        assert with_it.isfinite().all()
        torch.testing.assert_close(with_it, without, atol=1e-4, rtol=1e-4)


def test_a_triangle_whose_corner_does_not_exist_has_a_harmless_normal() -> None:
    """As on a GPU, where faces are not checked before they are used."""
    mesh = Mesh(square().vertices, torch.tensor([[0, 1, 2], [0, 1, 4], [-1, 1, 2]]))
    normals = _face_normals(mesh)
    assert torch.equal(normals[0], torch.tensor([0.0, -1.0, 0.0])) and normals.isfinite().all()
    assert torch.equal(_face_normals(Mesh(torch.zeros(0, 3), mesh.faces)), torch.zeros(3, 3))


@pytest.mark.parametrize("half", [0.0, 0.7, 4.0])
def test_shading_covered_pixels_alone_is_shading_all(half: float) -> None:
    """A CPU shades an image without gaps, a GPU one with gaps; where there is a surface, both are the same."""
    mesh, cameras = square(half, angle=0.3), camera(20)
    clip_positions = cameras.clip_positions(mesh.vertices, 0.1, 100.0)
    surface = surface_seen(mesh, rasterize(clip_positions, mesh.faces, (20, 20), derivatives=True), cameras.positions)
    material = BlinnPhong(Texture(torch.rand(16, 16, 3)), WHITE, torch.tensor(5.0))
    lights: list[Light] = [PointLight(torch.tensor([1.0, -2, 1]), WHITE)]
    rendering = render_surface(mesh, material, lights, cameras, antialiasing=None)
    assert torch.equal(rendering.opacity > 0, surface.covered)
    torch.testing.assert_close(rendering.color, material(surface, lights).color * surface.covered[..., None])
    torch.testing.assert_close(rendering.normal, surface.normal)
    torch.testing.assert_close(rendering.distance, surface.distance)


def test_several_views_are_rendered_as_each_alone() -> None:
    eyes = ((0.0, -3.0, 0.0), (2.0, -2.0, 1.0))
    single = [camera(24, eye) for eye in eyes]
    both = Cameras.alike(torch.cat([one.world_from_camera for one in single]), torch.cat([one.intrinsics for one in single]), None, 24, 24)
    light = DirectionalLight(torch.tensor([1.0, -1, 1]), WHITE)
    together = render_surface(ball(2), Lambert(Uniform(WHITE)), [light], both)
    for view, alone in enumerate(single):
        one = render_surface(ball(2), Lambert(Uniform(WHITE)), [light], alone)
        torch.testing.assert_close(together.color[view], one.color[0])


# Agreement with rays


@pytest.mark.parametrize("eye", [(0.0, -3.0, 0.0), (1.5, -2.0, 1.0)])
def test_every_pixel_sees_what_a_ray_through_its_center_meets(eye: Sequence[float]) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.randn(300, 1, 3, generator=generator) * 0.5 + 0.15 * torch.randn(300, 3, 3, generator=generator)
    mesh = joined(ball(3), Mesh(corners.reshape(-1, 3), torch.arange(900).reshape(-1, 3)))
    cameras = camera(128, eye)
    seen: list[GBuffer] = []

    def look(surface: GBuffer, lights: Sequence[Light]) -> Shaded:
        seen.append(surface)
        return Shaded(surface.position, torch.ones_like(surface.distance))

    rendering = render_surface(mesh, look, [], cameras, antialiasing=None)
    rays = cameras.image_rays(0)
    hits = cast_rays(mesh.ray_tree(), rays.origins, rays.directions)
    face, hit = torch.full_like(hits.face, -1), hits.face >= 0
    drawn = rendering.opacity.flatten() > 0
    face[drawn] = seen[0].raster.face[seen[0].covered]
    same = face == hits.face
    u, v = hits.barycentrics.unbind(-1)
    inner = torch.stack([u, v, 1 - u - v], -1).amin(-1) > 1e-3
    assert same[hit & inner].all() and (~same).sum() < 5 and hit.sum() > 4000
    torch.testing.assert_close(rendering.distance.flatten()[same & hit], hits.distance[same & hit], atol=3e-5, rtol=0)
    points = rays.origins + hits.distance.nan_to_num(posinf=0)[:, None] * rays.directions
    torch.testing.assert_close(rendering.color.reshape(-1, 3)[same & hit], points[same & hit], atol=3e-5, rtol=0)
    weights = torch.zeros_like(hits.barycentrics)
    weights[drawn] = seen[0].raster.barycentrics[seen[0].covered]
    torch.testing.assert_close(weights[same & hit], hits.barycentrics[same & hit], atol=2e-3, rtol=0)


# The texture as a picture of the surface


def test_positions_in_the_texture_are_interpolated_between_vertices() -> None:
    mesh = square(1.0, y=0.25)
    surface = surface_in_texture(mesh, (6, 8))
    u, v = torch.meshgrid((torch.arange(8) + 0.5) / 8, (torch.arange(6) + 0.5) / 6, indexing="xy")
    expected = torch.stack([2 * u - 1, torch.full_like(u, 0.25), 1 - 2 * v], -1)
    assert surface.covered.all()
    torch.testing.assert_close(surface.position[0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(surface.normal[0], torch.tensor([0.0, -1, 0]).expand(6, 8, 3))
    assert surface.uv is not None
    torch.testing.assert_close(surface.uv[0], torch.stack([u, v], -1), atol=1e-6, rtol=0)


def test_a_baked_texture_looks_like_what_it_was_baked_from() -> None:
    plain = replace(square(1.0, angle=0.2), colors=torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.2, 0.2, 0.9], [0.8, 0.8, 0.1]]))
    surface = surface_in_texture(plain, (64, 64))
    assert surface.color is not None and surface.covered.all()
    baked = render_surface(plain, Unlit(Texture(surface.color[0], boundary="clamp")), [], camera(32))
    direct = render_surface(plain, Unlit(VertexColor()), [], camera(32))
    torch.testing.assert_close(baked.color, direct.color, atol=0.02, rtol=0)


def test_vertex_colors_are_interpolated_in_linear_light() -> None:
    mesh = replace(square(4.0), colors=torch.full((4, 3), 0.5))
    rendering = render_surface(mesh, Unlit(VertexColor()), [], camera(4))
    torch.testing.assert_close(rendering.color, linear_from_srgb(torch.full((1, 4, 4, 3), 0.5)))


# Gradients


def _slope(value, at: Tensor, step: float) -> Tensor:
    """Compute central differences of a scalar function, one component at a time."""
    slopes = []
    for k in range(at.numel()):
        offset = torch.zeros_like(at)
        offset.view(-1)[k] = step
        slopes.append((value(at + offset) - value(at - offset)) / (2 * step))
    return torch.stack(slopes).view_as(at)


def _loss(rendering) -> Tensor:
    """Weight pixels by a ramp across the image, and channels differently, so that every change counts."""
    size = rendering.color.shape[1]
    ramp = torch.linspace(0, 1, size)
    return (rendering.color.double() * (ramp[:, None, None] + 2 * ramp[:, None]) * torch.tensor([1.0, 2.0, 3.0])).mean()


@pytest.mark.parametrize("what", ["albedo", "light", "point", "exponent", "ambient", "environment"])
def test_gradients_of_materials_and_lights_are_finite_differences(what: str) -> None:
    start = {
        "albedo": torch.tensor([0.5, 0.6, 0.7]),
        "light": torch.tensor([1.0, -2.0, 1.0]),
        "point": torch.tensor([1.0, -2.5, 1.0]),
        "exponent": torch.tensor(12.0),
        "ambient": torch.tensor([0.1, 0.2, 0.3]),
        "environment": torch.rand(6, 1, 1, 3, generator=torch.Generator().manual_seed(0)),
    }
    mesh, cameras = ball(2), camera(32)

    def value(x: Tensor) -> Tensor:
        now = {**start, what: x}
        lights: list[Light] = [
            DirectionalLight(now["light"], WHITE),
            PointLight(now["point"], WHITE),
            AmbientLight(now["ambient"]),
            EnvironmentLight(now["environment"]),
        ]
        return _loss(render_surface(mesh, BlinnPhong(Uniform(now["albedo"]), WHITE * 0.4, now["exponent"]), lights, cameras))

    x = start[what].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(x), x)
    with torch.no_grad():
        expected = _slope(value, start[what], 0.05 if what == "exponent" else 2e-3)
    assert gradient.abs().max() > 1e-5
    torch.testing.assert_close(gradient, expected.float(), atol=2e-3 * float(expected.abs().max()), rtol=1e-2)


@pytest.mark.parametrize("where", ["inside", "outline"])
def test_the_gradient_of_a_translation_is_a_finite_difference(where: str) -> None:
    """Inside the sphere shading moves; at its outline, visibility.

    The rule of antialiasing takes the color at the outline from the next pixel center, so its slope is right to a few per cent.
    """
    mesh, cameras = ball(3), camera(64, focal=4.0 if where == "inside" else 1.2)
    light = PointLight(torch.tensor([0.5, -2.0, 1.0]), WHITE)
    color = replace(mesh, colors=0.6 + 0.3 * mesh.vertices)
    material = Lambert(Uniform(WHITE)) if where == "inside" else Unlit(VertexColor())

    def value(offset: Tensor) -> Tensor:
        moved = replace(color, vertices=mesh.vertices + offset)
        return _loss(render_surface(moved, material, [light], cameras, samples=1 if where == "inside" else 3))

    offset = torch.zeros(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(value(offset), offset)
    with torch.no_grad():
        expected = _slope(value, torch.zeros(3), 0.02 if where == "inside" else 0.05)
    share = 0.01 if where == "inside" else 0.05
    torch.testing.assert_close(gradient, expected.float(), atol=share * float(expected.abs().max()), rtol=0)


def test_the_gradient_of_a_pose_is_a_finite_difference() -> None:
    mesh, cameras = ball(2), camera(64)

    def value(center: Tensor) -> Tensor:
        pose = torch.cat([torch.cat([cameras.world_from_camera[0, :3, :3], center[:, None]], 1), torch.eye(4)[3:]])
        return _loss(render_surface(mesh, SHOW, [], replace(cameras, world_from_camera=pose[None])))

    center = cameras.positions[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(center), center)
    with torch.no_grad():
        expected = _slope(value, cameras.positions[0], 0.05)
    torch.testing.assert_close(gradient, expected.float(), atol=0.03 * float(expected.abs().max()), rtol=0)


def test_gradients_reach_textures_vertex_colors_and_normals_and_are_finite() -> None:
    mesh = replace(ball(1), colors=torch.rand(42, 3).requires_grad_(), normals=ball(1).normals.clone().requires_grad_())  # pyright: ignore
    rendering = render_surface(mesh, Lambert(VertexColor()), [DirectionalLight(torch.tensor([0.0, -1, 0]), WHITE)], camera(32), layers=2)
    _loss(rendering).backward()
    assert mesh.colors is not None and mesh.normals is not None
    for tensor in (mesh.colors, mesh.normals):
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().max() > 0
    texels = torch.rand(16, 16, 4, requires_grad=True)
    _loss(render_surface(square(0.6), Unlit(Texture(texels)), [], camera(32), layers=2)).backward()
    assert texels.grad is not None and texels.grad.isfinite().all() and (texels.grad.abs().sum((0, 1)) > 0).all()


# What cannot be rendered


def test_errors_say_what_is_missing() -> None:
    with pytest.raises(ValueError, match="no vertex colors"):
        render_surface(ball(1), Unlit(VertexColor()), [], camera(8))
    with pytest.raises(ValueError, match="no texture coordinates"):
        render_surface(ball(1), Unlit(Texture(torch.zeros(4, 4, 3))), [], camera(8))
    with pytest.raises(ValueError, match="no texture coordinates"):
        surface_in_texture(ball(1), (8, 8))
    with pytest.raises(ValueError, match="3 channels, or 4 with opacity, got 2 from its source"):
        render_surface(ball(1), Unlit(Uniform(torch.zeros(2))), [], camera(8))
    for samples, layers in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"integers from 1 on as samples and layers, got {samples} and {layers}"):
            render_surface(ball(1), SHOW, [], camera(8), samples=samples, layers=layers)
    for counts in ({"samples": 1.5}, {"layers": 1.5}):
        with pytest.raises(ValueError, match=r"integers from 1 on .*1\.5"):
            unchecked(render_surface)(ball(1), SHOW, [], camera(8), **counts)
    with pytest.raises(ValueError, match="samples is 1025, which makes 8200 x 8200 samples of 8 x 8 pixels"):
        render_surface(ball(1), SHOW, [], camera(8), samples=1025)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_renders_what_the_cpu_renders() -> None:
    mesh, cameras = replace(square(0.8, angle=0.3)), camera(48)
    texels = torch.rand(16, 16, 4)
    results = []
    for device in ("cpu", "cuda"):
        leaf = texels.to(device).requires_grad_()
        vertices = mesh.vertices.to(device).requires_grad_()
        light = PointLight(torch.tensor([1.0, -2, 1], device=device), torch.ones(3, device=device))
        deformed = replace(mesh.to(device), vertices=vertices)
        rendering = render_surface(deformed, Lambert(Texture(leaf)), [light], cameras.to(device), layers=2)
        gradients = torch.autograd.grad(rendering.color.square().sum() + rendering.distance.sum(), (leaf, vertices))
        results.append([rendering.color, rendering.opacity, rendering.normal, *gradients])
    for here, there in zip(*results, strict=True):
        torch.testing.assert_close(here, there.cpu(), atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_leaves_out_triangles_whose_corners_do_not_exist() -> None:
    mesh, cameras = square(0.8), camera(16)
    more = Mesh(mesh.vertices, torch.cat([mesh.faces, torch.tensor([[0, 1, 4], [-1, 1, 2]])])).to("cuda")
    rendering = render_surface(more, Unlit(Uniform(WHITE.to("cuda"))), [], cameras.to("cuda"), antialiasing=None)
    expected = render_surface(mesh, SHOW, [], cameras, antialiasing=None)
    torch.testing.assert_close(rendering.color.cpu(), expected.color)
    torch.testing.assert_close(rendering.normal.cpu(), expected.normal)


def test_spot_looks_like_spot(data_dir: Path) -> None:
    """Its eyes are black, its muzzle is pink, its horns are brown, and it stands on its feet."""
    mesh = read_mesh(data_dir / "meshes" / "spot.obj").with_vertex_normals()
    picture = np.asarray(Image.open(data_dir / "meshes" / "spot_texture.png").convert("RGB"), np.float32) / 255
    texels = linear_from_srgb(torch.from_numpy(picture))
    pose = look_at(torch.tensor([[0.0, 0.1, -3.5]]), torch.tensor([0.0, 0.1, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    cameras = Cameras.alike(pose, torch.tensor([[200.0, 200.0, 64.0, 64.0]]), torch.zeros(1, 6), 128, 128)
    image = srgb_from_linear(render_surface(mesh, Unlit(Texture(texels)), [], cameras, background=WHITE).color[0])
    places = {"eye": (30, 56), "muzzle": (55, 64), "horn": (14, 53), "foot": (107, 50), "nostril": (47, 52)}
    expected = {"eye": (0, 0, 0), "muzzle": (255, 198, 167), "horn": (157, 90, 53), "foot": (104, 104, 104), "nostril": (137, 79, 48)}
    for name, (row, column) in places.items():
        found = 255 * image[row - 1 : row + 2, column - 1 : column + 2].mean((0, 1))
        assert (found - torch.tensor(expected[name])).abs().max() < 15, name
    assert (image[:8] > 0.999).all() and (image[-14:] > 0.999).all()


def _sphere_normal(cameras: Cameras) -> Tensor:
    """Return the unit sphere's normal where each pixel's ray meets it, zero where it misses, [1, height, width, 3]."""
    rays = cameras.image_rays(0)
    along = (rays.origins * rays.directions).sum(-1)
    discriminant = along**2 - (rays.origins.square().sum(-1) - 1)
    distance = -along - discriminant.clamp_min(0).sqrt()
    points = rays.origins + distance[:, None] * rays.directions
    return torch.where(discriminant[:, None] > 0, points, 0.0).reshape(1, cameras.height, cameras.width, 3)
