"""Priors on surfaces: values worked out by hand, derivatives by finite differences, and what each one is zero for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn.functional import softplus

from unrender.geometry.flexicubes import flexicubes
from unrender.geometry.voxels import voxel_lattice
from unrender.losses.surface import mean_edge_length, normal_consistency, sign_changes, uniform_laplacian


def ball() -> tuple[Tensor, Tensor]:
    lattice = voxel_lattice(4, torch.tensor([[-1.0] * 3, [1.0] * 3], dtype=torch.float64))
    surface = flexicubes(lattice.vertices, lattice.vertices.norm(dim=1) - 0.6, lattice, training=False)
    generator = torch.Generator().manual_seed(0)
    return surface.vertices + 0.05 * torch.randn(surface.vertices.shape, generator=generator, dtype=torch.float64), surface.faces


def test_sign_changes_are_the_cross_entropy_of_each_end_with_the_other() -> None:
    sdf = torch.tensor([-0.5, 0.25, 2.0, -1.0], dtype=torch.float64)
    edges = torch.tensor([[0, 1], [1, 2], [0, 3], [2, 3]], dtype=torch.int32)
    s = torch.sigmoid(sdf)
    first = -math.log(s[0]) - math.log(1 - s[1])  # the end at -0.5 with its neighbor outside, and the reverse
    second = -math.log(1 - s[2]) - math.log(s[3])
    assert sign_changes(sdf, edges).item() == pytest.approx((first + second) / 2)
    assert sign_changes(-sdf, edges).item() == pytest.approx((first + second) / 2)
    assert gradcheck(lambda values: sign_changes(values, edges), sdf.requires_grad_())


def test_fields_of_one_sign_have_no_sign_changes() -> None:
    lattice = voxel_lattice(3)
    sdf = torch.ones(len(lattice.vertices)).requires_grad_()
    loss = sign_changes(sdf, lattice.edges)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, sdf)
    assert gradient.abs().max() == 0


def test_descending_sign_changes_removes_stray_pieces() -> None:
    lattice = voxel_lattice(6)
    sdf = (lattice.vertices.norm(dim=1) - 0.5).clone()
    sdf[0] = -0.05
    sdf.requires_grad_()
    optimizer = torch.optim.Adam([sdf], lr=0.02)
    for _ in range(10):
        optimizer.zero_grad()
        sign_changes(sdf, lattice.edges).backward()
        optimizer.step()
    assert sdf[0] > 0 and (sdf.detach() < 0).any()


def test_sign_changes_count_an_edge_by_the_larger_error() -> None:
    far = sign_changes(torch.tensor([-3.0, 3.0]), torch.tensor([[0, 1]]))
    assert far.item() == pytest.approx(2 * softplus(torch.tensor(3.0)).item())


def test_the_laplacian_weighs_neighbors_by_shared_triangles() -> None:
    vertices, faces = ball()
    weights = torch.zeros(len(vertices), len(vertices), dtype=torch.float64)
    for face in faces.tolist():
        for a in face:
            for b in face:
                weights[a, b] += float(a != b)
    means = weights @ vertices / weights.sum(1, keepdim=True)
    assert uniform_laplacian(vertices, faces).item() == pytest.approx((means - vertices).square().mean().item())
    assert uniform_laplacian(torch.ones_like(vertices), faces) == 0  # of moves that are equal everywhere
    loose = torch.cat([vertices, torch.full((1, 3), 9.0, dtype=torch.float64)])
    assert uniform_laplacian(loose, faces).item() == pytest.approx(uniform_laplacian(vertices, faces).item() * len(vertices) / len(loose))


def test_normal_consistency_measures_the_angles_between_triangles() -> None:
    angle = 0.7
    fold = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, -math.cos(angle), math.sin(angle)]])
    faces = torch.tensor([[0, 1, 2], [1, 0, 3]])
    assert normal_consistency(fold, faces).item() == pytest.approx((1 - math.cos(angle)) / 2)
    fold[3] = torch.tensor([0.3, -1.0, 0.0])
    assert normal_consistency(fold, faces).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("loss", [uniform_laplacian, normal_consistency, mean_edge_length])
def test_gradients_agree_with_finite_differences(loss) -> None:
    vertices, faces = ball()
    assert gradcheck(lambda moved: loss(moved, faces), vertices.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("loss", [uniform_laplacian, normal_consistency, mean_edge_length])
def test_an_empty_mesh_costs_nothing(loss) -> None:
    assert loss(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)) == 0


def test_lengths_scale_with_the_mesh() -> None:
    vertices, faces = ball()
    assert mean_edge_length(3 * vertices, faces).item() == pytest.approx(3 * mean_edge_length(vertices, faces).item())
