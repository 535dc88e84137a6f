"""Volume rendering: transmittance, weights and visibility of samples, and what accumulates along rays.

With densities sigma_k and opacities alpha_k = 1 - exp(-sigma_k delta_k) of the samples of a ray, near to far, delta_k = t_end - t_start,

    T_k = exp(-sum over j < k of sigma_j delta_j) = product over j < k of (1 - alpha_j),        w_k = T_k alpha_k.

Samples are a table ``[rays, samples]``, or packed ``[samples]`` ray by ray with ``packed_info`` or with ``ray_indices`` and ``n_rays``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.compat.nerfacc.pack import rays_of
from unrender.compat.nerfacc.scan import exclusive_prod, exclusive_sum
from unrender.ops.kernels.checks import describe


def render_transmittance_from_density(
    t_starts: Float[Tensor, "*shape"],
    t_ends: Float[Tensor, "*shape"],
    sigmas: Float[Tensor, "*shape"],
    packed_info: Int[Tensor, "rays 2"] | None = None,
    ray_indices: Int[Tensor, " samples"] | None = None,
    n_rays: int | None = None,
    prefix_trans: Float[Tensor, "*shape"] | None = None,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Compute the transmittance in front of each sample, and its opacity, from densities.

    Args:
        t_starts: distance where each interval begins.
        t_ends: distance where it ends.
        sigmas: density in it.
        packed_info: first sample and count of each ray, for packed samples.
        ray_indices: ray of each sample, instead.
        n_rays: number of rays, with ``ray_indices``.
        prefix_trans: transmittance up to where the samples of a ray begin, repeated for each of them.
    """
    depths = sigmas * (t_ends - t_starts)
    transmittance = torch.exp(-exclusive_sum(depths, rays_of(packed_info, ray_indices, n_rays)))
    return transmittance if prefix_trans is None else transmittance * prefix_trans, -torch.expm1(-depths)


def render_transmittance_from_alpha(
    alphas: Float[Tensor, "*shape"],
    packed_info: Int[Tensor, "rays 2"] | None = None,
    ray_indices: Int[Tensor, " samples"] | None = None,
    n_rays: int | None = None,
    prefix_trans: Float[Tensor, "*shape"] | None = None,
) -> Float[Tensor, "*shape"]:
    """Compute the transmittance in front of each sample from opacities; arguments as :func:`render_transmittance_from_density`."""
    transmittance = exclusive_prod(1.0 - alphas, rays_of(packed_info, ray_indices, n_rays))
    return transmittance if prefix_trans is None else transmittance * prefix_trans


def render_weight_from_density(
    t_starts: Float[Tensor, "*shape"],
    t_ends: Float[Tensor, "*shape"],
    sigmas: Float[Tensor, "*shape"],
    packed_info: Int[Tensor, "rays 2"] | None = None,
    ray_indices: Int[Tensor, " samples"] | None = None,
    n_rays: int | None = None,
    prefix_trans: Float[Tensor, "*shape"] | None = None,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Compute weights, transmittance and opacities from densities; arguments as :func:`render_transmittance_from_density`."""
    transmittance, alphas = render_transmittance_from_density(t_starts, t_ends, sigmas, packed_info, ray_indices, n_rays, prefix_trans)
    return transmittance * alphas, transmittance, alphas


def render_weight_from_alpha(
    alphas: Float[Tensor, "*shape"],
    packed_info: Int[Tensor, "rays 2"] | None = None,
    ray_indices: Int[Tensor, " samples"] | None = None,
    n_rays: int | None = None,
    prefix_trans: Float[Tensor, "*shape"] | None = None,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Compute weights and transmittance from opacities; arguments as :func:`render_transmittance_from_density`."""
    transmittance = render_transmittance_from_alpha(alphas, packed_info, ray_indices, n_rays, prefix_trans)
    return transmittance * alphas, transmittance


@torch.no_grad()
def render_visibility_from_density(
    t_starts: Float[Tensor, "*shape"],
    t_ends: Float[Tensor, "*shape"],
    sigmas: Float[Tensor, "*shape"],
    packed_info: Int[Tensor, "rays 2"] | None = None,
    ray_indices: Int[Tensor, " samples"] | None = None,
    n_rays: int | None = None,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
    prefix_trans: Float[Tensor, "*shape"] | None = None,
) -> Bool[Tensor, "*shape"]:
    """Tell which samples matter: their transmittance is at least ``early_stop_eps``, their opacity at least ``alpha_thre``.

    Other arguments as :func:`render_transmittance_from_density`.
    """
    transmittance, alphas = render_transmittance_from_density(t_starts, t_ends, sigmas, packed_info, ray_indices, n_rays, prefix_trans)
    return (transmittance >= early_stop_eps) & (alphas >= alpha_thre)


@torch.no_grad()
def render_visibility_from_alpha(
    alphas: Float[Tensor, "*shape"],
    packed_info: Int[Tensor, "rays 2"] | None = None,
    ray_indices: Int[Tensor, " samples"] | None = None,
    n_rays: int | None = None,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
    prefix_trans: Float[Tensor, "*shape"] | None = None,
) -> Bool[Tensor, "*shape"]:
    """Tell which samples matter, from opacities; arguments as :func:`render_visibility_from_density`."""
    transmittance = render_transmittance_from_alpha(alphas, packed_info, ray_indices, n_rays, prefix_trans)
    return (transmittance >= early_stop_eps) & (alphas >= alpha_thre)


def accumulate_along_rays(
    weights: Float[Tensor, "*shape"],
    values: Float[Tensor, "*values"] | None = None,
    ray_indices: Int[Tensor, " samples"] | None = None,
    n_rays: int | None = None,
) -> Float[Tensor, "rays columns"]:
    """Add up w_k v_k along each ray.

    Args:
        weights: ``[rays, samples]``, or packed ``[samples]``.
        values: of each sample; None adds up the weights, in one column.
        ray_indices: ray of each packed sample, in any order.
        n_rays: number of rays, with ``ray_indices``; None takes the last one with a sample.

    Raises:
        ValueError: weights and values do not match.

    >>> accumulate_along_rays(torch.tensor([0.5, 0.25]), torch.tensor([[1.0], [2.0]]), torch.tensor([1, 1]), n_rays=2).tolist()
    [[0.0], [1.0]]
    """
    if values is None:
        terms = weights[..., None]
    elif values.ndim == weights.ndim + 1 and values.shape[:-1] == weights.shape:
        terms = weights[..., None] * values
    else:
        raise ValueError(
            f"accumulate_along_rays takes [{', '.join(map(str, weights.shape))}, channels] as values, as weights, got {describe(values)}"
        )
    if ray_indices is None:
        return terms.sum(-2)
    if n_rays is None:
        n_rays = int(ray_indices.max()) + 1 if len(ray_indices) else 0
    return terms.new_zeros(n_rays, terms.shape[-1]).index_add(0, ray_indices, terms)


def accumulate_along_rays_(
    weights: Float[Tensor, " samples"],
    values: Float[Tensor, "samples channels"] | None = None,
    ray_indices: Int[Tensor, " samples"] | None = None,
    outputs: Float[Tensor, "rays columns"] | None = None,
) -> None:
    """Add w_k v_k of packed samples to the rows of ``outputs``, in place."""
    if outputs is None or ray_indices is None:
        raise ValueError("accumulate_along_rays_ takes ray_indices and outputs, got None")
    outputs.add_(accumulate_along_rays(weights, values, ray_indices, outputs.shape[0]))


def rendering(
    t_starts: Float[Tensor, "*shape"],
    t_ends: Float[Tensor, "*shape"],
    ray_indices: Int[Tensor, " samples"] | None = None,
    n_rays: int | None = None,
    rgb_sigma_fn: Callable[..., tuple[Tensor, Tensor]] | None = None,
    rgb_alpha_fn: Callable[..., tuple[Tensor, Tensor]] | None = None,
    render_bkgd: Tensor | None = None,
) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 1"], Float[Tensor, "rays 1"], dict[str, Tensor]]:
    """Render rays from a field that gives colors with densities or opacities.

    Args:
        t_starts: distance where each interval begins, ``[rays, samples]`` or packed ``[samples]``.
        t_ends: distance where it ends.
        ray_indices: ray of each packed sample, ascending.
        n_rays: number of rays, with ``ray_indices``.
        rgb_sigma_fn: function of ``(t_starts, t_ends, ray_indices)`` that returns colors ``[..., 3]`` and densities.
        rgb_alpha_fn: the same with opacities; one of the two is given.
        render_bkgd: color behind the scene, of all rays or of each.

    Returns:
        colors, opacities, mean distances (weighted middles over opacity), and "weights", "trans", "alphas", "rgbs" (and "sigmas") of the
        samples.

    Raises:
        ValueError: none or both functions are given, or one returns another shape.
    """
    if (rgb_sigma_fn is None) == (rgb_alpha_fn is None):
        raise ValueError("rendering takes one of rgb_sigma_fn and rgb_alpha_fn, got " + ("none" if rgb_sigma_fn is None else "both"))
    if ray_indices is not None and ray_indices.shape != t_starts.shape:
        raise ValueError(f"rendering takes one of ray_indices for each of {describe(t_starts)}, got {describe(ray_indices)}")
    field, name = (rgb_sigma_fn, "rgb_sigma_fn") if rgb_sigma_fn is not None else (rgb_alpha_fn, "rgb_alpha_fn")
    assert field is not None
    if t_starts.numel() > 0:
        rgbs, found = field(t_starts, t_ends, ray_indices)
    else:
        rgbs, found = t_starts.new_zeros(*t_starts.shape, 3), torch.zeros_like(t_starts)
    if rgbs.shape[-1] != 3 or found.shape != t_starts.shape:
        raise ValueError(
            f"rendering takes colors [..., 3] and {describe(t_starts)} from {name}, got {describe(rgbs)} and {describe(found)}"
        )
    if rgb_sigma_fn is not None:
        weights, trans, alphas = render_weight_from_density(t_starts, t_ends, found, ray_indices=ray_indices, n_rays=n_rays)
        extras = {"weights": weights, "alphas": alphas, "trans": trans, "sigmas": found, "rgbs": rgbs}
    else:
        weights, trans = render_weight_from_alpha(found, ray_indices=ray_indices, n_rays=n_rays)
        extras = {"weights": weights, "trans": trans, "rgbs": rgbs, "alphas": found}
    colors = accumulate_along_rays(weights, rgbs, ray_indices, n_rays)
    opacities = accumulate_along_rays(weights, None, ray_indices, n_rays)
    distances = accumulate_along_rays(weights, (0.5 * (t_starts + t_ends))[..., None], ray_indices, n_rays)
    distances = distances / opacities.clamp_min(torch.finfo(opacities.dtype).eps)
    if render_bkgd is not None:
        colors = colors + render_bkgd * (1.0 - opacities)
    return colors, opacities, distances, extras
