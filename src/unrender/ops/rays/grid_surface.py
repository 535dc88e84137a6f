"""A surface in a dense grid of signed distances over a box, evaluated at packed samples.

The opacities of a surface follow from the distances at both ends of each interval (equation 13 of NeuS). Intervals that follow each other
share an end, so one lookup serves both, and so does one addition to the gradient, which is cut into slabs
(:mod:`unrender.ops.kernels.grids`).
"""

from __future__ import annotations

from typing import Any, NamedTuple, no_type_check

import torch
import warp as wp
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments, describe
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.grids import GridSizes, grid_sizes, slab_range, slabs_of
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.kernels.structs import filled
from unrender.ops.kernels.work import blocks, recycled
from unrender.ops.rays.checks import checked_sharpness, ray_tensors
from unrender.ops.rays.samples import RayArrays, SampleArrays, Samples, arguments_of, chunk_count, span
from unrender.ops.rays.sdf_opacity import descent, sdf_opacity

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_BLOCK = 4096
"""Smallest number of samples of a work item on a CPU."""
_SHORTEST = wp.constant(1.0e-6)
"""Shortest length that a slope is divided by."""
_MOST_LAYERS = 2**15 - 1
"""Largest number of vertices along an axis; layers are counted in int16."""

_CPP = native_sections(__file__, "grid_surface.h")


@no_type_check
@wp.func
def _cell(position: float, scale: float, offset: float, size: int):
    """Return the cell of a position in the world along an axis, and where it lies within."""
    u = wp.clamp(scale * position + offset, 0.0, 1.0) * float(size - 1)
    cell = wp.min(int(u), size - 2)
    return cell, u - float(cell)


@no_type_check
@wp.func
def _distance_at(
    grid: GridSizes,
    frame: wp.array(dtype=wp.float32),
    vertices: wp.array(dtype=wp.float32),
    rays: RayArrays,
    ray: int,
    along: float,
):
    x, fx = _cell(rays.origins[ray, 0] + along * rays.directions[ray, 0], frame[0], frame[3], grid.size_x)
    y, fy = _cell(rays.origins[ray, 1] + along * rays.directions[ray, 1], frame[1], frame[4], grid.size_y)
    z, fz = _cell(rays.origins[ray, 2] + along * rays.directions[ray, 2], frame[2], frame[5], grid.size_z)
    row = grid.size_x
    plane = grid.size_y * row
    i = z * plane + y * row + x
    near_low = vertices[i] + fx * (vertices[i + 1] - vertices[i])
    near_high = vertices[i + row] + fx * (vertices[i + row + 1] - vertices[i + row])
    i += plane
    far_low = vertices[i] + fx * (vertices[i + 1] - vertices[i])
    far_high = vertices[i + row] + fx * (vertices[i + row + 1] - vertices[i + row])
    near = near_low + fy * (near_high - near_low)
    far = far_low + fy * (far_high - far_low)
    return near + fz * (far - near)


@no_type_check
@wp.func_native(_CPP.middles)
def _middles(
    distances: GridSizes,
    frame: wp.array(dtype=wp.float32),
    vertices: wp.array(dtype=wp.float32),
    other: wp.array(dtype=wp.float32),
    samples: SampleArrays,
    rays: RayArrays,
    begin: int,
    end: int,
    positions: wp.array(dtype=wp.float32),
    sdf: wp.array(dtype=wp.float32),
    gradient: wp.array(dtype=wp.float32),
    other_gradient: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.ends)
def _ends(
    distances: GridSizes,
    frame: wp.array(dtype=wp.float32),
    samples: SampleArrays,
    rays: RayArrays,
    begin: int,
    end: int,
    grad_middle: wp.array(dtype=wp.float32),
    grad_slope: wp.array(dtype=wp.float32),
    end_gradients: wp.array(dtype=wp.float32),
    layers: wp.array(dtype=wp.int16),
): ...


@no_type_check
@wp.func_native(_CPP.distance_gradient)
def _distance_gradient(
    distances: GridSizes,
    frame: wp.array(dtype=wp.float32),
    samples: SampleArrays,
    rays: RayArrays,
    layers: wp.array(dtype=wp.int16),
    end_gradients: wp.array(dtype=wp.float32),
    grad_sdf: wp.array(dtype=wp.float32),
    with_sdf: bool,
    grad_gradient: wp.array(dtype=wp.float32),
    grad_other_gradient: wp.array(dtype=wp.float32),
    begin: int,
    end: int,
    clear: bool,
    z_begin: int,
    z_end: int,
    grad_grid: wp.array(dtype=wp.float32),
    grad_other: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _surface_kernel(
    first: int,
    distances: GridSizes,
    frame: wp.array(dtype=wp.float32),
    vertices: wp.array(dtype=wp.float32),
    other: wp.array(dtype=wp.float32),
    samples: SampleArrays,
    rays: RayArrays,
    block: int,
    positions: wp.array(dtype=wp.float32),
    middle: wp.array(dtype=wp.float32),
    slope: wp.array(dtype=wp.float32),
    sdf: wp.array(dtype=wp.float32),
    gradient: wp.array(dtype=wp.float32),
    other_gradient: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * block
    end = begin + wp.min(block, samples.starts.shape[0] - begin)
    last_ray = int(-1)
    reached = float(0.0)
    after = float(0.0)
    for i in range(begin, end):
        ray = samples.ray_index[i]
        middle[i] = 0.0
        slope[i] = 0.0
        if ray >= 0 and ray < rays.origins.shape[0]:
            start = samples.starts[i]
            stop = samples.ends[i]
            before = after
            if ray != last_ray or start != reached:
                before = _distance_at(distances, frame, vertices, rays, ray, start)
            after = _distance_at(distances, frame, vertices, rays, ray, stop)
            middle[i] = 0.5 * (before + after)
            slope[i] = (after - before) / wp.max(stop - start, _SHORTEST)
            reached = stop
        last_ray = ray
    _middles(distances, frame, vertices, other, samples, rays, begin, end, positions, sdf, gradient, other_gradient)


@no_type_check
@wp.kernel
def _ends_kernel(
    first: int,
    distances: GridSizes,
    frame: wp.array(dtype=wp.float32),
    samples: SampleArrays,
    rays: RayArrays,
    block: int,
    grad_middle: wp.array(dtype=wp.float32),
    grad_slope: wp.array(dtype=wp.float32),
    end_gradients: wp.array(dtype=wp.float32),
    layers: wp.array(dtype=wp.int16),
):
    begin = (first + wp.tid()) * block
    end = begin + wp.min(block, samples.starts.shape[0] - begin)
    _ends(distances, frame, samples, rays, begin, end, grad_middle, grad_slope, end_gradients, layers)


@no_type_check
@wp.kernel
def _distance_gradient_kernel(
    first: int,
    distances: GridSizes,
    frame: wp.array(dtype=wp.float32),
    samples: SampleArrays,
    rays: RayArrays,
    layers: wp.array(dtype=wp.int16),
    end_gradients: wp.array(dtype=wp.float32),
    grad_sdf: wp.array(dtype=wp.float32),
    with_sdf: bool,
    grad_gradient: wp.array(dtype=wp.float32),
    grad_other_gradient: wp.array(dtype=wp.float32),
    slabs: int,
    block: int,
    clear: bool,
    grad_grid: wp.array(dtype=wp.float32),
    grad_other: wp.array(dtype=wp.float32),
):
    begin, end, z_begin, z_end = slab_range(first + wp.tid(), slabs, block, samples.starts.shape[0], distances.size_z)
    _distance_gradient(
        distances,
        frame,
        samples,
        rays,
        layers,
        end_gradients,
        grad_sdf,
        with_sdf,
        grad_gradient,
        grad_other_gradient,
        begin,
        end,
        clear,
        z_begin,
        z_end,
        grad_grid,
        grad_other,
    )


@no_type_check
@wp.kernel
def _visible_kernel(
    first: int,
    distances: GridSizes,
    frame: wp.array(dtype=wp.float32),
    vertices: wp.array(dtype=wp.float32),
    samples: SampleArrays,
    rays: RayArrays,
    sharpness: wp.array(dtype=wp.float32),
    anneal: float,
    threshold: float,
    alpha_threshold: float,
    visible: wp.array(dtype=wp.uint8),
):
    """Walk along a ray until it ends, marking the samples more opaque than ``alpha_threshold``."""
    ray = first + wp.tid()
    begin, end = span(samples, ray)
    light = float(1.0)
    reached = float(0.0)
    after = float(0.0)
    for i in range(begin, end):
        if light <= threshold:
            break
        start = samples.starts[i]
        stop = samples.ends[i]
        before = after
        if i == begin or start != reached:
            before = _distance_at(distances, frame, vertices, rays, ray, start)
        after = _distance_at(distances, frame, vertices, rays, ray, stop)
        reached = stop
        length = stop - start
        if length > 0.0:
            fall = descent((after - before) / wp.max(length, _SHORTEST), anneal) * length
            alpha = sdf_opacity(0.5 * (before + after), fall, sharpness[0])[0]
            if alpha > alpha_threshold:
                visible[i] = wp.uint8(1)
            light = light * (1.0 - alpha)


class _GridSurface(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, distances: Tensor, other: Tensor | None, frame: Tensor, samples: Samples, origins: Tensor, directions: Tensor
    ) -> Any:
        count, device = samples.starts.shape[0], distances.device
        positions, gradient = torch.empty(3, count, device=device), torch.empty(3, count, device=device)
        middle, slope, sdf = (torch.empty(count, device=device) for _ in range(3))
        items, block = blocks(count, _BLOCK, device)
        nothing = distances.new_empty(0)
        other_gradient = None if other is None else torch.empty_like(gradient)
        grids = [distances.view(-1), nothing if other is None else other.view(-1)]
        arguments = [grid_sizes(distances), frame, *grids, samples.arrays, _arrays(origins, directions), block]
        arguments += [positions.view(-1), middle, slope, sdf, gradient.view(-1)]
        arguments.append(nothing if other_gradient is None else other_gradient.view(-1))
        launch(_surface_kernel, items, arguments, device, chunks=items)
        ctx.samples, ctx.has_other = samples, other is not None
        ctx.save_for_backward(distances, frame, origins, directions)
        ctx.set_materialize_grads(False)
        positions = positions.t()
        ctx.mark_non_differentiable(positions)
        return positions, middle, slope, sdf, gradient.t(), None if other_gradient is None else other_gradient.t()

    @staticmethod
    @differentiable_once("grid_surface")
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        distances, frame, origins, directions = ctx.saved_tensors
        samples: Samples = ctx.samples
        _, of_middle, of_slope, of_sdf, *of_gradients = grads
        count, device = samples.starts.shape[0], distances.device
        arrays = [samples.arrays, _arrays(origins, directions)]
        layers, end_gradients = torch.empty(3 * count, dtype=torch.int16, device=device), torch.empty(2 * count, device=device)
        items, block = blocks(count, _BLOCK, device)
        ends = [origins.new_zeros(count) if grad is None else grad.contiguous() for grad in (of_middle, of_slope)]
        launch(_ends_kernel, items, [grid_sizes(distances), frame, *arrays, block, *ends, end_gradients, layers], device, chunks=items)
        sdf = layers.new_empty(0, dtype=torch.float32) if of_sdf is None else of_sdf.contiguous()
        wanted = (3 * count, 3 * count if ctx.has_other else 0)
        gradients = [origins.new_zeros(n) if g is None else g.t().contiguous().view(-1) for n, g in zip(wanted, of_gradients, strict=True)]
        # On a CPU each slab clears its own part of the gradient.
        clear = on_cpu(device)
        grad_grid = recycled(distances.shape) if clear else torch.zeros_like(distances)
        grad_other = None
        if ctx.has_other:
            grad_other = recycled(distances.shape) if clear else torch.zeros_like(distances)
        slabs, items, block = slabs_of(distances, count, device)
        arguments = [grid_sizes(distances), frame, *arrays, layers, end_gradients, sdf, of_sdf is not None, *gradients, slabs, block, clear]
        results = [grad_grid.view(-1), gradients[1] if grad_other is None else grad_other.view(-1)]
        launch(_distance_gradient_kernel, items, [*arguments, *results], device, chunks=items)
        return grad_grid, grad_other, None, None, None, None


def _arrays(origins: Tensor, directions: Tensor) -> Any:
    return filled(RayArrays, origins=origins, directions=directions)


class GridSurface(NamedTuple):
    """A surface in a grid at packed samples."""

    positions: Float[Tensor, "samples 3"]
    """The middle of each interval; the transposed view of a [3, samples] buffer."""
    middle: Float[Tensor, " samples"]
    """(f(a) + f(b)) / 2 for an interval from a to b; zero in the unused tail, as is ``slope``."""
    slope: Float[Tensor, " samples"]
    """(f(b) - f(a)) / max(b - a, 1e-6)."""
    sdf: Float[Tensor, " samples"]
    """f at the positions."""
    gradient: Float[Tensor, "samples 3"]
    """∇f at the positions; the transposed view of a [3, samples] buffer."""
    other_gradient: Float[Tensor, "samples 3"] | None
    """That of the other grid, if there is one."""


def _grid(takes: Arguments, distances: object) -> Tensor:
    """Return the grid of distances, contiguous."""
    found = takes.float32(distances, "distances", ("Z", "Y", "X", 1)).contiguous()
    if not 2 <= min(found.shape[:3]) <= max(found.shape[:3]) <= _MOST_LAYERS:
        raise ValueError(f"{takes.verb} takes 2 to {_MOST_LAYERS:,} vertices along each axis as distances, got {describe(found)}")
    return found


def _frame(takes: Arguments, box: object) -> Tensor:
    """Return the scales and then the offsets of the coordinates, from the world to the unit cube of a box."""
    if box is None:
        return torch.full((6,), 0.5, device=takes.device)
    corners = takes.float32(box, "box", (2, 3)).detach()
    scale = 1 / (corners[1] - corners[0])
    return torch.cat([scale, -corners[0] * scale])


def grid_surface(
    samples: Samples,
    rays: Rays,
    distances: Float[Tensor, "Z Y X 1"],
    *,
    other: Float[Tensor, "Z Y X 1"] | None = None,
    box: Float[Tensor, "2 3"] | None = None,
) -> GridSurface:
    """Interpolate signed distances f trilinearly at packed samples, with the secant of f over each interval.

    The first vertex of the grid lies at the first corner of the box and its last at the second one; outside, the border value continues.
    Differentiable once in the grids; rays get no gradient.

    Args:
        samples: the intervals.
        rays: the rays they lie on. Their directions need no unit length.
        distances: signed distances at the vertices.
        other: a grid of the same size, such as the distances after smoothing, whose gradient is wanted too.
        box: the smallest and the largest corner of the grid in the world; by default it is the cube [-1, 1]³.

    Raises:
        ValueError: for other shapes or types, tensors on different devices, or fewer than two vertices along an axis.

    >>> one = Samples(torch.zeros(1, dtype=torch.int32), torch.tensor([0.5]), torch.tensor([1.5]),
    ...               torch.zeros(1, dtype=torch.int32), torch.ones(1, dtype=torch.int32))
    >>> grid = torch.arange(8.0).reshape(2, 2, 2, 1)
    >>> found = grid_surface(one, Rays(torch.tensor([[-1.0, -1.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]])), grid)
    >>> found.middle.item(), found.slope.item(), found.gradient.tolist()
    (0.5, 0.5, [[0.5, 1.0, 2.0]])
    """
    takes = arguments_of("grid_surface", samples)
    origins, directions = ray_tensors(takes, rays, (samples.count.shape[0], "rays"))
    distances = _grid(takes, distances)
    takes.count(4 * samples.starts.shape[0], "the result")
    other = None if other is None else takes.float32(other, "other", distances.shape).contiguous()
    return GridSurface(*_GridSurface.apply(distances, other, _frame(takes, box), samples, origins.detach(), directions.detach()))


@torch.no_grad()
def grid_visible(
    samples: Samples,
    rays: Rays,
    distances: Float[Tensor, "Z Y X 1"],
    sharpness: Float[Tensor, ""],
    *,
    anneal: float,
    threshold: float = 1e-4,
    alpha_threshold: float = 0.0,
    box: Float[Tensor, "2 3"] | None = None,
) -> Bool[Tensor, " samples"]:
    """Mark the samples that are visible on a surface whose signed distances are in a grid.

    The same as :func:`grid_surface`, :func:`sdf_alpha` and :func:`visible` in turn, but each ray is walked only until it ends.

    Args:
        samples: the intervals.
        rays: the rays they lie on.
        distances: as in :func:`grid_surface`.
        sharpness: s > 0, one over the width of the surface.
        anneal: as in :func:`sdf_alpha`.
        threshold: transmittance at which a ray ends.
        alpha_threshold: opacity up to which a sample is dropped; it still attenuates later samples.
        box: as in :func:`grid_surface`.

    Raises:
        ValueError: for other shapes or types, tensors on different devices, or fewer than two vertices along an axis.
    """
    takes = arguments_of("grid_visible", samples)
    origins, directions = ray_tensors(takes, rays, (samples.count.shape[0], "rays"))
    distances, device = _grid(takes, distances), samples.starts.device
    width = checked_sharpness(takes, sharpness)
    limits = takes.number(threshold, "threshold"), takes.number(alpha_threshold, "alpha_threshold")
    flags = torch.zeros(samples.starts.shape[0], dtype=torch.uint8, device=device)
    arguments = [grid_sizes(distances), _frame(takes, box), distances.view(-1), samples.arrays, _arrays(origins, directions)]
    arguments += [width, takes.number(anneal, "anneal", 0.0, 1.0), *limits, flags]
    launch(_visible_kernel, origins.shape[0], arguments, device, chunks=chunk_count(samples))
    return flags.view(torch.bool)
