"""Opacities and volume rendering weights from a signed distance, on packed samples.

Notation and adjoints are those of :mod:`unrender.ops.rays.weights`. Both functions can be differentiated once; a second derivative raises
an error.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.structs import filled
from unrender.ops.rays.checks import checked_sharpness
from unrender.ops.rays.samples import SampleArrays, Samples, arguments_of, chunk_count, length, per_sample, span
from unrender.ops.rays.sdf_opacity import descent, descent_slope, sdf_opacity, sdf_slopes

wp.set_module_options({"enable_backward": False, "optimization_level": 3})


class _SurfaceArrays:
    """A signed distance at each sample, with the parameters of its opacity."""

    sdf: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    cosine: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    sharpness: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    anneal: wp.float32


SurfaceArrays = wp.struct(_SurfaceArrays)


@no_type_check
@wp.kernel
def _sdf_alpha_kernel(first: int, surface: SurfaceArrays, lengths: wp.array(dtype=wp.float32), alpha: wp.array(dtype=wp.float32)):
    i = first + wp.tid()
    alpha[i] = 0.0
    if lengths[i] > 0.0:
        alpha[i] = sdf_opacity(surface.sdf[i], descent(surface.cosine[i], surface.anneal) * lengths[i], surface.sharpness[0])[0]


@no_type_check
@wp.kernel
def _sdf_alpha_adjoint_kernel(
    first: int,
    surface: SurfaceArrays,
    lengths: wp.array(dtype=wp.float32),
    grad_alpha: wp.array(dtype=wp.float32),
    grad_sdf: wp.array(dtype=wp.float32),
    grad_cosine: wp.array(dtype=wp.float32),
    grad_sharpness: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    grad_sdf[i] = 0.0
    grad_cosine[i] = 0.0
    grad_sharpness[i] = 0.0
    if lengths[i] > 0.0:
        sharpness = surface.sharpness[0]
        fall = descent(surface.cosine[i], surface.anneal) * lengths[i]
        slopes = sdf_slopes(surface.sdf[i], fall, sharpness)
        by_sdf = grad_alpha[i] * slopes[0] * slopes[1]
        by_fall = grad_alpha[i] * slopes[0] * slopes[2]
        grad_sdf[i] = by_sdf
        grad_cosine[i] = by_fall * lengths[i] * descent_slope(surface.cosine[i], surface.anneal)
        grad_sharpness[i] = (by_sdf * surface.sdf[i] + by_fall * fall) / sharpness


@no_type_check
@wp.kernel
def _sdf_weights_kernel(first: int, samples: SampleArrays, surface: SurfaceArrays, early_stop: float, weights: wp.array(dtype=wp.float32)):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    sharpness = surface.sharpness[0]
    light = float(1.0)
    for i in range(begin, end):
        if light < early_stop:
            break
        fall = descent(surface.cosine[i], surface.anneal) * length(samples, i)
        split = sdf_opacity(surface.sdf[i], fall, sharpness)
        weights[i] = light * split[0]
        light = light * split[1]


@no_type_check
@wp.kernel
def _sdf_weights_adjoint_kernel(
    first: int,
    samples: SampleArrays,
    surface: SurfaceArrays,
    early_stop: float,
    weights: wp.array(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
    transmittance: wp.array(dtype=wp.float32),
    grad_sdf: wp.array(dtype=wp.float32),
    grad_cosine: wp.array(dtype=wp.float32),
    grad_sharpness: wp.array(dtype=wp.float32),
):
    """Fill ``transmittance`` with the light left behind each sample, and ``grad_sharpness`` with one partial sum per ray."""
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    sharpness = surface.sharpness[0]
    visible = int(0)
    light = float(1.0)
    for i in range(begin, end):
        if light < early_stop:
            break
        fall = descent(surface.cosine[i], surface.anneal) * length(samples, i)
        slopes = sdf_slopes(surface.sdf[i], fall, sharpness)
        light = light * slopes[0]
        transmittance[i] = light
        grad_sdf[i] = slopes[1]
        grad_cosine[i] = slopes[2]
        visible += 1
    behind = float(0.0)
    total = float(0.0)
    for k in range(visible):
        i = begin + visible - 1 - k
        delta = length(samples, i)
        pull = transmittance[i] * grad_weights[i] - behind
        by_sdf = pull * grad_sdf[i]
        by_fall = pull * grad_cosine[i]
        grad_sdf[i] = by_sdf
        grad_cosine[i] = by_fall * delta * descent_slope(surface.cosine[i], surface.anneal)
        total += by_sdf * surface.sdf[i] + by_fall * descent(surface.cosine[i], surface.anneal) * delta
        behind += weights[i] * grad_weights[i]
    grad_sharpness[ray] = total / sharpness


@no_type_check
@wp.kernel
def _total_kernel(first: int, parts: wp.array(dtype=wp.float32), total: wp.array(dtype=wp.float32)):
    column = first + wp.tid()
    accumulated = wp.float64(0.0)
    for i in range(parts.shape[0]):
        accumulated += wp.float64(parts[i])
    total[column] = wp.float32(accumulated)


def _total(parts: Tensor) -> Tensor:
    """Add up in float64, with the same bits for any number of threads."""
    if not on_cpu(parts.device):
        return parts.sum(dtype=torch.float64).float()
    total = torch.zeros(1)
    launch(_total_kernel, 1, [parts, total], parts.device)
    return total[0]


class _SdfAlpha(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sdf: Tensor, cosine: Tensor, lengths: Tensor, sharpness: Tensor, anneal: float) -> Tensor:
        alpha = torch.empty_like(sdf)
        surface = filled(SurfaceArrays, sdf=sdf, cosine=cosine, sharpness=sharpness, anneal=anneal)
        launch(_sdf_alpha_kernel, sdf.shape[0], [surface, lengths, alpha], sdf.device)
        ctx.anneal = anneal
        ctx.save_for_backward(sdf, cosine, lengths, sharpness)
        return alpha

    @staticmethod
    @differentiable_once("sdf_alpha")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sdf, cosine, lengths, sharpness = ctx.saved_tensors
        grad_sdf, grad_cosine, grad_sharpness = torch.empty_like(sdf), torch.empty_like(sdf), torch.empty_like(sdf)
        surface = filled(SurfaceArrays, sdf=sdf, cosine=cosine, sharpness=sharpness, anneal=ctx.anneal)
        arguments = [surface, lengths, grads[0].contiguous(), grad_sdf, grad_cosine, grad_sharpness]
        launch(_sdf_alpha_adjoint_kernel, sdf.shape[0], arguments, sdf.device)
        return grad_sdf, grad_cosine, None, _total(grad_sharpness).reshape(1), None


class _SdfWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sdf: Tensor, cosine: Tensor, sharpness: Tensor, samples: Samples, anneal: float, early_stop: float) -> Tensor:
        weights = torch.zeros_like(sdf)
        surface = filled(SurfaceArrays, sdf=sdf, cosine=cosine, sharpness=sharpness, anneal=anneal)
        arguments = [samples.arrays, surface, early_stop, weights]
        launch(_sdf_weights_kernel, samples.count.shape[0], arguments, sdf.device, chunks=chunk_count(samples))
        ctx.samples, ctx.anneal, ctx.early_stop = samples, anneal, early_stop
        ctx.save_for_backward(sdf, cosine, sharpness, weights)
        return weights

    @staticmethod
    @differentiable_once("weights_from_sdf")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sdf, cosine, sharpness, weights = ctx.saved_tensors
        samples: Samples = ctx.samples
        grad_sdf, grad_cosine, transmittance = torch.zeros_like(sdf), torch.zeros_like(sdf), torch.empty_like(sdf)
        grad_sharpness = torch.empty(samples.count.shape[0], device=sdf.device)
        surface = filled(SurfaceArrays, sdf=sdf, cosine=cosine, sharpness=sharpness, anneal=ctx.anneal)
        arguments = [
            *(samples.arrays, surface, ctx.early_stop, weights, grads[0].contiguous()),
            *(transmittance, grad_sdf, grad_cosine, grad_sharpness),
        ]
        launch(_sdf_weights_adjoint_kernel, samples.count.shape[0], arguments, sdf.device, chunks=chunk_count(samples))
        return grad_sdf, grad_cosine, _total(grad_sharpness).reshape(1), None, None, None


def sdf_alpha(
    sdf: Float[Tensor, " samples"],
    cosine: Float[Tensor, " samples"],
    lengths: Float[Tensor, " samples"],
    sharpness: Float[Tensor, ""],
    anneal: float,
) -> Float[Tensor, " samples"]:
    """Compute the opacity of an interval from the signed distance at its middle.

        α = clip((σ(s f₋) - σ(s f₊) + 1e-5) / (σ(s f₋) + 1e-5), 0, 1),   f∓ = f ± h/2,
        h = δ [relu(1/2 - c/2) (1 - r) + relu(-c) r]

    The signed distance is assumed linear within the interval, and h >= 0 is its decrease. Differentiable in f, c and s; the gradient of s
    is one sum in fixed order. Accurate up to s = 1e6: no difference of nearly equal numbers is formed.

    Args:
        sdf: signed distance f at the middle of each interval, negative inside.
        cosine: c = direction · normal, in [-1, 1], negative where the ray enters.
        lengths: δ; where it is zero (unused samples) the opacity is zero.
        sharpness: s > 0, one over the width of the surface.
        anneal: r in [0, 1]. With 0, surfaces seen from behind or edge-on are opaque too, which helps at the start of a fit; 1 is unbiased.

    Raises:
        ValueError: the tensors differ in size or device, or are not floating-point.

    Source: Wang et al., NeuS, 2021, equations 12 and 13.

    >>> import torch
    >>> sdf_alpha(torch.zeros(1), -torch.ones(1), torch.full((1,), 0.1), torch.tensor(20.0), 1.0).mul(1e4).round().tolist()
    [6321.0]
    """
    takes = Arguments("sdf_alpha")
    sdf = takes.float32(sdf, "sdf", ("samples",)).contiguous()
    size = (sdf.shape[0], "samples")
    cosine = takes.float32(cosine, "cosine", (size,)).contiguous()
    lengths = takes.float32(lengths, "lengths", (size,)).contiguous()
    return _SdfAlpha.apply(sdf, cosine, lengths, checked_sharpness(takes, sharpness), takes.number(anneal, "anneal", 0.0, 1.0))


def weights_from_sdf(
    sdf: Float[Tensor, " samples"],
    cosine: Float[Tensor, " samples"],
    samples: Samples,
    sharpness: Float[Tensor, ""],
    *,
    anneal: float,
    early_stop: float = 0.0,
) -> Float[Tensor, " samples"]:
    """Compute ``weights_from_alpha(sdf_alpha(...))`` in one pass over each ray.

    Samples behind ``early_stop`` are skipped. Differentiable in ``sdf``, ``cosine`` and ``sharpness``.

    Raises:
        ValueError: there is not one value per sample, or its type or device is wrong.
    """
    takes = arguments_of("weights_from_sdf", samples)
    sdf = per_sample(takes, sdf, "sdf", samples)
    cosine = per_sample(takes, cosine, "cosine", samples)
    options = takes.number(anneal, "anneal", 0.0, 1.0), takes.number(early_stop, "early_stop", 0.0, 1.0)
    return _SdfWeights.apply(sdf, cosine, checked_sharpness(takes, sharpness), samples, *options)
