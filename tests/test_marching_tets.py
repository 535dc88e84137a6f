"""The lattice of tetrahedra, and surfaces extracted on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mesh_samples import closed_manifold_problem, signed_volume
from unrender.geometry.marching_tets import marching_tets
from unrender.geometry.mesh import Mesh
from unrender.geometry.tetrahedra import LOCAL_EDGES, TetrahedralLattice, tetrahedral_lattice
from unrender.geometry.topology import genus


def torus(points: Tensor, ring: float = 0.55, tube: float = 0.25) -> Tensor:
    return ((points[:, :2].norm(dim=1) - ring) ** 2 + points[:, 2] ** 2).sqrt() - tube


def closed_noise(lattice: TetrahedralLattice, generator: torch.Generator) -> Tensor:
    """Draw values of both signs that are positive on the boundary."""
    values = torch.randn(len(lattice.vertices), generator=generator)
    return torch.where((lattice.vertices.abs() > 0.999).any(1), values.abs(), values)


@pytest.mark.parametrize("cells", [1, 2, (2, 3, 4)])
def test_tetrahedra_fill_the_box_and_share_their_edges(cells: int | tuple[int, int, int]) -> None:
    box = torch.tensor([[0.0, -1.0, 2.0], [2.0, 2.0, 6.0]])
    lattice = tetrahedral_lattice(cells, box)
    corners = lattice.tetrahedra.long()
    places = lattice.vertices.double()[corners]
    volumes = torch.linalg.det(places[:, 1:] - places[:, :1]) / 6
    assert volumes.min() > 0 and volumes.sum() == pytest.approx(24.0)
    named = lattice.edges.long()[lattice.tetrahedron_edges.long()]
    assert torch.equal(named, corners[:, torch.tensor(LOCAL_EDGES)].sort(-1).values)
    assert len(torch.unique(lattice.edges, dim=0)) == len(lattice.edges) == len(torch.unique(lattice.tetrahedron_edges))
    assert len(torch.unique(corners)) == len(lattice.vertices)
    faces = torch.cat([corners[:, [a, b, c]] for a, b, c in ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3))]).sort(1).values
    triangles, count = torch.unique(faces, dim=0, return_counts=True)
    inner = (lattice.vertices[triangles].mean(1) > box[0] + 1e-5) & (lattice.vertices[triangles].mean(1) < box[1] - 1e-5)
    assert torch.equal(count == 2, inner.all(1)) and count.max() == 2


def test_surfaces_of_random_fields_are_closed_manifolds() -> None:
    generator = torch.Generator().manual_seed(0)
    lattice = tetrahedral_lattice((3, 2, 4))
    for _ in range(1000):
        points, faces = marching_tets(lattice.vertices, closed_noise(lattice, generator), lattice)
        assert closed_manifold_problem(faces.numpy()) is None
        assert signed_volume(Mesh(points, faces)) > 0 or len(faces) == 0


def test_sphere_and_torus_have_their_genus_volume_and_outward_normals() -> None:
    lattice = tetrahedral_lattice(24)
    for field, handles, volume in (
        (lattice.vertices.norm(dim=1) - 0.71, 0, 4 / 3 * np.pi * 0.71**3),
        (torus(lattice.vertices), 1, 2 * np.pi**2 * 0.55 * 0.25**2),
    ):
        mesh = Mesh(*marching_tets(lattice.vertices, field, lattice))
        assert genus(mesh) == handles and mesh.component_count == 1
        assert signed_volume(mesh) == pytest.approx(volume, rel=0.03)
        assert len(torch.unique(mesh.faces)) == len(mesh.vertices)


def test_vertices_lie_where_a_linear_field_is_zero() -> None:
    lattice = tetrahedral_lattice(3)
    direction = torch.tensor([0.3, -0.5, 0.8])
    points, faces = marching_tets(lattice.vertices, lattice.vertices @ direction - 0.1, lattice)
    assert (points @ direction - 0.1).abs().max() < 1e-6
    a, b, c = points[faces].unbind(1)
    assert (torch.linalg.cross(b - a, c - a) @ direction > 0).all()


def test_gradients_agree_with_finite_differences() -> None:
    box = torch.tensor([[-1.0] * 3, [1.0] * 3], dtype=torch.float64)
    lattice = tetrahedral_lattice(2, box)
    generator = torch.Generator().manual_seed(1)
    sdf = closed_noise(lattice, generator).double()
    sdf = torch.where(sdf < 0, sdf - 0.2, sdf + 0.2).requires_grad_()
    moved = (lattice.vertices + 0.05 * torch.randn(lattice.vertices.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, s: marching_tets(v, s, lattice)[0], (moved, sdf))


def test_a_field_of_one_sign_has_no_surface() -> None:
    lattice = tetrahedral_lattice(2)
    for value in (1.0, -1.0):
        points, faces = marching_tets(lattice.vertices, torch.full((len(lattice.vertices),), value), lattice)
        assert len(points) == len(faces) == 0


def test_wrong_sizes_are_told() -> None:
    lattice = tetrahedral_lattice(2)
    with pytest.raises(ValueError, match="at least one cell"):
        tetrahedral_lattice(0)
    with pytest.raises(ValueError, match="second corner must be larger"):
        tetrahedral_lattice(2, torch.tensor([[0.0] * 3, [1.0, 1.0, 0.0]]))
    with pytest.raises(ValueError, match="use fewer cells"):
        tetrahedral_lattice(4000)
    with pytest.raises(ValueError, match="as many positions and values"):
        marching_tets(lattice.vertices, torch.zeros(5), lattice)
