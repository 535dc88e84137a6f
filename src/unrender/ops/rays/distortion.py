"""The distortion loss on packed samples: a ray should see its weight in one place."""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.ops.kernels.launch import launch
from unrender.ops.rays.samples import Samples, chunk_count

wp.set_module_options({"enable_backward": False})


@no_type_check
@wp.kernel
def _distortion_kernel(
    first: int,
    weights: wp.array(dtype=wp.float32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    loss: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    total = float(0.0)
    mass = float(0.0)
    spread = float(0.0)
    last = float(0.0)
    for i in range(begin, begin + ray_count[ray]):
        m = 0.5 * (starts[i] + ends[i])
        if i > begin:
            spread += mass * (m - last)
        last = m
        w = weights[i]
        total += 2.0 * w * spread + w * w * (ends[i] - starts[i]) / 3.0
        mass += w
    loss[ray] = total


@no_type_check
@wp.kernel
def _distortion_adjoint_kernel(
    first: int,
    weights: wp.array(dtype=wp.float32),
    starts: wp.array(dtype=wp.float32),
    ends: wp.array(dtype=wp.float32),
    ray_first: wp.array(dtype=wp.int32),
    ray_count: wp.array(dtype=wp.int32),
    grad: wp.array(dtype=wp.float32),
    grad_weights: wp.array(dtype=wp.float32),
):
    ray = first + wp.tid()
    begin = ray_first[ray]
    count = ray_count[ray]
    g = grad[ray]
    mass = float(0.0)
    spread = float(0.0)
    last = float(0.0)
    for k in range(count):
        i = begin + k
        m = 0.5 * (starts[i] + ends[i])
        if k > 0:
            spread += mass * (m - last)
        last = m
        grad_weights[i] = g * (2.0 * spread + weights[i] * (ends[i] - starts[i]) * 2.0 / 3.0)
        mass += weights[i]
    mass = float(0.0)
    spread = float(0.0)
    for k in range(count):
        i = begin + count - 1 - k
        m = 0.5 * (starts[i] + ends[i])
        if k > 0:
            spread += mass * (last - m)
        last = m
        grad_weights[i] = grad_weights[i] + g * 2.0 * spread
        mass += weights[i]


class _Distortion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, samples: Samples) -> Tensor:
        loss = torch.empty(samples.first.shape[0], device=weights.device)
        launch(
            _distortion_kernel,
            loss.shape[0],
            [weights, samples.starts, samples.ends, samples.first, samples.count, loss],
            weights.device,
            pieces=chunk_count(samples),
        )
        ctx.samples = samples
        ctx.save_for_backward(weights)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weights,) = ctx.saved_tensors
        samples: Samples = ctx.samples
        grad_weights = torch.zeros_like(weights)
        launch(
            _distortion_adjoint_kernel,
            samples.first.shape[0],
            [weights, samples.starts, samples.ends, samples.first, samples.count, grads[0].contiguous(), grad_weights],
            weights.device,
            pieces=chunk_count(samples),
        )
        return grad_weights, None


def distortion(weights: Float[Tensor, " samples"], samples: Samples) -> Float[Tensor, " rays"]:
    """How far a ray's weight is spread: Σ_ij w_i w_j |m_i - m_j| + 1/3 Σ_i w_i² δ_i, with middles m and lengths δ in world units.

    Takes time linear in the samples: with D_i = Σ_{j<i} w_j (m_i - m_j), which grows by (m_{i+1} - m_i) Σ_{j<=i} w_j from one sample to the
    next, the double sum is 2 Σ_i w_i D_i; its gradient adds the same sum taken from the far end. Differentiates the weights.

    Source: Barron et al., Mip-NeRF 360, 2022, equation 15.

    >>> import torch
    >>> from unrender.ops.rays.samples import Samples
    >>> two = Samples(torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, 3.0]), torch.tensor([3.0, 6.0]),
    ...               torch.tensor([0], dtype=torch.int32), torch.tensor([2], dtype=torch.int32))
    >>> distortion(torch.tensor([0.5, 0.5]), two).tolist()  # 2 · 1/4 · 3 + 1/3 · (1/4 + 1/4) · 3
    [2.0]
    """
    return _Distortion.apply(weights.float().contiguous(), samples)
