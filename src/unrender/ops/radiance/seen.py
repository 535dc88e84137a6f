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
    """Memory of all work items."""

    rows: wp.uint64
    """Address of the rows of an item: three of positions in the unit cube, then the encoding, then the outputs."""
    columns: wp.int32
    """Length of a row: the number of samples that an item can look up."""
    full: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    """One for each item that had more to look up."""
    slots: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    """Column of each sample that was looked up."""
    walked: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    """Number of samples of each ray that were looked up."""
    light: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    """Transmittance of each ray so far."""


Scratch = wp.struct(_Scratch)


@no_type_check
@wp.func
def _address(scratch: Scratch, item: int, width: int, row: int):
    """Return the address of a row of a work item."""
    offset = (wp.int64(item) * wp.int64(width) + wp.int64(row)) * wp.int64(scratch.columns)
    return scratch.rows + wp.uint64(4) * wp.uint64(offset)


@no_type_check
@wp.func
def _rows(scratch: Scratch, item: int, width: int, row: int):
    """Return the rows of a work item from one row on."""
    return wp.array(ptr=_address(scratch, item, width, row), shape=((width - row) * scratch.columns,), dtype=wp.float32)


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
    weights: wp.uint64,
    added: AddedPerRay,
    bias: float,
    threshold: float,
    width: int,
    rays_per_item: int,
    visible_count: wp.array(dtype=wp.int32),
):
    item = first + wp.tid()
    ray_begin = item * rays_per_item
    ray_end = ray_begin + wp.min(rays_per_item, samples.count.shape[0] - ray_begin)
    columns = scratch.columns
    unit = _rows(scratch, item, width, 0)
    encoding = _rows(scratch, item, width, 3)
    outputs = _rows(scratch, item, width, 3 + levels * grid.features)
    listed = int(0)
    done = int(0)
    going = bool(True)
    while going:
        for ray in range(ray_begin, ray_end):
            begin, end = span(samples, ray)
            begin += scratch.walked[ray]
            if scratch.light[ray] > threshold:
                stop = wp.min(begin + _AT_ONCE, end)
                if listed + stop - begin > columns:
                    scratch.full[item] = 1
                    stop = begin
                for i in range(begin, stop):
                    t = middle(samples, i)
                    x = wp.vec3(
                        rays.origins[ray, 0] + t * rays.directions[ray, 0],
                        rays.origins[ray, 1] + t * rays.directions[ray, 1],
                        rays.origins[ray, 2] + t * rays.directions[ray, 2],
                    )
                    u = _in_unit_cube(x, unbounded)
                    unit[listed] = u[0]
                    unit[columns + listed] = u[1]
                    unit[2 * columns + listed] = u[2]
                    scratch.slots[i] = listed
                    listed += 1
        going = listed > done and scratch.full[item] == 0
        if going:
            for level in range(levels):
                gather(levels - 1 - level, done, listed, columns, grid, 0, unit, unit, table, encoding)
            forward_chunk(
                network,
                weights,
                added,
                columns,
                done,
                listed,
                _address(scratch, item, width, 3),
                _address(scratch, item, width, 3 + levels * grid.features),
            )
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
    item = first + wp.tid()
    ray_begin = item * rays_per_item
    ray_end = ray_begin + wp.min(rays_per_item, samples.count.shape[0] - ray_begin)
    end = kept.first[ray_begin]
    for ray in range(ray_begin, ray_end):
        source, _end = span(samples, ray)
        target, end = span(kept, ray)
        for k in range(end - target):
            copy_sample(samples, source + k, kept, target + k, ray)
            order[target + k] = wp.min(scratch.slots[source + k], scratch.columns - 1)
    rows = _rows(scratch, item, width, 0)
    _pack(width, scratch.columns, rows, order, kept.first[ray_begin], end, order.shape[0], packed)


def _division(rays: int) -> tuple[int, int]:
    """Return (work items, rays per item) for at least one ray; every item has rays."""
    wanted = min(-(-rays // _FEWEST_RAYS), max(4 * thread_count(), -(-rays // _RAYS)))
    per_item = -(-rays // wanted)
    return -(-rays // per_item), per_item


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
    expected: int,
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
        expected: number of samples for which memory is taken; it is twice the work if more are looked up.

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
        raise ValueError("see_encoded takes tensors on a CPU and a perceptron of at most 5 layers of at most 320 units, 1,300 or so in all")
    bias, threshold = takes.number(density_bias, "density_bias"), takes.number(threshold, "threshold")
    expected = takes.integer(expected, "expected", 0)
    number, width = samples.count.shape[0], 3 + grid.columns + parameters[-1].shape[0]
    device = samples.starts.device
    if number == 0:
        nothing = allocate_samples(samples.count, None, "see_encoded")
        packed = torch.zeros(width, nothing.starts.shape[0])
        return nothing, Encoded(packed[:3], packed[3 : 3 + grid.columns], packed[3 + grid.columns :])
    items, rays_per_item = _division(number)
    counts = torch.zeros(items * rays_per_item, dtype=torch.int64)
    counts[:number] = samples.count.clamp(0, samples.starts.shape[0])
    most = int(counts.view(items, rays_per_item).sum(1).max())
    takes.count(items * most * width, "what is seen")
    packed_weights = pack(parameters)
    field = [int(unbounded), grid.levels, kernel_levels(grid, device), table.view(-1), *described(parameters[0::2], packed_weights)]
    seeing = [samples.arrays, filled(RayArrays, origins=origins, directions=directions)]
    # Memory is taken for the samples that are probably looked up, and for all of them where these turn out to be more.
    for columns in (min(most, -(-expected // items)), most):
        memory, full = torch.empty(items * columns * width), torch.zeros(items, dtype=torch.int32)
        visible_count = torch.zeros(number, dtype=torch.int32)
        scratch = filled(
            Scratch,
            rows=memory.data_ptr(),
            columns=columns,
            full=full,
            slots=torch.empty(samples.starts.shape[0], dtype=torch.int32),
            walked=torch.zeros(number, dtype=torch.int32),
            light=torch.ones(number),
        )
        arguments = [*seeing, scratch, *field, AddedPerRay(), bias, threshold, width, rays_per_item, visible_count]
        launch(_see_kernel, items, arguments, device, chunks=items)
        if not full.any():
            break
    kept = allocate_samples(visible_count, None, "see_encoded")
    packed, order = torch.empty(width, kept.starts.shape[0]), torch.empty_like(kept.ray_index)
    arguments = [samples.arrays, scratch, width, rays_per_item, kept.arrays, order, packed.view(-1)]
    launch(_pack_kernel, items, arguments, device, chunks=items)
    return kept, Encoded(packed[:3], packed[3 : 3 + grid.columns], packed[3 + grid.columns :])
