"""Volume rendering weights and weighted sums along rays, on packed samples.

Notation, for one ray with samples k = 0, 1, ...: opacity α_k of an interval, transmittance T_k = Π_{j<k} (1 - α_j) in front of it, weight
w_k = T_k α_k, and g_k = ∂L/∂w_k. A sample k hides what lies behind it, so that

    ∂L/∂α_k = T_k g_k - A_k / (1 - α_k),   A_k = Σ_{i>k} w_i g_i.

The adjoints recompute T from the front and sum A from the back. Nothing is stored between forward and backward but inputs and weights,
and nothing cancels: behind an opaque surface A is as small as the weights there. No formula divides by 1 - α: for a density and a signed
distance the factor 1 - α of ∂α cancels it, and for plain opacities A_k = T_k (1 - α_k) B_k, where
B_k = α_{k+1} g_{k+1} + (1 - α_{k+1}) B_{k+1}.

``early_stop``: the first sample with T_k < early_stop and all behind it weigh nothing and receive no gradient; the weights of a ray lose at
most ``early_stop`` in total.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.launch import launch
from unrender.ops.rays.samples import Samples, chunk_count

wp.set_module_options({"enable_backward": False})

_SDF_EPSILON = wp.constant(1.0e-5)
"""Keeps the opacity of an interval deep inside, where both logistic values underflow, at one instead of 0 / 0."""


@no_type_check
@wp.func
def _absorption(x: float):
    """(1 - e^(-x), e^(-x)), the first without cancellation for small x, the second for large x."""
    if wp.abs(x) < 0.03125:
        lost = x * (1.0 - 0.5 * x * (1.0 - x / 3.0 * (1.0 - 0.25 * x)))
        return wp.vec2(lost, 1.0 - lost)
    kept = wp.exp(-x)
    return wp.vec2(1.0 - kept, kept)


@no_type_check
@wp.kernel
def _density_kernel(
    first: int,
    density: wp.array(dtype=wp.float32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    early_stop: float,
    weights: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    light = float(1.0)
    for i in range(begin, begin + ray_count[ray]):
        if light < early_stop:
            break
        split = _absorption(density[i] * (ends[i] - starts[i]))
        weights[i] = light * split[0]
        light = light * split[1]


@no_type_check
@wp.kernel
def _density_adjoint_kernel(
    first: int,
    density: wp.array(dtype=wp.float32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    early_stop: float,
    weights: wp.array(dtype=wp.float32),
    grad: wp.array(dtype=wp.float32),
    grad_density: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    lit = int(0)
    light = float(1.0)
    for i in range(begin, begin + ray_count[ray]):
        if light < early_stop:
            break
        light = light * _absorption(density[i] * (ends[i] - starts[i]))[1]
        grad_density[i] = light
        lit += 1
    behind = float(0.0)
    for k in range(lit):
        i = begin + lit - 1 - k
        grad_density[i] = (ends[i] - starts[i]) * (grad_density[i] * grad[i] - behind)
        behind += weights[i] * grad[i]


@no_type_check
@wp.kernel
def _alpha_kernel(
    first: int,
    alpha: wp.array(dtype=wp.float32),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    early_stop: float,
    weights: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    light = float(1.0)
    for i in range(begin, begin + ray_count[ray]):
        if light < early_stop:
            break
        weights[i] = light * alpha[i]
        light = light * (1.0 - alpha[i])


@no_type_check
@wp.kernel
def _alpha_adjoint_kernel(
    first: int,
    alpha: wp.array(dtype=wp.float32),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    early_stop: float,
    grad: wp.array(dtype=wp.float32),
    grad_alpha: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    lit = int(0)
    light = float(1.0)
    for i in range(begin, begin + ray_count[ray]):
        if light < early_stop:
            break
        grad_alpha[i] = light
        light = light * (1.0 - alpha[i])
        lit += 1
    behind = float(0.0)
    for k in range(lit):
        i = begin + lit - 1 - k
        grad_alpha[i] = grad_alpha[i] * (grad[i] - behind)
        behind = alpha[i] * grad[i] + (1.0 - alpha[i]) * behind


@no_type_check
@wp.func
def _descent(cosine: float, anneal: float):
    """How fast the signed distance falls along the ray, -iter_cos >= 0: relu(1/2 - c/2) (1 - r) + relu(-c) r."""
    return wp.max(0.5 - 0.5 * cosine, 0.0) * (1.0 - anneal) + wp.max(-cosine, 0.0) * anneal


@no_type_check
@wp.func
def _descent_slope(cosine: float, anneal: float):
    slope = float(0.0)
    if cosine < 1.0:
        slope -= 0.5 * (1.0 - anneal)
    if cosine < 0.0:
        slope -= anneal
    return slope


@no_type_check
@wp.func
def _logistic_pair(x: float):
    """(σ(x), σ(-x)), both accurate however large |x| is."""
    e = wp.exp(-wp.abs(x))
    large = 1.0 / (1.0 + e)
    if x >= 0.0:
        return wp.vec2(large, e * large)
    return wp.vec2(e * large, large)


@no_type_check
@wp.func
def _sdf_opacity(sdf: float, fall: float, sharpness: float):
    """(α, 1 - α) where the signed distance falls by ``fall``: σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b-a)) has no cancellation."""
    near = _logistic_pair(sharpness * (sdf + 0.5 * fall))
    far = _logistic_pair(sharpness * (sdf - 0.5 * fall))
    drop = near[0] * far[1] * _absorption(sharpness * fall)[0]
    total = near[0] + _SDF_EPSILON
    return wp.vec2(wp.clamp((drop + _SDF_EPSILON) / total, 0.0, 1.0), far[0] / total)


@no_type_check
@wp.func
def _sdf_slopes(sdf: float, fall: float, sharpness: float):
    """(1 - α, ∂α/∂f / (1 - α), ∂α/∂fall / (1 - α)), with 1 - α = σ(b) / (σ(a) + ε).

    From α_a = (1 - α) σ(a) σ(-a) / (σ(a) + ε) and α_b = -(1 - α) σ(-b); their sum is -(1 - α) (σ(a) - σ(b) + ε σ(-a) / (σ(a) + ε)).
    """
    near = _logistic_pair(sharpness * (sdf + 0.5 * fall))
    far = _logistic_pair(sharpness * (sdf - 0.5 * fall))
    drop = near[0] * far[1] * _absorption(sharpness * fall)[0]
    total = near[0] + _SDF_EPSILON
    by_sdf = -sharpness * (drop + _SDF_EPSILON * near[1] / total)
    by_fall = 0.5 * sharpness * (near[0] * near[1] / total + far[1])
    return wp.vec3(far[0] / total, by_sdf, by_fall)


@no_type_check
@wp.kernel
def _sdf_alpha_kernel(
    first: int,
    sdf: wp.array(dtype=wp.float32),
    cosine: wp.array(dtype=wp.float32),
    lengths: wp.array(dtype=wp.float32),
    sharpness: wp.array(dtype=wp.float32),
    anneal: float,
    alpha: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    alpha[i] = 0.0
    if lengths[i] > 0.0:
        alpha[i] = _sdf_opacity(sdf[i], _descent(cosine[i], anneal) * lengths[i], sharpness[0])[0]


@no_type_check
@wp.kernel
def _sdf_alpha_adjoint_kernel(
    first: int,
    sdf: wp.array(dtype=wp.float32),
    cosine: wp.array(dtype=wp.float32),
    lengths: wp.array(dtype=wp.float32),
    sharpness: wp.array(dtype=wp.float32),
    anneal: float,
    grad: wp.array(dtype=wp.float32),
    grad_sdf: wp.array(dtype=wp.float32),
    grad_cosine: wp.array(dtype=wp.float32),
    grad_sharpness: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    grad_sdf[i] = 0.0
    grad_cosine[i] = 0.0
    grad_sharpness[i] = 0.0
    if lengths[i] > 0.0:
        fall = _descent(cosine[i], anneal) * lengths[i]
        slopes = _sdf_slopes(sdf[i], fall, sharpness[0])
        by_sdf = grad[i] * slopes[0] * slopes[1]
        by_fall = grad[i] * slopes[0] * slopes[2]
        grad_sdf[i] = by_sdf
        grad_cosine[i] = by_fall * lengths[i] * _descent_slope(cosine[i], anneal)
        grad_sharpness[i] = (by_sdf * sdf[i] + by_fall * fall) / sharpness[0]


@no_type_check
@wp.kernel
def _sdf_weights_kernel(
    first: int,
    sdf: wp.array(dtype=wp.float32),
    cosine: wp.array(dtype=wp.float32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
    sharpness: wp.array(dtype=wp.float32),
    anneal: float,
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    early_stop: float,
    weights: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    s = sharpness[0]
    light = float(1.0)
    for i in range(begin, begin + ray_count[ray]):
        if light < early_stop:
            break
        split = _sdf_opacity(sdf[i], _descent(cosine[i], anneal) * (ends[i] - starts[i]), s)
        weights[i] = light * split[0]
        light = light * split[1]


@no_type_check
@wp.kernel
def _sdf_weights_adjoint_kernel(
    first: int,
    sdf: wp.array(dtype=wp.float32),
    cosine: wp.array(dtype=wp.float32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
    sharpness: wp.array(dtype=wp.float32),
    anneal: float,
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    early_stop: float,
    weights: wp.array(dtype=wp.float32),
    grad: wp.array(dtype=wp.float32),
    behind_light: wp.array(dtype=wp.float32),
    grad_sdf: wp.array(dtype=wp.float32),
    grad_cosine: wp.array(dtype=wp.float32),
    grad_sharpness: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    s = sharpness[0]
    lit = int(0)
    light = float(1.0)
    for i in range(begin, begin + ray_count[ray]):
        if light < early_stop:
            break
        slopes = _sdf_slopes(sdf[i], _descent(cosine[i], anneal) * (ends[i] - starts[i]), s)
        light = light * slopes[0]
        behind_light[i] = light
        grad_sdf[i] = slopes[1]
        grad_cosine[i] = slopes[2]
        lit += 1
    behind = float(0.0)
    total = float(0.0)
    for k in range(lit):
        i = begin + lit - 1 - k
        length = ends[i] - starts[i]
        pull = behind_light[i] * grad[i] - behind
        by_sdf = pull * grad_sdf[i]
        by_fall = pull * grad_cosine[i]
        grad_sdf[i] = by_sdf
        grad_cosine[i] = by_fall * length * _descent_slope(cosine[i], anneal)
        total += by_sdf * sdf[i] + by_fall * _descent(cosine[i], anneal) * length
        behind += weights[i] * grad[i]
    grad_sharpness[ray] = total / s


@no_type_check
@wp.kernel
def _total_kernel(first: int, parts: wp.array(dtype=wp.float32), total: wp.array(dtype=wp.float32)):
    column = first + wp.tid()
    accumulated = wp.float64(0.0)
    for i in range(parts.shape[0]):
        accumulated += wp.float64(parts[i])
    total[column] = wp.float32(accumulated)


# Four partial sums run side by side, because one addition must wait for the one before it.
_SUM = """
    const float* w = weights.data;
    for (int c = 0; c < channels; c++) {
        const float* v = values.data + (long long)c * channel_stride;
        float a = 0.0f, b = 0.0f, d = 0.0f, e = 0.0f;
        int i = begin;
        if (sample_stride == 1) {
            for (; i + 3 < end; i += 4) {
                a += w[i] * v[i];
                b += w[i + 1] * v[i + 1];
                d += w[i + 2] * v[i + 2];
                e += w[i + 3] * v[i + 3];
            }
            for (; i < end; i++) a += w[i] * v[i];
        } else {
            for (; i + 3 < end; i += 4) {
                a += w[i] * v[(long long)i * sample_stride];
                b += w[i + 1] * v[(long long)(i + 1) * sample_stride];
                d += w[i + 2] * v[(long long)(i + 2) * sample_stride];
                e += w[i + 3] * v[(long long)(i + 3) * sample_stride];
            }
            for (; i < end; i++) a += w[i] * v[(long long)i * sample_stride];
        }
        sums.data[ray * channels + c] = (a + b) + (d + e);
    }
"""

_SUM_ADJOINT = """
    const float* w = weights.data;
    float* gw = grad_weights.data;
    for (int c = 0; c < channels; c++) {
        const float g = grad.data[ray * channels + c];
        const float* v = values.data + (long long)c * channel_stride;
        float* gv = grad_values.data + (long long)c * channel_stride;
        if (sample_stride == 1) {
            for (int i = begin; i < end; i++) gw[i] += g * v[i];
            for (int i = begin; i < end; i++) gv[i] = g * w[i];
        } else {
            for (int i = begin; i < end; i++) gw[i] += g * v[(long long)i * sample_stride];
            for (int i = begin; i < end; i++) gv[(long long)i * sample_stride] = g * w[i];
        }
    }
"""


@no_type_check
@wp.func_native(_SUM)
def _sum_ray(
    ray: int,
    begin: int,
    end: int,
    weights: wp.array(dtype=wp.float32),
    values: wp.array(dtype=wp.float32),
    sample_stride: int,
    channel_stride: int,
    channels: int,
    sums: wp.array2d(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_SUM_ADJOINT)
def _sum_ray_adjoint(
    ray: int,
    begin: int,
    end: int,
    weights: wp.array(dtype=wp.float32),
    values: wp.array(dtype=wp.float32),
    sample_stride: int,
    channel_stride: int,
    channels: int,
    grad: wp.array2d(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
    grad_values: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _composite_kernel(
    first: int,
    weights: wp.array(dtype=wp.float32),
    values: wp.array(dtype=wp.float32),
    sample_stride: int,
    channel_stride: int,
    channels: int,
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    sums: wp.array2d(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    _sum_ray(ray, begin, begin + ray_count[ray], weights, values, sample_stride, channel_stride, channels, sums)


@no_type_check
@wp.kernel
def _composite_adjoint_kernel(
    first: int,
    weights: wp.array(dtype=wp.float32),
    values: wp.array(dtype=wp.float32),
    sample_stride: int,
    channel_stride: int,
    channels: int,
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    grad: wp.array2d(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
    grad_values: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    end = begin + ray_count[ray]
    _sum_ray_adjoint(ray, begin, end, weights, values, sample_stride, channel_stride, channels, grad, grad_weights, grad_values)


@no_type_check
@wp.kernel
def _summary_kernel(
    first: int,
    weights: wp.array(dtype=wp.float32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    opacity: wp.array(dtype=wp.float32),
    distance: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    total = float(0.0)
    moment = float(0.0)
    for i in range(begin, begin + ray_count[ray]):
        total += weights[i]
        moment += weights[i] * 0.5 * (starts[i] + ends[i])
    opacity[ray] = total
    distance[ray] = moment


@no_type_check
@wp.kernel
def _summary_adjoint_kernel(
    first: int,
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    grad_opacity: wp.array(dtype=wp.float32),
    grad_distance: wp.array(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    for i in range(begin, begin + ray_count[ray]):
        grad_weights[i] = grad_opacity[ray] + grad_distance[ray] * 0.5 * (starts[i] + ends[i])


def _total(parts: Tensor) -> Tensor:
    """Sum in float64 whose value does not depend on the number of threads."""
    if not on_cpu(parts.device):
        return parts.sum(dtype=torch.float64).float()
    total = torch.zeros(1)
    launch(_total_kernel, 1, [parts, total], parts.device)
    return total[0]


def _ready(x: Tensor) -> Tensor:
    return x.float().contiguous()


class _DensityWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, density: Tensor, samples: Samples, early_stop: float) -> Tensor:
        weights = torch.zeros_like(density)
        launch(
            _density_kernel,
            samples.first.shape[0],
            [density, samples.starts, samples.ends, samples.first, samples.count, early_stop, weights],
            density.device,
            pieces=chunk_count(samples),
        )
        ctx.samples, ctx.early_stop = samples, early_stop
        ctx.save_for_backward(density, weights)
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        density, weights = ctx.saved_tensors
        samples: Samples = ctx.samples
        grad_density = torch.zeros_like(density)
        launch(
            _density_adjoint_kernel,
            samples.first.shape[0],
            [
                *(density, samples.starts, samples.ends, samples.first, samples.count, ctx.early_stop),
                *(weights, grads[0].contiguous(), grad_density),
            ],
            density.device,
            pieces=chunk_count(samples),
        )
        return grad_density, None, None


class _AlphaWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, alpha: Tensor, samples: Samples, early_stop: float) -> Tensor:
        weights = torch.zeros_like(alpha)
        launch(
            _alpha_kernel,
            samples.first.shape[0],
            [alpha, samples.first, samples.count, early_stop, weights],
            alpha.device,
            pieces=chunk_count(samples),
        )
        ctx.samples, ctx.early_stop = samples, early_stop
        ctx.save_for_backward(alpha)
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (alpha,) = ctx.saved_tensors
        samples: Samples = ctx.samples
        grad_alpha = torch.zeros_like(alpha)
        launch(
            _alpha_adjoint_kernel,
            samples.first.shape[0],
            [alpha, samples.first, samples.count, ctx.early_stop, grads[0].contiguous(), grad_alpha],
            alpha.device,
            pieces=chunk_count(samples),
        )
        return grad_alpha, None, None


class _SdfAlpha(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sdf: Tensor, cosine: Tensor, lengths: Tensor, sharpness: Tensor, anneal: float) -> Tensor:
        alpha = torch.empty_like(sdf)
        launch(_sdf_alpha_kernel, sdf.shape[0], [sdf, cosine, lengths, sharpness, anneal, alpha], sdf.device)
        ctx.anneal = anneal
        ctx.save_for_backward(sdf, cosine, lengths, sharpness)
        return alpha

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sdf, cosine, lengths, sharpness = ctx.saved_tensors
        by_sdf, by_cosine, by_sharpness = torch.empty_like(sdf), torch.empty_like(sdf), torch.empty_like(sdf)
        launch(
            _sdf_alpha_adjoint_kernel,
            sdf.shape[0],
            [sdf, cosine, lengths, sharpness, ctx.anneal, grads[0].contiguous(), by_sdf, by_cosine, by_sharpness],
            sdf.device,
        )
        return by_sdf, by_cosine, None, _total(by_sharpness).reshape(1), None


class _SdfWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sdf: Tensor, cosine: Tensor, sharpness: Tensor, samples: Samples, anneal: float, early_stop: float) -> Tensor:
        weights = torch.zeros_like(sdf)
        launch(
            _sdf_weights_kernel,
            samples.first.shape[0],
            [sdf, cosine, samples.starts, samples.ends, sharpness, anneal, samples.first, samples.count, early_stop, weights],
            sdf.device,
            pieces=chunk_count(samples),
        )
        ctx.samples, ctx.anneal, ctx.early_stop = samples, anneal, early_stop
        ctx.save_for_backward(sdf, cosine, sharpness, weights)
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sdf, cosine, sharpness, weights = ctx.saved_tensors
        samples: Samples = ctx.samples
        by_sdf, by_cosine, scratch = torch.zeros_like(sdf), torch.zeros_like(sdf), torch.empty_like(sdf)
        by_sharpness = torch.empty(samples.first.shape[0], device=sdf.device)
        launch(
            _sdf_weights_adjoint_kernel,
            samples.first.shape[0],
            [
                *(sdf, cosine, samples.starts, samples.ends, sharpness, ctx.anneal, samples.first, samples.count, ctx.early_stop),
                *(weights, grads[0].contiguous(), scratch, by_sdf, by_cosine, by_sharpness),
            ],
            sdf.device,
            pieces=chunk_count(samples),
        )
        return by_sdf, by_cosine, _total(by_sharpness).reshape(1), None, None, None


def _flat(values: Tensor) -> tuple[Tensor, int, int]:
    """A flat view with the strides of samples and channels; the feature-major layout (a transposed [C, S]) is taken as it lies."""
    samples, channels = values.shape
    if values.t().is_contiguous():
        return values.t().reshape(-1), 1, samples
    return values.contiguous().reshape(-1), channels, 1


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, samples: Samples) -> Tensor:
        flat, sample_stride, channel_stride = _flat(values)
        sums = torch.empty(samples.first.shape[0], values.shape[1], device=values.device)
        launch(
            _composite_kernel,
            sums.shape[0],
            [weights, flat, sample_stride, channel_stride, values.shape[1], samples.first, samples.count, sums],
            values.device,
            pieces=chunk_count(samples),
        )
        ctx.samples = samples
        ctx.save_for_backward(weights, values)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weights, values = ctx.saved_tensors
        samples: Samples = ctx.samples
        flat, sample_stride, channel_stride = _flat(values)
        grad_weights = torch.zeros_like(weights)
        grad_values = torch.zeros_like(flat)
        launch(
            _composite_adjoint_kernel,
            samples.first.shape[0],
            [
                *(weights, flat, sample_stride, channel_stride, values.shape[1], samples.first, samples.count),
                *(grads[0].contiguous(), grad_weights, grad_values),
            ],
            values.device,
            pieces=chunk_count(samples),
        )
        shaped = grad_values.as_strided(values.shape, (sample_stride, channel_stride))
        return grad_weights, shaped, None


class _Summary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
        opacity = torch.empty(samples.first.shape[0], device=weights.device)
        distance = torch.empty_like(opacity)
        launch(
            _summary_kernel,
            opacity.shape[0],
            [weights, samples.starts, samples.ends, samples.first, samples.count, opacity, distance],
            weights.device,
            pieces=chunk_count(samples),
        )
        ctx.samples = samples
        return opacity, distance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        samples: Samples = ctx.samples
        grad_weights = torch.zeros_like(samples.starts)
        launch(
            _summary_adjoint_kernel,
            samples.first.shape[0],
            [
                *(samples.starts, samples.ends, samples.first, samples.count),
                *(grads[0].contiguous(), grads[1].contiguous(), grad_weights),
            ],
            grad_weights.device,
            pieces=chunk_count(samples),
        )
        return grad_weights, None


def weights_from_density(density: Float[Tensor, " samples"], samples: Samples, *, early_stop: float = 0.0) -> Float[Tensor, " samples"]:
    """Weights of a medium that is homogeneous within each interval: w_k = T_k (1 - exp(-σ_k δ_k)).

    Args:
        density: extinction σ >= 0 per unit of distance, one per sample.
        samples: the intervals, of lengths δ.
        early_stop: transmittance below which the rest of a ray is dropped; 0 drops nothing.

    Returns:
        Weights in [0, 1], which sum to at most one on a ray; zero in the unused tail.

    Source: Max, Optical models for direct volume rendering, 1995; Mildenhall et al., NeRF, 2020, equation 3.

    >>> import torch
    >>> from unrender.ops.rays.samples import Samples
    >>> two = Samples(torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([2], dtype=torch.int32))
    >>> [round(w, 4) for w in weights_from_density(torch.tensor([1.0, 2.0]), two).tolist()]
    [0.6321, 0.3181]
    """
    return _DensityWeights.apply(_ready(density), samples, early_stop)


def weights_from_alpha(alpha: Float[Tensor, " samples"], samples: Samples, *, early_stop: float = 0.0) -> Float[Tensor, " samples"]:
    """Weights of a row of translucent sheets: w_k = α_k Π_{j<k} (1 - α_j).

    The derivative is exact at α = 1, too, where a sheet hides everything behind it.

    Args:
        alpha: opacity in [0, 1], one per sample.
        samples: says which samples follow each other on a ray.
        early_stop: transmittance below which the rest of a ray is dropped; 0 drops nothing.

    Source: Porter and Duff, Compositing digital images, 1984.

    >>> import torch
    >>> from unrender.ops.rays.samples import Samples
    >>> two = Samples(torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([2], dtype=torch.int32))
    >>> weights_from_alpha(torch.tensor([0.5, 0.5]), two).tolist()
    [0.5, 0.25]
    """
    return _AlphaWeights.apply(_ready(alpha), samples, early_stop)


def sdf_alpha(
    sdf: Float[Tensor, " samples"],
    cosine: Float[Tensor, " samples"],
    lengths: Float[Tensor, " samples"],
    sharpness: Float[Tensor, ""],
    anneal: float,
) -> Float[Tensor, " samples"]:
    """Opacity of an interval from the signed distance at its middle.

        α = clip((σ(s f₋) - σ(s f₊) + 1e-5) / (σ(s f₋) + 1e-5), 0, 1),   f∓ = f ± h/2,
        h = δ [relu(1/2 - c/2) (1 - r) + relu(-c) r]

    The signed distance is taken as linear within the interval and h >= 0 is how far it falls. Differentiates f, c and s; the gradient of s
    is one sum in fixed order. Accurate up to s = 1e6: no difference of nearly equal numbers is formed.

    Args:
        sdf: signed distance f at the middle of each interval, negative inside.
        cosine: c = direction · normal, in [-1, 1], negative where the ray enters.
        lengths: δ; where it is zero (unused samples) the opacity is zero.
        sharpness: s > 0, one over the width of the surface.
        anneal: r in [0, 1]; 0 lets a surface seen from behind or edge-on be opaque, too, which helps at the start of a fit; 1 is unbiased.

    Source: Wang et al., NeuS, 2021, equations 10-13.

    >>> import torch
    >>> sdf_alpha(torch.zeros(1), -torch.ones(1), torch.full((1,), 0.1), torch.tensor(20.0), 1.0).mul(1e4).round().tolist()
    [6321.0]
    """
    return _SdfAlpha.apply(_ready(sdf), _ready(cosine), _ready(lengths), _ready(sharpness).reshape(1), anneal)


def weights_from_sdf(
    sdf: Float[Tensor, " samples"],
    cosine: Float[Tensor, " samples"],
    samples: Samples,
    sharpness: Float[Tensor, ""],
    *,
    anneal: float,
    early_stop: float = 0.0,
) -> Float[Tensor, " samples"]:
    """``weights_from_alpha(sdf_alpha(...))`` in one pass over each ray, which spends nothing on samples behind ``early_stop``.

    Differentiates ``sdf``, ``cosine`` and ``sharpness``; arguments as there.
    """
    return _SdfWeights.apply(_ready(sdf), _ready(cosine), _ready(sharpness).reshape(1), samples, anneal, early_stop)


def composite(
    weights: Float[Tensor, " samples"], values: Float[Tensor, "samples channels"], samples: Samples
) -> Float[Tensor, "rays channels"]:
    """Weighted sum along each ray, Σ_k w_k v_k: color, normal or feature of a pixel over black. Differentiates both.

    ``values`` may be sample-major or the transposed view of a contiguous feature-major ``[channels, samples]``: neither is copied, and the
    gradient comes back in the same layout. A ray without samples gets zero.
    """
    values = values.float()
    return _Composite.apply(_ready(weights), values if values.t().is_contiguous() else values.contiguous(), samples)


def opacity_and_distance(weights: Float[Tensor, " samples"], samples: Samples) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Opacity Σ w and opacity-weighted distance Σ w t (t the middle of an interval) of each ray; differentiates the weights."""
    return _Summary.apply(_ready(weights), samples)
