"""Occupancy of a scene: nested cubes of cells, with a value and a bit each.

Level l covers [-2^l, 2^l]³ with ``resolution``³ cells. Cell (x, y, z) of level l has index ((l r + z) r + y) r + x with r the resolution,
so that ``values.view(levels, r, r, r)`` is indexed [level, z, y, x].

The bits lie in bricks: the 4³ cells of a brick are two neighboring words. Brick (X, Y, Z) of level l has index ((l b + Z) b + Y) b + X
with b = r / 4; its cell (x, y, z), 0 to 3 each, is bit 16 (z mod 2) + 4 y + x of its word z div 2. The distance of each brick from the
nearest occupied one is stored too, so rays in empty space take few, long leaps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import no_type_check

import torch
import warp as wp
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from unrender.cameras import Cameras
from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.structs import filled

wp.set_module_options({"enable_backward": False})

_CHUNK = 2**18
"""Points evaluated at once in an update."""

_FARTHEST = 15
"""Largest stored distance to the next occupied brick, in bricks."""

_MOST_LEVELS = 24
"""Nested cubes; the outermost is then as large as float32 can place to a unit."""

_LARGEST_IMAGE_SIDE = 2**16
"""In pixels."""

_BACKGROUND = 26
"""A mask pixel below this (a tenth of full) is background."""


@no_type_check
@wp.kernel
def _pack_kernel(
    first: int,
    values: wp.array(dtype=wp.float32),
    seen: wp.array(dtype=wp.uint8),
    limit: wp.array(dtype=wp.float32),
    resolution: int,
    bits: wp.array(dtype=wp.int32),
):
    word = first + wp.tid()
    bricks = resolution // 4
    half = word % 2
    brick = word // 2
    bx = brick % bricks
    by = (brick // bricks) % bricks
    bz = brick // (bricks * bricks)
    packed = int(0)
    for z in range(2):
        for y in range(4):
            row = ((bz * 4 + half * 2 + z) * resolution + by * 4 + y) * resolution + bx * 4
            for x in range(4):
                if values[row + x] > limit[0]:
                    if seen[row + x] != wp.uint8(0):
                        packed = packed | (1 << (z * 16 + y * 4 + x))
    bits[word] = packed


@no_type_check
@wp.kernel
def _points_kernel(
    first: int,
    cells: wp.array(dtype=wp.int32),
    within: wp.array2d(dtype=wp.float32),
    resolution: int,
    points: wp.array2d(dtype=wp.float32),
):
    """Compute the world position of the point at ``within``, 0 to 1 along each axis, of a cell."""
    i = first + wp.tid()
    cell = cells[i]
    row = cell // resolution
    layer = row // resolution
    level = layer // resolution
    size = 2.0 / float(resolution)
    extent = float(1 << level)
    points[i, 0] = ((float(cell - row * resolution) + within[i, 0]) * size - 1.0) * extent
    points[i, 1] = ((float(row - layer * resolution) + within[i, 1]) * size - 1.0) * extent
    points[i, 2] = ((float(layer - level * resolution) + within[i, 2]) * size - 1.0) * extent


@no_type_check
@wp.kernel
def _nearest_kernel(first: int, bits: wp.array(dtype=wp.int32), bricks: int, farthest: int, clearance: wp.array(dtype=wp.int32)):
    """Write zero for bricks that a ray may not leap over: occupied, or covered by a finer level."""
    brick = first + wp.tid()
    clearance[brick] = farthest
    if (bits[2 * brick] | bits[2 * brick + 1]) != 0:
        clearance[brick] = 0
    if brick >= bricks * bricks * bricks:
        x = brick % bricks
        y = (brick // bricks) % bricks
        z = (brick // (bricks * bricks)) % bricks
        low = bricks // 4
        high = bricks - low
        if x >= low and x < high and y >= low and y < high and z >= low and z < high:
            clearance[brick] = 0


@no_type_check
@wp.kernel
def _spread_kernel(
    first: int, source: wp.array(dtype=wp.int32), stride: int, bricks: int, farthest: int, clearance: wp.array(dtype=wp.int32)
):
    """Spread Chebyshev distances along one axis: d(x) = min over x' of max(|x - x'|, d(x'))."""
    brick = first + wp.tid()
    at = (brick // stride) % bricks
    best = source[brick]
    for away in range(1, farthest):
        if away >= best:
            break
        if at >= away:
            best = wp.min(best, wp.max(away, source[brick - away * stride]))
        if at + away < bricks:
            best = wp.min(best, wp.max(away, source[brick + away * stride]))
    clearance[brick] = best


@no_type_check
@wp.func
def _project(p: wp.vec3, fisheye: int, intrinsics: wp.vec4, lens: wp.array(dtype=wp.float32), widest: float):
    """Project a point to its pixel. Beyond ``widest`` (a radius or angle past the image) the lens is continued linearly."""
    r = wp.sqrt(p[0] * p[0] + p[1] * p[1])
    x = float(0.0)
    y = float(0.0)
    spread = float(0.0)
    if fisheye == 1:
        if r > 0.0:
            x = p[0] / r
            y = p[1] / r
        spread = wp.atan2(r, p[2])
    else:
        x = p[0] / p[2]
        y = p[1] / p[2]
        spread = r / p[2]
        if spread > 0.0:
            x = x / spread
            y = y / spread
    inner = wp.min(spread, widest)
    q = inner * inner
    bent = inner * (1.0 + q * (lens[0] + q * (lens[1] + q * (lens[2] + q * lens[3])))) + (spread - inner)
    u = x * bent
    v = y * bent
    if fisheye == 0:
        xi = x * inner
        yi = y * inner
        u += 2.0 * lens[4] * xi * yi + lens[5] * (q + 2.0 * xi * xi)
        v += lens[4] * (q + 2.0 * yi * yi) + 2.0 * lens[5] * xi * yi
    return wp.vec2(intrinsics[0] * u + intrinsics[2], intrinsics[1] * v + intrinsics[3])


class _ViewFields:
    """One calibrated view."""

    camera_from_world: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    intrinsics: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    lens: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    fisheye: wp.int32
    widest: wp.float32
    width: wp.int32
    height: wp.int32


_View = wp.struct(_ViewFields)


@no_type_check
@wp.kernel
def _mark_seen_kernel(
    first: int,
    view: _View,
    sums: wp.array2d(dtype=wp.int32),
    margin: float,
    resolution: int,
    seen: wp.array(dtype=wp.uint8),
    carved: wp.array(dtype=wp.uint8),
):
    """Mark the cells that one view sees, and those that its mask carves away.

    ``sums`` is the summed-area table of the foreground, [height + 1, width + 1], or [1, 1] without masks.
    """
    cell = first + wp.tid()
    masked = sums.shape[0] > 1
    if carved[cell] != wp.uint8(0):
        return
    if seen[cell] != wp.uint8(0) and not masked:
        return
    x = cell % resolution
    y = (cell // resolution) % resolution
    z = (cell // (resolution * resolution)) % resolution
    level = cell // (resolution * resolution * resolution)
    extent = float(1 << level)
    half = extent / float(resolution)
    world = wp.vec3(
        half * float(2 * x + 1) - extent,
        half * float(2 * y + 1) - extent,
        half * float(2 * z + 1) - extent,
    )
    axis_x = wp.vec3(view.camera_from_world[0, 0], view.camera_from_world[1, 0], view.camera_from_world[2, 0])
    axis_y = wp.vec3(view.camera_from_world[0, 1], view.camera_from_world[1, 1], view.camera_from_world[2, 1])
    axis_z = wp.vec3(view.camera_from_world[0, 2], view.camera_from_world[1, 2], view.camera_from_world[2, 2])
    shift = wp.vec3(view.camera_from_world[0, 3], view.camera_from_world[1, 3], view.camera_from_world[2, 3])
    center = axis_x * world[0] + axis_y * world[1] + axis_z * world[2] + shift
    # The ball around the cell: near the camera a projection is meaningless, so such a cell counts as seen.
    radius = 1.7320508 * half
    if wp.length(center) < 2.0 * radius:
        seen[cell] = wp.uint8(1)
        return
    if view.fisheye == 0 and center[2] + radius <= 0.0:
        return
    focal = wp.vec4(view.intrinsics[0], view.intrinsics[1], view.intrinsics[2], view.intrinsics[3])
    left = 1.0e9
    top = 1.0e9
    right = -1.0e9
    bottom = -1.0e9
    nearest = 0.01 * wp.length(center)
    for corner in range(8):
        sx = float(2 * (corner & 1) - 1)
        sy = float((corner & 2) - 1)
        sz = float((corner & 4) // 2 - 1)
        p = center + (axis_x * sx + axis_y * sy + axis_z * sz) * half
        if view.fisheye == 0:
            p = wp.vec3(p[0], p[1], wp.max(p[2], nearest))
        pixel = _project(p, view.fisheye, focal, view.lens, view.widest)
        left = wp.min(left, pixel[0])
        right = wp.max(right, pixel[0])
        top = wp.min(top, pixel[1])
        bottom = wp.max(bottom, pixel[1])
    left -= margin
    top -= margin
    right += margin
    bottom += margin
    if right < 0.0 or bottom < 0.0 or left > float(view.width) or top > float(view.height):
        return
    seen[cell] = wp.uint8(1)
    if masked and left >= 0.0 and top >= 0.0 and right <= float(view.width) and bottom <= float(view.height):
        x0 = int(wp.floor(left))
        y0 = int(wp.floor(top))
        x1 = wp.min(int(wp.ceil(right)), view.width)
        y1 = wp.min(int(wp.ceil(bottom)), view.height)
        if sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0] == 0:
            carved[cell] = wp.uint8(1)


class OccupancyGrid(nn.Module):
    """Nested cubes of cells that mark where rays need samples.

    A new grid is full: every cell is occupied until an update has evaluated the field. All state is in buffers, so ``state_dict`` restores
    it. Not differentiable.
    """

    values: Float[Tensor, " cells"]
    """Decayed maximum of what ``update`` found in a cell; -1 in a cell that no camera sees."""
    bits: Tensor
    """int32 words, one bit per cell, in bricks (see the module)."""
    clearance: Tensor
    """int32, one per brick: Chebyshev distance in bricks to the next occupied brick of its level, or to the next finer level."""
    seen: Tensor
    """bool, one per cell: False outside every view, or outside a silhouette; such a cell is never occupied."""

    def __init__(self, resolution: int, levels: int = 1) -> None:
        """Make a full grid.

        Args:
            resolution: cells along an axis of each cube, a multiple of 16 (so that a brick never straddles two levels).
            levels: number of nested cubes; the outermost is [-2^(levels-1), 2^(levels-1)]³.

        Raises:
            ValueError: the resolution is not a multiple of 16, there is no level, there are more than 24, or the number of cells exceeds
            32-bit indices.
        """
        super().__init__()
        takes = Arguments("OccupancyGrid")
        resolution = takes.integer(resolution, "resolution", 16)
        levels = takes.integer(levels, "levels", 1, _MOST_LEVELS)
        if resolution % 16:
            raise ValueError(f"OccupancyGrid takes a multiple of 16 as resolution, got {resolution}")
        takes.count(levels * resolution**3, f"{levels} levels of {resolution}³ cells")
        self.resolution = resolution
        self.levels = levels
        cells = levels * resolution**3
        self.register_buffer("values", torch.zeros(cells))
        self.register_buffer("bits", torch.full((cells // 32,), -1, dtype=torch.int32))
        self.register_buffer("clearance", torch.zeros(cells // 64, dtype=torch.int32))
        self.register_buffer("seen", torch.ones(cells, dtype=torch.bool))

    @property
    def half_extent(self) -> float:
        """Half the side of the outermost cube."""
        return float(2 ** (self.levels - 1))

    @property
    def occupied_fraction(self) -> Float[Tensor, ""]:
        """Share of all cells that are occupied, on the device."""
        return self.occupied().float().mean()

    def occupied(self) -> Tensor:
        """Unpack the bits as bool, one per cell, in the order of ``values``."""
        self._check_state("occupied")
        bricks = self.resolution // 4
        shifts = torch.arange(32, dtype=torch.int32, device=self.bits.device)
        unpacked = ((self.bits[:, None] >> shifts) & 1).bool()
        shaped = unpacked.view(self.levels, bricks, bricks, bricks, 4, 4, 4)
        return shaped.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1)

    @torch.no_grad()
    def mark_seen(
        self,
        cameras: Cameras,
        views: Sequence[int],
        masks: Sequence[UInt8[Tensor, "_ _"] | None] | None = None,
        margin: float = 2.0,
        spared: Bool[Tensor, "size size size"] | None = None,
    ) -> None:
        """Close permanently the cells that no view sees, and with masks those outside the visual hull.

        A view sees a cell if the box around its projected corners, widened by ``margin`` pixels, meets the image and some of the cell lies
        in front of the camera; a cell closer to the camera than its own size counts as seen. With masks a cell is outside the hull if in
        some view that box lies within the image and contains only background.

        Args:
            cameras: the cameras of all views.
            views: indices of the views to use, usually those of the training split.
            masks: 255 where the object is; one mask [height, width] for each camera, of its image size, or None for a view that carves
            nothing.
            margin: pixels by which silhouettes are dilated.
            spared: cells of the innermost cube, indexed [z, y, x], that masks do not close.

        Raises:
            ValueError: there is no view, one that does not exist, or one whose camera is not finite; or the masks are not one per
            camera, of its image size.
        """
        takes = self._check_state("mark_seen")
        sizes, camera_from_world = _check_cameras(cameras)
        views = [takes.integer(view, "a view", 0, len(sizes) - 1) for view in takes.items(views, "views")]
        margin = takes.number(margin, "margin")
        if not views:
            raise ValueError("mark_seen takes at least one view, got none: pass the indices of the training views")
        if masks is not None:
            masks = takes.items(masks, "masks")
            if len(masks) != len(sizes):
                raise ValueError(f"mark_seen takes one mask for each of the {len(sizes)} cameras as masks, got {len(masks)}")
            for view, (mask, (width, height)) in enumerate(zip(masks, sizes, strict=True)):
                if mask is None:
                    continue
                if isinstance(mask, Tensor) and mask.ndim == 2 and tuple(mask.shape) != (height, width):
                    found = f"{mask.shape[1]} × {mask.shape[0]}"
                    raise ValueError(f"mark_seen takes masks of the size of each image, {width} × {height} in view {view}, got {found}")
                Arguments("mark_seen").tensor(mask, f"the mask of view {view}", (torch.uint8,), ((height, "rows"), (width, "columns")))
        device = self.values.device
        if spared is not None:
            takes.tensor(spared, "spared", (torch.bool,), tuple((self.resolution, axis) for axis in ("layers", "rows", "columns")))
        camera_from_world = camera_from_world.to(device)
        intrinsics = cameras.intrinsics.float().to(device)
        lens = cameras.distortion.float().to(device)
        seen = torch.zeros(self.values.shape, dtype=torch.uint8, device=device)
        carved = torch.zeros_like(seen)
        nothing = torch.zeros(1, 1, dtype=torch.int32, device=device)
        for view in views:
            fx, fy, cx, cy = cameras.intrinsics[view].tolist()
            (width, height), fisheye = sizes[view], bool(cameras.fisheye[view])
            across = max(cx, width - cx) / fx
            down = max(cy, height - cy) / fy
            widest = 2.0 * (across**2 + down**2) ** 0.5
            sums = nothing
            if masks is not None and masks[view] is not None:
                object_here = (masks[view].to(device) >= _BACKGROUND).int()
                sums = nn.functional.pad(object_here.cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32), (1, 0, 1, 0))
            struct = filled(
                _View,
                camera_from_world=camera_from_world[view].contiguous(),
                intrinsics=intrinsics[view].contiguous(),
                lens=lens[view].contiguous(),
                fisheye=int(fisheye),
                widest=min(widest, 3.14) if fisheye else widest,
                width=width,
                height=height,
            )
            arguments = [struct, sums.contiguous(), float(margin), self.resolution, seen, carved]
            launch(_mark_seen_kernel, seen.shape[0], arguments, device)
        if spared is not None:
            carved[: self.resolution**3] &= ~spared.reshape(-1).to(device)
        self.seen.copy_(seen.bool() & ~carved.bool())
        self.values.masked_fill_(~self.seen, -1.0)
        self._pack(torch.where(self.occupied() & self.seen, 1.0, 0.0), torch.zeros(1, device=device))

    @torch.no_grad()
    def update(
        self,
        evaluate: Callable[[Float[Tensor, "points 3"]], Float[Tensor, " points"]],
        *,
        threshold: float,
        decay: float = 0.95,
        cells: int | None,
        generator: torch.Generator,
    ) -> None:
        """Evaluate the field in some cells and update which cells are occupied.

        value ← max(decay · value, evaluate(x)) at one random point x in each visited cell. A cell is then occupied if its value exceeds
        min(mean over seen cells, threshold), so as long as some value is positive, at least one cell is. NaN counts as zero.

        Args:
            evaluate: opacity (or density) at points [n, 3]; called with at most 2^18 points.
            threshold: value above which a cell is always occupied.
            decay: factor on the old value per visit.
            cells: None visits every seen cell. A number visits that many seen cells, one in each of as many equal strata of their list, and
            as many occupied cells likewise (all of them if there are fewer).
            generator: randomness, on the device of the grid.

        Raises:
            ValueError: ``evaluate`` does not return one number per point, or an option is out of its range.

        Source: Müller et al., Instant neural graphics primitives, 2022, appendix C.
        """
        takes = self._check_state("update")
        takes.function(evaluate, "evaluate")
        threshold, decay = takes.number(threshold, "threshold", 0.0), takes.number(decay, "decay", 0.0, 1.0)
        device = self.values.device
        takes.generator(generator, "generator", device)
        if cells is not None:
            takes.integer(cells, "cells", 1)
        on_a_cpu = on_cpu(device)
        if cells is None:
            visited = self.seen.nonzero()[:, 0] if on_a_cpu else torch.arange(self.values.shape[0], device=device)
        else:
            visited = torch.cat([_strata(self.seen, cells, generator), _strata(self.occupied(), cells, generator)])
        found = []
        for chunk in visited.split(_CHUNK):
            value = takes.float32(evaluate(self._points_in(chunk, generator)), "the result of evaluate", ((chunk.shape[0], "points"),))
            found.append(torch.nan_to_num(value, nan=0.0).clamp_min(0.0))
        if found:
            self.values[visited] = self.values[visited] * decay
            self.values.scatter_reduce_(0, visited, torch.cat(found), "amax")
            self.values.masked_fill_(~self.seen, -1.0)
        mean = torch.where(self.seen, self.values, 0.0).sum() / self.seen.sum().clamp_min(1)
        self._pack(self.values, (0.999 * mean).clamp_max(threshold).reshape(1))

    @torch.no_grad()
    def set_from_values(self, values: Float[Tensor, " cells"], threshold: float) -> None:
        """Fill the grid directly, for fields that know their occupancy.

        Args:
            values: one per cell, in the order of the module docstring.
            threshold: value above which a seen cell is occupied. The mean is not considered, so all cells may become empty.

        Raises:
            ValueError: there is not one value per cell, or its type or device is wrong.
        """
        takes = self._check_state("set_from_values")
        values = takes.float32(values, "values", ((self.values.shape[0], "cells"),)).contiguous()
        threshold = takes.number(threshold, "threshold")
        self.values.copy_(torch.where(self.seen, values, -1.0))
        self._pack(values, torch.full((1,), threshold, device=self.values.device))

    def _check_state(self, verb: str) -> Arguments:
        """Require the buffers as they were made: ``half()`` and ``double()`` of a model change them.

        Raises:
            ValueError: a buffer has another type, shape or device.
        """
        cells = self.levels * self.resolution**3
        takes = Arguments(verb)
        takes.float32(self.values, "the grid's values", ((cells, "cells"),))
        takes.tensor(self.bits, "the grid's bits", (torch.int32,), ((cells // 32, "words"),))
        takes.tensor(self.clearance, "the grid's clearance", (torch.int32,), ((cells // 64, "bricks"),))
        takes.flags(self.seen, "the grid's seen cells", ((cells, "cells"),))
        return takes

    def _pack(self, values: Tensor, limit: Tensor) -> None:
        """Set the bits of the seen cells with values above ``limit``, and the resulting clearance."""
        device = self.bits.device
        launch(_pack_kernel, self.bits.shape[0], [values, self.seen.view(torch.uint8), limit, self.resolution, self.bits], device)
        bricks, number = self.resolution // 4, self.clearance.shape[0]
        launch(_nearest_kernel, number, [self.bits, bricks, _FARTHEST, self.clearance], device)
        for stride in (1, bricks, bricks * bricks):
            launch(_spread_kernel, number, [self.clearance.clone(), stride, bricks, _FARTHEST, self.clearance], device)

    def cell_centers(self) -> Float[Tensor, "cells 3"]:
        """Return the world position of the middle of every cell, in the order of ``values``."""
        self._check_state("cell_centers")
        cells = torch.arange(self.values.shape[0], device=self.values.device)
        return self._points(cells, torch.full((cells.shape[0], 3), 0.5, device=cells.device))

    def _points_in(self, cells: Tensor, generator: torch.Generator) -> Tensor:
        return self._points(cells, torch.rand(cells.shape[0], 3, generator=generator, device=cells.device))

    def _points(self, cells: Tensor, within: Tensor) -> Tensor:
        points = torch.empty_like(within)
        launch(_points_kernel, cells.shape[0], [cells.int(), within, self.resolution, points], cells.device)
        return points


def _check_cameras(cameras: Cameras) -> tuple[list[list[int]], Tensor]:
    """Return the (width, height) of each camera, and the float32 transforms to the cameras.

    Raises:
        ValueError: a tensor has the wrong type or shape, a transform has no inverse, or a number is out of its range.
    """
    takes = Arguments("mark_seen")
    takes.instance(cameras, "cameras", Cameras)
    floats = (torch.float32, torch.float64)
    poses = takes.tensor(cameras.world_from_camera, "cameras.world_from_camera", floats, ("views", 4, 4))
    count = (poses.shape[0], "views")
    intrinsics = takes.tensor(cameras.intrinsics, "cameras.intrinsics", floats, (count, 4))
    takes.tensor(cameras.distortion, "cameras.distortion", floats, (count, 6))
    on_the_host = Arguments("mark_seen")
    sizes = on_the_host.integers(cameras.sizes, "cameras.sizes", (count, 2)).tolist()
    on_the_host.flags(cameras.fisheye, "cameras.fisheye", (count,))
    for view, ((width, height), (fx, fy, *_)) in enumerate(zip(sizes, intrinsics.tolist(), strict=True)):
        if not (0 < width <= _LARGEST_IMAGE_SIDE and 0 < height <= _LARGEST_IMAGE_SIDE and fx > 0 and fy > 0):
            found = f"{width} × {height} and {fx:g}, {fy:g}"
            raise ValueError(f"mark_seen takes positive sizes and focal lengths as cameras, got {found} in view {view}")
    inverse, singular = torch.linalg.inv_ex(poses.detach().double())
    bad = (singular != 0) | ~inverse.isfinite().all(-1).all(-1) | ~intrinsics.isfinite().all(-1)
    if bad.any():
        raise ValueError(f"mark_seen takes finite cameras whose transforms have an inverse, got another in view {int(bad.nonzero()[0])}")
    return sizes, inverse.float()


def _strata(among: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` cells of those marked in ``among``, one from each equal part of their list.

    On a CPU all are returned if there are no more. On a GPU, where reading their number would synchronize, a cell may be drawn twice, and
    the last cell of the grid is drawn if none is marked.
    """
    if on_cpu(among.device):
        marked = among.nonzero()[:, 0]
        if marked.shape[0] <= count:
            return marked
        places = (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) * (marked.shape[0] / count)
        return marked[places.long().clamp_max(marked.shape[0] - 1)]
    ranks = among.cumsum(0)
    places = (
        torch.arange(count, device=among.device) + torch.rand(count, generator=generator, dtype=torch.float64, device=among.device)
    ) * (ranks[-1] / count)
    return torch.searchsorted(ranks, places.long().minimum(ranks[-1] - 1).clamp_min(0), right=True).clamp_max(among.shape[0] - 1)
