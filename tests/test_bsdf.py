"""Formulas of reflection: written-down values, normalization, reciprocity, energy, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from unrender.numerics import normalized
from unrender.shading import bsdf

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def above(count: int, seed: int = 0) -> Tensor:
    """Return directions well above the horizon."""
    random = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return normalized(random * torch.tensor([1.0, 1, 0], dtype=torch.float64) + random.abs() * UP + 0.2 * UP)


def hemisphere(steps: int) -> tuple[Tensor, Tensor]:
    """Return directions and the solid angle of each, by midpoints of θ and φ."""
    theta = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps * math.pi / 2
    phi = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps * 2 * math.pi
    theta, phi = (grid.reshape(-1) for grid in torch.meshgrid(theta, phi, indexing="ij"))
    directions = torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], -1)
    return directions, theta.sin() * (math.pi / 2 / steps) * (2 * math.pi / steps)


def view(angle: float) -> Tensor:
    return torch.tensor([math.sin(angle), 0.0, math.cos(angle)], dtype=torch.float64)


def test_a_lambert_surface_reflects_all_light() -> None:
    to_light, share = hemisphere(400)
    assert float((bsdf.lambert(UP.expand_as(to_light), to_light)[:, 0] * share).sum()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("alpha", [0.05, 0.3, 1.0])
def test_facets_cover_the_surface(alpha: float) -> None:
    half, share = hemisphere(1500)
    density = bsdf.ggx_distribution(torch.tensor([alpha], dtype=torch.float64), half[:, 2:])[:, 0]
    assert float((density * half[:, 2] * share).sum()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("angle", "roughness"), [(0.2, 0.4), (0.9, 0.6), (1.3, 1.0)])
def test_the_facets_that_a_viewer_sees_cover_the_projected_surface(angle: float, roughness: float) -> None:
    """∫ G₁(v) D(h) max(v · h, 0) dh = n · v, Heitz's condition on the masking."""
    half, share = hemisphere(1500)
    alpha = torch.tensor([roughness**2], dtype=torch.float64)
    towards = view(angle)
    masking = bsdf.smith_masking(alpha, torch.ones(1, dtype=torch.float64), towards[2:])
    seen = bsdf.ggx_distribution(alpha, half[:, 2:])[:, 0] * (half @ towards).clamp_min(0) * share
    assert float(masking * seen.sum()) == pytest.approx(math.cos(angle), abs=1e-3)


@pytest.mark.parametrize("roughness", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("angle", [0.0, 0.7, 1.2])
def test_white_facets_reflect_no_more_than_arrives(roughness: float, angle: float) -> None:
    to_light, share = hemisphere(700)
    rough = torch.full((len(to_light),), roughness, dtype=torch.float64)
    shape = to_light.shape
    lobe = bsdf.ggx_specular(UP.expand(shape), view(angle).expand(shape), to_light, rough, torch.ones(shape, dtype=torch.float64))
    reflected = float((lobe[:, 0] * share).sum())
    assert 0.3 < reflected < 1 + 1e-3 and (roughness > 0.3 or reflected > 0.9)
    if (angle, roughness) == (0.0, 1.0):  # known in closed form
        assert reflected == pytest.approx(1 - math.log(2), abs=1e-3)


def test_surfaces_look_the_same_with_light_and_viewer_exchanged() -> None:
    a, b, normal = above(200), above(200, 1), UP.expand(200, 3)
    rough = torch.linspace(0.1, 1, 200, dtype=torch.float64)
    f0 = torch.full((200, 3), 0.3, dtype=torch.float64)
    for there, back in (
        (bsdf.ggx_specular(normal, a, b, rough, f0), bsdf.ggx_specular(normal, b, a, rough, f0)),
        (bsdf.frostbite_diffuse(normal, a, b, rough), bsdf.frostbite_diffuse(normal, b, a, rough)),
    ):
        torch.testing.assert_close(there / b[:, 2:], back / a[:, 2:], rtol=1e-6, atol=1e-12)


def test_values_at_normal_incidence() -> None:
    """D = 1 / (π α²), G = 1 and F = F0, so F D G / 4 = F0 / (4 π α²); Frostbite has (1 − 0.51 r / 1.51) / π where F90 = 1."""
    one = torch.tensor([0.4], dtype=torch.float64)
    up, f0 = UP[None], torch.full((1, 3), 0.5, dtype=torch.float64)
    assert float(bsdf.ggx_specular(up, up, up, one.sqrt() * 0 + 0.8, f0)[0, 0]) == pytest.approx(0.5 / (4 * math.pi * 0.64**2), rel=1e-3)
    assert float(bsdf.frostbite_diffuse(up, up, up, one)) == pytest.approx((1 - 0.51 / 1.51 * 0.4) / math.pi)
    mixed = bsdf.pbr(f0, torch.tensor([0.8]).double(), torch.tensor([0.25]).double(), up, up, up)
    assert float(mixed[0, 0]) == pytest.approx(0.375 / math.pi + 0.155 / (4 * math.pi * 0.64**2), rel=1e-3)


def test_nothing_is_reflected_from_behind() -> None:
    down, up = -UP[None], UP[None]
    rough, f0 = torch.tensor([0.5]).double(), torch.ones(1, 3).double()
    assert bsdf.ggx_specular(up, up, down, rough, f0).abs().max() == 0 and bsdf.ggx_specular(up, down, up, rough, f0).abs().max() == 0
    assert bsdf.lambert(up, down).item() == 0 and bsdf.frostbite_diffuse(up, up, down, rough).item() == 0


def test_gradients_are_finite_differences() -> None:
    base, rough = torch.rand(4, 3, dtype=torch.float64), torch.linspace(0.2, 0.9, 4, dtype=torch.float64)
    inputs = (base, rough, 1 - rough, UP.expand(4, 3).clone(), above(4), above(4, 1))
    assert gradcheck(bsdf.pbr, tuple(x.requires_grad_() for x in inputs))
    assert gradcheck(bsdf.frostbite_diffuse, (UP.expand(4, 3), above(4).requires_grad_(), above(4, 1), rough.detach().requires_grad_()))
