"""Frequency (positional) encoding: sines and cosines of the coordinates in octaves, and its derivatives."""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.launch import launch

wp.set_module_options({"enable_backward": False})

_RUN = 512
"""Points of one work item on a CPU, where the compiler turns the loop over a run into vector instructions; 1 on a GPU."""

_LARGEST_FREQUENCIES = 24
"""Octaves beyond which a float32 coordinate near one has no phase left."""

# On a CPU: x = q pi/2 + r in double precision with |r| <= pi/4, then the Taylor series of sine and cosine up to r^9 and r^10, whose first
# neglected terms, r^11/11! < 2e-9 and r^12/12! < 2e-10, are below the rounding of float32. There is no branch, so the loop is vectorized.
_ENCODE = """
    const int lead = include_input ? axes : 0;
    for (int d = 0; d < axes; ++d) {
        const float* x = positions.data + (size_t)d * count;
        if (include_input) {
            float* out = result.data + (size_t)d * count;
            for (int i = begin; i < end; ++i) out[i] = x[i];
        }
        for (int k = 0; k < frequencies; ++k) {
            float* sine = result.data + (size_t)(lead + 2 * k * axes + d) * count;
            float* cosine = sine + (size_t)axes * count;
            const float reached = active - (float)k;
            if (reached <= 0.0f) {
                for (int i = begin; i < end; ++i) sine[i] = 0.0f;
                for (int i = begin; i < end; ++i) cosine[i] = 0.0f;
                continue;
            }
            const float weight = reached >= 1.0f ? 1.0f : 0.5f * (1.0f - ::cosf(3.14159265358979f * reached));
            const float octave = (float)(1 << k);
#if defined(__CUDA_ARCH__)
            for (int i = begin; i < end; ++i) {
                sine[i] = weight * ::sinf(octave * x[i]);
                cosine[i] = weight * ::cosf(octave * x[i]);
            }
#else
            for (int i = begin; i < end; ++i) {
                const double angle = (double)(octave * x[i]);
                const double quarter = ::floor(angle * 0.63661977236758134 + 0.5);
                const float turn = (float)(quarter - 4.0 * ::floor(0.25 * quarter));
                const float r = (float)(angle - quarter * 1.5707963267948966);
                const float t = r * r;
                const float s = r + r * t * (-1.0f / 6.0f + t * (1.0f / 120.0f + t * (-1.0f / 5040.0f + t * (1.0f / 362880.0f))));
                const float c4 = 1.0f / 24.0f + t * (-1.0f / 720.0f + t * (1.0f / 40320.0f + t * (-1.0f / 3628800.0f)));
                const float c = 1.0f + t * (-0.5f + t * c4);
                const bool odd = turn == 1.0f || turn == 3.0f;
                const float a = odd ? c : s, b = odd ? s : c;
                sine[i] = weight * (turn >= 2.0f ? -a : a);
                cosine[i] = weight * (turn == 1.0f || turn == 2.0f ? -b : b);
            }
#endif
        }
    }
"""

# The encoding holds sine and cosine with their weight w already: d(w sin 2^k x)/dx = 2^k (w cos 2^k x), and so on.
_SLOPE = """
    const int lead = include_input ? axes : 0;
    for (int d = 0; d < axes; ++d) {
        float* out = result.data + (size_t)d * count;
        const float* v = directions.data + (size_t)d * count;
        for (int i = begin; i < end; ++i) out[i] = include_input && !second ? cotangent.data[(size_t)d * count + i] : 0.0f;
        for (int k = 0; k < frequencies && (float)k < active; ++k) {
            const size_t row = (size_t)(lead + 2 * k * axes + d) * count, next = row + (size_t)axes * count;
            const float octave = (float)(1 << k);
            const float* sine = encoded.data + row;
            const float* cosine = encoded.data + next;
            const float* g = cotangent.data + row;
            const float* h = cotangent.data + next;
            if (second) {
                for (int i = begin; i < end; ++i) out[i] -= octave * octave * (g[i] * sine[i] + h[i] * cosine[i]) * v[i];
            } else {
                for (int i = begin; i < end; ++i) out[i] += octave * (g[i] * cosine[i] - h[i] * sine[i]);
            }
        }
    }
"""

_ALONG = """
    const int lead = include_input ? axes : 0;
    for (int d = 0; d < axes; ++d) {
        const float* v = directions.data + (size_t)d * count;
        if (include_input) {
            float* out = result.data + (size_t)d * count;
            for (int i = begin; i < end; ++i) out[i] = v[i];
        }
        for (int k = 0; k < frequencies; ++k) {
            const size_t row = (size_t)(lead + 2 * k * axes + d) * count, next = row + (size_t)axes * count;
            const float octave = (float)(1 << k);
            for (int i = begin; i < end; ++i) {
                const float sine = encoded.data[row + i], cosine = encoded.data[next + i];
                result.data[row + i] = octave * cosine * v[i];
                result.data[next + i] = -octave * sine * v[i];
            }
        }
    }
"""


@no_type_check
@wp.func_native(_ENCODE)
def _encode(
    begin: int,
    end: int,
    count: int,
    axes: int,
    frequencies: int,
    include_input: int,
    active: float,
    positions: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_SLOPE)
def _slope(
    begin: int,
    end: int,
    count: int,
    axes: int,
    frequencies: int,
    include_input: int,
    active: float,
    second: int,
    encoded: wp.array(dtype=wp.float32),
    cotangent: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_ALONG)
def _along(
    begin: int,
    end: int,
    count: int,
    axes: int,
    frequencies: int,
    include_input: int,
    encoded: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _encode_kernel(
    first: int,
    run: int,
    count: int,
    axes: int,
    frequencies: int,
    include_input: int,
    active: float,
    positions: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * run
    _encode(begin, wp.min(begin + run, count), count, axes, frequencies, include_input, active, positions, result)


@no_type_check
@wp.kernel
def _slope_kernel(
    first: int,
    run: int,
    count: int,
    axes: int,
    frequencies: int,
    include_input: int,
    active: float,
    second: int,
    encoded: wp.array(dtype=wp.float32),
    cotangent: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * run
    end = wp.min(begin + run, count)
    _slope(begin, end, count, axes, frequencies, include_input, active, second, encoded, cotangent, directions, result)


@no_type_check
@wp.kernel
def _along_kernel(
    first: int,
    run: int,
    count: int,
    axes: int,
    frequencies: int,
    include_input: int,
    encoded: wp.array(dtype=wp.float32),
    directions: wp.array(dtype=wp.float32),
    result: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * run
    _along(begin, wp.min(begin + run, count), count, axes, frequencies, include_input, encoded, directions, result)


def _launch_runs(kernel: Any, count: int, arguments: list[Any], device: torch.device) -> None:
    run = _RUN if on_cpu(device) else 1
    runs = -(-count // run)
    launch(kernel, runs, [run, count, *arguments], device, pieces=max(1, min(thread_count(), runs // 2)))


class _Encoding(torch.autograd.Function):
    """``[columns, N]`` encoding of positions ``[axes, N]``."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, frequencies: int, include_input: bool, active: float) -> Tensor:
        axes, count = positions.shape
        result = positions.new_empty(axes * (2 * frequencies + include_input), count)
        numbers = [axes, frequencies, int(include_input), active]
        _launch_runs(_encode_kernel, count, [*numbers, positions.view(-1), result.view(-1)], positions.device)
        ctx.numbers = numbers
        ctx.save_for_backward(positions, result)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        positions, encoded = ctx.saved_tensors
        return _Gradient.apply(positions, grad.contiguous(), encoded.detach(), ctx.numbers), None, None, None


class _Gradient(torch.autograd.Function):
    """``[axes, N]`` gradient of the positions, from the encoding as computed before."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, cotangent: Tensor, encoded: Tensor, numbers: list[Any]) -> Tensor:
        result = torch.empty_like(positions)
        tensors = [encoded.view(-1), cotangent.view(-1), positions.view(-1), result.view(-1)]
        _launch_runs(_slope_kernel, positions.shape[1], [*numbers, 0, *tensors], positions.device)
        ctx.numbers = numbers
        ctx.save_for_backward(cotangent, encoded)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        cotangent, encoded = ctx.saved_tensors
        directions, count = grad.contiguous(), grad.shape[1]
        to_positions = to_cotangent = None
        if ctx.needs_input_grad[0]:
            to_positions = torch.empty_like(directions)
            tensors = [encoded.view(-1), cotangent.view(-1), directions.view(-1), to_positions.view(-1)]
            _launch_runs(_slope_kernel, count, [*ctx.numbers, 1, *tensors], grad.device)
        if ctx.needs_input_grad[1]:
            to_cotangent = torch.empty_like(encoded)
            tensors = [encoded.view(-1), directions.view(-1), to_cotangent.view(-1)]
            _launch_runs(_along_kernel, count, [*ctx.numbers[:3], *tensors], grad.device)
        return to_positions, to_cotangent, None, None


def frequency_encode(
    positions: Float[Tensor, "points axes"],
    frequencies: int,
    include_input: bool = True,
    *,
    active_frequencies: float | None = None,
) -> Float[Tensor, "points columns"]:
    """Sines and cosines of the coordinates in octaves, w_k sin(2^k x) and w_k cos(2^k x) for k = 0 .. frequencies - 1.

        w_k = 0 where a <= k,    (1 - cos(pi (a - k))) / 2 where k < a < k + 1,    1 beyond,      a = active_frequencies

    There is no pi in the angle: coordinates are radians of the lowest octave.

    Args:
        positions: ``[points, axes]`` float32, any number of axes.
        frequencies: number of octaves, 0 to 24.
        include_input: whether the coordinates themselves come first.
        active_frequencies: how many octaves are let through, the last one in part; left out, all. The work for octaves with no weight is
            skipped, their columns and gradients are exactly zero. Growing it lets poses settle before fine detail (coarse to fine).

    Returns:
        ``[points, axes * (2 * frequencies + include_input)]`` float32, ``x, sin x, cos x, sin 2x, cos 2x, ...``, each for all axes;
        the transpose of a contiguous ``[columns, points]`` buffer. Differentiable twice in the positions. The absolute error is below 2e-7
        on a CPU.

    Raises:
        ValueError: no columns at all, ``frequencies`` out of range, or positions that are not float32.

    Source: Mildenhall et al. 2020, "NeRF", equation 4 (without its pi, as in its code); the weights: Lin et al. 2021, "BARF", equation 14.

    >>> frequency_encode(torch.tensor([[0.5]]), 2)                  # x, sin 0.5, cos 0.5, sin 1, cos 1
    tensor([[0.5000, 0.4794, 0.8776, 0.8415, 0.5403]])
    >>> frequency_encode(torch.tensor([[0.5]]), 2, active_frequencies=1.5)
    tensor([[0.5000, 0.4794, 0.8776, 0.4207, 0.2702]])
    """
    if not 0 <= frequencies <= _LARGEST_FREQUENCIES or frequencies + include_input == 0:
        raise ValueError(
            f"frequency_encode: frequencies must be from 0 to {_LARGEST_FREQUENCIES}, and not 0 without the input, but got {frequencies}."
        )
    if positions.dtype != torch.float32:
        raise ValueError(f"frequency_encode: positions must be float32, but got {positions.dtype}.")
    active = float(frequencies) if active_frequencies is None else float(active_frequencies)
    encoded = _Encoding.apply(positions.t().contiguous(), frequencies, include_input, active)
    return encoded.t()  # pyright: ignore[reportReturnType, reportOptionalMemberAccess]
