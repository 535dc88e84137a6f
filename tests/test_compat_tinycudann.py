"""The stand-in of tiny-cuda-nn: encodings against values by hand, networks against their formula, a program that fits a picture."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unrender.compat import tinycudann as tcnn
from unrender.compat.tinycudann import modules
from unrender.compat.tinycudann.lattices import Grid
from unrender.ops.encodings import encoded_mlp


def encode(config: dict[str, Any], *points: Sequence[float]) -> list[list[float]]:
    return tcnn.Encoding(len(points[0]), config)(torch.tensor(points)).tolist()


def close(found: object, wanted: object, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(wanted), atol=tolerance, rtol=tolerance)


def test_identity_scales_and_shifts() -> None:
    close(encode({"otype": "Identity"}, (0.5, -2.0)), [[0.5, -2.0]])
    close(encode({"otype": "Identity", "scale": 2.0, "offset": -1}, (0.5, 0.25)), [[0.0, -0.5]])


def test_frequencies_of_one_dimension_stand_together() -> None:
    """The documentation: x becomes sin(pi x), cos(pi x), sin(2 pi x), cos(2 pi x), ...; then the next dimension follows.

    Of 1/4: sin and cos of pi / 4, both sqrt(1/2), then of pi / 2, 1 and 0. Of 1/2: of pi / 2, 1 and 0, then of pi, 0 and -1.
    """
    root = math.sqrt(0.5)
    close(encode({"otype": "Frequency", "n_frequencies": 2}, (0.25, 0.5)), [[root, root, 1.0, 0.0, 1.0, 0.0, 0.0, -1.0]])


def test_triangle_waves_have_the_period_of_the_sines() -> None:
    """tri(x) = 2 |x mod 2 - 1| - 1 of 2^k x: 1 at 0, 0 at 1/2, -1 at 1, and again 1 at 2.

    Of 1/4: tri(1/4) = 2 (3/4) - 1 = 1/2, tri(1/2) = 0. Of 1/2: tri(1/2) = 0, tri(1) = -1. Adding 2 or -2 changes nothing.
    """
    close(encode({"otype": "TriangleWave", "n_frequencies": 3}, (0.0,), (0.125,)), [[1.0, 1.0, 1.0], [0.75, 0.5, 0.0]])
    close(encode({"otype": "TriangleWave", "n_frequencies": 2}, (0.25, 0.5), (2.25, -1.5)), [[0.5, 0.0, 0.0, -1.0]] * 2)


def test_blobs_share_themselves_among_bins_and_wrap_around() -> None:
    """The kernel 15/16 (1 - u^2)^2 is one bin wide to either side, so at an edge of two bins it lies half in each.

    At 1/2 of [0, 1] in four bins: half in the second, half in the third. At 0: half in the first; the other half lies before 0 and enters
    the last bin. At 3/8, the middle of the second bin, what lies beyond u = 1/2 on each side: the integral of the kernel from 0 to u is
    15/16 (u - 2 u^3 / 3 + u^5 / 5), so at 1/2 it is 15/32 (1 - 2/12 + 1/80), and the tail is what is missing to 1/2.
    """
    tail = 0.5 - 15 / 32 * (1.0 - 2 / 12 + 1 / 80)  # of the kernel beyond u = 1/2
    wanted = [[0.0, 0.5, 0.5, 0.0], [0.5, 0.0, 0.0, 0.5], [tail, 1 - 2 * tail, tail, 0.0]]
    close(encode({"otype": "OneBlob", "n_bins": 4}, (0.5,), (0.0,), (0.375,)), wanted)
    points = torch.rand(50, 2)
    blobs = tcnn.Encoding(2, {"otype": "OneBlob", "n_bins": 7})(points).view(50, 2, 7)
    close(blobs.sum(2), torch.ones(50, 2))


def test_harmonics_are_those_of_the_direction_and_orthonormal() -> None:
    found = encode({"otype": "SphericalHarmonics", "degree": 2}, (0.5, 0.8, 0.9))  # the direction (0, 0.6, 0.8)
    close(found, [[0.2820948, -0.4886025 * 0.6, 0.4886025 * 0.8, 0.0]])
    # By hand for (1, 0, 0): xz, xy and yz vanish, 3 z^2 - 1 = -1, and x^2 - y^2 = 1.
    band_2 = [0.0, 0.0, -0.3153916, 0.0, 0.5462742]
    close(encode({"otype": "SphericalHarmonics", "degree": 3}, (1.0, 0.5, 0.5)), [[0.2820948, 0.0, 0.0, -0.4886025, *band_2]])
    heights, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(10))
    angles = torch.arange(20, dtype=torch.float64) * (2 * math.pi / 20)
    ring = (1 - heights**2).sqrt()
    directions = torch.stack(torch.broadcast_tensors(ring[:, None] * angles.cos(), ring[:, None] * angles.sin(), heights[:, None]), -1)
    harmonics = tcnn.Encoding(3, {"otype": "SphericalHarmonics", "degree": 8}).double()(directions.view(-1, 3) / 2 + 0.5)
    weighted = harmonics * weights.repeat_interleave(20)[:, None] * (2 * math.pi / 20)
    close(weighted.t() @ harmonics, torch.eye(64, dtype=torch.float64), 1e-12)
    close(
        encode({"otype": "SphericalHarmonics", "degree": 5}, (0.5, 0.8, 0.9))[0][:16],
        encode({"otype": "SphericalHarmonics"}, (0.5, 0.8, 0.9))[0],
    )


def test_harmonics_are_what_tiny_cuda_nn_prints() -> None:
    """Its output in half precision for the input (2, 2, 2), as a user of nerfstudio published it: polynomials of (3, 3, 3).

    Band 1 is 3 C1 (-1, 1, -1); band 2 is 9 C2 (1, -1), then (27 - 1) C2_ZZ, then -9 C2, then zero.
    """
    printed = [2.8198e-01, -1.4658e00, 1.4658e00, -1.4658e00, 9.8359e00, -9.8359e00, 8.2031e00, -9.8359e00, 5.9605e-08]
    found = torch.tensor(encode({"otype": "SphericalHarmonics", "degree": 3}, (2.0, 2.0, 2.0))[0])
    torch.testing.assert_close(found, torch.tensor(printed), rtol=2**-10, atol=1e-6)


def grid_of(dimensions: int, rows: Tensor | None = None, **keys: Any) -> tcnn.Encoding:
    """A grid with one feature, whose table holds the numbers of its rows."""
    grid = tcnn.Encoding(dimensions, {"n_features_per_level": 1, "per_level_scale": 2.0, **keys})
    grid.params.data = torch.arange(float(grid.params.numel())) if rows is None else rows
    return grid


def test_a_dense_cell_by_hand() -> None:
    one_cell: dict[str, Any] = {"n_levels": 1, "base_resolution": 2}  # scale 1: corner (x, y) is row x + 2 y, the point is at p = x + 1/2
    points = torch.tensor([[0.5, 0.25], [0.0, 0.4375]])  # p = (1, 3/4), (1/2, 15/16)
    close(grid_of(2, otype="Grid", **one_cell)(points), [[1.0 + 2 * 0.75], [0.5 + 2 * 0.9375]])
    close(grid_of(2, otype="DenseGrid", **one_cell)(points), [[2.5], [2.375]])
    close(grid_of(2, otype="Grid", interpolation="Nearest", **one_cell)(points), [[1.0], [0.0]])
    smooth = 3 * 0.75**2 - 2 * 0.75**3
    close(grid_of(2, otype="Grid", interpolation="Smoothstep", **one_cell)(points[:1]), [[1.0 + 2 * smooth]])


def test_a_tiled_level_repeats_the_coarsest() -> None:
    grid = grid_of(2, otype="TiledGrid", n_levels=2, base_resolution=2)  # level 1: 4 x 4 corners share 4 rows, numbered 4 to 7
    assert grid.params.numel() == 8
    points = torch.tensor([[0.0, 0.1], [0.5, 0.9], [1.0, 0.3]])  # p = 1/2, 2, 3 1/2 along x; y has stride 4, the number of rows
    close(grid(points)[:, 1], [4.5, 6.0, (7.0 + 4.0) / 2])


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
def test_a_hashed_corner_is_at_the_row_of_the_published_hash(dimensions: int) -> None:
    base = {1: 100, 2: 9, 3: 5, 4: 4}[dimensions]
    grid = grid_of(dimensions, otype="HashGrid", n_levels=1, base_resolution=base, log2_hashmap_size=5, interpolation="Nearest")
    assert grid.params.numel() == 32
    points = torch.rand(40, dimensions)
    for point, found in zip(points.numpy(), grid(points)[:, 0].tolist(), strict=True):
        corner = [math.floor(np.float32(x) * np.float32(base - 1) + np.float32(0.5)) for x in point]
        row = 0
        for c, prime in zip(corner, (1, 2654435761, 805459861, 3674653429), strict=False):
            row ^= c * prime
        assert found == row % 32


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4])
@pytest.mark.parametrize("otype", ["HashGrid", "DenseGrid"])
def test_a_linear_function_on_the_corners_is_interpolated_exactly(dimensions: int, otype: str) -> None:
    keys: dict[str, Any] = {"otype": otype, "n_levels": 1, "base_resolution": 5, "log2_hashmap_size": 12}
    slopes = torch.tensor([1.0, -2.0, 0.5, 3.0])[:dimensions]
    corners = torch.cartesian_prod(*[torch.arange(5.0)] * dimensions).view(-1, dimensions).flip(1)  # the first axis changes first
    rows = torch.zeros(grid_of(dimensions, **keys).params.numel())
    rows[: 5**dimensions] = corners @ slopes
    points = torch.rand(60, dimensions) * 0.87  # up to p = 4, the last corner
    close(grid_of(dimensions, rows, **keys)(points)[:, 0], (points * 4 + 0.5) @ slopes, 1e-5)


@pytest.mark.parametrize("otype", ["HashGrid", "DenseGrid"])
@pytest.mark.parametrize("interpolation", ["Linear", "Smoothstep"])
def test_the_kernel_and_the_general_way_agree(otype: str, interpolation: str) -> None:
    """In values and in the derivatives of first and second order."""
    grid = Grid(3, otype.removesuffix("Grid"), 4, 2, 9, 6, 1.4, interpolation)
    assert grid.twin is not None
    results = []
    points, table = torch.rand(50, 3), torch.randn(grid.parameters)
    cotangent, probe = torch.randn(50, grid.outputs), torch.randn(50, 3)
    for dtype in (torch.float32, torch.float64):
        x, parameters = points.to(dtype).requires_grad_(), table.to(dtype).requires_grad_()
        encoded = grid.encode(x, parameters)
        slopes = torch.autograd.grad(encoded, (x, parameters), cotangent.to(dtype), create_graph=True)
        second = torch.autograd.grad((slopes[0] * probe).sum() + slopes[1].square().sum(), (x, parameters))
        results.append([encoded, *slopes, *second])
    for found, wanted in zip(*results, strict=True):
        close(found.detach().double(), wanted.detach(), 2e-3)


def test_parts_of_a_composite_stand_side_by_side_with_their_parameters() -> None:
    grid = {"otype": "DenseGrid", "n_levels": 1, "n_features_per_level": 1, "base_resolution": 2, "n_dims_to_encode": 2}
    both = tcnn.Encoding(4, {"otype": "Composite", "nested": [grid, {"otype": "Identity"}, dict(grid, n_dims_to_encode=1)]})
    assert both.params.numel() == 16 and both.n_output_dims == 3
    both.params.data = torch.arange(16.0)
    close(both(torch.tensor([[0.5, 0.25, -3.0, 0.0]])), [[2.5, -3.0, 8.5]])
    twice = [{"otype": "Identity", "n_dims_to_encode": 2, "scale": 3.0}, {"otype": "Identity", "n_dims_to_encode": 2}]
    close(encode({"otype": "Composite", "reduction": "Sum", "nested": twice}, (1.0, 2.0, 5.0, 7.0)), [[8.0, 13.0]])
    close(encode({"otype": "Composite", "reduction": "Product", "nested": twice}, (1.0, 2.0, 5.0, 7.0)), [[15.0, 42.0]])
    overlapping = [{"otype": "Identity", "n_dims_to_encode": 1, "dims_to_encode_begin": 0}] * 2
    close(encode({"otype": "Composite", "nested": overlapping}, (4.0, 2.0)), [[4.0, 4.0]])


FORMULAS = {
    "None": lambda x: x,
    "ReLU": lambda x: max(x, 0.0),
    "LeakyReLU": lambda x: x if x > 0 else 0.01 * x,
    "Exponential": math.exp,
    "Sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "Sine": math.sin,
    "Squareplus": lambda x: 0.5 * (10 * x + math.sqrt(100 * x * x + 4)) / 10,
    "Softplus": lambda x: math.log(math.exp(10 * x) + 1) / 10,
    "Tanh": math.tanh,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_are_those_of_the_documentation(name: str) -> None:
    values = [-2.0, -0.1, 0.0, 0.7, 3.0]
    for layer in ("activation", "output_activation"):
        shape = {"otype": "CutlassMLP", "n_neurons": 8, "n_hidden_layers": 1, "activation": "None", layer: name}
        network = tcnn.Network(1, 1, shape)
        network.params.data = torch.zeros(2, 8, 8)
        network.params.data[:, 0, 0] = 1.0
        network.params.data = network.params.data.flatten()
        close(network(torch.tensor(values)[:, None])[:, 0], [FORMULAS[name](x) for x in values])


@pytest.mark.parametrize("width", [16, 32, 64, 128])
@pytest.mark.parametrize("otype", ["FullyFusedMLP", "CutlassMLP"])
@pytest.mark.parametrize("hidden", [1, 3])
def test_weights_are_padded_matrices_one_after_the_other(otype: str, width: int, hidden: int) -> None:
    """Matrices written into ``params`` give the product of the matrices, with ones in the padded inputs."""
    step = 16 if otype == "FullyFusedMLP" else 8
    shapes = [(width, step), *[(width, width)] * (hidden - 1), (step, width)]
    matrices = [torch.randn(shape) / shape[1] ** 0.5 for shape in shapes]
    network = tcnn.Network(3, 5, {"otype": otype, "n_neurons": width, "n_hidden_layers": hidden, "activation": "ReLU"})
    assert network.params.numel() == sum(rows * columns for rows, columns in shapes) == network.native_tcnn_module.n_params()
    assert network.native_tcnn_module.n_output_dims() == step
    network.load_state_dict({"params": torch.cat([matrix.flatten() for matrix in matrices])})
    x = torch.rand(33, 3)
    wanted = torch.cat([x, torch.ones(33, step - 3)], 1)
    for matrix in matrices[:-1]:
        wanted = torch.relu(wanted @ matrix.t())
    close(network(x), (wanted @ matrices[-1].t())[:, :5], 1e-4)


@pytest.mark.parametrize(
    "encoding", [{"otype": "Frequency", "n_frequencies": 3}, {"otype": "HashGrid", "n_levels": 3, "base_resolution": 4}]
)
def test_the_network_comes_first_and_reads_zeros_behind_a_grid(encoding: dict[str, Any]) -> None:
    shape = {"otype": "FullyFusedMLP", "n_neurons": 16, "n_hidden_layers": 1}
    model, alone = tcnn.NetworkWithInputEncoding(3, 2, encoding, shape), tcnn.Encoding(3, encoding)
    first, last, features = model.params.split([16 * (32 if alone.n_output_dims > 16 else 16), 256, alone.params.numel()])
    alone.params.data = features.data
    x = torch.rand(9, 3)
    encoded = alone(x)
    columns = first.view(16, -1)
    filled = torch.full((9, columns.shape[1] - encoded.shape[1]), 0.0 if encoding["otype"] == "HashGrid" else 1.0)
    wanted = torch.relu(torch.cat([encoded, filled], 1) @ columns.t()) @ last.view(16, 16).t()
    close(model(x), wanted[:, :2], 1e-5)


ENCODINGS: list[dict[str, Any]] = [
    {"otype": "Identity", "scale": 3.0},
    {"otype": "Frequency", "n_frequencies": 2},
    {"otype": "TriangleWave", "n_frequencies": 2},
    {"otype": "OneBlob", "n_bins": 4},
    {"otype": "SphericalHarmonics", "degree": 5},
    {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 5, "base_resolution": 3, "interpolation": "Smoothstep"},
    {"otype": "TiledGrid", "n_levels": 2, "base_resolution": 3},
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding["otype"])
def test_second_derivatives_through_encoding_and_network(encoding: dict[str, Any]) -> None:
    """In float64 against finite differences, in inputs and parameters; in float32 against float64."""
    shape = {"otype": "CutlassMLP", "n_neurons": 4, "n_hidden_layers": 1, "activation": "Softplus"}
    model = tcnn.NetworkWithInputEncoding(3, 2, encoding, shape)
    model.params.data = torch.randn(model.params.shape)
    x = torch.rand(3, 3) * 0.8 + 0.1
    single = [x.clone().requires_grad_(), model.params]
    slopes = torch.autograd.grad(model(single[0]).sin().sum(), single, create_graph=True)
    found = torch.autograd.grad(slopes[0].square().sum() + slopes[1].square().sum(), single)
    model.double()
    double = [x.double().requires_grad_(), model.params]
    slopes = torch.autograd.grad(model(double[0]).sin().sum(), double, create_graph=True)
    wanted = torch.autograd.grad(slopes[0].square().sum() + slopes[1].square().sum(), double)
    for a, b in zip(found, wanted, strict=True):
        close(a.double(), b, 2e-4 * max(1.0, float(b.abs().max())))

    def of(points: Tensor, parameters: Tensor) -> Tensor:
        return torch.func.functional_call(model, {"params": parameters}, (points,))

    leaves = (double[0], model.params.detach().clone().requires_grad_())
    assert torch.autograd.gradgradcheck(of, leaves, fast_mode=True)


def test_second_derivatives_of_a_fused_network() -> None:
    shape = {"otype": "FullyFusedMLP", "n_neurons": 64, "n_hidden_layers": 2}
    model = tcnn.NetworkWithInputEncoding(3, 1, {"otype": "HashGrid", "n_levels": 4, "interpolation": "Smoothstep"}, shape)
    results = []
    points = torch.rand(20, 3)
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        x = points.to(dtype).requires_grad_()
        (normals,) = torch.autograd.grad(1e3 * model(x).sum(), x, create_graph=True)
        results.append(torch.autograd.grad((normals.norm(dim=1) - 1).square().mean(), model.params)[0])
    close(results[0].double(), results[1], 1e-3 * float(results[1].abs().max()))


@pytest.mark.parametrize("output", ["None", "Sigmoid"])
def test_a_grid_and_its_network_are_one_operation(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, where points have no gradient: the same values, first and second derivatives as in float64, which is the general path."""
    calls: list[int] = []
    monkeypatch.setattr(modules, "encoded_mlp", lambda *given: (calls.append(1), encoded_mlp(*given))[1])
    shape = {"otype": "FullyFusedMLP", "n_neurons": 32, "n_hidden_layers": 2, "output_activation": output}
    model = tcnn.NetworkWithInputEncoding(3, 5, {"otype": "HashGrid", "n_levels": 3, "log2_hashmap_size": 10}, shape)
    model.params.data = 0.5 * torch.randn(model.params.shape)
    points, cotangent, results = torch.rand(300, 3), torch.randn(300, 5), []
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        outputs = model(points.to(dtype))
        (slope,) = torch.autograd.grad(outputs, model.params, cotangent.to(dtype), create_graph=True)
        results.append([outputs, slope, *torch.autograd.grad(slope.sin().sum(), model.params)])
    assert len(calls) == 1
    for found, wanted in zip(*results, strict=True):
        close(found.detach().double(), wanted.detach(), 2e-4 * max(1.0, float(wanted.detach().abs().max())))


def test_a_module_is_an_ordinary_module() -> None:
    config = {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 8}
    encoding = tcnn.Encoding(2, config, dtype=torch.float16)
    assert encoding(torch.rand(4, 2).half()).dtype == torch.float16 and encoding(torch.rand(0, 2)).shape == (0, 4)
    assert list(encoding.state_dict()) == ["params"] and encoding.params.dtype == torch.float32
    assert (encoding.n_input_dims, encoding.n_output_dims, encoding.seed, encoding.dtype) == (2, 4, 1337, torch.float16)
    assert torch.equal(encoding.params, tcnn.Encoding(2, config).params) and not torch.equal(
        encoding.params, tcnn.Encoding(2, config, 7).params
    )
    assert torch.equal(encoding.native_tcnn_module.initial_params(7), tcnn.Encoding(2, config, seed=7).params)
    assert encoding.native_tcnn_module.hyperparams() == config and float(encoding.params.detach().abs().max()) <= 1e-4
    x = torch.rand(5, 2)
    for copied in (copy.deepcopy(encoding), pickle.loads(pickle.dumps(encoding))):
        assert torch.equal(copied(x), encoding(x))
    assert "n_output_dims=4" in repr(encoding) and tcnn.free_temporary_memory() is None
    assert tcnn.Encoding(2, {"otype": "Identity"}).params.numel() == 0


WRONG = [
    ({"otype": "HashGird"}, r"'otype' 'HashGrid' or .*, got 'HashGird' \(did you mean 'HashGrid'\?\)"),
    ({}, r"takes 'otype' 'HashGrid' or .*, got None"),
    ({"otype": "HashGrid", "n_level": 8}, r"HashGrid has no key 'n_level': did you mean 'n_levels'\? Its keys are type, n_levels, "),
    ({"otype": "HashGrid", "type": "Dence"}, "'type' 'Hash' or 'Dense' or 'Tiled', got 'Dence'.*'Dense'"),
    ({"otype": "HashGrid", "interpolation": "Cubic"}, "'interpolation' 'Nearest' or 'Linear' or 'Smoothstep', got 'Cubic'"),
    ({"otype": "HashGrid", "n_features_per_level": 3}, "1, 2, 4 or 8 as 'n_features_per_level', got 3"),
    ({"otype": "HashGrid", "n_levels": 0}, "integer from 1 to 128 as n_levels, got 0"),
    ({"otype": "HashGrid", "n_levels": "16"}, "integer from 1 to 128 as n_levels, got '16'"),
    ({"otype": "DenseGrid"}, "fewer than 2\\^31 features .* lower 'per_level_scale'"),
    ({"otype": "HashGrid", "n_levels": 40}, "at most 16777216 corners .* lower 'per_level_scale', 'n_levels' or 'base_resolution'"),
    ({"otype": "HashGrid", "stochastic_interpolation": True}, "'stochastic_interpolation' False only, got True"),
    ({"otype": "SphericalHarmonics", "degree": 9}, "integer from 1 to 8 as degree, got 9"),
    ({"otype": "Frequency", "n_frequencies": -1}, "integer from 1 to 24 as n_frequencies, got -1"),
    ({"otype": "Composite"}, "list of encodings as 'nested'"),
    (
        {"otype": "Composite", "nested": [{"otype": "Identity"}, {"otype": "Identity"}]},
        "'n_dims_to_encode' in all nested encodings but one",
    ),
    ({"otype": "Composite", "nested": [{"otype": "Identity", "n_dims_to_encode": 5}]}, "Composite of 3 dimensions takes nested .* 5"),
    (
        {"otype": "Composite", "nested": [{"otype": "Identity", "n_dims_to_encode": 3}, {"otype": "Identity"}]},
        "got 'n_dims_to_encode' 3, the rest",
    ),
]


@pytest.mark.parametrize(("config", "message"), WRONG)
def test_a_wrong_description_is_named_with_what_is_allowed(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tcnn.Encoding(3, config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"otype": "FullyFusedMLP", "n_neurons": 48}, "16, 32, 64 or 128 as 'n_neurons', got 48: take CutlassMLP"),
        ({"otype": "FullyFusedMLP", "n_hidden_layers": 0}, "integer from 1 to 64 as n_hidden_layers, got 0"),
        ({"otype": "FullyfusedMPL"}, r"got 'FullyfusedMPL' \(did you mean 'FullyFusedMLP'\?\)"),
        ({"otype": "CutlassMLP", "activation": "Relux"}, r"'activation' 'None' or 'ReLU' .* \(did you mean 'ReLU'\?\)"),
        ({"otype": "CutlassMLP", "n_neuron": 64}, r"no key 'n_neuron': did you mean 'n_neurons'\? Its keys are activation, "),
    ],
)
def test_a_wrong_network_is_named_with_what_is_allowed(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tcnn.Network(3, 4, config)


def test_inputs_of_another_shape_are_refused_and_foreign_keys_ignored() -> None:
    with pytest.warns(UserWarning, match="Identity ignores the keys start_level, include_xyz; its keys are scale, offset"):
        encoding = tcnn.Encoding(3, {"otype": "identity", "start_level": 4, "include_xyz": True})
    with pytest.raises(ValueError, match=r"Encoding takes .* \[points, 3 n_input_dims\] as x, got float32 \[4, 2\]"):
        encoding(torch.zeros(4, 2))


CONFIG = {
    "loss": {"otype": "RelativeL2"},
    "optimizer": {"otype": "Adam", "learning_rate": 1e-2},
    "encoding": {
        "otype": "HashGrid",
        "n_levels": 8,
        "n_features_per_level": 2,
        "log2_hashmap_size": 12,
        "base_resolution": 8,
        "per_level_scale": 1.5,
    },
    "network": {"otype": "FullyFusedMLP", "activation": "ReLU", "output_activation": "None", "n_neurons": 32, "n_hidden_layers": 2},
}

PROGRAM = """
    import json, sys
    import torch
    import tinycudann as tcnn

    device = torch.device("cuda")
    config = json.load(open(sys.argv[1]))
    torch.manual_seed(0)

    def picture(uv):
        rings = torch.sin(40.0 * (uv - 0.4).norm(dim=1))
        return torch.stack([uv[:, 0], 0.5 + 0.5 * rings, (uv.sum(1) * 8).floor() % 2], 1)

    model = tcnn.NetworkWithInputEncoding(2, 3, config["encoding"], config["network"]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config["optimizer"]["learning_rate"])
    y, x = torch.meshgrid(torch.arange(96, device=device), torch.arange(96, device=device), indexing="ij")
    pixels = (torch.stack([x, y], -1).view(-1, 2) + 0.5) / 96
    target = picture(pixels)
    for step in range(int(sys.argv[2])):
        chosen = torch.randint(0, len(pixels), (2048,), device=device)
        output = model(pixels[chosen])
        loss = (output - target[chosen].to(output.dtype)).square() / (output.detach() ** 2 + 0.01)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    with torch.no_grad():
        print(-10.0 * torch.log10((model(pixels).clamp(0, 1) - target).square().mean()).item())
    tcnn.free_temporary_memory()
"""


def test_a_program_fits_a_picture_from_its_json(tmp_path: Path) -> None:
    """With "cuda" in it, on whatever there is, run as it is."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "fit.py").write_text(textwrap.dedent(PROGRAM))
    command = [sys.executable, "-m", "unrender.compat", "fit.py", "config.json", "300"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 30.0


def test_install_gives_one_module_by_two_names_and_keeps_installed_packages(tmp_path: Path) -> None:
    (tmp_path / "tinycudann.py").write_text("real = True\n")
    code = """
        import sys
        import unrender.compat
        kept = not unrender.compat.install()
        import tinycudann
        print(kept, tinycudann.__name__, getattr(tinycudann, "real", False), sys.modules.get("unrender.compat.tinycudann") is tinycudann)
        import nvdiffrast
        print(nvdiffrast.__name__)
        assert unrender.compat.install(replace=True)
        import tinycudann, tinycudann.modules
        from tinycudann.modules import Encoding
        print(tinycudann.__name__, Encoding is tinycudann.Encoding)
    """
    outputs = []
    for folder in (tmp_path, tmp_path.parent):
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout.splitlines())
    ours = ["unrender.compat.nvdiffrast", "unrender.compat.tinycudann True"]
    assert outputs == [["True tinycudann True False", *ours], ["False unrender.compat.tinycudann False True", *ours]]
