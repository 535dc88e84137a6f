"""Marching of rays through an occupancy grid, which places the samples.

The lattice of a ray is t_0 = near + offset · step, t_{k+1} = t_k + max(step, cone_angle t_k), independent of occupancy; for cone angle
zero, t_k = t_0 + k step. Interval k is [t_k, min(t_{k+1}, far)] for t_k < far, and is emitted if the cell at its middle is occupied.
Skipping empty cells and bricks passes only over intervals whose middles lie within them, so the result is the same as testing every
interval.

The cell is taken from the finest level whose cube contains the point and whose cells are no smaller than the interval is long.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import on_cpu
from unrender.ops.kernels.checks import MOST_ELEMENTS, Arguments
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.kernels.structs import filled
from unrender.ops.rays.checks import checked_capacity, ray_tensors
from unrender.ops.rays.occupancy import OccupancyGrid
from unrender.ops.rays.samples import SampleArrays, Samples, allocate_samples

wp.set_module_options({"enable_backward": False})

_CPP = native_sections(__file__, "marching.h")

_RAYS_PER_CHUNK = 256

_MOST_STEPS = 2**22
"""Intervals of equal length on the longest way through a grid, at most."""

_CONE_OF_FEW_STEPS = 2.0**-15
"""Cone angle from which intervals grow so fast that even the shortest step gives fewer than ``_MOST_STEPS``."""

_SHORTEST_STEP = 1e-30
"""Shortest step of a cone."""

_RUNS = 8
"""Runs of adjacent samples that the counting pass records, less one; a ray with more is marched again behind them."""


class _SegmentFields:
    """Rays, each with the distances at which it enters and leaves the grid."""

    origins: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    directions: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    entries: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    leaves: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    offsets: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]


_Segments = wp.struct(_SegmentFields)


class _GridFields:
    """The occupied cells of an :class:`OccupancyGrid`."""

    bits: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    clearance: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    resolution: wp.int32
    levels: wp.int32


_Grid = wp.struct(_GridFields)


class _RunFields:
    """Adjacent samples of a ray, [rays, runs]: index and distance of the first one, and how many they are."""

    k: wp.array2d(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    t: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    length: wp.array2d(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]


_Runs = wp.struct(_RunFields)


@no_type_check
@wp.func_native(_CPP.march_ray)
def _march_ray(
    ray: int,
    rays: _Segments,
    grid: _Grid,
    step: float,
    cone: float,
    most: int,
    writing: int,
    recorded: _Runs,
    samples: SampleArrays,
): ...


@no_type_check
@wp.kernel
def _march_kernel(
    first: int,
    rays: _Segments,
    grid: _Grid,
    step: float,
    cone: float,
    most: int,
    writing: int,
    recorded: _Runs,
    samples: SampleArrays,
):
    """Count the samples of a ray, or write them. One kernel does both, so both use the same lattice to the last bit."""
    ray = first + wp.tid()
    _march_ray(ray, rays, grid, step, cone, most, writing, recorded, samples)


@no_type_check
@wp.kernel
def _box_kernel(
    first: int,
    origins: wp.array2d(dtype=wp.float32),
    directions: wp.array2d(dtype=wp.float32),
    half_extent: float,
    near: wp.array(dtype=wp.float32),
    far: wp.array(dtype=wp.float32),
):
    """Narrow ``near`` and ``far`` to the part of the ray within the cube; both become zero if there is none."""
    ray = first + wp.tid()
    enter = wp.max(near[ray], 0.0)
    leave = far[ray]
    valid = True
    moving = False
    for c in range(3):
        o = origins[ray, c]
        d = directions[ray, c]
        if d > 0.0 or d < 0.0:
            moving = True
            a = (-half_extent - o) / d
            b = (half_extent - o) / d
            enter = wp.max(enter, wp.min(a, b))
            leave = wp.min(leave, wp.max(a, b))
            if not wp.isfinite(o) or not wp.isfinite(d):
                valid = False
        else:
            if not (d == 0.0 and wp.abs(o) <= half_extent):
                valid = False
    if valid and moving and enter < leave:
        near[ray] = enter
        far[ray] = leave
    else:
        near[ray] = 0.0
        far[ray] = 0.0


def _clipped(origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, half_extent: float) -> tuple[Tensor, Tensor]:
    """Return ``near`` and ``far`` narrowed to the cube."""
    near, far = near.clone(), far.clone()
    launch(_box_kernel, near.shape[0], [origins, directions, half_extent, near, far], near.device)
    return near, far


def _shortest_step(half_extent: float, cone_angle: float) -> float:
    """Return the shortest step that a grid allows.

    It bounds the intervals of a ray: float32 distances cannot tell many more apart, and a kernel would count for minutes.
    """
    return _SHORTEST_STEP if cone_angle >= _CONE_OF_FEW_STEPS else 2 * 3**0.5 * half_extent / _MOST_STEPS


@torch.no_grad()
def aabb_intersection(rays: Rays, half_extent: float = 1.0) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Compute the distances at which rays enter and leave the cube [-half_extent, half_extent]³.

    Returns:
        near >= 0 (zero for an origin inside) and far; both zero where a ray misses the cube, points away from it or is not finite.

    Raises:
        ValueError: the rays' origins and directions are not [rays, 3] floats on one device.

    Source: Kay and Kajiya, Ray tracing complex scenes, 1986.

    >>> import torch
    >>> from unrender.cameras import Rays
    >>> near, far = aabb_intersection(Rays(torch.tensor([[0.0, 0.0, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]])))
    >>> near.item(), far.item()
    (2.0, 4.0)
    """
    takes = Arguments("aabb_intersection")
    origins, directions = ray_tensors(takes, rays)
    half_extent = takes.number(half_extent, "half_extent", 0.0)
    near = torch.zeros(origins.shape[0], device=origins.device)
    return _clipped(origins, directions, near, torch.full_like(near, torch.inf), half_extent)


@torch.no_grad()
def march(
    rays: Rays,
    grid: OccupancyGrid,
    *,
    step: float,
    near: Float[Tensor, " rays"] | float = 0.0,
    far: Float[Tensor, " rays"] | float = torch.inf,
    cone_angle: float = 0.0,
    offsets: Float[Tensor, " rays"] | None = None,
    capacity: int | None = None,
    max_samples_per_ray: int | None = None,
) -> Samples:
    """Cut each ray into intervals and keep those whose middle lies in an occupied cell.

    An interval has the length max(step, cone_angle · t). Rays that are not finite, miss the grid or cross only empty cells get no samples.
    Not differentiable.

    Args:
        rays: half lines with unit directions.
        grid: which cells are occupied; rays are cut to its outermost cube.
        step: shortest interval, in world units; at least a four-millionth of the longest way through the grid.
        near: start, clamped to the entry into the outermost cube.
        far: end, clamped to the exit; the last interval is cut there.
        cone_angle: growth of the intervals with distance, dimensionless; 0 keeps them equal.
        offsets: in [0, 1), the share of the first interval by which a ray's lattice is shifted, one random number per ray while fitting;
        None shifts nothing.
        capacity: length of the arrays returned. The first ray that does not fit and all later ones get no samples (``count`` is zero). None
        fits all, which needs the count on the host and raises an error on a GPU.
        max_samples_per_ray: number of nearest samples kept on each ray; None keeps all.

    Raises:
        ValueError: step is too short, cone_angle or capacity is negative, max_samples_per_ray is not positive, a tensor does not match the
        rays, or capacity is missing on a GPU.

    Source: Müller et al., Instant neural graphics primitives, 2022, appendix E.
    """
    device = Arguments("march").instance(grid, "grid", OccupancyGrid).bits.device
    takes = Arguments("march", device, "the grid")
    origins, directions = ray_tensors(takes, rays)
    cone_angle = takes.number(cone_angle, "cone_angle", 0.0)
    step = takes.number(step, "step", _shortest_step(grid.half_extent, cone_angle))
    most = MOST_ELEMENTS if max_samples_per_ray is None else takes.integer(max_samples_per_ray, "max_samples_per_ray", 1)
    capacity = checked_capacity(takes, capacity)
    number = origins.shape[0]
    begin, stop = (
        takes.float32(x, name, ((number, "rays"),)).contiguous()
        if isinstance(x, Tensor)
        else torch.full((number,), takes.number(x, name, infinite=True), device=device)
        for name, x in (("near", near), ("far", far))
    )
    entries, leaves = _clipped(origins, directions, begin, stop, grid.half_extent)
    shifts = torch.zeros(number, device=device)
    if offsets is not None:
        shifts = takes.float32(offsets, "offsets", ((number, "rays"),)).contiguous()
    segments = filled(_Segments, origins=origins, directions=directions, entries=entries, leaves=leaves, offsets=shifts)
    cells = filled(_Grid, bits=grid.bits, clearance=grid.clearance, resolution=grid.resolution, levels=grid.levels)
    run_k, run_length = (torch.empty(number, _RUNS, dtype=torch.int32, device=device) for _ in range(2))
    recorded = filled(_Runs, k=run_k, t=torch.empty(number, _RUNS, device=device), length=run_length)
    counts = torch.zeros(number, dtype=torch.int32, device=device)
    nothing, no_rays = torch.zeros(0, device=device), torch.zeros(0, dtype=torch.int32, device=device)
    counted = filled(SampleArrays, ray_index=no_rays, starts=nothing, ends=nothing, first=no_rays, count=counts)

    chunks = max(1, number // _RAYS_PER_CHUNK) if on_cpu(device) else None
    shared = [segments, cells, step, cone_angle, most]
    launch(_march_kernel, number, [*shared, 0, recorded, counted], device, chunks=chunks)
    samples = allocate_samples(counts, capacity, "march")
    launch(_march_kernel, number, [*shared, 1, recorded, samples.arrays], device, chunks=chunks)
    return samples
