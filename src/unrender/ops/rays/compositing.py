"""Weighted sums along rays, on packed samples: colors, opacities and distances.

With the weights w_k and values v_k of a ray's samples, and the cotangent g of the sum Σ_k w_k v_k, the gradients are g · v_k to w_k and
w_k g to v_k. These are of the same form as the sum, so both operations have derivatives of every order.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.rays.samples import SampleArrays, Samples, arguments_of, chunk_count, middle, per_sample, span

wp.set_module_options({"enable_backward": False})

_CPP = native_sections(__file__, "compositing.h")


@no_type_check
@wp.func_native(_CPP.sum_ray)
def _sum_ray(
    ray: int,
    begin: int,
    end: int,
    weights: wp.array(dtype=wp.float32),
    values: wp.array(dtype=wp.float32),
    sample_stride: int,
    channel_stride: int,
    sums: wp.array2d(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.sum_ray_adjoint)
def _sum_ray_adjoint(
    ray: int,
    begin: int,
    end: int,
    weights: wp.array(dtype=wp.float32),
    values: wp.array(dtype=wp.float32),
    sample_stride: int,
    channel_stride: int,
    grad_sums: wp.array2d(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
    grad_values: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _composite_kernel(
    first: int,
    samples: SampleArrays,
    weights: wp.array(dtype=wp.float32),
    values: wp.array(dtype=wp.float32),
    sample_stride: int,
    channel_stride: int,
    sums: wp.array2d(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    _sum_ray(ray, begin, end, weights, values, sample_stride, channel_stride, sums)


@no_type_check
@wp.kernel
def _composite_adjoint_kernel(
    first: int,
    samples: SampleArrays,
    weights: wp.array(dtype=wp.float32),
    values: wp.array(dtype=wp.float32),
    sample_stride: int,
    channel_stride: int,
    grad_sums: wp.array2d(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
    grad_values: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    _sum_ray_adjoint(ray, begin, end, weights, values, sample_stride, channel_stride, grad_sums, grad_weights, grad_values)


@no_type_check
@wp.kernel
def _summary_kernel(
    first: int,
    samples: SampleArrays,
    weights: wp.array(dtype=wp.float32),
    opacity: wp.array(dtype=wp.float32),
    distance: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    total = float(0.0)
    moment = float(0.0)
    for i in range(begin, end):
        total += weights[i]
        moment += weights[i] * middle(samples, i)
    opacity[ray] = total
    distance[ray] = moment


@no_type_check
@wp.kernel
def _summary_adjoint_kernel(
    first: int,
    samples: SampleArrays,
    grad_opacity: wp.array(dtype=wp.float32),
    grad_distance: wp.array(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    for i in range(begin, end):
        grad_weights[i] = grad_opacity[ray] + grad_distance[ray] * middle(samples, i)


def _flat(values: Tensor) -> tuple[Tensor, int, int]:
    """Return a flat view with the strides of samples and channels; a transposed [channels, samples] is used without a copy."""
    samples, channels = values.shape
    if values.t().is_contiguous():
        return values.t().reshape(-1), 1, samples
    return values.contiguous().reshape(-1), channels, 1


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, samples: Samples) -> Tensor:
        flat, sample_stride, channel_stride = _flat(values)
        sums = torch.empty(samples.count.shape[0], values.shape[1], device=values.device)
        arguments = [samples.arrays, weights, flat, sample_stride, channel_stride, sums]
        launch(_composite_kernel, sums.shape[0], arguments, values.device, chunks=chunk_count(samples))
        ctx.samples = samples
        ctx.save_for_backward(weights, values)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *_CompositeGradient.apply(grads[0].contiguous(), *ctx.saved_tensors, ctx.samples), None


class _CompositeGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad_sums: Tensor, weights: Tensor, values: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
        flat, sample_stride, channel_stride = _flat(values)
        grad_weights = torch.zeros_like(weights)
        grad_values = torch.zeros_like(flat)
        arguments = [samples.arrays, weights, flat, sample_stride, channel_stride, grad_sums, grad_weights, grad_values]
        launch(_composite_adjoint_kernel, samples.count.shape[0], arguments, values.device, chunks=chunk_count(samples))
        ctx.samples = samples
        ctx.save_for_backward(grad_sums, weights, values)
        return grad_weights, grad_values.as_strided(values.shape, (sample_stride, channel_stride))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_sums, weights, values = ctx.saved_tensors
        samples: Samples = ctx.samples
        towards_weights, towards_values = grads[0].contiguous(), grads[1]
        grad_grad_sums = _Composite.apply(towards_weights, values, samples) + _Composite.apply(weights, towards_values, samples)
        return grad_grad_sums, *_CompositeGradient.apply(grad_sums, towards_weights, towards_values, samples), None


class _Summary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
        opacity = torch.empty(samples.count.shape[0], device=weights.device)
        distance = torch.empty_like(opacity)
        arguments = [samples.arrays, weights, opacity, distance]
        launch(_summary_kernel, opacity.shape[0], arguments, weights.device, chunks=chunk_count(samples))
        ctx.samples = samples
        return opacity, distance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _SummaryTransposed.apply(grads[0].contiguous(), grads[1].contiguous(), ctx.samples), None


class _SummaryTransposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad_opacity: Tensor, grad_distance: Tensor, samples: Samples) -> Tensor:
        grad_weights = torch.zeros_like(samples.starts)
        arguments = [samples.arrays, grad_opacity, grad_distance, grad_weights]
        launch(_summary_adjoint_kernel, samples.count.shape[0], arguments, grad_weights.device, chunks=chunk_count(samples))
        ctx.samples = samples
        return grad_weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *_Summary.apply(grads[0].contiguous(), ctx.samples), None


def composite(
    weights: Float[Tensor, " samples"], values: Float[Tensor, "samples channels"], samples: Samples
) -> Float[Tensor, "rays channels"]:
    """Add up w_k v_k along each ray: the color, normal or feature of a pixel over black.

    Differentiable in both. ``values`` may be sample-major or the transposed view of a contiguous feature-major ``[channels, samples]``:
    neither is copied, and the gradient has the same layout. A ray without samples gets zero.

    Raises:
        ValueError: there is not one weight and one row of values per sample, or a type or device is wrong.

    >>> import torch
    >>> from unrender.ops.rays.samples import Samples
    >>> two = Samples(torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([2], dtype=torch.int32))
    >>> composite(torch.tensor([0.5, 0.25]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), two).tolist()
    [[0.5, 0.5]]
    """
    takes = arguments_of("composite", samples)
    weights = per_sample(takes, weights, "weights", samples)
    values = takes.float32(values, "values", ((samples.starts.shape[0], "samples"), "channels"))
    takes.count(samples.count.shape[0] * values.shape[1], "the result")
    return _Composite.apply(weights, values if values.t().is_contiguous() else values.contiguous(), samples)


def opacity_and_distance(weights: Float[Tensor, " samples"], samples: Samples) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Add up w_k, the opacity, and w_k t_k along each ray, with t_k the middle of an interval.

    The second sum divided by the first is the mean distance. Differentiable in the weights.

    Raises:
        ValueError: there is not one weight per sample, or its type or device is wrong.

    >>> import torch
    >>> from unrender.ops.rays.samples import Samples
    >>> two = Samples(torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([2], dtype=torch.int32))
    >>> [x.item() for x in opacity_and_distance(torch.tensor([0.5, 0.5]), two)]
    [1.0, 1.0]
    """
    return _Summary.apply(per_sample(arguments_of("opacity_and_distance", samples), weights, "weights", samples), samples)
