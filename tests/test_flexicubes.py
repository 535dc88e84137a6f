"""FlexiCubes: the cases of dual marching cubes, and surfaces extracted with weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mesh_samples import closed_manifold_problem, signed_volume
from test_marching_tets import torus
from unrender.geometry.flexicubes import WEIGHTS, flexicubes
from unrender.geometry.flexicubes_cases import EDGES, OWN_FACE, PATCH_COUNT, PATCHES
from unrender.geometry.mesh import Mesh
from unrender.geometry.topology import genus
from unrender.geometry.voxels import VoxelLattice, voxel_lattice


def closed_noise(lattice: VoxelLattice, generator: torch.Generator) -> Tensor:
    """Draw values of both signs that are positive on the boundary."""
    values = torch.randn(len(lattice.vertices), generator=generator)
    return torch.where((lattice.vertices.abs() > 0.999).any(1), values.abs(), values)


def test_every_edge_with_a_sign_change_has_a_patch_of_three_edges_or_more() -> None:
    inside = np.arange(256)[:, None] >> np.arange(8) & 1
    changes = inside[:, EDGES[:, 0]] != inside[:, EDGES[:, 1]]
    assert np.array_equal(PATCHES >= 0, np.concatenate([changes, changes]))
    for variant in range(512):
        assert (np.bincount(PATCHES[variant][PATCHES[variant] >= 0], minlength=PATCH_COUNT[variant]) >= 3).all()
    assert PATCH_COUNT.max() == 4


def test_the_corrected_cases_are_those_published_as_c16_and_c19() -> None:
    inside = (np.arange(256)[:, None] >> np.arange(8) & 1).sum(1)
    assert np.bincount(inside[OWN_FACE >= 0]).tolist() == [0, 0, 0, 0, 0, 24, 12]
    assert (PATCH_COUNT[:256][OWN_FACE >= 0] == 1).all() and (PATCH_COUNT[256:][OWN_FACE >= 0] == 2).all()


@pytest.mark.parametrize("training", [True, False])
def test_surfaces_of_random_fields_are_closed_manifolds(training: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    lattice = voxel_lattice((4, 5, 3))
    for _ in range(500):
        surface = flexicubes(lattice.vertices, closed_noise(lattice, generator), lattice, training=training)
        assert closed_manifold_problem(surface.faces.numpy()) is None
        assert len(torch.unique(surface.faces)) == len(surface.vertices)
        assert signed_volume(Mesh(surface.vertices, surface.faces)) > 0 or len(surface.faces) == 0


def test_two_patches_that_would_touch_along_an_edge_are_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    lattice = voxel_lattice((4, 5, 3))
    monkeypatch.setattr("unrender.geometry.flexicubes.OWN_FACE", np.full(256, -1))
    generator = torch.Generator().manual_seed(0)
    fields = [closed_noise(lattice, generator) - 0.3 for _ in range(50)]
    closed = [torch.where((lattice.vertices.abs() > 0.999).any(1), field.abs(), field) for field in fields]
    problems = [closed_manifold_problem(flexicubes(lattice.vertices, field, lattice).faces.numpy()) for field in closed]
    assert "an edge has two triangles on one side" in problems
    monkeypatch.undo()
    assert not any(closed_manifold_problem(flexicubes(lattice.vertices, field, lattice).faces.numpy()) for field in closed)


@pytest.mark.parametrize("training", [True, False])
def test_sphere_and_torus_have_their_genus_volume_and_outward_normals(training: bool) -> None:
    lattice = voxel_lattice(24)
    for field, handles, volume in (
        (lattice.vertices.norm(dim=1) - 0.71, 0, 4 / 3 * np.pi * 0.71**3),
        (torus(lattice.vertices), 1, 2 * np.pi**2 * 0.55 * 0.25**2),
    ):
        surface = flexicubes(lattice.vertices, field, lattice, training=training)
        mesh = Mesh(surface.vertices, surface.faces)
        assert genus(mesh) == handles and mesh.component_count == 1
        assert signed_volume(mesh) == pytest.approx(volume, rel=0.05)


def test_vertices_of_a_plane_lie_on_it_whatever_beta_and_gamma() -> None:
    lattice = voxel_lattice(3)
    direction = torch.tensor([0.3, -0.5, 0.8])
    weights = torch.randn(lattice.cell_count, WEIGHTS, generator=torch.Generator().manual_seed(2))
    weights[:, 12:20] = 0  # α
    surface = flexicubes(lattice.vertices, lattice.vertices @ direction - 0.1, lattice, weights)
    assert (surface.vertices @ direction - 0.1).abs().max() < 1e-6
    a, b, c = surface.vertices[surface.faces].unbind(1)
    assert (torch.linalg.cross(b - a, c - a) @ direction).min() > -1e-6


def test_a_vertex_is_the_mean_of_its_weighted_crossings() -> None:
    lattice = voxel_lattice(1, torch.tensor([[0.0] * 3, [1.0] * 3]))
    sdf = torch.tensor([-1.0, 1, 1, 1, 1, 1, 1, 1])  # one corner inside
    weights = torch.zeros(1, WEIGHTS)
    weights[0, 0] = torch.atanh(torch.tensor(0.5 / 0.99))  # β = 1.5 along x
    weights[0, 12 + 4] = torch.atanh(torch.tensor(-0.5 / 0.99))  # α = 0.5 at the corner (0, 0, 1)
    surface = flexicubes(lattice.vertices, sdf, lattice, weights)
    crossings = torch.tensor([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1 / 1.5]])
    expected = (torch.tensor([1.5, 1, 1]) @ crossings) / 3.5
    assert torch.allclose(surface.vertices, expected[None], atol=1e-6) and len(surface.faces) == 0
    distances = (crossings - expected).norm(dim=1)
    assert surface.deviation.item() == pytest.approx((distances - distances.mean()).abs().mean().item(), rel=1e-5)


def test_quadrilaterals_are_split_along_the_diagonal_of_larger_gamma() -> None:
    lattice = voxel_lattice(2)
    sdf = lattice.vertices[:, 2] + 0.1  # crosses the edge in the middle between the four lower cells
    order = (torch.arange(8) // 4 + torch.arange(8) // 2 % 2) % 2  # of cells along a diagonal of x and y
    for chosen in (0, 1):
        weights = torch.zeros(8, WEIGHTS)
        weights[:, 20] = torch.where(order == chosen, 3.0, -3.0)
        flat = flexicubes(lattice.vertices, sdf, lattice, weights, training=False)
        shared = np.flatnonzero(np.bincount(flat.faces.reshape(-1)) == 2)
        sums = flat.vertices[shared, :2].prod(1)
        assert len(flat.faces) == 2 and ((sums > 0) == (chosen == 0)).all()
        smooth = flexicubes(lattice.vertices, sdf, lattice, weights)
        assert len(smooth.faces) == 4 and smooth.vertices[-1].abs().max() < 0.2


def test_gradients_agree_with_finite_differences() -> None:
    lattice = voxel_lattice(3, torch.tensor([[-1.0] * 3, [1.0] * 3], dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    sdf = closed_noise(lattice, generator).double()
    sdf = torch.where(sdf < 0, sdf - 0.2, sdf + 0.2).requires_grad_()
    moved = (lattice.vertices + 0.05 * torch.randn(lattice.vertices.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    weights = (0.3 * torch.randn(lattice.cell_count, WEIGHTS, generator=generator, dtype=torch.float64)).requires_grad_()

    def extracted(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        surface = flexicubes(inputs[0], inputs[1], lattice, inputs[2])
        return surface.vertices, surface.deviation

    assert torch.autograd.gradcheck(extracted, (moved, sdf, weights), fast_mode=True)


def test_a_field_of_one_sign_has_no_surface() -> None:
    lattice = voxel_lattice(2)
    for value in (1.0, -1.0):
        surface = flexicubes(lattice.vertices, torch.full((27,), value), lattice)
        assert len(surface.vertices) == len(surface.faces) == 0 and surface.deviation == 0


def test_wrong_sizes_are_told() -> None:
    lattice = voxel_lattice(2)
    with pytest.raises(ValueError, match="as many positions and values"):
        flexicubes(lattice.vertices, torch.zeros(5), lattice)
    with pytest.raises(ValueError, match="as many rows of weights"):
        flexicubes(lattice.vertices, torch.zeros(27), lattice, torch.zeros(7, WEIGHTS))
