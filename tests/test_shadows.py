"""Shadows of a mesh on itself, and the light that its parts reflect to each other."""

import pytest
import torch
import trimesh
from torch import Tensor

from unrender.geometry.mesh import Mesh
from unrender.shading import shadows
from unrender.shading.cubes import cube_directions
from unrender.shading.lights import EnvironmentLight, prefiltered
from unrender.shading.shadows import BOUNCES, light_transport, shadowed

SIDE = torch.linspace(-1, 1, 17)
CONSTANT = EnvironmentLight(torch.full((6, 8, 8, 3), 0.5))


def ball(subdivisions: int = 3) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions)
    return Mesh(torch.tensor(made.vertices, dtype=torch.float32), torch.tensor(made.faces, dtype=torch.int64)).with_vertex_normals()


def cavity(opening: float) -> tuple[Mesh, float]:
    """Return the inside of a ball whose top is open, and the share of its area that is missing: about ``opening``."""
    whole = ball(4)
    kept = (whole.vertices[whole.faces][..., 2] < 1 - 2 * opening).all(1)
    area = torch.tensor(trimesh.Trimesh(whole.vertices.numpy(), whole.faces.numpy()).area_faces)
    missing = float(area[~kept].sum() / area.sum())
    inward = whole.faces[kept].flip(1)
    used, faces = inward.unique(return_inverse=True)
    return Mesh(whole.vertices[used], faces, normals=-whole.vertices[used]), missing


def floor_and_wall(x: Tensor = SIDE, y: Tensor = SIDE, height: float = 9) -> Mesh:
    """Return a floor at z = 0, and a wide wall at x = 0."""
    places = torch.cartesian_prod(x, y)
    plane = torch.cat([places, torch.zeros(len(places), 1)], -1)
    index = torch.arange(len(places)).view(len(x), len(y))
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3), torch.stack([a, c, d], -1).reshape(-1, 3)])
    wall = torch.tensor([[0.0, -9, -0.01], [0, 9, -0.01], [0, 9, height], [0, -9, height]])
    return Mesh(torch.cat([plane, wall]), torch.cat([faces, torch.tensor([[0, 1, 2], [0, 2, 3]]) + len(plane)]))


def shares(mesh: Mesh, light: EnvironmentLight, color: float) -> Tensor:
    return shadowed(prefiltered(light), light_transport(mesh), torch.full_like(mesh.vertices, color)).shares[0]


def test_a_convex_mesh_casts_no_shadow_on_itself() -> None:
    transport = light_transport(ball())
    assert torch.allclose(transport.openness, torch.ones(len(ball().vertices)), atol=1e-6)
    light = EnvironmentLight(torch.rand(6, 16, 16, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(shares(ball(), light, 0.8), torch.ones(len(ball().vertices), 3), atol=1e-5)


@pytest.mark.parametrize("opening", [0.1, 0.3])
@pytest.mark.parametrize("color", [0.0, 0.5, 1.0])
def test_the_light_in_a_spherical_cavity_is_the_series_of_its_reflections(opening: float, color: float) -> None:
    """Every point of a ball sees an equal area of it under an equal solid angle, weighted by the cosine: E = Σ o (ρ (1 − o))ᵏ."""
    mesh, missing = cavity(opening)
    expected = sum(missing * (color * (1 - missing)) ** bounce for bounce in range(BOUNCES + 1))
    assert float(shares(mesh, CONSTANT, color).mean()) == pytest.approx(expected, abs=0.01)


def test_light_from_one_side_leaves_the_other_side_of_a_wall_dark() -> None:
    texels = torch.zeros(6, 8, 8, 3)
    texels[0, :4] = 1.0  # the upper half of the face towards +X
    texels[0, :4, :, 1] = 3.0
    mesh = floor_and_wall()
    found = shares(mesh, EnvironmentLight(texels), 0.0)[: 17 * 17].view(17, 17, 3)
    assert float(found[:8].max()) < 1e-3, "behind the wall"
    assert torch.allclose(found[9:], torch.ones(8, 17, 3), atol=1e-3), "in front of it"


def test_the_edge_of_the_shadow_of_a_lamp_is_as_sharp_as_its_light() -> None:
    """A lamp in the direction (1, 0, h) leaves the floor behind a wall of height 1 dark up to 1 / h from it, and no farther."""
    texels = torch.zeros(6, 32, 32, 3)
    texels[0, 15:17, 8] = 100.0  # h = 1 - 2 (8 + 1/2) / 32
    height = 1 - 2 * 8.5 / 32
    steps = torch.linspace(-4, 4, 81)
    mesh = floor_and_wall(steps, torch.tensor([-0.5, 0.0, 0.5]), height=1)
    found = shares(mesh, EnvironmentLight(texels), 0.0)[: 81 * 3].view(81, 3, 3)[:, 1, 0]
    behind = (steps < -0.05) & (steps > -1 / height + 0.25)
    before = (steps > 0.05) | (steps < -1 / height - 0.25)
    assert float(found[behind].max()) < 0.02 and float(found[before].min()) > 0.98


def test_many_vertices_have_fewer_directions_each_and_nearly_the_same_light(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = light_transport(floor_and_wall())
    expected = shares(floor_and_wall(), CONSTANT, 0.5)
    monkeypatch.setattr(shadows, "_MANY", 100)
    coarse = light_transport(floor_and_wall())
    assert (fine.size, coarse.size) == (16, 8)
    torch.testing.assert_close(coarse.openness, fine.openness, atol=0.05, rtol=0)
    torch.testing.assert_close(shares(floor_and_wall(), CONSTANT, 0.5), expected, atol=0.05, rtol=0)


def test_a_wall_reflects_its_color_to_the_floor() -> None:
    mesh = floor_and_wall()
    color = torch.zeros_like(mesh.vertices)
    color[-4:, 0] = 1.0
    found = shadowed(prefiltered(CONSTANT), light_transport(mesh), color).shares[0, : 17 * 17].view(17, 17, 3)
    assert float((found[9:12, 4:13, 0] - found[9:12, 4:13, 1]).min()) > 0.1, "red light near a red wall"
    assert torch.equal(found[..., 1], found[..., 2])


def test_gradients_of_the_light_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    texels = torch.rand(6, 8, 8, 3, generator=generator)
    mesh, towards = floor_and_wall(), torch.rand(6, 8, 8, 3, generator=generator)
    transport, black = light_transport(mesh), torch.zeros_like(mesh.vertices)
    weights = torch.randn(len(mesh.vertices), 3, generator=generator)

    def loss(texels: Tensor) -> Tensor:
        return (shadowed(prefiltered(EnvironmentLight(texels)), transport, black).shares * weights).sum()

    start = texels.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(start), start)
    step = 1e-2
    numeric = (loss(texels + step * towards) - loss(texels - step * towards)) / (2 * step)
    assert abs(float((slope * towards).sum() - numeric)) < 2e-3 * abs(float(numeric))


def test_a_light_that_turns_with_the_camera_casts_the_shadows_of_the_light_in_each_view() -> None:
    """A quarter turn about +Z takes the faces of a cube map to other faces, so the same light has axes of the world in every view."""
    generator = torch.Generator().manual_seed(2)
    texels, mesh = torch.rand(6, 8, 8, 3, generator=generator), floor_and_wall()
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    light_from_world = torch.stack([torch.eye(3), quarter, quarter @ quarter])
    transport, color = light_transport(mesh), torch.full_like(mesh.vertices, 0.5)
    turning = shadowed(prefiltered(EnvironmentLight(texels, light_from_world)), transport, color).shares
    directions = cube_directions(8)
    for view, rotation in enumerate(light_from_world):
        still = EnvironmentLight(EnvironmentLight(texels).radiance(directions @ rotation.T))
        expected = shadowed(prefiltered(still), transport, color).shares[0]
        torch.testing.assert_close(turning[view], expected, atol=1e-4, rtol=1e-4)
    assert float((turning[1] - turning[0]).abs().max()) > 0.02
