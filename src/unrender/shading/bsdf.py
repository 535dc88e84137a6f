"""Reflection of light by surfaces, one formula a function, for unit vectors and any shapes.

Notation: n is the normal, v the direction to the viewer, l the direction to the light and h = (v + l) / |v + l|. The *perceptual* roughness
r is that of glTF, α = r². A function whose name ends in the name of a model returns f(l, v) max(n · l, 0): the radiance that it reflects of
light of irradiance 1 on a surface that faces it. It is zero where light or viewer are behind the surface.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.numerics import normalized

SMALLEST_ROUGHNESS = 0.08
"""Direct lights are points: a smoother surface would reflect them as dots brighter than float32 pictures show without aliasing."""

_SMALLEST_COSINE = 1e-4
"""Cosines are clamped to [10⁻⁴, 1 − 10⁻⁴]: D, Λ and their slopes stay finite at grazing and at exact incidence."""


def lambert(normal: Float[Tensor, "*shape 3"], to_light: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 1"]:
    """Evaluate max(n · l, 0) / π.

    >>> up = torch.tensor([0.0, 0.0, 1.0])
    >>> round(lambert(up, up).item(), 4)
    0.3183
    """
    return _dot(normal, to_light).clamp_min(0) / torch.pi


def frostbite_diffuse(
    normal: Float[Tensor, "*shape 3"],
    to_viewer: Float[Tensor, "*shape 3"],
    to_light: Float[Tensor, "*shape 3"],
    roughness: Float[Tensor, "*shape"],
) -> Float[Tensor, "*shape 1"]:
    """Evaluate Disney's diffuse lobe with the energy factor of Frostbite.

    f = (1/π) (1 − (0.51 / 1.51) r) (1 + (F90 − 1)(1 − n · l)⁵) (1 + (F90 − 1)(1 − n · v)⁵), F90 = r/2 + 2 r (l · h)².

    Source: Lagarde and de Rousiers, Moving Frostbite to physically based rendering, 2014, listing 1.
    """
    n_l, n_v = _dot(normal, to_light), _dot(normal, to_viewer)
    rough = roughness[..., None]
    l_h = _dot(to_light, normalized(to_light + to_viewer))
    f90 = 0.5 * rough + 2 * l_h * l_h * rough
    factor = 1 - (0.51 / 1.51) * rough
    one = torch.ones_like(n_l)
    lobe = fresnel_schlick(one, f90, n_l.clamp(0, 1)) * fresnel_schlick(one, f90, n_v.clamp(0, 1)) * factor / torch.pi
    return torch.where((n_l > 0) & (n_v > 0), lobe * n_l, 0.0)


def fresnel_schlick(
    f0: Float[Tensor, "*shape channels"], f90: Float[Tensor, "*#shape channels_or_1"], cosine: Float[Tensor, "*#shape 1"]
) -> Float[Tensor, "*shape channels"]:
    """Evaluate F0 + (F90 − F0)(1 − c)⁵ for the cosine c = v · h.

    >>> fresnel_schlick(torch.tensor([0.04]), torch.ones(1), torch.tensor([0.5])).item()
    0.07000000029802322
    """
    return f0 + (f90 - f0) * (1 - cosine) ** 5


def ggx_distribution(alpha: Float[Tensor, "*#shape 1"], cosine: Float[Tensor, "*shape 1"]) -> Float[Tensor, "*shape 1"]:
    """Evaluate the density of facets D for c = n · h.

    D = α² / (π (c² (α² − 1) + 1)²), and ∫ D c dh over the hemisphere is 1.

    Source: Walter et al., Microfacet models for refraction through rough surfaces, 2007.

    >>> round(ggx_distribution(torch.tensor([0.25]), torch.tensor([1.0])).item(), 4)
    5.093
    """
    squared = alpha * alpha
    # c² (α² − 1) + 1 = sin² + c² α², without the difference of two numbers near one.
    return squared / (torch.pi * ((1 - cosine) * (1 + cosine) + squared * cosine * cosine) ** 2)


def smith_masking(
    alpha: Float[Tensor, "*#shape 1"], light_cosine: Float[Tensor, "*shape 1"], viewer_cosine: Float[Tensor, "*shape 1"]
) -> Float[Tensor, "*shape 1"]:
    """Evaluate the height-correlated masking G = 1 / (1 + Λ(n · l) + Λ(n · v)) of GGX.

    Λ(c) = (√(1 + α² (1 − c²) / c²) − 1) / 2.

    Source: Heitz, Understanding the masking-shadowing function in microfacet-based BRDFs, 2014.

    >>> smith_masking(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([0.5])).item()
    0.5
    """
    return 1 / (1 + _smith_lambda(alpha, light_cosine) + _smith_lambda(alpha, viewer_cosine))


def ggx_specular(
    normal: Float[Tensor, "*shape 3"],
    to_viewer: Float[Tensor, "*shape 3"],
    to_light: Float[Tensor, "*shape 3"],
    roughness: Float[Tensor, "*shape"],
    f0: Float[Tensor, "*shape 3"],
) -> Float[Tensor, "*shape 3"]:
    """Evaluate F D G / (4 n · v), the mirror facets of GGX; roughness is at least 0.08.

    Source: Karis, Real shading in Unreal Engine 4, 2013, with Smith's correlated masking.
    """
    alpha = roughness[..., None].clamp(SMALLEST_ROUGHNESS, 1.0) ** 2
    half = normalized(to_viewer + to_light)
    n_v, n_l = _dot(normal, to_viewer), _dot(normal, to_light)
    view, light = _clamped(n_v), _clamped(n_l)
    fresnel = fresnel_schlick(f0, torch.ones_like(n_v), _clamped(_dot(to_viewer, half)))
    lobe = fresnel * ggx_distribution(alpha, _clamped(_dot(normal, half))) * smith_masking(alpha, light, view) / (4 * view)
    return torch.where((n_v > 0) & (n_l > 0), lobe, 0.0)


def pbr(
    base_color: Float[Tensor, "*shape 3"],
    roughness: Float[Tensor, "*shape"],
    metallic: Float[Tensor, "*shape"],
    normal: Float[Tensor, "*shape 3"],
    to_viewer: Float[Tensor, "*shape 3"],
    to_light: Float[Tensor, "*shape 3"],
) -> Float[Tensor, "*shape 3"]:
    """Evaluate glTF's metallic-roughness surface, base (1 − m) max(n · l, 0) / π plus mirror facets of GGX."""
    diffuse, f0 = diffuse_and_f0(base_color, metallic)
    return diffuse * lambert(normal, to_light) + ggx_specular(normal, to_viewer, to_light, roughness, f0)


def diffuse_and_f0(
    base_color: Float[Tensor, "*shape 3"], metallic: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape 3"], Float[Tensor, "*shape 3"]]:
    """Return base (1 − m) and F0 = 0.04 (1 − m) + base m.

    >>> diffuse, f0 = diffuse_and_f0(torch.full((3,), 0.5), torch.tensor(0.5))
    >>> diffuse.tolist(), [round(x, 3) for x in f0.tolist()]
    ([0.25, 0.25, 0.25], [0.27, 0.27, 0.27])
    """
    metal = metallic[..., None]
    return base_color * (1 - metal), 0.04 * (1 - metal) + base_color * metal


def _smith_lambda(alpha: Float[Tensor, "*#shape 1"], cosine: Float[Tensor, "*shape 1"]) -> Float[Tensor, "*shape 1"]:
    squared = cosine * cosine
    return ((1 + alpha * alpha * (1 - squared) / squared).sqrt() - 1) / 2


def _dot(a: Float[Tensor, "*shape 3"], b: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 1"]:
    return (a * b).sum(-1, keepdim=True)


def _clamped(cosine: Float[Tensor, "*shape 1"]) -> Float[Tensor, "*shape 1"]:
    return cosine.clamp(_SMALLEST_COSINE, 1 - _SMALLEST_COSINE)
