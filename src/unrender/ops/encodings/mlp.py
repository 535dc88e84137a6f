"""Small multilayer perceptrons with ReLU between the layers, fused on a CPU.

These networks are tiny (mostly 16 to 128 units), so the general path (one GEMM, one bias, one ReLU at a time) spends its time
writing activations to memory and reading them back. On a CPU a panel of samples passes all layers inside the caches, and the
backward pass recomputes the activations instead of storing them. On other devices the same function is a chain of PyTorch GEMMs.

Inputs that all samples of a ray share, such as the encoding of its direction, do not pass through the first layer once per sample: their
product with the weights is computed once per ray and added to the first layer.

Layout: inputs and outputs are transposed views of feature-major [features, samples] buffers, which is how the encodings write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.ops.encodings._mlp_cpu import added_per_ray, checked_layers, is_fused, pack, run_backward, run_forward
from unrender.ops.kernels.checks import Arguments, as_int32

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""Types of the general path; the fused one computes in float32."""


class _FusedMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shared: Tensor | None, ray_index: Tensor | None, sigmoid: bool, *parameters: Tensor) -> Tensor:
        weights, rays = list(parameters[0::2]), None
        if shared is not None and ray_index is not None:
            rays = added_per_ray(shared, weights[0]), ray_index
            weights[0] = weights[0][:, : x.shape[0]]
        packed = pack(parameters if rays is None else [weights[0], *parameters[1:]])
        y = run_forward(x, weights, packed, rays, sigmoid=sigmoid)
        ctx.save_for_backward(x, shared, ray_index, y if sigmoid else None, *parameters)
        ctx.packed, ctx.added = packed, None if rays is None else rays[0]
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, shared, ray_index, squashed, *parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _gradients_of_chain(ctx.needs_input_grad, squashed is not None, grad_y, x, shared, ray_index, *parameters)
        weights, needed = list(parameters[0::2]), ctx.needs_input_grad[0]
        if shared is None:
            grad_x, gradients, _ = run_backward(x, grad_y, weights, ctx.packed, with_inputs=needed, squashed=squashed)
            return grad_x, None, None, None, *gradients
        whole, weights[0] = weights[0], weights[0][:, : x.shape[0]]
        rays = (ctx.added, ray_index)
        grad_x, gradients, grad_added = run_backward(x, grad_y, weights, ctx.packed, rays, with_inputs=needed, squashed=squashed)
        assert grad_added is not None
        gradients[0] = torch.cat([gradients[0], grad_added.t() @ shared], dim=1)
        return grad_x, grad_added @ whole[:, x.shape[0] :] if ctx.needs_input_grad[1] else None, None, None, *gradients


def _gradients_of_chain(
    needed: Sequence[bool],
    sigmoid: bool,
    grad_y: Tensor,
    x: Tensor,
    shared: Tensor | None,
    ray_index: Tensor | None,
    *parameters: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the arguments of ``_FusedMlp`` by the general path, which can be differentiated further."""
    arguments = (x, shared, ray_index, None, *parameters)
    with torch.autocast(x.device.type, enabled=False):
        y = _chain(x, parameters, shared, ray_index, sigmoid=sigmoid)
        wanted = [argument for argument, need in zip(arguments, needed, strict=True) if need and argument is not None]
        found = iter(torch.autograd.grad(y, wanted, grad_y, create_graph=True, materialize_grads=True))
    return tuple(next(found) if need and argument is not None else None for argument, need in zip(arguments, needed, strict=True))


def mlp(
    inputs: Float[Tensor, "samples features"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
    shared: Float[Tensor, "rays columns"] | None = None,
    ray_index: Int[Tensor, " samples"] | None = None,
    *,
    sigmoid: bool = False,
) -> Float[Tensor, "samples outputs"]:
    """Apply a perceptron with ReLU between its layers and a linear last layer.

    h_0 = inputs, or (inputs, shared[ray_index]); h_l = relu(W_l h_{l-1} + b_l); result = W_L h_{L-1} + b_L. Differentiable any number
    of times; a backward pass with ``create_graph=True`` takes the general path. The fused path is for a CPU, float32 and at most 5 layers
    of at most 320 units, 1,300 or so in all. The result is the transposed view of an [outputs, samples] buffer; inputs that are such a view
    are read without a copy.

    Args:
        inputs: one row per sample.
        weights: [outputs, inputs] of each layer.
        biases: of each layer.
        shared: further inputs, the same for all samples of a ray; they pass through the first layer once per ray.
        ray_index: int32, the ray of each sample, in ascending order; -1 at the end for samples of no ray, as is one beyond ``shared``. The
            shared inputs of such a sample are zero.
        sigmoid: whether the result passes through 1 / (1 + e^-y), as colors do.

    Raises:
        ValueError: for a layer that does not match the one before, for other types or devices, or for one of ``shared`` and ``ray_index``
            without the other.

    >>> weights = [torch.tensor([[1.0, 1.0], [-1.0, 0.0]]), torch.tensor([[2.0, 5.0]])]
    >>> mlp(torch.tensor([[1.0, 2.0]]), weights, [torch.zeros(2), torch.ones(1)])
    tensor([[7.]])
    """
    takes = Arguments("mlp")
    inputs = takes.tensor(inputs, "inputs", _FLOATS, ("samples", "features"))
    if (shared is None) != (ray_index is None):
        raise ValueError("mlp takes shared and ray_index together, got one of them: give both or neither")
    if shared is not None and ray_index is not None:
        shared = takes.tensor(shared, "shared", (inputs.dtype,), ("rays", "columns"))
        ray_index = as_int32(takes.integers(ray_index, "ray_index", ((inputs.shape[0], "samples"),))).contiguous()
    columns = inputs.shape[1] + (0 if shared is None else shared.shape[1])
    parameters = checked_layers(takes, (inputs.shape[0], columns), inputs.dtype, weights, biases)
    sigmoid = takes.flag(sigmoid, "sigmoid")
    x = inputs.t().contiguous()
    if is_fused(x.shape[0], parameters):
        return _FusedMlp.apply(x, shared, ray_index, sigmoid, *parameters).t()
    with torch.autocast(x.device.type, enabled=False):  # it would compute the products in half precision
        return _chain(x, parameters, shared, ray_index, sigmoid=sigmoid).t()


def _chain(x: Tensor, parameters: Sequence[Tensor], shared: Tensor | None, ray_index: Tensor | None, *, sigmoid: bool) -> Tensor:
    """Apply the layers one by one to [features, samples]."""
    for layer, (weight, bias) in enumerate(zip(parameters[0::2], parameters[1::2], strict=True)):
        if layer == 0 and shared is not None and ray_index is not None:
            added = shared @ weight[:, x.shape[0] :].t()
            x = torch.addmm(bias[:, None], weight[:, : x.shape[0]], x)
            if shared.shape[0] > 0:
                ray = ray_index.clamp(0, shared.shape[0] - 1)
                x = x + torch.where(ray == ray_index, added.t().index_select(1, ray), 0.0)
        else:
            x = torch.addmm(bias[:, None], weight, x)
        if layer + 1 < len(parameters) // 2:
            x = torch.relu(x)
    return torch.sigmoid(x) if sigmoid else x
