"""Marching of rays through nested boxes of cells, of any size and resolution, the first of which counts where it is.

The lattice of a ray begins at its near distance: t_0 = near, t_{k+1} = t_k + max(step, cone_angle t_k). An interval is emitted if its
middle lies before far, within some box, and in an occupied cell of the first box that contains it. Distances are multiples of the
direction, which need not be a unit vector. :func:`unrender.ops.rays.march` is the faster one, for cubes around the origin.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import warp as wp
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.cameras import Rays
from unrender.devices import on_cpu
from unrender.ops.kernels.checks import MOST_ELEMENTS, Arguments
from unrender.ops.kernels.launch import launch
from unrender.ops.kernels.structs import filled
from unrender.ops.rays.checks import ray_tensors
from unrender.ops.rays.samples import SampleArrays, Samples, allocate_samples

wp.set_module_options({"enable_backward": False})

_RAYS_PER_CHUNK = 256
_SIDE = wp.constant(8)
_MOST_STEPS = 2**24
"""Intervals on the longest way through the boxes: float32 distances cannot tell more apart."""


class _BoxFields:
    """Nested boxes [boxes, 6], and which of their cells are occupied, in the order [box, x, y, z]."""

    corners: wp.array2d(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    occupied: wp.array(dtype=wp.uint8)  # pyright: ignore[reportInvalidTypeForm]
    blocks: wp.array(dtype=wp.uint8)  # pyright: ignore[reportInvalidTypeForm]
    """Whether some cell is occupied, in each block of ``_SIDE`` cells along each axis; an empty one is passed at once."""
    resolution: wp.vec3i


_Boxes = wp.struct(_BoxFields)


@no_type_check
@wp.func
def _corner(boxes: _Boxes, box: int, offset: int):
    return wp.vec3(boxes.corners[box, offset], boxes.corners[box, offset + 1], boxes.corners[box, offset + 2])


@no_type_check
@wp.func
def _crossing(low: wp.vec3, high: wp.vec3, origin: wp.vec3, direction: wp.vec3):
    """Return where a line enters and leaves a box; the first is not smaller if it misses the box."""
    enter = float(-wp.inf)
    leave = float(wp.inf)
    for c in range(3):
        if direction[c] != 0.0:
            a = (low[c] - origin[c]) / direction[c]
            b = (high[c] - origin[c]) / direction[c]
            enter = wp.max(enter, wp.min(a, b))
            leave = wp.min(leave, wp.max(a, b))
        else:
            if not (origin[c] >= low[c] and origin[c] <= high[c]):
                leave = float(-wp.inf)
    return enter, leave


@no_type_check
@wp.kernel
def _march_kernel(
    first: int,
    origins: wp.array2d(dtype=wp.float32),
    directions: wp.array2d(dtype=wp.float32),
    near: wp.array(dtype=wp.float32),
    far: wp.array(dtype=wp.float32),
    boxes: _Boxes,
    step: float,
    cone: float,
    most: int,
    writing: int,
    samples: SampleArrays,
):
    """Count the samples of a ray, or write them."""
    ray = first + wp.tid()
    o = wp.vec3(origins[ray, 0], origins[ray, 1], origins[ray, 2])
    d = wp.vec3(directions[ray, 0], directions[ray, 1], directions[ray, 2])
    enter = float(wp.inf)
    leave = float(-wp.inf)
    for box in range(boxes.corners.shape[0]):
        a, b = _crossing(_corner(boxes, box, 0), _corner(boxes, box, 3), o, d)
        if a < b:
            enter = wp.min(enter, a)
            leave = wp.max(leave, b)
    begin = near[ray]
    leave = wp.min(leave, far[ray])
    quota = most
    out = int(0)
    if writing == 1:
        quota = samples.count[ray]
        out = samples.first[ray]
    found = int(0)
    k = float(0.0)
    t = begin
    moving = wp.isfinite(enter) and wp.isfinite(leave) and wp.isfinite(begin)
    if not (moving and enter < leave):
        quota = 0
    if quota > 0 and enter > begin:
        if cone > 0.0:
            ahead = t + wp.max(step, t * cone)
            while 0.5 * (t + ahead) < enter and ahead > t:
                t = ahead
                ahead = t + wp.max(step, t * cone)
        else:
            k = wp.max(wp.floor((enter - begin) / step - 0.5), 0.0)
            t = begin + k * step
    while found < quota:
        ahead = begin + (k + 1.0) * step
        if cone > 0.0:
            ahead = t + wp.max(step, t * cone)
        middle = 0.5 * (t + ahead)
        if not (middle < leave) or not (ahead > t):
            break
        p = o + d * middle
        inside = int(-1)
        for box in range(boxes.corners.shape[0]):
            low = _corner(boxes, box, 0)
            high = _corner(boxes, box, 3)
            within = p[0] >= low[0] and p[1] >= low[1] and p[2] >= low[2] and p[0] <= high[0] and p[1] <= high[1] and p[2] <= high[2]
            if within and inside < 0:
                inside = box
        safe = middle
        taken = int(0)
        if inside >= 0:
            low = _corner(boxes, inside, 0)
            high = _corner(boxes, inside, 3)
            size = wp.vec3(
                (high[0] - low[0]) / float(boxes.resolution[0]),
                (high[1] - low[1]) / float(boxes.resolution[1]),
                (high[2] - low[2]) / float(boxes.resolution[2]),
            )
            x = wp.clamp(int((p[0] - low[0]) / size[0]), 0, boxes.resolution[0] - 1)
            y = wp.clamp(int((p[1] - low[1]) / size[1]), 0, boxes.resolution[1] - 1)
            z = wp.clamp(int((p[2] - low[2]) / size[2]), 0, boxes.resolution[2] - 1)
            cell = ((inside * boxes.resolution[0] + x) * boxes.resolution[1] + y) * boxes.resolution[2] + z
            if boxes.occupied[cell] != wp.uint8(0):
                taken = 1
            else:
                x0 = x
                y0 = y
                z0 = z
                x1 = x + 1
                y1 = y + 1
                z1 = z + 1
                blocks_y = (boxes.resolution[1] + _SIDE - 1) / _SIDE
                blocks_z = (boxes.resolution[2] + _SIDE - 1) / _SIDE
                block = ((inside * ((boxes.resolution[0] + _SIDE - 1) / _SIDE) + x / _SIDE) * blocks_y + y / _SIDE) * blocks_z + z / _SIDE
                if boxes.blocks[block] == wp.uint8(0):
                    x0 = x - x % _SIDE
                    y0 = y - y % _SIDE
                    z0 = z - z % _SIDE
                    x1 = wp.min(x0 + _SIDE, boxes.resolution[0])
                    y1 = wp.min(y0 + _SIDE, boxes.resolution[1])
                    z1 = wp.min(z0 + _SIDE, boxes.resolution[2])
                before = wp.vec3(float(x0), float(y0), float(z0))
                behind = wp.vec3(float(x1), float(y1), float(z1))
                safe = leave
                for c in range(3):
                    if d[c] != 0.0:
                        face = low[c] + size[c] * wp.where(d[c] > 0.0, behind[c], before[c])
                        slack = 1.0e-6 * (wp.abs(face) + wp.abs(o[c])) / wp.abs(d[c])
                        safe = wp.min(safe, (face - o[c]) / d[c] - slack)
                for box in range(inside):
                    a, b = _crossing(_corner(boxes, box, 0), _corner(boxes, box, 3), o, d)
                    if a < b and b > middle:
                        safe = wp.min(safe, a)
        if taken == 1:
            if writing == 1:
                samples.ray_index[out + found] = ray
                samples.starts[out + found] = t
                samples.ends[out + found] = ahead
            found += 1
        if cone > 0.0:
            t = ahead
            if taken == 0:
                ahead = t + wp.max(step, t * cone)
                while 0.5 * (t + ahead) < safe and ahead > t:
                    t = ahead
                    ahead = t + wp.max(step, t * cone)
        else:
            k += 1.0
            if taken == 0:
                k = wp.max(k, wp.floor((safe - begin) / step - 0.5))
            t = begin + k * step
    if writing == 0:
        samples.count[ray] = found


def _grid_of(cells: Tensor, corners: Tensor) -> Any:
    side, flags = int(_SIDE), cells.view(torch.uint8)
    bounds = [-(-size // side) * side - size for size in cells.shape[1:]]
    padded = torch.nn.functional.pad(flags, (0, bounds[2], 0, bounds[1], 0, bounds[0]))
    for axis in (1, 2, 3):
        padded = padded.unflatten(axis, (-1, side)).amax(axis + 1)
    resolution = wp.vec3i(*cells.shape[1:])
    return filled(_Boxes, corners=corners, occupied=flags.view(-1), blocks=padded.contiguous().view(-1), resolution=resolution)


@torch.no_grad()
def march_boxes(
    rays: Rays,
    occupied: Bool[Tensor, "boxes x y z"],
    boxes: Float[Tensor, "boxes 6"],
    *,
    near: Float[Tensor, " rays"],
    far: Float[Tensor, " rays"],
    step: float,
    cone_angle: float = 0.0,
    max_samples_per_ray: int | None = None,
) -> Samples:
    """Cut each ray into intervals from its near distance on, and keep those whose middle lies in an occupied cell.

    Not differentiable. The number of samples is read by the host.

    Args:
        rays: origins and directions of any length.
        occupied: which cells of each box are occupied.
        boxes: least and greatest corner of each box; where several contain a point, the first counts.
        near: where the lattice of each ray begins.
        far: distance beyond which no middle of an interval lies.
        step: shortest interval; at least a 2^24th of the longest way through the boxes, in multiples of the direction.
        cone_angle: growth of the intervals with distance; 0 keeps them equal.
        max_samples_per_ray: number of nearest samples kept on each ray; None keeps all.

    Raises:
        ValueError: a tensor has the wrong type, shape or device, a step is too short, or a number is out of its range.

    Source: Müller et al., Instant neural graphics primitives, 2022, appendix E; Li et al., NerfAcc, 2023, section 4.

    >>> rays = Rays(torch.tensor([[-2.0, 0.5, 0.5]]), torch.tensor([[1.0, 0.0, 0.0]]))
    >>> occupied = torch.tensor([False, True]).view(1, 2, 1, 1)
    >>> box, zero = torch.tensor([[0.0, 0.0, 0.0, 2.0, 1.0, 1.0]]), torch.zeros(1)
    >>> march_boxes(rays, occupied, box, near=zero, far=zero + 9, step=0.5).starts.tolist()      # the cell 1 < x < 2
    [3.0, 3.5]
    """
    takes = Arguments("march_boxes")
    origins, directions = ray_tensors(takes, rays)
    number = (origins.shape[0], "rays")
    cells = takes.flags(occupied, "occupied", ("boxes", "x", "y", "z")).contiguous()
    corners = takes.float32(boxes, "boxes", ((cells.shape[0], "boxes"), 6)).contiguous()
    begins = takes.float32(near, "near", (number,)).contiguous()
    ends = takes.float32(far, "far", (number,)).contiguous()
    cone_angle = takes.number(cone_angle, "cone_angle", 0.0)
    step = takes.number(step, "step", 1e-30)
    most = MOST_ELEMENTS if max_samples_per_ray is None else takes.integer(max_samples_per_ray, "max_samples_per_ray", 1)
    device = origins.device
    counts = torch.zeros(number[0], dtype=torch.int32, device=device)
    if number[0] > 0 and cells.numel() > 0:
        diagonal = (corners[:, 3:] - corners[:, :3]).norm(dim=1).max() / directions.norm(dim=1).min().clamp_min(1e-30)
        if cone_angle == 0.0 and float(diagonal) > step * _MOST_STEPS:
            raise ValueError(f"march_boxes takes a step of at least {float(diagonal) / _MOST_STEPS:g} in these boxes, got {step:g}")
    nothing, no_rays = torch.zeros(0, device=device), torch.zeros(0, dtype=torch.int32, device=device)
    counted = filled(SampleArrays, ray_index=no_rays, starts=nothing, ends=nothing, first=no_rays, count=counts)
    grid = _grid_of(cells, corners)
    chunks = max(1, number[0] // _RAYS_PER_CHUNK) if on_cpu(device) else None
    shared = [origins, directions, begins, ends, grid, step, cone_angle, most]
    launch(_march_kernel, number[0], [*shared, 0, counted], device, chunks=chunks)
    samples = allocate_samples(counts, None, "march_boxes")
    launch(_march_kernel, number[0], [*shared, 1, samples.arrays], device, chunks=chunks)
    return samples
