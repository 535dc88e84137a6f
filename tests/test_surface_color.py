"""Colors of a surface on the fused path, on the other, and against the twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unrender.devices import pytorch_on_one_thread
from unrender.ops.radiance import surface_color
from unrender.reference.surface_color import surface_color as twin

FEATURES = 5


def _case(samples: int, *, reflections: bool, width: int = 20) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return what takes gradients (gradients, features, layers), then the positions and the directions; the last samples are on no ray."""
    generator = torch.Generator().manual_seed(samples)
    sizes = ((17 if reflections else 0) + 6 + FEATURES + 16, width, 3)
    layers = [torch.randn(b, a, generator=generator) / a**0.5 for a, b in zip(sizes, sizes[1:], strict=False)]
    layers += [torch.randn(b, generator=generator) for b in sizes[1:]]
    gradients = torch.randn(samples, 3, generator=generator)
    if samples:
        gradients[0] = 0.0  # no direction
    positions, features = torch.randn(samples, 3, generator=generator), torch.randn(samples, FEATURES, generator=generator)
    return [gradients, features, *layers], positions, torch.nn.functional.normalize(torch.randn(40, 3, generator=generator), dim=1)


def _rays_of(samples: int) -> Tensor:
    """Return rays of 0 to 1,500 samples, so that chunks begin in the middle of a ray and within one that spans several."""
    lengths = torch.tensor([7, 1500, 0, 1300, *[60] * 36])
    index = torch.repeat_interleave(torch.arange(40), lengths).int()[: samples - samples // 10]
    return torch.cat([index, torch.full((samples - index.shape[0],), -1, dtype=torch.int32)])


def _results(function, leaves: list[Tensor], positions: Tensor, directions: Tensor, *, reflections: bool) -> list[Tensor]:
    gradients, features, *layers = leaves
    index = _rays_of(len(positions))
    return list(function(positions, gradients, features, directions, index, layers[:2], layers[2:], reflections=reflections))


@pytest.mark.parametrize("reflections", [False, True])
@pytest.mark.parametrize(("samples", "width"), [(0, 20), (1, 20), (4500, 20), (4500, 140)])
def test_colors_normals_and_gradients_equal_the_twin(samples: int, width: int, reflections: bool):
    leaves, positions, directions = _case(samples, reflections=reflections, width=width)
    used = _rays_of(samples) >= 0
    ours = [leaf.requires_grad_() for leaf in leaves]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    found = _results(surface_color, ours, positions, directions, reflections=reflections)
    wanted = _results(twin, exact, positions.double(), directions.double(), reflections=reflections)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(samples, 3, generator=generator) * used[:, None] for _ in range(2)]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a[used].double(), b[used], atol=2e-5, rtol=1e-4)
    got = torch.autograd.grad(found, ours, cotangents)
    for a, b in zip(got, torch.autograd.grad(wanted, exact, [c.double() for c in cotangents]), strict=True):
        largest = float(b.abs().max()) if b.numel() else 1.0
        torch.testing.assert_close(a.double(), b, atol=2e-5 * max(1.0, largest), rtol=1e-4)


@pytest.mark.parametrize("wanted", [0, 1])
def test_a_loss_on_one_of_the_results_alone(wanted: int):
    leaves, positions, directions = _case(300, reflections=True)
    leaves[0].requires_grad_()
    results = [_results(function, leaves, positions, directions, reflections=True)[wanted] for function in (surface_color, twin)]
    found, expected = (torch.autograd.grad(y[_rays_of(300) >= 0].sin().sum(), leaves[0])[0] for y in results)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_the_gradient_is_the_slope_of_finite_differences():
    """With a network of one layer, which has no kinks."""
    (gradients, features, *_), positions, directions = _case(200, reflections=True)
    index, generator = _rays_of(200), torch.Generator().manual_seed(3)
    layer = [torch.randn(3, 17 + 6 + FEATURES + 16, generator=generator) / 4], [torch.zeros(3)]
    way = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator), dim=1) * gradients.norm(dim=1, keepdim=True)

    def total(moved: Tensor) -> Tensor:
        results = surface_color(positions, moved, features, directions, index, *layer, reflections=True)
        return torch.cat(results, 1)[index >= 0].double().sin().sum()

    (slope,) = torch.autograd.grad(total(gradients.requires_grad_()), gradients)
    with torch.no_grad():
        difference = (total(gradients + 1e-2 * way) - total(gradients - 1e-2 * way)) / 2e-2
    torch.testing.assert_close((slope * way).sum().double(), difference, rtol=2e-3, atol=1e-3)


def test_directions_and_positions_take_gradients_on_the_general_path():
    leaves, positions, directions = _case(120, reflections=True)
    used = _rays_of(120) >= 0
    results = []
    for function, dtype in ((surface_color, torch.float32), (twin, torch.float64)):
        inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in (*leaves, positions, directions)]
        color = _results(function, inputs[:-2], *inputs[-2:], reflections=True)[0]
        results.append(torch.autograd.grad(color[used].sin().sum(), inputs))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-4 * max(1.0, float(b.abs().max())), rtol=1e-3)


def test_bits_do_not_depend_on_the_number_of_threads():
    """Inside a fit, where PyTorch has one thread: its products of matrices depend on theirs."""
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        leaves, positions, directions = _case(4500, reflections=True)
        leaves = [leaf.requires_grad_() for leaf in leaves]
        with pytorch_on_one_thread():
            found = _results(surface_color, leaves, positions, directions, reflections=True)
            results.append([*found, *torch.autograd.grad(found, leaves, [y.detach().cos() for y in found])])
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_second_derivative_is_refused():
    leaves, positions, directions = _case(50, reflections=True)
    gradients = leaves[0].requires_grad_()
    color = _results(surface_color, leaves, positions, directions, reflections=True)[0]
    (slope,) = torch.autograd.grad(color.sum(), gradients, create_graph=True)
    with pytest.raises(RuntimeError, match="surface_color has a first derivative only"):
        slope.sum().backward()


def test_layers_of_another_size_are_named():
    leaves, positions, directions = _case(3, reflections=True)
    with pytest.raises(ValueError, match=r"\[outputs, 27 inputs\] as weights\[0\]"):
        _results(surface_color, leaves, positions, directions, reflections=False)
