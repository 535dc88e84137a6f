"""Rays through sparse voxels: density and spherical harmonics at the vertices of a grid over the cube [-1, 1]³, without a network.

The vertices in use are *rows* of packed tensors, in the order of the grid (x fastest); a grid of row numbers leads to them. With the
trilinear interpolation σ(x) and k(x) of the rows, where a vertex without a row counts as zero, and spherical harmonics Y of the direction,

    α_i = 1 − exp(−max(0, σ_i) δ),   c_i = max(0, ½ + Σ_b k_ib Y_b),   w_i = α_i Π_{j<i} (1 − α_j),   C = Σ w_i c_i

at points at equal distances δ, as many cells apart on every ray. One kernel walks along a ray, leaps over cells that absorb nothing, and
keeps what the backward pass needs of each sample, so nothing is looked up twice. The gradient of the rows is cut into slabs of layers on a
CPU, as that of dense grids (:mod:`unrender.ops.kernels.grids`): the rows of a layer follow each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, no_type_check

import torch
import warp as wp
from jaxtyping import Bool, Float, Int32, UInt8
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import on_cpu, thread_count
from unrender.ops.kernels.checks import Arguments, describe
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.kernels.grids import GridSizes
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.native import native_sections
from unrender.ops.kernels.structs import filled
from unrender.ops.kernels.work import recycled
from unrender.ops.rays.checks import ray_tensors
from unrender.ops.rays.samples import RayArrays
from unrender.printing import of_fields
from unrender.spherical_harmonics import real_spherical_harmonics

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_BLOCK = 64
"""Rays of a work item on a CPU, whose samples are stored without gaps."""
_CHUNKS_PER_THREAD = 8
_SLABS = 16
"""Ranges of layers, with about as many rows each, that the gradient is cut into on a CPU."""
_ROOMS = (32, 128)
"""Samples that the rays of a block may have on average, where that is enough."""
_RECORD = 8
_MOST_SAMPLES = 14_000
"""Of a ray."""
_BRICK = 4
"""Cells along the side of a brick."""
_FARTHEST = 15
"""Largest clearance, in bricks."""
_BANDS = (1, 2, 3)
_INDICES = (torch.int32,)
_CORNERS = tuple((z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1))

_CPP = native_sections(__file__, "voxels.h")


@no_type_check
@wp.func_native(_CPP.render)
def _render(
    sizes: GridSizes,
    clearance: wp.array(dtype=wp.uint8),
    places: wp.array(dtype=wp.int32),
    corners: wp.array(dtype=wp.int32),
    density: wp.array(dtype=wp.float32),
    harmonics: wp.array(dtype=wp.float32),
    rays: RayArrays,
    basis: wp.array(dtype=wp.float32),
    offsets: wp.array(dtype=wp.float32),
    cells_per_step: float,
    near: float,
    stop: float,
    most: int,
    begin: int,
    end: int,
    place: int,
    room: int,
    records: wp.array(dtype=wp.float32),
    cells: wp.array(dtype=wp.int32),
    steps: wp.array(dtype=wp.float32),
    first_sample: wp.array(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    color: wp.array(dtype=wp.float32),
    transmittance: wp.array(dtype=wp.float32),
    distances: wp.array(dtype=wp.float32),
    sparsity: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.sample_gradients)
def _sample_gradients(
    records: wp.array(dtype=wp.float32),
    first_sample: wp.array(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    transmittance: wp.array(dtype=wp.float32),
    of_color: wp.array(dtype=wp.float32),
    of_light: wp.array(dtype=wp.float32),
    of_sparsity: wp.array(dtype=wp.float32),
    steps: wp.array(dtype=wp.float32),
    begin: int,
    end: int,
    gradients: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.scatter)
def _scatter(
    sizes: GridSizes,
    corners: wp.array(dtype=wp.int32),
    records: wp.array(dtype=wp.float32),
    cells: wp.array(dtype=wp.int32),
    first_sample: wp.array(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    basis: wp.array(dtype=wp.float32),
    gradients: wp.array(dtype=wp.float32),
    begin: int,
    end: int,
    upper_begin: int,
    lower_begin: int,
    upper_end: int,
    lower_end: int,
    clear_begin: int,
    clear_end: int,
    grad_density: wp.array(dtype=wp.float32),
    grad_harmonics: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.kernel
def _render_kernel(
    first: int,
    sizes: GridSizes,
    clearance: wp.array(dtype=wp.uint8),
    places: wp.array(dtype=wp.int32),
    corners: wp.array(dtype=wp.int32),
    density: wp.array(dtype=wp.float32),
    harmonics: wp.array(dtype=wp.float32),
    rays: RayArrays,
    basis: wp.array(dtype=wp.float32),
    offsets: wp.array(dtype=wp.float32),
    cells_per_step: float,
    near: float,
    stop: float,
    most: int,
    room: int,
    block: int,
    records: wp.array(dtype=wp.float32),
    cells: wp.array(dtype=wp.int32),
    steps: wp.array(dtype=wp.float32),
    first_sample: wp.array(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    color: wp.array(dtype=wp.float32),
    transmittance: wp.array(dtype=wp.float32),
    distances: wp.array(dtype=wp.float32),
    sparsity: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * block
    end = begin + wp.min(block, rays.origins.shape[0] - begin)
    _render(
        sizes, clearance, places, corners, density, harmonics, rays, basis, offsets, cells_per_step, near, stop, most, begin,
        end, begin * room, (end - begin) * room, records, cells, steps, first_sample, count, color, transmittance, distances, sparsity,
    )  # fmt: skip


@no_type_check
@wp.kernel
def _sample_gradients_kernel(
    first: int,
    records: wp.array(dtype=wp.float32),
    first_sample: wp.array(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    transmittance: wp.array(dtype=wp.float32),
    of_color: wp.array(dtype=wp.float32),
    of_light: wp.array(dtype=wp.float32),
    of_sparsity: wp.array(dtype=wp.float32),
    steps: wp.array(dtype=wp.float32),
    block: int,
    gradients: wp.array(dtype=wp.float32),
):
    begin = (first + wp.tid()) * block
    end = begin + wp.min(block, count.shape[0] - begin)
    _sample_gradients(records, first_sample, count, transmittance, of_color, of_light, of_sparsity, steps, begin, end, gradients)


@no_type_check
@wp.kernel
def _scatter_kernel(
    first: int,
    sizes: GridSizes,
    corners: wp.array(dtype=wp.int32),
    records: wp.array(dtype=wp.float32),
    cells: wp.array(dtype=wp.int32),
    first_sample: wp.array(dtype=wp.int32),
    count: wp.array(dtype=wp.int32),
    basis: wp.array(dtype=wp.float32),
    gradients: wp.array(dtype=wp.float32),
    by_slab: bool,
    slabs: wp.array2d(dtype=wp.int32),
    grad_density: wp.array(dtype=wp.float32),
    grad_harmonics: wp.array(dtype=wp.float32),
):
    """Add to one slab of layers on a CPU, and the samples of one ray on a GPU."""
    item = first + wp.tid()
    begin = item
    end = item + 1
    upper_begin = int(0)
    lower_begin = int(0)
    upper_end = int(corners.shape[0])
    lower_end = upper_end
    clear_begin = int(0)
    clear_end = int(0)
    if by_slab:
        begin = int(0)
        end = int(count.shape[0])
        upper_begin = int(slabs[item, 0])
        lower_begin = int(slabs[item, 1])
        upper_end = int(slabs[item, 2])
        lower_end = int(slabs[item, 3])
        clear_begin = int(slabs[item, 4])
        clear_end = int(slabs[item, 5])
    _scatter(
        sizes, corners, records, cells, first_sample, count, basis, gradients, begin, end, upper_begin, lower_begin, upper_end, lower_end,
        clear_begin, clear_end, grad_density, grad_harmonics,
    )  # fmt: skip


@dataclass(frozen=True)
class VoxelGrid:
    """The vertices of a grid over [-1, 1]³ that have rows, and the cells that may absorb light; see :func:`voxel_grid`.

    A cell has the index of its smallest vertex in the grid.
    """

    rows: Int32[Tensor, "Z Y X"]
    """Row of each vertex, or -1."""
    vertices: Int32[Tensor, " rows"]
    """Index (z Y + y) X + x of the vertex of each row, ascending."""
    clearance: UInt8[Tensor, "bricks_z bricks_y bricks_x"]
    """Distance of each brick of 4³ cells from the next one with a cell that may absorb light, in bricks."""
    places: Int32[Tensor, "Z Y X"]
    """Number of each cell that may absorb light, or -1."""
    cells: Int32[Tensor, " cells"]
    """Index of each cell that may absorb light, ascending."""
    corners: Int32[Tensor, "cells 8"]
    """Rows of the corners of these cells, or -1, x fastest."""

    __repr__ = of_fields

    def __post_init__(self) -> None:
        """Check the tensors against each other; kernels check the indices that they read."""
        takes = Arguments("VoxelGrid")
        shape = tuple(takes.tensor(self.rows, "rows", _INDICES, ("Z", "Y", "X")).shape)
        vertices = takes.tensor(self.vertices, "vertices", _INDICES, ("rows",))
        bricks = takes.tensor(self.clearance, "clearance", (torch.uint8,), tuple(-(-(size - 1) // _BRICK) for size in shape))
        places = takes.tensor(self.places, "places", _INDICES, shape)
        cells = takes.tensor(self.cells, "cells", _INDICES, ("cells",))
        corners = takes.tensor(self.corners, "corners", _INDICES, ((cells.shape[0], "cells"), 8))
        if min(shape) < 2 or not all(x.is_contiguous() for x in (self.rows, vertices, bricks, places, cells, corners)):
            raise ValueError(f"VoxelGrid takes tensors without gaps, of 2 vertices or more along each axis, got rows {describe(self.rows)}")
        if self.rows.device.type == "cpu":
            for name, index in (("vertices", vertices), ("cells", cells)):
                if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.rows.numel():
                    raise ValueError(f"VoxelGrid takes indices of a grid of {self.rows.numel()} vertices as {name}, got others")

    @cached_property
    def slabs(self) -> Int32[Tensor, "slabs 6"]:
        """Ranges of layers with about as many rows each.

        Their vertices are the lower corners of the cells from the second to the fourth number, the upper corners of those from the first to
        the third, and the rows from the fifth to the sixth.
        """
        layers, y, x = self.rows.shape
        edges = torch.arange(layers + 1, device=self.rows.device) * (y * x)
        rows, cells = (torch.searchsorted(index.long(), edges) for index in (self.vertices, self.cells))
        wanted = torch.arange(_SLABS + 1, device=self.rows.device) * (self.vertices.shape[0] / _SLABS)
        cuts = torch.searchsorted(rows.double(), wanted.double())
        cuts[0], cuts[-1] = 0, layers
        begin, end = cuts[:-1], cuts[1:]
        before = (begin - 1).clamp_min(0), begin, torch.maximum(end - 1, begin.clamp_max(0)), end
        ranges = [*(cells[at] for at in before), rows[begin], rows[end]]
        return torch.stack(ranges, 1).int().contiguous()

    def absorbing_where(self, positive: Bool[Tensor, " rows"]) -> VoxelGrid:
        """Return the grid with the cells that have a positive corner as those that may absorb light.

        Raises:
            ValueError: not a bool for each row.
        """
        takes = Arguments("absorbing_where", self.rows.device, "grid.rows")
        positive = takes.flags(positive, "positive", ((self.vertices.shape[0], "rows"),))
        marked = torch.zeros(self.rows.numel(), dtype=torch.bool, device=self.rows.device)
        marked[self.vertices.long()] = positive
        return _with_cells(self.rows, self.vertices, marked.view(self.rows.shape))


def voxel_grid(used: Bool[Tensor, "Z Y X"]) -> VoxelGrid:
    """Return the grid of some vertices, and find the empty cells around them.

    Raises:
        ValueError: not a bool tensor with at least two vertices along each axis.

    >>> used = torch.zeros(3, 3, 3, dtype=torch.bool)
    >>> used[0, 0, 0] = used[2, 1, 0] = True
    >>> grid = voxel_grid(used)
    >>> grid.vertices.tolist(), grid.places[:2, :2, :2].flatten().tolist(), grid.clearance.tolist()
    ([0, 21], [0, -1, -1, -1, 1, -1, 2, -1], [[[0]]])
    """
    takes = Arguments("voxel_grid")
    used = takes.flags(used, "used", ("Z", "Y", "X"))
    if min(used.shape) < 2:
        raise ValueError(f"voxel_grid takes at least 2 vertices along each axis as used, got {list(used.shape)}")
    vertices = used.reshape(-1).nonzero()[:, 0].int()
    rows = torch.full((used.numel(),), -1, dtype=torch.int32, device=used.device)
    rows[vertices.long()] = torch.arange(vertices.shape[0], dtype=torch.int32, device=used.device)
    return _with_cells(rows.view(used.shape), vertices, used)


def _with_cells(rows: Tensor, vertices: Tensor, marked: Bool[Tensor, "Z Y X"]) -> VoxelGrid:
    """Return the grid in which the cells with a marked corner may absorb light."""
    size_z, size_y, size_x = rows.shape
    near = torch.zeros_like(marked)  # there are cells behind all vertices but the last of each axis
    for z, y, x in _CORNERS:
        near[:-1, :-1, :-1] |= marked[z : size_z - 1 + z, y : size_y - 1 + y, x : size_x - 1 + x]
    cells = near.view(-1).nonzero()[:, 0]
    places = torch.full_like(rows, -1)
    places.view(-1)[cells] = torch.arange(cells.shape[0], dtype=torch.int32, device=rows.device)
    plane, flat = size_y * size_x, rows.reshape(-1)
    corners = [flat[cells + z * plane + y * size_x + x] for z, y, x in _CORNERS]
    return VoxelGrid(rows, vertices, _clearance(near), places, cells.int(), torch.stack(corners, 1).contiguous())


def _clearance(near: Bool[Tensor, "Z Y X"]) -> UInt8[Tensor, "bricks_z bricks_y bricks_x"]:
    """Return the distance of each brick from the next one with a marked cell, up to a limit."""
    z, y, x = (-(-(size - 1) // _BRICK) for size in near.shape)
    whole = near.new_zeros(z * _BRICK, y * _BRICK, x * _BRICK)
    whole[: near.shape[0] - 1, : near.shape[1] - 1, : near.shape[2] - 1] = near[:-1, :-1, :-1]
    occupied = whole.view(z, _BRICK, y, _BRICK, x, _BRICK).any(5).any(3).any(1)
    clearance = torch.zeros_like(occupied, dtype=torch.uint8)
    for _ in range(_FARTHEST):
        clearance += (~occupied).to(torch.uint8)
        for axis in range(3):  # wider by one brick along one axis after the other
            wider, other = occupied.clone(), occupied.shape[axis] - 1
            wider.narrow(axis, 1, other).logical_or_(occupied.narrow(axis, 0, other))
            wider.narrow(axis, 0, other).logical_or_(occupied.narrow(axis, 1, other))
            occupied = wider
    return clearance


class VoxelRays(NamedTuple):
    """What rays see of voxels."""

    color: Float[Tensor, "rays 3"]
    """Σ w c, over black."""
    light: Float[Tensor, " rays"]
    """Share of the light that passes all voxels."""
    sparsity: Float[Tensor, " rays"]
    """Σ log(1 + 2 σ²) over the samples with σ > 0."""
    distance: Float[Tensor, " rays"]
    """Σ w t; it has no gradient."""
    samples: Int32[Tensor, " rays"]
    """Number of samples with σ > 0."""


class _Walk(NamedTuple):
    """The samples of some rays as the kernel left them."""

    records: Tensor
    cells: Tensor
    steps: Tensor
    first: Tensor
    number: Tensor


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, density: Tensor, harmonics: Tensor, grid: VoxelGrid, origins: Tensor, directions: Tensor, basis: Tensor, walk: Any
    ) -> Any:
        found, seen = _walked(density, harmonics, grid, origins, directions, basis, walk)
        ctx.grid, ctx.found = grid, found
        ctx.save_for_backward(density, harmonics, basis, seen.light)
        ctx.set_materialize_grads(True)
        ctx.mark_non_differentiable(seen.distance, seen.samples)
        return tuple(seen)

    @staticmethod
    @differentiable_once("render_voxels")
    def backward(ctx: Any, *grads: Tensor) -> Any:
        density, harmonics, basis, light = ctx.saved_tensors
        grid, found, device = ctx.grid, ctx.found, density.device
        of_color, of_light, of_sparsity = (grad.contiguous().view(-1) for grad in grads[:3])
        count, plain = found.number.shape[0], on_cpu(device)
        gradients = _scratch((found.cells.shape[0], 4), device)
        per_sample = [*found[:1], found.first, found.number, light, of_color, of_light, of_sparsity, found.steps]
        block, items, chunks = _division(count, device)
        launch(_sample_gradients_kernel, items, [*per_sample, block, gradients.view(-1)], device, chunks=chunks)
        # On a CPU each slab clears its own rows.
        results = [recycled(x.shape) if plain else torch.zeros_like(x) for x in (density, harmonics)]
        arguments = [_sizes(grid, harmonics), grid.corners.view(-1), found.records, found.cells, found.first, found.number, basis.view(-1)]
        arguments += [gradients.view(-1), plain, grid.slabs, *(x.view(-1) for x in results)]
        items = _SLABS if plain else count
        launch(_scatter_kernel, items, arguments, device, chunks=items)
        return (*results, None, None, None, None, None)


class _WalkSettings(NamedTuple):
    step: float
    most: int
    near: float
    stop: float
    offsets: Tensor


def _walked(
    density: Tensor, harmonics: Tensor, grid: VoxelGrid, origins: Tensor, directions: Tensor, basis: Tensor, walk: _WalkSettings
) -> tuple[_Walk, VoxelRays]:
    count, device = origins.shape[0], density.device
    most = walk.most
    first, number = (torch.empty(count, dtype=torch.int32, device=device) for _ in range(2))
    color, (steps, light, sparsity, distance) = origins.new_empty(count, 3), (origins.new_empty(count) for _ in range(4))
    block, items, chunks = _division(count, device)
    grids = [_sizes(grid, harmonics), grid.clearance.view(-1), grid.places.view(-1), grid.corners.view(-1), density, harmonics.view(-1)]
    arguments = [*grids, filled(RayArrays, origins=origins, directions=directions), basis.view(-1), walk.offsets]
    arguments += [walk.step, walk.near, walk.stop, most]
    plain = on_cpu(device)
    # Few of the samples that rays may have are written. A block of rays on a CPU begins with little room, and a GPU does not count.
    for room in (*(room for room in _ROOMS if plain and room < most), most):
        capacity = room << (count - 1).bit_length() if count else 0
        Arguments("render_voxels").count(_RECORD * capacity, "the samples")
        records, cells = _scratch((capacity, _RECORD), device).view(-1), _scratch((capacity,), device).view(torch.int32)
        results = [records, cells, steps, first, number, color.view(-1), light, distance, sparsity]
        launch(_render_kernel, items, [*arguments, room, block, *results], device, chunks=chunks)
        if room == most or not bool((number < 0).any()):
            return _Walk(records, cells, steps, first, number), VoxelRays(color, light, sparsity, distance, number)
    raise AssertionError("the last room is enough")


def _division(count: int, device: torch.device) -> tuple[int, int, int]:
    """Return rays of a work item, work items, and chunks of these."""
    block = _BLOCK if on_cpu(device) else 1
    items = -(-count // block)
    return block, items, _CHUNKS_PER_THREAD * thread_count()


def _scratch(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return recycled(shape) if on_cpu(device) else torch.empty(shape, device=device)


def _sizes(grid: VoxelGrid, harmonics: Tensor) -> Any:
    size_z, size_y, size_x = grid.rows.shape
    return filled(GridSizes, size_x=size_x, size_y=size_y, size_z=size_z, channels=harmonics.shape[1])


def _checked(
    verb: str, rays: object, grid: object, density: object, harmonics: object, step: float, near: float, stop: float, offsets: object
) -> tuple[Tensor, Tensor, VoxelGrid, Tensor, Tensor, Tensor, _WalkSettings]:
    """Return all that a walk takes, contiguous."""
    takes = Arguments(verb)
    origins, directions = ray_tensors(takes, rays)
    voxels = takes.instance(grid, "grid", VoxelGrid)
    takes.tensor(voxels.rows, "grid.rows", _INDICES, ("Z", "Y", "X"))
    number = (voxels.vertices.shape[0], "rows")
    density = takes.float32(density, "density", (number,)).contiguous()
    harmonics = takes.float32(harmonics, "harmonics", *((number, 3 * bands**2) for bands in _BANDS)).contiguous()
    size = (origins.shape[0], "rays")
    offsets = origins.new_full((size[0],), 0.5) if offsets is None else takes.float32(offsets, "offsets", (size,)).contiguous()
    diagonal = math.dist(voxels.rows.shape, (1, 1, 1))
    step = takes.number(step, "step", diagonal / _MOST_SAMPLES)
    limits = takes.number(near, "near", 0.0), takes.number(stop, "stop", 0.0, 1.0)
    bands = int((harmonics.shape[1] // 3) ** 0.5)
    basis = real_spherical_harmonics(directions, bands).contiguous()
    return origins, directions, voxels, density, harmonics, basis, _WalkSettings(step, int(diagonal / step) + 2, *limits, offsets)


def render_voxels(
    rays: Rays,
    grid: VoxelGrid,
    density: Float[Tensor, " rows"],
    harmonics: Float[Tensor, "rows channels"],
    *,
    step: float,
    near: float = 0.0,
    offsets: Float[Tensor, " rays"] | None = None,
    stop: float = 1e-7,
) -> VoxelRays:
    """Render rays through sparse voxels; see the formula of the module.

    Differentiable once in density and harmonics; rays get no gradient.

    Args:
        rays: with unit directions.
        grid: the voxels, as :func:`voxel_grid` returns them; only cells in ``grid.cells`` absorb light.
        density: of each row; negative where the interpolation is to become zero between vertices.
        harmonics: of each row, for red, green and blue 1, 4 or 9 coefficients each, as
            :func:`unrender.spherical_harmonics.real_spherical_harmonics` orders them.
        step: the distance between samples, in cells along each ray: where cells are not cubes, δ differs between rays.
        near: smallest distance of a sample.
        offsets: where the first sample of each ray lies in its first step, 0 to 1; by default in the middle.
        stop: light at which a ray ends.

    Raises:
        ValueError: for other shapes or types, tensors on different devices, or a number out of its range.
    """
    origins, directions, voxels, density, harmonics, basis, walk = _checked(
        "render_voxels", rays, grid, density, harmonics, step, near, stop, offsets
    )
    return VoxelRays(*_Render.apply(density, harmonics, voxels, origins.detach(), directions.detach(), basis.detach(), walk))


@torch.no_grad()
def largest_weights(
    rays: Rays,
    grid: VoxelGrid,
    density: Float[Tensor, " rows"],
    *,
    step: float,
    near: float = 0.0,
    stop: float = 1e-7,
    offsets: Float[Tensor, " rays"] | None = None,
) -> Float[Tensor, "Z Y X"]:
    """Return the largest weight that a sample of these rays has in each cell; zero where there is none.

    A cell has the index of its smallest vertex. Arguments as for :func:`render_voxels`.

    Raises:
        ValueError: as :func:`render_voxels`.
    """
    black = density.new_zeros(density.shape[0], 3) if isinstance(density, Tensor) and density.ndim == 1 else density
    checked = _checked("largest_weights", rays, grid, density, black, step, near, stop, offsets)
    origins, directions, voxels, density, black, basis, walk = checked
    found, seen = _walked(density, black, voxels, origins, directions, basis, walk)
    number = seen.samples.long()
    at = torch.arange(int(number.sum()), device=number.device)
    at += torch.repeat_interleave(found.first.long() - (number.cumsum(0) - number), number)
    records = found.records.view(-1, _RECORD)[at]
    steps = torch.repeat_interleave(found.steps, number)
    weights = records[:, 7] * (1 - torch.exp(-records[:, 3] * steps))
    largest = density.new_zeros(voxels.cells.shape[0])
    largest.scatter_reduce_(0, found.cells[at].long(), weights, "amax")
    placed = density.new_zeros(voxels.rows.numel())
    placed[voxels.cells.long()] = largest
    return placed.view(voxels.rows.shape)
