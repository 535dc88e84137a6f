"""Neural tangent kernels: how a wide network learns under gradient descent.

Notation: a network f(x; θ) with one output; its kernel K(x, x') = ∇_θ f(x) · ∇_θ f(x'); the residual r = f - y at the training points; the
loss ½ Σ r²; η the learning rate and t the number of steps. The kernel of a wide network hardly changes while it learns, so that

    r(t) = exp(-η K t) r(0),    q_i · r(t) = exp(-η λ_i t) q_i · r(0),    K q_i = λ_i q_i.

Sources: Jacot, Gabriel and Hongler 2018, "Neural tangent kernel"; Tancik et al. 2020, "Fourier features", section 3.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


def relu_kernel(cosines: Float[Tensor, "*shape"], hidden_layers: int) -> Float[Tensor, "*shape"]:
    """Compute the tangent kernel of an infinitely wide ReLU network between unit vectors with these inner products.

    With κ₀(u) = (π - acos u) / π, κ₁(u) = (u (π - acos u) + √(1 - u²)) / π and Σ = Θ = u at first, each hidden layer maps
    Θ to κ₁(Σ) + Θ κ₀(Σ), and Σ to κ₁(Σ).

    >>> relu_kernel(torch.tensor([1.0, 0.0, -1.0]), 1).round(decimals=4)
    tensor([2.0000, 0.3183, 0.0000])
    """
    covariance = cosines.clamp(-1.0, 1.0)
    kernel = covariance
    for _ in range(hidden_layers):
        angle = math.pi - torch.acos(covariance)
        bend = (covariance * angle + torch.sqrt((1 - covariance.square()).clamp_min(0))) / math.pi
        kernel = bend + kernel * angle / math.pi
        covariance = bend.clamp(-1.0, 1.0)
    return kernel


class WideNetwork(nn.Module):
    """A ReLU network with one output whose weights are drawn from N(0, 1) and scaled in use.

    Layers are h ← √(2 / width) relu(W h), the output is a · h, and its value at the start is subtracted, so that it begins as zero.
    """

    def __init__(self, inputs: int, width: int, hidden_layers: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = [inputs, *[width] * hidden_layers, 1]
        shapes = zip(sizes[1:], sizes[:-1], strict=True)
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(rows, columns, generator=generator)) for rows, columns in shapes)
        self._start = [weight.detach().clone() for weight in self.weights]

    def forward(self, inputs: Float[Tensor, "points inputs"]) -> Float[Tensor, " points"]:
        return _wide(inputs, list(self.weights)) - _wide(inputs, self._start).detach()


def _wide(inputs: Float[Tensor, "points inputs"], weights: list[Tensor]) -> Float[Tensor, " points"]:
    hidden = inputs
    for weight in weights[:-1]:
        hidden = torch.relu(hidden @ weight.t()) * math.sqrt(2 / weight.shape[0])
    return (hidden @ weights[-1].t())[:, 0]


def empirical_kernel(network: nn.Module, inputs: Float[Tensor, "points inputs"]) -> Float[Tensor, "points points"]:
    """Compute the tangent kernel of a network with one output between points, from the gradients of its parameters.

    >>> linear = nn.Linear(2, 1, bias=False)
    >>> empirical_kernel(nn.Sequential(linear, nn.Flatten(0)), torch.tensor([[1.0, 0.0], [1.0, 2.0]])).tolist()
    [[1.0, 1.0], [1.0, 5.0]]
    """
    parameters = {name: value.detach() for name, value in network.named_parameters()}

    def output(values: dict[str, Tensor], one: Tensor) -> Tensor:
        return torch.func.functional_call(network, values, (one[None],))[0]

    gradients = torch.func.vmap(torch.func.grad(output), in_dims=(None, 0))(parameters, inputs)
    flat = [gradient.reshape(len(inputs), -1) for gradient in gradients.values()]
    return torch.stack([gradient @ gradient.t() for gradient in flat]).sum(0)


def kernel_modes(kernel: Float[Tensor, "points points"]) -> tuple[Float[Tensor, " points"], Float[Tensor, "points points"]]:
    """Return the eigenvalues of a kernel, the largest first, and its eigenvectors as columns in the same order, in float64."""
    values, vectors = torch.linalg.eigh(kernel.double())
    return values.flip(0), vectors.flip(1)


def residuals_at(
    kernel: Float[Tensor, "points points"], residual: Float[Tensor, " points"], times: Float[Tensor, " times"]
) -> Float[Tensor, "times points"]:
    """Compute exp(-K s) r for each s = η t, the learning rate times the number of steps; float64.

    >>> residuals_at(torch.eye(2), torch.tensor([1.0, 2.0]), torch.tensor([0.0, math.log(2)])).round(decimals=4).tolist()
    [[1.0, 2.0], [0.5, 1.0]]
    """
    values, modes = kernel_modes(kernel)
    decay = torch.exp(-times.double()[:, None] * values)
    return (decay * (modes.t() @ residual.double())) @ modes.t()


def predictions_at(
    between: Float[Tensor, "tests points"], kernel: Float[Tensor, "points points"], targets: Float[Tensor, " points"], time: float
) -> Float[Tensor, " tests"]:
    """Compute what a network that began as zero predicts: K_test K⁻¹ (1 - exp(-K s)) y, in float64.

    Args:
        between: kernel between the test and the training points.
        kernel: kernel between the training points.
        targets: y, at the training points.
        time: s, the learning rate times the number of steps.
    """
    values, modes = kernel_modes(kernel)
    share = -torch.expm1(-values * time) / values.clamp_min(1e-12 * float(values[0]))
    return between.double() @ (modes @ (share * (modes.t() @ targets.double())))


def circulance_error(kernel: Float[Tensor, "points points"]) -> float:
    """Return how far a kernel on a ring of points is from depending on their offset alone.

    As a share of its diagonal, it is the largest difference between an entry and the mean over all pairs at the same offset.

    >>> circulance_error(torch.tensor([[2.0, 1.0], [1.0, 2.0]])), circulance_error(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    (0.0, 0.5)
    """
    count = kernel.shape[0]
    place = torch.arange(count, device=kernel.device)
    by_offset = kernel[place[:, None], (place[:, None] + place) % count]
    return float((by_offset - by_offset.mean(0)).abs().max() / kernel.diagonal().mean())
