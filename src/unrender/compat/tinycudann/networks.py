"""Perceptrons without biases, whose widths are padded: FullyFusedMLP and CutlassMLP.

The weight matrices stand one after the other in the parameter vector, each row-major ``[outputs, inputs]``. The width of the input and of
the output is padded to a multiple of 16 (FullyFusedMLP) or 8 (CutlassMLP): padded inputs are ones, which makes their weights a bias of the
first layer, or zeros behind a grid; padded outputs are not returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unrender.ops.encodings import mlp

_SINE_BOOST = 30.0
"""Factor on the first layer before sines (Sitzmann et al. 2020, "Implicit Neural Representations with Periodic Activation Functions")."""

_ZOOM = 10.0
"""How much more sharply than by their usual definitions Squareplus and Softplus bend, as tiny-cuda-nn documents them."""


def _nothing(x: Tensor) -> Tensor:
    return x


def _squareplus(x: Tensor) -> Tensor:
    """Compute ``(x + sqrt(x^2 + 4)) / 2`` of ``10 x``, over 10."""
    zoomed = _ZOOM * x
    return 0.5 * (zoomed + torch.sqrt(zoomed * zoomed + 4.0)) / _ZOOM


def _softplus(x: Tensor) -> Tensor:
    """Compute ``log(1 + exp(10 x)) / 10``."""
    return F.softplus(x, beta=_ZOOM)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "None": _nothing,
        "ReLU": torch.relu,
        "LeakyReLU": F.leaky_relu,
        "Exponential": torch.exp,
        "Sigmoid": torch.sigmoid,
        "Sine": torch.sin,
        "Squareplus": _squareplus,
        "Softplus": _softplus,
        "Tanh": torch.tanh,
    }
)
"""Functions by the names that a network's description uses; the slope of LeakyReLU is 0.01, Squareplus and Softplus are zoomed by 10."""


@dataclass(frozen=True)
class Perceptron:
    """The shape of a network; the weights are a vector that the caller owns."""

    inputs: int
    outputs: int
    neurons: int = 128
    hidden_layers: int = 5
    activation: str = "ReLU"
    output_activation: str = "None"
    alignment: int = 16
    """What the widths of input and output are padded to a multiple of."""

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of the weight matrices, padded."""
        widths = [_padded(self.inputs, self.alignment), *([self.neurons] * self.hidden_layers), _padded(self.outputs, self.alignment)]
        return list(zip(widths[1:], widths[:-1], strict=True))

    @property
    def parameters(self) -> int:
        """Length of the parameter vector."""
        return sum(rows * columns for rows, columns in self.shapes)

    def matrices(self, parameters: Float[Tensor, " parameters"]) -> list[Tensor]:
        """Return the weight matrices as views of the parameter vector."""
        parts = parameters.split([rows * columns for rows, columns in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def initial(self, generator: torch.Generator) -> Float[Tensor, " parameters"]:
        """Draw weights: uniform with the variance of Glorot and Bengio 2010, or of Sitzmann et al. 2020 before sines."""
        drawn = []
        for layer, (rows, columns) in enumerate(self.shapes):
            bound = math.sqrt(6.0 / (rows + columns))
            if self.activation == "Sine":
                bound = _SINE_BOOST / columns if layer == 0 else math.sqrt(6.0 / columns)
            drawn.append(torch.empty(rows * columns, device="cpu").uniform_(-bound, bound, generator=generator))
        return torch.cat(drawn)

    @property
    def is_mlp(self) -> bool:
        """Whether :func:`mlp` computes the layers before the output activation."""
        return self.activation == "ReLU" or self.hidden_layers == 0

    def layers(self, parameters: Float[Tensor, " parameters"], padding: float) -> tuple[list[Tensor], list[Tensor]]:
        """Return weights and biases without what is padded; the bias of the first layer is what reads ``padding``."""
        weights = self.matrices(parameters)
        first, before = weights[0][:, : self.inputs], weights[0][:, self.inputs :]
        biases = [weight.new_zeros(weight.shape[0]) for weight in weights]
        if padding and before.shape[1] > 0:
            biases[0] = padding * before.sum(1)
        weights[0] = first
        weights[-1], biases[-1] = weights[-1][: self.outputs], biases[-1][: self.outputs]
        return weights, biases

    def finish(self, x: Float[Tensor, "samples outputs"]) -> Float[Tensor, "samples outputs"]:
        """Apply the output activation."""
        return ACTIVATIONS[self.output_activation](x)

    def apply(
        self, x: Float[Tensor, "samples inputs"], parameters: Float[Tensor, " parameters"], padding: float
    ) -> Float[Tensor, "samples outputs"]:
        """Apply the layers, reading ``padding`` in the padded inputs; differentiable at least twice."""
        weights, biases = self.layers(parameters, padding)
        if self.is_mlp:
            x = mlp(x, weights, biases)
        else:
            with torch.autocast(x.device.type, enabled=False):
                for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                    x = F.linear(x, weight, bias)
                    x = ACTIVATIONS[self.activation](x) if layer < self.hidden_layers else x
        return self.finish(x)


def _padded(width: int, alignment: int) -> int:
    return -(-width // alignment) * alignment
