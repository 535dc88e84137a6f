"""Small perceptrons as modules, and the activations of the fields."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unrender.ops.encodings import mlp


class Perceptron(nn.Module):
    """ReLU layers and a linear last one, weights from U(-√(6/inputs), √(6/inputs)) (He et al. 2015), biases zero."""

    def __init__(self, sizes: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in zip(sizes, sizes[1:], strict=False):
            bound = math.sqrt(6 / inputs)
            weight = (torch.rand(outputs, inputs, generator=generator) * 2 - 1) * bound
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(outputs)))

    def forward(self, inputs: Float[Tensor, "samples features"]) -> Float[Tensor, "samples outputs"]:
        """Apply the layers; inputs that are missing at the end count as zero."""
        first, *others = self.weights
        first = first if inputs.shape[1] == first.shape[1] else first[:, : inputs.shape[1]]
        return mlp(inputs, (first, *others), tuple(self.biases))

    @torch.no_grad()
    def start_as(self, other: Perceptron) -> None:
        """Copy another perceptron with fewer inputs; the further ones, which come first, have no effect yet."""
        for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
            mine.zero_()
            mine[..., mine.shape[-1] - theirs.shape[-1] :] = theirs

    def along_rays(
        self,
        inputs: Float[Tensor, "samples features"],
        shared: Float[Tensor, "rays shared"],
        ray_index: Int[Tensor, " samples"],
        *,
        sigmoid: bool = False,
    ) -> Float[Tensor, "samples outputs"]:
        """Apply the perceptron to ``cat([inputs, shared[ray_index]])``; the first layer processes the shared part once per ray."""
        return mlp(inputs, tuple(self.weights), tuple(self.biases), shared, ray_index, sigmoid=sigmoid)


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * torch.exp(x.clamp(max=15.0))


def truncated_exp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Compute exp(x), with a slope that stops growing at x = 15.

    This keeps one dense sample from blowing up the weights (instant-ngp).

    >>> truncated_exp(torch.tensor([0.0, 1.0])).tolist()
    [1.0, 2.7182817459106445]
    """
    return _TruncatedExp.apply(x)
