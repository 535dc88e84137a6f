"""What all encodings have in common: which inputs they refuse, and that a derivative they lack is never zero by silence."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unrender import spherical_harmonics
from unrender.ops import encodings
from unrender.ops.encodings import (
    Adam,
    HashGrid,
    contract,
    frequency_encode,
    grid_lookup,
    grid_lookup_with_jacobian,
    hash_encode,
    mlp,
    spherical_harmonics_encode,
    uncontract,
)

GRID = HashGrid(levels=2, features=2, log2_entries=6, base_resolution=4, per_level_scale=1.5, interpolation="smoothstep")


def unchecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without the tests' own type checker, which would refuse a wrong shape first."""
    return inspect.unwrap(function)


def on(function: Callable[..., Any], *others: Any) -> Callable[[Tensor], Any]:
    """The function of points alone, with its other arguments given."""
    return lambda points: unchecked(function)(points, *others)


def table() -> Tensor:
    return torch.randn(GRID.entries, 2, generator=torch.Generator().manual_seed(1))


def volume() -> Tensor:
    return torch.randn(4, 5, 6, 3, generator=torch.Generator().manual_seed(2))


def layers() -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(8, 3, generator=generator), torch.randn(2, 8, generator=generator)], [torch.zeros(8), torch.zeros(2)]


def points(count: int = 20) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


OF_POINTS = {
    "hash_encode": on(hash_encode, table(), GRID),
    "grid_lookup": on(grid_lookup, volume()),
    "grid_lookup_with_jacobian": on(grid_lookup_with_jacobian, volume()),
    "spherical_harmonics_encode": on(spherical_harmonics_encode),
    "contract": on(contract),
    "uncontract": on(uncontract),
    "frequency_encode": on(frequency_encode, 3),
}
EACH = pytest.mark.parametrize("verb", OF_POINTS)


@EACH
@pytest.mark.parametrize("shape", [(7, 2), (7, 4), (3,), (7, 3, 1)])
def test_points_of_another_shape_are_refused_before_anything_is_read(verb: str, shape: tuple[int, ...]) -> None:
    if verb == "frequency_encode" and len(shape) == 2:
        assert OF_POINTS[verb](torch.rand(shape)).shape[0] == 7  # any number of axes
        return
    with pytest.raises(ValueError, match=rf"^{verb} takes float32 \[points, \w+\] as \w+, got float32 {re.escape(str(list(shape)))}$"):
        OF_POINTS[verb](torch.rand(shape))


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32])
def test_other_types_are_refused(verb: str, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"^{verb} takes float32 .* as \w+, got {str(dtype)[6:]} \[7, 3\]: convert it"):
        OF_POINTS[verb](torch.ones(7, 3, dtype=dtype))


@pytest.mark.parametrize("verb", ["hash_encode", "grid_lookup", "grid_lookup_with_jacobian"])
def test_tensors_on_two_devices_are_refused(verb: str) -> None:
    with pytest.raises(ValueError, match=f"^{verb} takes tensors on a CPU or a CUDA device, got positions on meta"):
        OF_POINTS[verb](torch.ones(7, 3, device="meta"))


@pytest.mark.parametrize("shape", [(4, 4, 4), (1, 4, 4, 2), (4, 4, 1, 2)])
def test_grids_without_a_cell_are_refused(shape: tuple[int, ...]) -> None:
    for lookup in (grid_lookup, grid_lookup_with_jacobian):
        with pytest.raises(ValueError, match=rf"as grid, got float32 {re.escape(str(list(shape)))}$"):
            unchecked(lookup)(points(), torch.zeros(shape))


def test_more_elements_than_a_kernel_counts_are_refused() -> None:
    many = torch.zeros(1, 3).expand(2**30, 3)  # takes no memory
    for verb, encode in OF_POINTS.items():
        with pytest.raises(ValueError, match=rf"{verb} takes fewer than 2\^31 elements in .*: split the call"):
            encode(many)


def test_perceptrons_refuse_what_does_not_fit() -> None:
    weights, biases = layers()
    apply = unchecked(mlp)
    with pytest.raises(ValueError, match=r"mlp takes .* \[samples, features\] as inputs, got float32 \[3\]"):
        apply(torch.zeros(3), weights, biases)
    with pytest.raises(ValueError, match=r"mlp takes float32 \[outputs, 4 inputs\] as weights\[0\], got float32 \[8, 3\]"):
        apply(torch.zeros(5, 4), weights, biases)
    with pytest.raises(ValueError, match=r"float32 \[8 outputs\] as biases\[0\], got float32 \[8, 1\]"):
        apply(torch.zeros(5, 3), weights, [biases[0][:, None], biases[1]])
    with pytest.raises(ValueError, match=r"mlp takes float64 .* as weights\[0\], got float32 \[8, 3\]: convert it"):
        apply(torch.zeros(5, 3, dtype=torch.float64), weights, biases)
    with pytest.raises(ValueError, match=r"int32 or int64 \[5 samples\] as ray_index, got float32 \[5\]: convert it"):
        apply(torch.zeros(5, 3), weights, biases, torch.zeros(2, 8), torch.zeros(5))
    with pytest.raises(ValueError, match=r"int32 or int64 \[5 samples\] as ray_index, got int32 \[4\]"):
        apply(torch.zeros(5, 3), weights, biases, torch.zeros(2, 8), torch.zeros(4, dtype=torch.int32))
    with pytest.raises(ValueError, match="mlp takes tensors on a CPU or a CUDA device, got inputs on meta"):
        apply(torch.zeros(5, 3, device="meta"), weights, biases)


def test_adam_refuses_parameters_of_another_type() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    parameter.grad = torch.ones(4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"Adam takes float32 leaves as parameters, got float64 \[4\]"):
        Adam([parameter], lr=0.1).step()


ONCE = {"contract": OF_POINTS["contract"], "grid_lookup_with_jacobian": lambda x: OF_POINTS["grid_lookup_with_jacobian"](x)[1]}
TWICE = {name: OF_POINTS[name] for name in ("hash_encode", "grid_lookup", "frequency_encode", "spherical_harmonics_encode")}


@pytest.mark.parametrize("verb", ONCE)
def test_a_second_derivative_that_is_missing_is_refused(verb: str) -> None:
    """Its gradient depends on the points, which PyTorch's own guard does not see: a silent zero would come back."""
    x = (3 * points()).requires_grad_() if verb == "contract" else points().requires_grad_()
    (gradient,) = torch.autograd.grad(ONCE[verb](x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{verb} has a first derivative only"):
        gradient.sum().backward()


@pytest.mark.parametrize("verb", TWICE)
def test_a_third_derivative_is_refused(verb: str) -> None:
    x = points().requires_grad_()
    (first,) = torch.autograd.grad(TWICE[verb](x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="has a first derivative only"):
        second.square().sum().backward()


def test_the_constants_of_the_header_are_those_of_the_polynomials() -> None:
    text = (Path(encodings.__path__[0]) / "spherical_harmonics_encoding.h").read_text(encoding="utf-8")
    written = {name: float(value) for name, value in re.findall(r"const float (C\w+) = ([\d.]+)f;", text)}
    assert written == {name: value for name, value in vars(spherical_harmonics).items() if re.fullmatch(r"C\d\w*", name)}
