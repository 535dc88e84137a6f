"""Smoothing of meshes."""

import math

import pytest
import torch
import trimesh

from unrender.geometry.mesh import Mesh
from unrender.geometry.smoothing import smoothed


def ball(subdivisions: int = 3) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions)
    return Mesh(torch.tensor(made.vertices, dtype=torch.float32), torch.tensor(made.faces, dtype=torch.int64)).with_vertex_normals()


def angle_to_ball(mesh: Mesh) -> float:
    """Return the mean angle between the normals of a mesh and the directions to its vertices, in degrees."""
    assert mesh.normals is not None
    cosine = (mesh.normals * torch.nn.functional.normalize(mesh.vertices, dim=-1)).sum(-1).clamp(-1, 1)
    return math.degrees(float(cosine.acos().mean()))


def test_noise_vanishes_and_the_form_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = ball(4)
    noisy = Mesh(noisy.vertices * (1 + 0.01 * torch.randn(len(noisy.vertices), 1, generator=generator)), noisy.faces).with_vertex_normals()
    found = smoothed(noisy, 1.0)
    assert angle_to_ball(found) < 0.4 * angle_to_ball(noisy)
    assert abs(float(found.vertices.norm(dim=-1).mean()) - 1) < 0.002
    assert torch.allclose(found.vertices.mean(0), noisy.vertices.mean(0), atol=1e-6)
    assert torch.equal(found.faces, noisy.faces)


def test_it_solves_the_equation_of_a_dense_matrix() -> None:
    made = ball()
    vertices = torch.randn(made.vertices.shape, generator=torch.Generator().manual_seed(1))
    adjacency = torch.zeros(len(vertices), len(vertices), dtype=torch.float64)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        adjacency[made.faces[:, a], made.faces[:, b]] = 1
    laplacian = torch.diag(adjacency.sum(1)) - adjacency
    expected = torch.linalg.solve(torch.eye(len(vertices)).double() + 0.7 * laplacian @ laplacian, vertices.double())
    assert torch.allclose(smoothed(Mesh(vertices, made.faces), 0.7).vertices.double(), expected, atol=1e-6)


def test_texture_coordinates_stay_and_strength_zero_changes_nothing() -> None:
    uvs = torch.rand(3, 2, generator=torch.Generator().manual_seed(0))
    triangle = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), uvs=uvs, uv_faces=torch.tensor([[0, 1, 2]]))
    assert torch.equal(smoothed(triangle, 0.0).vertices, triangle.vertices)
    found = smoothed(triangle, 2.0)
    assert found.uvs is not None and torch.equal(found.uvs, uvs)


@pytest.mark.parametrize("strength", [-1.0, math.inf, math.nan])
def test_an_impossible_strength_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="cannot be smoothed with strength"):
        smoothed(ball(), strength)
