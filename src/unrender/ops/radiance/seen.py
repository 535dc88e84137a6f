"""Walking along rays through an encoded density until no light is left, keeping what was computed on the way.

A step of a fit prunes the samples behind the first opaque one before it evaluates the others with gradients. Both need the encoding of the
same points, which is most of the work. Here one kernel goes along the rays of a work item in rounds: it lists the next few samples of each
ray that has light, looks them up level by level, passes them through the perceptron, and takes their share of the light away. A second
kernel packs the visible samples with their encodings and outputs, of which the step needs only the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import thread_count
from unrender.ops.encodings._hash_cpu import gather
from unrender.ops.encodings._mlp_cpu import Network, checked_layers, described, forward_chunk, is_fused, pack
from unrender.ops.encodings._mlp_cpu import Rays as AddedPerRay
from unrender.ops.encodings.encoded_mlp import Encoded
from unrender.ops.encodings.hash_grid import HashGrid, Levels, kernel_levels
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.structs import filled
from unrender.ops.rays.checks import ray_tensors
from unrender.ops.rays.samples import RayArrays, SampleArrays, Samples, allocate_samples, arguments_of, copy_sample, middle, span

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_RAYS = 512
"""Rays of a work item: their samples of a round are many enough for a level of the table to stay in the cache."""
_FEWEST_RAYS = 64
"""Rays of a work item at least."""
_AT_ONCE = wp.constant(4)
"""Samples of a ray that a round looks up; on average half of the last ones lie behind the end of the ray."""


class _Scratch:
    """Memory of all work items; a work item has as many columns of each row as its rays have samples."""

    rows: wp.uint64
    """Address of the rows of an item: three of positions in the unit cube, then the encoding, then the outputs."""
    before: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    """Number of samples on the rays before each ray."""
    slots: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    """Column of each sample that was looked up."""
    walked: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    """Number of samples of each ray that were looked up."""
    light: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    """Transmittance of each ray so far."""


Scratch = wp.struct(_Scratch)


@no_type_check
@wp.func
def _rows(scratch: Scratch, item_begin: int, capacity: int, width: int, row: int):
    """Return the rows of a work item from one row on."""
    offset = wp.int64(item_begin) * wp.int64(width) + wp.int64(row) * wp.int64(capacity)
    return wp.array(ptr=scratch.rows + wp.uint64(4) * wp.uint64(offset), shape=((width - row) * capacity,), dtype=wp.float32)


@no_type_check
@wp.func
def _in_unit_cube(position: wp.vec3, unbounded: int):
    if unbounded == 0:
        return 0.5 * position + wp.vec3(0.5, 0.5, 0.5)
    r = wp.length(position)
    scale = float(1.0)
    if r > 1.0:
        scale = (2.0 - 1.0 / r) / r
    return 0.25 * (scale * position) + wp.vec3(0.5, 0.5, 0.5)


@no_type_check
@wp.kernel
def _see_kernel(
    first: int,
    samples: SampleArrays,
    rays: RayArrays,
    scratch: Scratch,
    unbounded: int,
    levels: int,
    grid: Levels,
    table: wp.array(dtype=wp.float32),
    network: Network,
    row_weights: wp.uint64,
    column_weights: wp.uint64,
    added: AddedPerRay,
    bias: float,
    threshold: float,
    width: int,
    rays_per_item: int,
    visible_count: wp.array(dtype=wp.int32),
):
    ray_begin = (first + wp.tid()) * rays_per_item
    ray_end = wp.min(ray_begin + rays_per_item, samples.count.shape[0])
    item_begin = scratch.before[ray_begin]
    capacity = scratch.before[ray_end] - item_begin
    unit = _rows(scratch, item_begin, capacity, width, 0)
    encoding = _rows(scratch, item_begin, capacity, width, 3)
    outputs = _rows(scratch, item_begin, capacity, width, 3 + levels * grid.features)
    listed = int(0)
    done = int(0)
    going = capacity > 0
    while going:
        for ray in range(ray_begin, ray_end):
            begin, end = span(samples, ray)
            begin += scratch.walked[ray]
            if scratch.light[ray] > threshold:
                for i in range(begin, wp.min(begin + _AT_ONCE, end)):
                    t = middle(samples, i)
                    x = wp.vec3(
                        rays.origins[ray, 0] + t * rays.directions[ray, 0],
                        rays.origins[ray, 1] + t * rays.directions[ray, 1],
                        rays.origins[ray, 2] + t * rays.directions[ray, 2],
                    )
                    u = _in_unit_cube(x, unbounded)
                    unit[listed] = u[0]
                    unit[capacity + listed] = u[1]
                    unit[2 * capacity + listed] = u[2]
                    scratch.slots[i] = listed
                    listed += 1
        going = listed > done
        if going:
            for level in range(levels):
                gather(levels - 1 - level, done, listed, capacity, grid, 0, unit, unit, table, encoding)
            forward_chunk(network, row_weights, column_weights, added, capacity, done, listed, encoding, outputs)
            for ray in range(ray_begin, ray_end):
                begin, end = span(samples, ray)
                begin += scratch.walked[ray]
                light = scratch.light[ray]
                if light > threshold:
                    stop = wp.min(begin + _AT_ONCE, end)
                    for i in range(begin, stop):
                        if light > threshold:
                            slot = wp.min(scratch.slots[i], listed - 1)  # samples of two rays may overlap
                            depth = wp.exp(outputs[slot] + bias) * (samples.ends[i] - samples.starts[i])
                            light = light * wp.exp(-depth)
                            visible_count[ray] += 1
                    scratch.light[ray] = light
                    scratch.walked[ray] += stop - begin
            done = listed


@no_type_check
@wp.func_native("""
for (int row = 0; row < width; row++) {
    const float* from = rows.data + (long long)row * capacity;
    float* to = packed.data + (long long)row * count;
    for (int k = begin; k < end; k++) to[k] = from[order.data[k]];
}
""")
def _pack(
    width: int,
    capacity: int,
    rows: wp.array(dtype=wp.float32),
    order: wp.array(dtype=wp.int32),
    begin: int,
    end: int,
    count: int,
    packed: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _pack_kernel(
    first: int,
    samples: SampleArrays,
    scratch: Scratch,
    width: int,
    rays_per_item: int,
    kept: SampleArrays,
    order: wp.array(dtype=wp.int32),
    packed: wp.array(dtype=wp.float32),
):
    ray_begin = (first + wp.tid()) * rays_per_item
    ray_end = wp.min(ray_begin + rays_per_item, samples.count.shape[0])
    item_begin = scratch.before[ray_begin]
    capacity = scratch.before[ray_end] - item_begin
    end = kept.first[ray_begin]
    for ray in range(ray_begin, ray_end):
        source, _end = span(samples, ray)
        target, end = span(kept, ray)
        for k in range(end - target):
            copy_sample(samples, source + k, kept, target + k, ray)
            order[target + k] = wp.min(scratch.slots[source + k], capacity - 1)
    rows = _rows(scratch, item_begin, capacity, width, 0)
    _pack(width, capacity, rows, order, kept.first[ray_begin], end, order.shape[0], packed)


@torch.no_grad()
def see_encoded(
    samples: Samples,
    rays: Rays,
    table: Float[Tensor, "entries features"],
    grid: HashGrid,
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
    *,
    unbounded: bool,
    density_bias: float,
    threshold: float,
) -> tuple[Samples, Encoded]:
    """Pack the samples that light reaches through a density, with what the field is there; on a CPU.

    The density is exp(first output + bias). The outputs are those of :func:`~unrender.ops.encodings.encoded_mlp` at positions in the
    unit cube: (x + 1) / 2, or (contract(x) + 2) / 4 in an unbounded scene. A ray ends at the first sample with transmittance T ≤ threshold,
    as in ``attenuate``.

    Args:
        samples: the intervals.
        rays: the rays they lie on.
        table: of the encoding.
        grid: the shape of the table.
        weights: of a perceptron on the fused path of :func:`~unrender.ops.encodings.mlp`.
        biases: of its layers.
        unbounded: whether the grid covers all of space.
        density_bias: added to the first output.
        threshold: transmittance at which a ray ends.

    Returns:
        The visible samples in the same order, and the field there, without gradients.

    Raises:
        ValueError: for shapes that do not fit, or tensors elsewhere than on a CPU.
    """
    takes = arguments_of("see_encoded", samples)
    origins, directions = ray_tensors(takes, rays, (samples.count.shape[0], "rays"))
    takes.instance(grid, "grid", HashGrid)
    table = takes.float32(table, "table", ((grid.entries, "entries"), (grid.features, "features"))).contiguous()
    parameters = checked_layers(takes, (samples.starts.shape[0], grid.columns), torch.float32, weights, biases)
    if not is_fused(grid.columns, parameters):
        raise ValueError("see_encoded takes tensors on a CPU and a perceptron of at most 4 layers of at most 128 units")
    bias, threshold = takes.number(density_bias, "density_bias"), takes.number(threshold, "threshold")
    number, width = samples.count.shape[0], 3 + grid.columns + parameters[-1].shape[0]
    before = torch.zeros(number + 1, dtype=torch.int32)
    torch.cumsum(samples.count.clamp(0, samples.starts.shape[0]), 0, out=before[1:])
    total = int(before[-1])
    takes.count(total * width, "what is seen")
    scratch_rows = torch.empty(total * width)
    visible_count = torch.zeros(number, dtype=torch.int32)
    scratch = filled(
        Scratch,
        rows=scratch_rows.data_ptr(),
        before=before,
        slots=torch.empty(samples.starts.shape[0], dtype=torch.int32),
        walked=torch.zeros_like(visible_count),
        light=torch.ones(number),
    )
    rays_per_item = max(_FEWEST_RAYS, min(_RAYS, -(-number // (4 * thread_count()))))
    items, device = -(-number // rays_per_item), samples.starts.device
    packed_weights = pack(parameters[0::2], parameters[1::2])
    field = [int(unbounded), grid.levels, kernel_levels(grid, device), table.view(-1), *described(parameters[0::2], packed_weights)]
    arguments = [samples.arrays, filled(RayArrays, origins=origins, directions=directions), scratch, *field, AddedPerRay(), bias, threshold]
    launch(_see_kernel, items, [*arguments, width, rays_per_item, visible_count], device, chunks=items)
    kept = allocate_samples(visible_count, None, "see_encoded")
    packed, order = torch.empty(width, kept.starts.shape[0]), torch.empty_like(kept.ray_index)
    arguments = [samples.arrays, scratch, width, rays_per_item, kept.arrays, order, packed.view(-1)]
    launch(_pack_kernel, items, arguments, device, chunks=items)
    return kept, Encoded(packed[:3], packed[3 : 3 + grid.columns], packed[3 + grid.columns :])
