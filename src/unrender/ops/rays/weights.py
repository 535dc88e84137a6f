"""Volume rendering weights on packed samples, from densities and opacities.

Notation, for one ray with samples k = 0, 1, ...: opacity α_k of an interval, transmittance T_k = Π_{j<k} (1 - α_j) in front of it, weight
w_k = T_k α_k, and g_k = ∂L/∂w_k. A sample k hides what lies behind it, so that

    ∂L/∂α_k = T_k g_k - A_k / (1 - α_k),   A_k = Σ_{i>k} w_i g_i.

The adjoints recompute T from the front and sum A from the back. Nothing is stored between forward and backward but inputs and weights,
and nothing cancels: behind an opaque surface A is as small as the weights there. No formula divides by 1 - α: for a density and a signed
distance the factor 1 - α of ∂α cancels it, and for plain opacities A_k = T_k (1 - α_k) B_k, where
B_k = α_{k+1} g_{k+1} + (1 - α_{k+1}) B_{k+1}.

``early_stop``: the first sample with T_k < early_stop and all behind it get weight zero and no gradient. The weights of a ray lose at
most ``early_stop`` in total.

The weights can be differentiated once; a second derivative raises an error.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.launch import launch
from unrender.ops.rays.absorption import absorption
from unrender.ops.rays.samples import SampleArrays, Samples, arguments_of, chunk_count, length, per_sample, span

wp.set_module_options({"enable_backward": False})


@no_type_check
@wp.kernel
def _density_kernel(
    first: int,
    samples: SampleArrays,
    density: wp.array(dtype=wp.float32),
    early_stop: float,
    weights: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    light = float(1.0)
    for i in range(begin, end):
        if light < early_stop:
            break
        split = absorption(density[i] * length(samples, i))
        weights[i] = light * split[0]
        light = light * split[1]


@no_type_check
@wp.kernel
def _density_adjoint_kernel(
    first: int,
    samples: SampleArrays,
    density: wp.array(dtype=wp.float32),
    early_stop: float,
    weights: wp.array(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
    grad_density: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    visible = int(0)
    light = float(1.0)
    for i in range(begin, end):
        if light < early_stop:
            break
        light = light * absorption(density[i] * length(samples, i))[1]
        grad_density[i] = light
        visible += 1
    behind = float(0.0)
    for k in range(visible):
        i = begin + visible - 1 - k
        grad_density[i] = length(samples, i) * (grad_density[i] * grad_weights[i] - behind)
        behind += weights[i] * grad_weights[i]


@no_type_check
@wp.kernel
def _alpha_kernel(
    first: int,
    samples: SampleArrays,
    alpha: wp.array(dtype=wp.float32),
    early_stop: float,
    weights: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    light = float(1.0)
    for i in range(begin, end):
        if light < early_stop:
            break
        weights[i] = light * alpha[i]
        light = light * (1.0 - alpha[i])


@no_type_check
@wp.kernel
def _alpha_adjoint_kernel(
    first: int,
    samples: SampleArrays,
    alpha: wp.array(dtype=wp.float32),
    early_stop: float,
    grad_weights: wp.array(dtype=wp.float32),
    grad_alpha: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    visible = int(0)
    light = float(1.0)
    for i in range(begin, end):
        if light < early_stop:
            break
        grad_alpha[i] = light
        light = light * (1.0 - alpha[i])
        visible += 1
    behind = float(0.0)
    for k in range(visible):
        i = begin + visible - 1 - k
        grad_alpha[i] = grad_alpha[i] * (grad_weights[i] - behind)
        behind = alpha[i] * grad_weights[i] + (1.0 - alpha[i]) * behind


class _DensityWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, density: Tensor, samples: Samples, early_stop: float) -> Tensor:
        weights = torch.zeros_like(density)
        arguments = [samples.arrays, density, early_stop, weights]
        launch(_density_kernel, samples.count.shape[0], arguments, density.device, chunks=chunk_count(samples))
        ctx.samples, ctx.early_stop = samples, early_stop
        ctx.save_for_backward(density, weights)
        return weights

    @staticmethod
    @differentiable_once("weights_from_density")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        density, weights = ctx.saved_tensors
        samples: Samples = ctx.samples
        grad_density = torch.zeros_like(density)
        arguments = [samples.arrays, density, ctx.early_stop, weights, grads[0].contiguous(), grad_density]
        launch(_density_adjoint_kernel, samples.count.shape[0], arguments, density.device, chunks=chunk_count(samples))
        return grad_density, None, None


class _AlphaWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, alpha: Tensor, samples: Samples, early_stop: float) -> Tensor:
        weights = torch.zeros_like(alpha)
        arguments = [samples.arrays, alpha, early_stop, weights]
        launch(_alpha_kernel, samples.count.shape[0], arguments, alpha.device, chunks=chunk_count(samples))
        ctx.samples, ctx.early_stop = samples, early_stop
        ctx.save_for_backward(alpha)
        return weights

    @staticmethod
    @differentiable_once("weights_from_alpha")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (alpha,) = ctx.saved_tensors
        samples: Samples = ctx.samples
        grad_alpha = torch.zeros_like(alpha)
        arguments = [samples.arrays, alpha, ctx.early_stop, grads[0].contiguous(), grad_alpha]
        launch(_alpha_adjoint_kernel, samples.count.shape[0], arguments, alpha.device, chunks=chunk_count(samples))
        return grad_alpha, None, None


def weights_from_density(density: Float[Tensor, " samples"], samples: Samples, *, early_stop: float = 0.0) -> Float[Tensor, " samples"]:
    """Compute the weights w_k = T_k (1 - exp(-σ_k δ_k)) of a medium that is homogeneous within each interval.

    Args:
        density: extinction σ >= 0 per unit of distance, one per sample.
        samples: the intervals, of lengths δ.
        early_stop: transmittance below which the rest of a ray is dropped; 0 drops nothing.

    Returns:
        Weights in [0, 1], which sum to at most one on a ray; zero in the unused tail.

    Raises:
        ValueError: there is not one density per sample, or its type or device is wrong.

    Source: Max, Optical models for direct volume rendering, 1995; Mildenhall et al., NeRF, 2020.

    >>> import torch
    >>> from unrender.ops.rays.samples import Samples
    >>> two = Samples(torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([2], dtype=torch.int32))
    >>> [round(w, 4) for w in weights_from_density(torch.tensor([1.0, 2.0]), two).tolist()]
    [0.6321, 0.3181]
    """
    takes = arguments_of("weights_from_density", samples)
    density = per_sample(takes, density, "density", samples)
    return _DensityWeights.apply(density, samples, takes.number(early_stop, "early_stop", 0.0, 1.0))


def weights_from_alpha(alpha: Float[Tensor, " samples"], samples: Samples, *, early_stop: float = 0.0) -> Float[Tensor, " samples"]:
    """Compute the weights w_k = α_k Π_{j<k} (1 - α_j) of given opacities.

    The derivative is also exact at α = 1, where a sample hides all later ones.

    Args:
        alpha: opacity in [0, 1], one per sample.
        samples: the order of samples on each ray.
        early_stop: transmittance below which the rest of a ray is dropped; 0 drops nothing.

    Raises:
        ValueError: there is not one opacity per sample, or its type or device is wrong.

    Source: Porter and Duff, Compositing digital images, 1984.

    >>> import torch
    >>> from unrender.ops.rays.samples import Samples
    >>> two = Samples(torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([2], dtype=torch.int32))
    >>> weights_from_alpha(torch.tensor([0.5, 0.5]), two).tolist()
    [0.5, 0.25]
    """
    takes = arguments_of("weights_from_alpha", samples)
    alpha = per_sample(takes, alpha, "alpha", samples)
    return _AlphaWeights.apply(alpha, samples, takes.number(early_stop, "early_stop", 0.0, 1.0))
