"""Small multilayer perceptrons with ReLU between the layers, fused on a CPU.

The networks of this field are tiny (16 to 64 units), so that the general path (one GEMM, one bias, one ReLU at a time) spends its time
writing activations to memory and reading them back. On a CPU all layers of 32 samples run inside the first-level cache; the
backward pass recomputes the activations rather than storing them. On other devices the same function is a chain of PyTorch GEMMs.

What all samples of a ray share, such as the encoding of its direction, need not pass through the first layer once a sample: its product
with the weights is computed per ray by the caller, and added to the first layer here.

Layout: inputs and outputs are transposed views of feature-major [features, samples] buffers, which is how the encodings write them.
Inside a block, activations are [sample, unit] and every product runs over vectors of 16 units, forward, backward and for the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

import torch
import torch.nn.functional as F
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrender.devices import on_cpu
from unrender.ops.kernels.launch import launch

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_WIDEST = 64
"""Units of the widest layer the fused path takes; its buffers live on the stack of a thread."""
_LAYERS = 4
_CHUNK = 4096
"""Samples of one work item. Weight gradients are summed per chunk and then over chunks, so that the result does not depend on threads."""

# Shared by both kernels. ROWS samples (or inputs) by two vectors of units are accumulated in registers.
_TILES = """
#if !defined(__CUDA_ARCH__) && !defined(__CUDACC__)
typedef float vec __attribute__((ext_vector_type(16)));
typedef float loose __attribute__((ext_vector_type(16), aligned(4)));
const int BLOCK = 32, WIDEST = 64;
// out[row][unit] = start[unit] + sum_k a[row * row_step + k * k_step] * w[k][unit], for 8 rows and 16 or 32 units
#define TILE(VECTORS)                                                                                                         \\
    {                                                                                                                         \\
        vec s[8][VECTORS];                                                                                                    \\
        _Pragma("unroll") for (int j = 0; j < 8; j++) _Pragma("unroll") for (int v = 0; v < VECTORS; v++) {                   \\
            if (add) s[j][v] = *(const loose*)(out + (r + j) * units + u + 16 * v);                                           \\
            else if (start) s[j][v] = *(const loose*)(start + u + 16 * v);                                                    \\
            else s[j][v] = 0.f;                                                                                               \\
        }                                                                                                                     \\
        const float* p = a + r * row_step;                                                                                    \\
        const float* q = w + u;                                                                                               \\
        for (int k = 0; k < depth; k++, p += k_step, q += units) {                                                            \\
            vec weight[VECTORS];                                                                                              \\
            _Pragma("unroll") for (int v = 0; v < VECTORS; v++) weight[v] = *(const loose*)(q + 16 * v);                      \\
            _Pragma("unroll") for (int j = 0; j < 8; j++) {                                                                   \\
                const float x = p[j * row_step];                                                                              \\
                _Pragma("unroll") for (int v = 0; v < VECTORS; v++) s[j][v] += x * weight[v];                                 \\
            }                                                                                                                 \\
        }                                                                                                                     \\
        _Pragma("unroll") for (int j = 0; j < 8; j++) _Pragma("unroll") for (int v = 0; v < VECTORS; v++)                     \\
            *(loose*)(out + (r + j) * units + u + 16 * v) = s[j][v];                                                          \\
    }
auto product = [](const float* a, int row_step, int k_step, int depth, const float* w, int units, const float* start, float* out,
                  int rows, bool add) {
    _Pragma("clang fp contract(fast)")  // Warp compiles without fused multiply-add, which halves the speed of a product
    int u = 0;
    for (; u + 16 < units; u += 32)
        for (int r = 0; r < rows; r += 8) TILE(2)
    if (u < units)
        for (int r = 0; r < rows; r += 8) TILE(1)
};
#undef TILE
int width[6];
width[0] = (inputs + 15) / 16 * 16;
width[1] = (units_1 + 15) / 16 * 16;
width[2] = (units_2 + 15) / 16 * 16;
width[3] = (units_3 + 15) / 16 * 16;
width[4] = (units_4 + 15) / 16 * 16;
const int outputs = layers == 1 ? units_1 : layers == 2 ? units_2 : layers == 3 ? units_3 : units_4;
alignas(64) float input[WIDEST * BLOCK];
alignas(64) float hidden[4][BLOCK * WIDEST];
for (int k = inputs * BLOCK; k < width[0] * BLOCK; k++) input[k] = 0.f;
"""

_FORWARD_BLOCK = """
    const int used = end - n0 < BLOCK ? end - n0 : BLOCK;
    for (int k = 0; k < inputs; k++) {
        const float* row = x.data + (long long)k * count + n0;
        for (int n = 0; n < used; n++) input[k * BLOCK + n] = row[n];
        for (int n = used; n < BLOCK; n++) input[k * BLOCK + n] = 0.f;
    }
    const float* w = weights.data;
    for (int l = 0; l < layers; l++) {
        const float* bias = w + width[l] * width[l + 1];
        if (l == 0) product(input, 1, BLOCK, inputs, w, width[1], bias, hidden[0], BLOCK, false);
        else product(hidden[l - 1], width[l], 1, width[l], w, width[l + 1], bias, hidden[l], BLOCK, false);
        if (l == 0 && with_rays)
            for (int n = 0; n < used; n++) {
                const int ray = ray_index.data[n0 + n];
                if (ray < 0) continue;
                const float* add = per_ray.data + (long long)ray * width[1];
                for (int k = 0; k < width[1]; k++) hidden[0][n * width[1] + k] += add[k];
            }
        if (l + 1 < layers)
            for (int k = 0; k < BLOCK * width[l + 1]; k++) hidden[l][k] = hidden[l][k] > 0.f ? hidden[l][k] : 0.f;
        w = bias + width[l + 1];
    }
"""


@no_type_check
@wp.func_native(
    _TILES
    + """
for (int n0 = begin; n0 < end; n0 += BLOCK) {"""
    + _FORWARD_BLOCK
    + """
    const float* top = hidden[layers - 1];
    for (int k = 0; k < outputs; k++) {
        float* row = y.data + (long long)k * count + n0;
        for (int n = 0; n < used; n++) row[n] = top[n * width[layers] + k];
    }
}
#endif
"""
)
def _forward_chunk(
    x: wp.array(dtype=wp.float32),
    weights: wp.array(dtype=wp.float32),
    per_ray: wp.array(dtype=wp.float32),
    ray_index: wp.array(dtype=wp.int32),
    with_rays: bool,
    layers: int,
    inputs: int,
    units_1: int,
    units_2: int,
    units_3: int,
    units_4: int,
    count: int,
    begin: int,
    end: int,
    y: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(
    _TILES
    + """
alignas(64) float delta[BLOCK * WIDEST];
alignas(64) float below[BLOCK * WIDEST];
float* gradient = weight_gradients.data + (long long)chunk * size;
for (int k = 0; k < size; k++) gradient[k] = 0.f;
// The ray a chunk begins with may have begun in the chunk before, which another thread works on.
float* carry = carries.data + (long long)chunk * width[1];
const int carried = with_rays ? ray_index.data[begin] : -1;
if (with_rays) for (int k = 0; k < width[1]; k++) carry[k] = 0.f;
for (int n0 = begin; n0 < end; n0 += BLOCK) {"""
    + _FORWARD_BLOCK
    + """
    for (int k = 0; k < BLOCK * width[layers]; k++) delta[k] = 0.f;
    for (int k = 0; k < outputs; k++) {
        const float* row = dy.data + (long long)k * count + n0;
        for (int n = 0; n < used; n++) delta[n * width[layers] + k] = row[n];
    }
    long long offset = size;
    long long back = 0;
    for (int l = 0; l < layers; l++) back += width[l] * width[l + 1];
    for (int l = layers - 1; l >= 0; l--) {
        const int units = width[l + 1], lower = width[l];
        offset -= (long long)(lower + 1) * units;
        back -= (long long)lower * units;
        float* dw = gradient + offset;
        if (l == 0) product(input, BLOCK, 1, BLOCK, delta, units, nullptr, dw, lower, true);
        else product(hidden[l - 1], 1, lower, BLOCK, delta, units, nullptr, dw, lower, true);
        float* db = dw + lower * units;
        for (int n = 0; n < BLOCK; n++)
            for (int k = 0; k < units; k++) db[k] += delta[n * units + k];
        if (l == 0 && with_rays)
            for (int n = 0; n < used; n++) {
                const int ray = ray_index.data[n0 + n];
                if (ray < 0) continue;
                float* sum = ray == carried ? carry : ray_gradients.data + (long long)ray * units;
                for (int k = 0; k < units; k++) sum[k] += delta[n * units + k];
            }
        if (l == 0 && !with_inputs) break;
        product(delta, units, 1, units, weights_back.data + back, lower, nullptr, below, BLOCK, false);
        if (l > 0) {
            for (int k = 0; k < BLOCK * lower; k++) delta[k] = hidden[l - 1][k] > 0.f ? below[k] : 0.f;
        } else {
            for (int k = 0; k < inputs; k++) {
                float* row = dx.data + (long long)k * count + n0;
                for (int n = 0; n < used; n++) row[n] = below[n * lower + k];
            }
        }
    }
}
#endif
"""
)
def _backward_chunk(
    x: wp.array(dtype=wp.float32),
    weights: wp.array(dtype=wp.float32),
    weights_back: wp.array(dtype=wp.float32),
    dy: wp.array(dtype=wp.float32),
    per_ray: wp.array(dtype=wp.float32),
    ray_index: wp.array(dtype=wp.int32),
    with_rays: bool,
    layers: int,
    inputs: int,
    units_1: int,
    units_2: int,
    units_3: int,
    units_4: int,
    count: int,
    begin: int,
    end: int,
    chunk: int,
    size: int,
    with_inputs: bool,
    dx: wp.array(dtype=wp.float32),
    weight_gradients: wp.array(dtype=wp.float32),
    ray_gradients: wp.array(dtype=wp.float32),
    carries: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _forward_kernel(
    first: int,
    x: wp.array(dtype=wp.float32),
    weights: wp.array(dtype=wp.float32),
    per_ray: wp.array(dtype=wp.float32),
    ray_index: wp.array(dtype=wp.int32),
    with_rays: bool,
    layers: int,
    inputs: int,
    units: wp.vec4i,
    count: int,
    chunk_size: int,
    y: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    begin = i * chunk_size
    end = wp.min(count, begin + chunk_size)
    _forward_chunk(
        x, weights, per_ray, ray_index, with_rays, layers, inputs, units[0], units[1], units[2], units[3], count, begin, end, y
    )  # fmt: skip


@no_type_check
@wp.kernel
def _backward_kernel(
    first: int,
    x: wp.array(dtype=wp.float32),
    weights: wp.array(dtype=wp.float32),
    weights_back: wp.array(dtype=wp.float32),
    dy: wp.array(dtype=wp.float32),
    per_ray: wp.array(dtype=wp.float32),
    ray_index: wp.array(dtype=wp.int32),
    with_rays: bool,
    layers: int,
    inputs: int,
    units: wp.vec4i,
    count: int,
    chunk_size: int,
    size: int,
    with_inputs: bool,
    dx: wp.array(dtype=wp.float32),
    weight_gradients: wp.array(dtype=wp.float32),
    ray_gradients: wp.array(dtype=wp.float32),
    carries: wp.array(dtype=wp.float32),
):
    i = first + wp.tid()
    begin = i * chunk_size
    end = wp.min(count, begin + chunk_size)
    _backward_chunk(
        x, weights, weights_back, dy, per_ray, ray_index, with_rays, layers, inputs, units[0], units[1], units[2], units[3],
        count, begin, end, i, size, with_inputs, dx, weight_gradients, ray_gradients, carries,
    )  # fmt: skip


def _padded(size: int) -> int:
    return (size + 15) // 16 * 16


def _pack(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """All layers in one buffer each: [input, unit] rows with the bias behind them for the way up, [unit, input] rows for the way down."""
    up, down = [], []
    for weight, bias in zip(weights, biases, strict=True):
        outputs, inputs = weight.shape
        padded = F.pad(weight, (0, _padded(inputs) - inputs, 0, _padded(outputs) - outputs))
        up += [padded.t().reshape(-1), F.pad(bias, (0, _padded(outputs) - outputs))]
        down.append(padded.reshape(-1))
    return torch.cat(up), torch.cat(down)


def _unpack(packed: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    gradients, offset = [], 0
    for weight in weights:
        outputs, inputs = weight.shape
        rows, columns = _padded(inputs), _padded(outputs)
        block = packed[offset : offset + (rows + 1) * columns].view(rows + 1, columns)
        gradients += [block[:inputs, :outputs].t(), block[rows, :outputs]]
        offset += (rows + 1) * columns
    return gradients


class _FusedMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, per_ray: Tensor | None, ray_index: Tensor | None, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[0::2], parameters[1::2]
        up, _ = _pack(weights, biases)
        count = x.shape[1]
        y = x.new_empty(weights[-1].shape[0], count)
        chunks = -(-count // _CHUNK)
        rays = _ray_arguments(per_ray, ray_index)
        launch(_forward_kernel, chunks, [x.view(-1), up, *rays, *_sizes(weights), count, _CHUNK, y.view(-1)], x.device, pieces=chunks)
        ctx.save_for_backward(x, per_ray, ray_index, *parameters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, per_ray, ray_index, *parameters = ctx.saved_tensors
        weights, biases = parameters[0::2], parameters[1::2]
        up, down = _pack(weights, biases)
        count = x.shape[1]
        chunks = -(-count // _CHUNK)
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else x.new_empty(1)
        gradients = x.new_empty(chunks, up.shape[0])
        rays = _ray_arguments(per_ray, ray_index)
        ray_gradients, carries = torch.zeros_like(rays[0]), x.new_empty(chunks, _padded(weights[0].shape[0]))
        launch(
            _backward_kernel,
            chunks,
            [
                *(x.view(-1), up, down, dy.contiguous().view(-1), *rays, *_sizes(weights), count, _CHUNK, up.shape[0]),
                *(ctx.needs_input_grad[0], dx.view(-1), gradients.view(-1), ray_gradients, carries.view(-1)),
            ],
            x.device,
            pieces=chunks,
        )
        if per_ray is not None:
            ray_gradients = ray_gradients.view(per_ray.shape[0], -1)
            begins = ray_index[::_CHUNK]
            carried = begins >= 0
            ray_gradients.index_add_(0, begins[carried], carries[carried])
            ray_gradients = ray_gradients[:, : per_ray.shape[1]]
        return (
            dx if ctx.needs_input_grad[0] else None,
            None if per_ray is None else ray_gradients,
            None,
            *_unpack(gradients.sum(0), weights),
        )


def _ray_arguments(per_ray: Tensor | None, ray_index: Tensor | None) -> tuple[Tensor, Tensor, bool]:
    if per_ray is None or ray_index is None:
        return torch.empty(0), torch.empty(0, dtype=torch.int32), False
    units = per_ray.shape[1]
    return F.pad(per_ray, (0, _padded(units) - units)).contiguous().view(-1), ray_index.contiguous(), True


def _sizes(weights: Sequence[Tensor]) -> tuple[int, int, wp.vec4i]:
    units = [weight.shape[0] for weight in weights] + [16] * (_LAYERS - len(weights))
    return len(weights), weights[0].shape[1], wp.vec4i(*units)


def mlp(
    inputs: Float[Tensor, "samples features"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
    per_ray: Float[Tensor, "rays units"] | None = None,
    ray_index: Int[Tensor, " samples"] | None = None,
) -> Float[Tensor, "samples outputs"]:
    """Applies a perceptron with ReLU between its layers and a linear last layer.

    h_0 = inputs, h_1 = relu(W_1 h_0 + b_1 + per_ray[ray_index]), h_l = relu(W_l h_{l-1} + b_l), result = W_L h_{L-1} + b_L. Differentiable
    once on the fused path (a CPU in float32, at most 4 layers of at most 64 units), any number of times elsewhere. The result is the
    transposed view of an [outputs, samples] buffer; inputs that are such a view are read without a copy.

    Args:
        inputs: one row a sample.
        weights: [outputs, inputs] of each layer.
        biases: of each layer.
        per_ray: what is added to the first layer of every sample of a ray, before its ReLU.
        ray_index: int32, the ray of each sample, in ascending order; -1 at the end for samples of no ray.

    Raises:
        ValueError: where a layer does not fit the one before, or one of ``per_ray`` and ``ray_index`` is given without the other.

    >>> weights = [torch.tensor([[1.0, 1.0], [-1.0, 0.0]]), torch.tensor([[2.0, 5.0]])]
    >>> mlp(torch.tensor([[1.0, 2.0]]), weights, [torch.zeros(2), torch.ones(1)])
    tensor([[7.]])
    """
    before = inputs.shape[1]
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.shape[1] != before or bias.shape[0] != weight.shape[0]:
            raise ValueError(f"layer {layer} has weights {tuple(weight.shape)} and {bias.shape[0]} biases; it is given {before} inputs")
        before = weight.shape[0]
    if (per_ray is None) != (ray_index is None):
        raise ValueError("per_ray and ray_index belong together; give both or neither")
    if per_ray is not None and per_ray.shape[1] != weights[0].shape[0]:
        raise ValueError(f"per_ray has {per_ray.shape[1]} columns; the first layer has {weights[0].shape[0]} units")
    x = inputs.t().contiguous()
    narrow = max(x.shape[0], *(weight.shape[0] for weight in weights)) <= _WIDEST and len(weights) <= _LAYERS
    if on_cpu(x.device) and x.dtype == torch.float32 and narrow:
        parameters = [p for pair in zip(weights, biases, strict=True) for p in pair]
        return _FusedMlp.apply(x, per_ray, ray_index, *parameters).t()
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = torch.addmm(bias[:, None], weight, x)
        if layer == 0 and per_ray is not None and ray_index is not None:
            x = x + torch.where(ray_index >= 0, per_ray.t().index_select(1, ray_index.clamp_min(0)), 0.0)
        if layer + 1 < len(weights):
            x = torch.relu(x)
    return x.t()
