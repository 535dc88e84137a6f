"""Weighted sums along rays, on packed samples: colors, opacities and distances.

With the weights w_k and values v_k of a ray's samples, and the cotangent g of the sum Σ_k w_k v_k, the gradients are g · v_k to w_k and
w_k g to v_k. These are of the same form as the sum, so both operations have derivatives of every order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.ops.kernels.launch import address, launch
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


@no_type_check
@wp.func_native(_CPP.ray_over)
def _ray_over(
    samples: SampleArrays,
    ray: int,
    begin: int,
    end: int,
    weights: wp.uint64,
    colors: wp.uint64,
    normals: wp.uint64,
    background: wp.uint64,
    seen: wp.uint64,
    opacity: wp.uint64,
    distance: wp.uint64,
    turned: wp.uint64,
): ...


@no_type_check
@wp.func_native(_CPP.ray_over_adjoint)
def _ray_over_adjoint(
    samples: SampleArrays,
    ray: int,
    begin: int,
    end: int,
    weights: wp.uint64,
    colors: wp.uint64,
    normals: wp.uint64,
    background: wp.uint64,
    grad_seen: wp.uint64,
    grad_opacity: wp.uint64,
    grad_distance: wp.uint64,
    grad_turned: wp.uint64,
    grad_weights: wp.uint64,
    grad_colors: wp.uint64,
    grad_normals: wp.uint64,
    grad_background: wp.uint64,
): ...


@no_type_check
@wp.kernel
def _over_kernel(
    first: int,
    samples: SampleArrays,
    weights: wp.uint64,
    colors: wp.uint64,
    normals: wp.uint64,
    background: wp.uint64,
    seen: wp.uint64,
    opacity: wp.uint64,
    distance: wp.uint64,
    turned: wp.uint64,
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    _ray_over(samples, ray, begin, end, weights, colors, normals, background, seen, opacity, distance, turned)


@no_type_check
@wp.kernel
def _over_adjoint_kernel(
    first: int,
    samples: SampleArrays,
    weights: wp.uint64,
    colors: wp.uint64,
    normals: wp.uint64,
    background: wp.uint64,
    grad_seen: wp.uint64,
    grad_opacity: wp.uint64,
    grad_distance: wp.uint64,
    grad_turned: wp.uint64,
    grad_weights: wp.uint64,
    grad_colors: wp.uint64,
    grad_normals: wp.uint64,
    grad_background: wp.uint64,
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    _ray_over_adjoint(
        samples,
        ray,
        begin,
        end,
        weights,
        colors,
        normals,
        background,
        grad_seen,
        grad_opacity,
        grad_distance,
        grad_turned,
        grad_weights,
        grad_colors,
        grad_normals,
        grad_background,
    )


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


def _addresses(*tensors: Tensor | None) -> list[int]:
    """Return the addresses of contiguous tensors, which must outlive the launch; 0 for None."""
    return [address(tensor, torch.float32) for tensor in tensors]


class _Over(torch.autograd.Function):
    """Colors and normals are [3, samples]; a missing normal is None."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, colors: Tensor, normals: Tensor | None, background: Tensor, samples: Samples) -> Any:
        seen, turned = torch.empty_like(background), torch.empty_like(background)
        opacity, distance = background.new_empty(len(background)), background.new_empty(len(background))
        results = (seen, opacity, distance, turned)
        arguments = [samples.arrays, *_addresses(weights, colors, normals, background, *results)]
        launch(_over_kernel, len(background), arguments, weights.device, chunks=chunk_count(samples))
        ctx.samples = samples
        ctx.save_for_backward(weights, colors, normals, background)
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        weights, colors, normals, background = ctx.saved_tensors
        if torch.is_grad_enabled():
            given = [grads[0], grads[1], grads[2], None if normals is None else grads[3]]
            return *_gradients_in_turn(ctx.needs_input_grad, given, ctx.samples, weights, colors, normals, background), None
        of_seen = torch.zeros_like(background) if grads[0] is None else grads[0].contiguous()
        others = [None if grad is None else grad.contiguous() for grad in grads[1:]]
        of_weights, of_colors, of_background = torch.zeros_like(weights), torch.zeros_like(colors), torch.empty_like(background)
        of_normals = None if normals is None else torch.zeros_like(normals)
        results = (of_weights, of_colors, of_normals, of_background)
        arguments = [ctx.samples.arrays, *_addresses(weights, colors, normals, background, of_seen, *others, *results)]
        launch(_over_adjoint_kernel, len(background), arguments, weights.device, chunks=chunk_count(ctx.samples))
        return *results, None


def _in_turn(
    weights: Tensor, colors: Tensor, normals: Tensor | None, background: Tensor, samples: Samples
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute what ``_Over`` computes by operations with derivatives of every order."""
    opacity, distance = opacity_and_distance(weights, samples)
    seen = composite(weights, colors.t(), samples) + (1 - opacity)[:, None] * background
    return seen, opacity, distance, torch.zeros_like(seen) if normals is None else composite(weights, normals.t(), samples)


def _gradients_in_turn(
    needed: Sequence[bool], grads: Sequence[Tensor | None], samples: Samples, *inputs: Tensor | None
) -> list[Tensor | None]:
    """Return the gradients of the inputs of ``_Over``, which can be differentiated further."""
    weights, colors, normals, background = inputs
    assert weights is not None and colors is not None and background is not None
    results = _in_turn(weights, colors, normals, background, samples)
    wanted = [tensor for tensor, need in zip(inputs, needed, strict=False) if need and tensor is not None]
    used = [(result, grad) for result, grad in zip(results, grads, strict=True) if grad is not None]
    outputs, given = [result for result, _ in used], [grad for _, grad in used]
    found = iter(torch.autograd.grad(outputs, wanted, given, create_graph=True, materialize_grads=True))
    return [next(found) if need and tensor is not None else None for tensor, need in zip(inputs, needed, strict=False)]


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


def composite_over(
    weights: Float[Tensor, " samples"],
    colors: Float[Tensor, "samples 3"],
    normals: Float[Tensor, "samples 3"] | None,
    samples: Samples,
    background: Float[Tensor, "rays 3"],
) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, " rays"], Float[Tensor, " rays"], Float[Tensor, "rays 3"]]:
    """Composite colors over a background, and add up opacity, distance and normals, in one pass over each ray.

        Σ w_k c_k + (1 - Σ w_k) background,   Σ w_k,   Σ w_k t_k,   Σ w_k n_k

    with t_k the middle of an interval. Differentiable any number of times. Transposed views of [3, samples] buffers are not copied.

    Args:
        weights: w of each sample.
        colors: c of each sample.
        normals: n of each sample; without any, their sum is zero.
        samples: the intervals.
        background: the color behind each ray.

    Raises:
        ValueError: for other shapes or types, or tensors on different devices.

    >>> import torch
    >>> from unrender.ops.rays.samples import Samples
    >>> one = Samples(torch.zeros(1, dtype=torch.int32), torch.tensor([1.0]), torch.tensor([2.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([1], dtype=torch.int32))
    >>> color, opacity, distance, _ = composite_over(torch.tensor([0.5]), torch.tensor([[1.0, 0.0, 0.0]]), None, one, torch.ones(1, 3))
    >>> color.tolist(), opacity.tolist(), distance.tolist()
    ([[1.0, 0.5, 0.5]], [0.5], [0.75])
    """
    takes = arguments_of("composite_over", samples)
    weights, size = per_sample(takes, weights, "weights", samples), (samples.starts.shape[0], "samples")
    colors = takes.float32(colors, "colors", (size, 3)).t().contiguous()
    normals = None if normals is None else takes.float32(normals, "normals", (size, 3)).t().contiguous()
    background = takes.float32(background, "background", ((samples.count.shape[0], "rays"), 3)).contiguous()
    return _Over.apply(weights, colors, normals, background, samples)
