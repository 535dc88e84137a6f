"""The distortion loss on packed samples, which concentrates the weights of a ray.

The loss of a ray is the quadratic form wᵀ H w / 2 with H symmetric, so its gradient is H w, which is linear, and the operation has
derivatives of every order.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.ops.kernels.launch import launch
from unrender.ops.rays.samples import RaySum, SampleArrays, Samples, arguments_of, chunk_count, length, middle, per_sample, span

wp.set_module_options({"enable_backward": False})


@no_type_check
@wp.kernel
def _distortion_kernel(first: int, samples: SampleArrays, weights: wp.array(dtype=wp.float32), loss: wp.array(dtype=wp.float32)):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    total = float(0.0)
    mass = float(0.0)
    spread = float(0.0)
    last = float(0.0)
    for i in range(begin, end):
        m = middle(samples, i)
        if i > begin:
            spread += mass * (m - last)
        last = m
        w = weights[i]
        total += 2.0 * w * spread + w * w * length(samples, i) / 3.0
        mass += w
    loss[ray] = total


@no_type_check
@wp.kernel
def _distortion_adjoint_kernel(
    first: int,
    samples: SampleArrays,
    weights: wp.array(dtype=wp.float32),
    grad_loss: wp.array(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    count = end - begin
    g = grad_loss[ray]
    mass = float(0.0)
    spread = float(0.0)
    last = float(0.0)
    for k in range(count):
        i = begin + k
        m = middle(samples, i)
        if k > 0:
            spread += mass * (m - last)
        last = m
        grad_weights[i] = g * (2.0 * spread + weights[i] * length(samples, i) * 2.0 / 3.0)
        mass += weights[i]
    # The same sum from the far end.
    mass = float(0.0)
    spread = float(0.0)
    for k in range(count):
        i = begin + count - 1 - k
        m = middle(samples, i)
        if k > 0:
            spread += mass * (last - m)
        last = m
        grad_weights[i] = grad_weights[i] + g * 2.0 * spread
        mass += weights[i]


class _Distortion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, samples: Samples) -> Tensor:
        loss = torch.empty(samples.count.shape[0], device=weights.device)
        arguments = [samples.arrays, weights, loss]
        launch(_distortion_kernel, loss.shape[0], arguments, weights.device, chunks=chunk_count(samples))
        ctx.samples = samples
        ctx.save_for_backward(weights)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _DistortionGradient.apply(grads[0].contiguous(), *ctx.saved_tensors, ctx.samples), None


class _DistortionGradient(torch.autograd.Function):
    """g H w, with the cotangent g of the ray."""

    @staticmethod
    def forward(ctx: Any, grad_loss: Tensor, weights: Tensor, samples: Samples) -> Tensor:
        grad_weights = torch.zeros_like(weights)
        arguments = [samples.arrays, weights, grad_loss, grad_weights]
        launch(_distortion_adjoint_kernel, samples.count.shape[0], arguments, weights.device, chunks=chunk_count(samples))
        ctx.samples = samples
        ctx.save_for_backward(grad_loss, weights)
        return grad_weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_loss, weights = ctx.saved_tensors
        samples: Samples = ctx.samples
        direction = grads[0].contiguous()
        per_sample_loss = weights * _DistortionGradient.apply(torch.ones_like(grad_loss), direction, samples)
        grad_grad_loss = RaySum.apply(per_sample_loss[:, None].contiguous(), samples)[:, 0]
        return grad_grad_loss, _DistortionGradient.apply(grad_loss, direction, samples), None


def distortion(weights: Float[Tensor, " samples"], samples: Samples) -> Float[Tensor, " rays"]:
    """Compute Σ_ij w_i w_j |m_i - m_j| + 1/3 Σ_i w_i² δ_i: the spread of a ray's weights.

    Middles m and lengths δ are in world units. Takes time linear in the samples: with D_i = Σ_{j<i} w_j (m_i - m_j), which grows by
    (m_{i+1} - m_i) Σ_{j<=i} w_j from one sample to the next, the double sum is 2 Σ_i w_i D_i. Its gradient adds the same sum taken from the
    far end. Differentiable in the weights.

    Raises:
        ValueError: there is not one weight per sample, or its type or device is wrong.

    Source: Barron et al., Mip-NeRF 360, 2022.

    >>> import torch
    >>> from unrender.ops.rays.samples import Samples
    >>> two = Samples(torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 3.0]), torch.tensor([3.0, 6.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([2], dtype=torch.int32))
    >>> distortion(torch.tensor([0.5, 0.5]), two).tolist()  # 2 · 1/4 · 3 + 1/3 · (1/4 + 1/4) · 3
    [2.0]
    """
    return _Distortion.apply(per_sample(arguments_of("distortion", samples), weights, "weights", samples), samples)
