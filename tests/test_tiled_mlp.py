"""The perceptron of tiles against its twin: on a CPU where its kernels run in float32, and on a GPU in TF32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unrender.ops.encodings.tiled_mlp import tiled_mlp
from unrender.reference.mlp import mlp as twin


def case(sizes: tuple[int, ...], samples: int, device: str = "cpu") -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(sum(sizes))
    weights = [torch.randn(o, i, generator=generator) / i**0.5 for i, o in zip(sizes, sizes[1:], strict=False)]
    leaves = [torch.randn(samples, sizes[0], generator=generator), *weights, *(torch.randn(o, generator=generator) for o in sizes[1:])]
    return [leaf.to(device).requires_grad_() for leaf in leaves], torch.randn(samples, sizes[-1], generator=generator).to(device)


def compare(sizes: tuple[int, ...], samples: int, device: str, tolerance: float) -> None:
    leaves, cotangent = case(sizes, samples, device)
    layers = len(sizes) - 1
    found = tiled_mlp(leaves[0], leaves[1 : layers + 1], leaves[layers + 1 :])
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wanted = twin(exact[0], exact[1 : layers + 1], exact[layers + 1 :])
    pairs = [(found, wanted)]
    pairs += zip(torch.autograd.grad(found, leaves, cotangent), torch.autograd.grad(wanted, exact, cotangent.double()), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(
            a.detach().double(), b.detach(), atol=tolerance * max(1.0, float(b.detach().abs().max())), rtol=tolerance
        )


@pytest.mark.parametrize(("sizes", "samples"), [((20, 30, 17, 3), 2100), ((20, 30, 17, 3), 1), ((20, 17, 3), 70)])
def test_values_and_gradients_equal_the_twin(sizes: tuple[int, ...], samples: int) -> None:
    """Widths and numbers of samples that fill no tile; more samples than a block takes."""
    compare(sizes, samples, "cpu", 2e-5)


def test_second_derivatives_and_no_samples() -> None:
    leaves, cotangent = case((20, 17, 3), 5)
    results = []
    for function, dtype in ((tiled_mlp, torch.float32), (twin, torch.float64)):
        x, *parameters = (leaf.detach().to(dtype).requires_grad_() for leaf in leaves)
        slopes = torch.autograd.grad(function(x, parameters[:2], parameters[2:]), parameters, cotangent.to(dtype), create_graph=True)
        results.append(
            torch.autograd.grad(torch.stack([slope.sin().sum() for slope in slopes]).sum(), [x, *parameters], materialize_grads=True)
        )
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-4)
    leaves, _ = case((20, 17, 3), 0)
    tiled_mlp(leaves[0], leaves[1:3], leaves[3:]).sum().backward()
    assert leaves[1].grad is not None and not bool(leaves[1].grad.any())


def test_networks_that_do_not_fit_are_refused() -> None:
    leaves, _ = case((4, 70, 2), 3)
    with pytest.raises(ValueError, match="two or three layers of at most 64 units, got 2 of at most 70: call mlp"):
        tiled_mlp(leaves[0], leaves[1:3], leaves[3:])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sizes", [(32, 32, 16), (32, 64, 64, 3), (35, 30, 28, 3)])
def test_values_and_gradients_on_a_gpu(sizes: tuple[int, ...]) -> None:
    compare(sizes, 40_000, "cuda", 1e-2)
