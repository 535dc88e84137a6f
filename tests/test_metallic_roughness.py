"""The material of glTF: what it reflects under lights whose reflection is known, and the normals of normal maps."""

from __future__ import annotations

import math

import pytest
import torch

from unrender.cameras import Cameras
from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset, PbrMaterial
from unrender.render.baking import baked
from unrender.render.lit import LitScene, over_gray
from unrender.render.rendering import Rendering
from unrender.render.surface import render_surface, surface_in_texture
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import AmbientLight, DirectionalLight, EnvironmentLight
from unrender.shading.materials import Shaded
from unrender.shading.metallic_roughness import MetallicRoughness, PbrValues, shading_normal
from unrender.transforms import look_at


def square() -> Mesh:
    """The unit square in the plane z = 0 that faces +Z, with u along +X and v against +Y."""
    vertices = torch.tensor([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    uvs = torch.stack([vertices[:, 0] + 0.5, 0.5 - vertices[:, 1]], 1)
    return Mesh(vertices, faces, uvs=uvs, uv_faces=faces).with_vertex_normals().with_tangents()


def above(height: float = 2.0) -> Cameras:
    pose = look_at(torch.tensor([[0.0, 0.0, height]]), torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
    return Cameras.alike(pose, torch.tensor([[40.0, 40.0, 8.0, 8.0]]), None, 16, 16)


def center(rendering: Rendering) -> torch.Tensor:
    return rendering.color[0, 8, 8]


def constant(roughness: float, metallic: float, color: float = 0.5) -> MetallicRoughness:
    def values(surface: GBuffer) -> PbrValues:
        like = surface.normal
        return PbrValues(torch.full_like(like, color), torch.full_like(like[..., 0], roughness), torch.full_like(like[..., 0], metallic))

    return MetallicRoughness(values)


def test_a_rough_dielectric_in_a_furnace_reflects_its_base_color_and_its_facets() -> None:
    """Seen along the normal, a smooth surface has A = 1 - B -> F0 A + B close to F0."""
    furnace = EnvironmentLight(torch.ones(6, 16, 16, 3))
    seen = center(render_surface(square(), constant(0.05, 0.0), [furnace], above()))
    torch.testing.assert_close(seen, torch.full((3,), 0.5 + 0.04), atol=2e-3, rtol=0)
    mirror = center(render_surface(square(), constant(0.05, 1.0, color=0.9), [furnace], above()))
    torch.testing.assert_close(mirror, torch.full((3,), 0.9), atol=3e-3, rtol=0)


def test_under_a_lamp_straight_above_the_reflection_is_that_of_the_formula() -> None:
    """n = v = l: f cos = π (base (1 - m) / π + F0 D G / 4) with D = 1 / (π α²) and G = 1, for a lamp of irradiance π."""
    roughness, lamp = 0.5, DirectionalLight(torch.tensor([0.0, 0.0, 1.0]), torch.ones(3))
    seen = center(render_surface(square(), constant(roughness, 0.0), [lamp], above()))
    wanted = 0.5 + 0.04 / (4 * roughness**4)
    torch.testing.assert_close(seen, torch.full((3,), wanted), atol=2e-3, rtol=0)


@pytest.mark.parametrize(("mapped", "wanted"), [((0.6, 0.0, 0.8), (0.6, 0.0, 0.8)), ((0.0, 0.6, 0.8), (0.0, 0.6, 0.8))])
def test_a_normal_map_leans_along_u_and_against_v(mapped: tuple[float, ...], wanted: tuple[float, ...]) -> None:
    found: list[torch.Tensor] = []

    def material(surface: GBuffer, lights: object) -> Shaded:
        normal = shading_normal(surface, torch.tensor(mapped).expand_as(surface.normal))
        found.append(normal[surface.covered][0])
        return Shaded(normal, torch.ones_like(normal[..., 0]))

    render_surface(square(), material, [], above())
    torch.testing.assert_close(found[0], torch.tensor(wanted), atol=1e-5, rtol=0)


def test_a_normal_map_seen_from_behind_leans_the_same_way_in_the_world() -> None:
    found: list[torch.Tensor] = []

    def material(surface: GBuffer, lights: object) -> Shaded:
        normal = shading_normal(surface, torch.tensor([0.6, 0.0, 0.8]).expand_as(surface.normal))
        found.append(normal[surface.covered][0])
        return Shaded(normal, torch.ones_like(normal[..., 0]))

    render_surface(square(), material, [], above(-2.0))
    torch.testing.assert_close(found[0], -torch.tensor([0.6, 0.0, 0.8]), atol=1e-5, rtol=0)


def test_a_normal_that_turns_away_from_the_viewer_is_that_of_the_triangle() -> None:
    surface = surface_in_texture(square(), (4, 4))  # seen along its own normal
    away = shading_normal(surface, torch.tensor([1.0, 0.0, -0.5]).expand_as(surface.normal))
    torch.testing.assert_close(away, surface.face_normal, atol=1e-6, rtol=0)


def test_a_normal_map_needs_tangents() -> None:
    bare = Mesh(square().vertices, square().faces)
    material = MetallicRoughness(lambda s: PbrValues(s.normal, s.distance, s.distance, s.normal))
    with pytest.raises(ValueError, match="tangents"):
        render_surface(bare, material, [AmbientLight(torch.ones(3))], above())


def test_a_scene_of_an_asset_shows_its_texture_over_its_background() -> None:
    texels = torch.zeros(8, 8, 3)
    texels[:4, :, 0] = 0.5  # the upper half of the picture, +Y, is red
    asset = Asset(square(), PbrMaterial(texels, roughness=1.0), EnvironmentLight(torch.ones(6, 16, 16, 3)))
    seen = LitScene(asset, background=1.0).render_view(above(5.0), 0)
    assert seen.encoding == "srgb"
    torch.testing.assert_close(seen.color[0, 0], torch.ones(3))
    upper, lower = seen.linear[5, 8], seen.linear[10, 8]
    assert abs(float(upper[0] - lower[0]) - 0.5) < 0.02 and abs(float(upper[1] - lower[1])) < 1e-3


def test_pictures_are_composited_as_photos_with_masks_are() -> None:
    half = Rendering(torch.full((1, 1, 3), 0.25), torch.full((1, 1), 0.5), torch.ones(1, 1), torch.ones(1, 1, 3), "linear")
    srgb = 1.055 * 0.5 ** (1 / 2.4) - 0.055
    torch.testing.assert_close(over_gray(half, 1.0).color, torch.full((1, 1, 3), 0.5 * srgb + 0.5))


def test_baked_texels_are_the_values_at_their_points_and_fill_the_gutter() -> None:
    mesh = square()
    assert mesh.uvs is not None
    small = Mesh(mesh.vertices, mesh.faces, uvs=0.25 + 0.5 * mesh.uvs, uv_faces=mesh.uv_faces)
    texels = baked(small, lambda surface: surface.position, 16)
    x = (torch.arange(16) + 0.5) / 16
    inside = (2 * (x - 0.25) - 0.5).clamp(-0.5 + 1 / 16, 0.5 - 1 / 16)
    torch.testing.assert_close(texels[8, :, 0], inside, atol=1e-5, rtol=0)
    torch.testing.assert_close(texels[:, 8, 1], -inside, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="cover none"):
        baked(Mesh(mesh.vertices, mesh.faces, uvs=mesh.uvs * 1e-6 + 0.3, uv_faces=mesh.uv_faces), lambda surface: surface.position, 4)
    assert math.isfinite(float(texels.sum()))
