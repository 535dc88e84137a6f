"""The fused perceptron against its twin."""

from __future__ import annotations

import pytest
import torch

from unrender.devices import on_cpu
from unrender.ops.encodings import _mlp_cpu, mlp
from unrender.ops.encodings._mlp_cpu import is_fused
from unrender.reference.mlp import mlp as twin


@pytest.fixture(autouse=True)
def several_work_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few thousand samples be more than a work item."""
    monkeypatch.setattr(_mlp_cpu, "_CHUNK", 4096)


def _case(sizes: tuple[int, ...], samples: int):
    generator = torch.Generator().manual_seed(sum(sizes))
    weights = [torch.randn(o, i, generator=generator) / i**0.5 for i, o in zip(sizes, sizes[1:], strict=False)]
    biases = [torch.randn(o, generator=generator) for o in sizes[1:]]
    inputs = torch.randn(samples, sizes[0], generator=generator)
    return inputs, weights, biases, torch.randn(samples, sizes[-1], generator=generator)


@pytest.mark.parametrize(
    "sizes",
    [
        (3, 5),
        (32, 64, 16),
        (35, 64, 64, 3),
        (16, 32, 3),
        (7, 17, 33, 48, 1),
        (64, 64, 64, 64, 64),
        (96, 128, 100, 3),
    ],
)
@pytest.mark.parametrize(("samples", "sigmoid"), [(1, False), (63, True), (5000, False), (5000, True)])
def test_values_and_gradients_equal_the_twin(sizes: tuple[int, ...], samples: int, sigmoid: bool):
    _compare(sizes, samples, sigmoid)


def test_the_widest_layers_of_the_fused_path():
    """In panels of the smallest size; of few samples, because one whose activation is nearly zero may fall on either side of it."""
    for sizes in ((300, 256, 256, 100, 257), (64, 256, 256, 256, 256, 256)):
        parameters = [tensor for layer in zip(*_case(sizes, 1)[1:3], strict=True) for tensor in layer]
        assert is_fused(sizes[0], parameters) == on_cpu(parameters[0].device)  # the fused path is for a CPU
        _compare(sizes, 600, False)


def _compare(sizes: tuple[int, ...], samples: int, sigmoid: bool) -> None:
    inputs, weights, biases, cotangent = _case(sizes, samples)
    leaves = [t.requires_grad_() for t in (inputs, *weights, *biases)]
    ours = mlp(inputs, weights, biases, sigmoid=sigmoid)
    # The twin sums thousands of float32 products in another order, hence in float64.
    exact = [t.detach().double().requires_grad_() for t in leaves]
    k = len(weights)
    theirs = twin(exact[0], exact[1 : k + 1], exact[k + 1 :], sigmoid=sigmoid)
    torch.testing.assert_close(ours.double(), theirs, atol=2e-5, rtol=1e-4)
    wanted = torch.autograd.grad(theirs, exact, cotangent.double())
    for a, b in zip(torch.autograd.grad(ours, leaves, cotangent), wanted, strict=True):
        torch.testing.assert_close(a.double(), b, atol=2e-5 * max(1.0, float(b.abs().max())), rtol=1e-4)


@pytest.mark.parametrize("inputs", [1, 350])
def test_a_sigmoid_saturates_and_keeps_nan(inputs: int):
    """On the fused path and on the other."""
    x = torch.zeros(5, inputs)
    x[:, 0] = torch.tensor([0.0, 100.0, 300.0, 3e38, torch.nan])
    found = mlp(x, [torch.full((1, inputs), -1.0)], [torch.tensor([100.0])], sigmoid=True)[:, 0]
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5, 0.0, 0.0, torch.nan]), equal_nan=True)


def test_wide_networks_take_the_general_path():
    inputs, weights, biases, _ = _case((20, 350, 2), 100)
    torch.testing.assert_close(mlp(inputs, weights, biases), twin(inputs, weights, biases), atol=2e-5, rtol=1e-4)


def test_bits_do_not_depend_on_the_number_of_threads():
    inputs, weights, biases, cotangent = _case((8, 16, 3), 20_000)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        leaves = [inputs.clone().requires_grad_(), *(w.clone().requires_grad_() for w in weights)]
        results.append(torch.autograd.grad(mlp(leaves[0], leaves[1:], biases), leaves, cotangent))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_samples_give_no_outputs_and_zero_gradients():
    _, weights, biases, _ = _case((4, 8, 2), 1)
    inputs = torch.zeros(0, 4, requires_grad=True)
    weights[0].requires_grad_()
    outputs = mlp(inputs, weights, biases)
    assert outputs.shape == (0, 2)
    outputs.sum().backward()
    assert weights[0].grad is not None and torch.equal(weights[0].grad, torch.zeros(8, 4))


def test_the_twin_passes_gradcheck():
    inputs, weights, biases, _ = _case((3, 6, 2), 4)
    doubles = [t.double().requires_grad_() for t in (inputs, *weights, *biases)]
    assert torch.autograd.gradcheck(lambda x, a, b, c, d: twin(x, [a, b], [c, d]), doubles)


def test_layers_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\[outputs, 3 inputs\] as weights\[1\], got float32 \[1, 4\]"):
        mlp(torch.zeros(1, 2), [torch.zeros(3, 2), torch.zeros(1, 4)], [torch.zeros(3), torch.zeros(1)])


@pytest.mark.parametrize("samples", [1, 5000, 9000])
def test_what_the_samples_of_a_ray_share_equals_the_twin(samples: int):
    """Rays of 1 to 3,000 samples, so that chunks begin in the middle of a ray, within one that spans several, and with unused samples."""
    inputs, weights, biases, cotangent = _case((11 + 6, 19, 20, 3), samples)
    inputs = inputs[:, :11]
    generator = torch.Generator().manual_seed(samples)
    lengths = torch.cat(
        [torch.randint(0, 40, (50,), generator=generator), torch.tensor([3000, 0, 2500]), torch.randint(0, 9, (9,), generator=generator)]
    )
    ray_index = torch.repeat_interleave(torch.arange(62), lengths).int()[:samples]
    ray_index = torch.cat([ray_index, torch.full((samples - ray_index.shape[0],), -1, dtype=torch.int32)])
    shared = torch.randn(62, 6, generator=generator)
    leaves = [t.requires_grad_() for t in (inputs, shared, *weights, *biases)]
    ours, theirs = mlp(inputs, weights, biases, shared, ray_index), twin(inputs, weights, biases, shared, ray_index)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    outputs = twin(exact[0], exact[2:5], exact[5:], exact[1], ray_index)
    wanted = torch.autograd.grad(outputs, exact, cotangent.double())
    for a, b in zip(torch.autograd.grad(ours, leaves, cotangent), wanted, strict=True):
        torch.testing.assert_close(a.double(), b, atol=2e-5 * max(1.0, float(b.abs().max())), rtol=1e-4)


def test_shared_inputs_and_ray_index_belong_together():
    _, weights, biases, _ = _case((4, 8, 2), 1)
    with pytest.raises(ValueError, match="both or neither"):
        mlp(torch.zeros(3, 3), weights, biases, torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"\[outputs, 5 inputs\] as weights\[0\], got float32 \[8, 4\]"):
        mlp(torch.zeros(3, 4), weights, biases, torch.zeros(2, 1), torch.zeros(3, dtype=torch.int32))


@pytest.mark.parametrize("samples", [64, 9000])
@pytest.mark.parametrize("width", [8, 350])
def test_a_ray_that_does_not_exist_is_none(samples: int, width: int):
    """Neither read nor written, on the fused path and on the other."""
    inputs, weights, biases, _ = _case((3 + 2, width, 2), samples)
    inputs, shared = inputs[:, :3], torch.rand(2, 2, requires_grad=True)
    ray_index = torch.zeros(samples, dtype=torch.int32)
    ray_index[samples // 2 :] = 1
    wild = ray_index.clone()
    wild[5:9] = torch.tensor([1_000, 100_000_000, -7, 2**31 - 1], dtype=torch.int32)
    ray_index[5:9] = -1
    results = []
    for index in (ray_index, wild, wild.long()):
        outputs = mlp(inputs, weights, biases, shared, index)
        results.append((outputs, *torch.autograd.grad(outputs.square().sum(), shared)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("sizes", [(5, 16, 3), (4, 350, 2)])
def test_second_derivatives_equal_those_of_the_twin(sizes: tuple[int, ...], sigmoid: bool):
    """On the fused path and on the other: the gradient of a function of the gradient, in inputs, weights, biases and what rays share."""
    inputs, weights, biases, cotangent = _case(sizes, 70)
    inputs, shared = inputs[:, :2], torch.randn(3, sizes[0] - 2)
    ray_index = torch.arange(70, dtype=torch.int32) // 25
    results = []
    for dtype, function in ((torch.float32, mlp), (torch.float64, twin)):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (inputs, shared, *weights, *biases)]
        outputs = function(leaves[0], leaves[2:4], leaves[4:], leaves[1], ray_index, sigmoid=sigmoid)
        first = torch.autograd.grad(outputs.square(), leaves, cotangent.to(dtype), create_graph=True)
        results.append(torch.autograd.grad(torch.stack([g.sin().sum() for g in first]).sum(), leaves))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-3 * max(1.0, float(b.abs().max())), rtol=1e-3)
