"""Normalization: the similarity between the source frame and the world, whose region of interest is [-1, 1]³ with +Z up.

``source_from_world`` = [r R | c] maps a point p of the normalized world to r R p + c in the frame of the input poses: c is the center of
the region, r half its extent, and R turns +Z to the upward direction of the source frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import CaptureError
from unrender.captures.silhouettes import Silhouette, carved, cells_of_cube, children, grown_by_a_cell, outlining
from unrender.captures.source import Source
from unrender.transforms import inverse_similarity, rotation_between, scale_of, similarity, transformed
from unrender.words import Up

_COARSE_GRID = 24
_COARSE_STEP = 4
_PADDING = 1.1

_TIGHT = 0.7
"""A box smaller than this share of the box it was carved from is carved again, with proportionally smaller cells."""

_LEAST_SPREAD = 1e-3
"""Least eigenvalue of the mean of I - d dᵀ over optical axes d: below it (about 2.5 degrees apart) the axes are parallel."""

_AROUND = 1.5
"""Half the side of the box from which masks carve the object, as a multiple of that of a stated region of interest."""

_ONE_PLACE = 1e-9
"""Cameras that differ by a smaller share of their coordinates stand at one place."""

_UPRIGHT = math.cos(math.radians(30))


@dataclass(frozen=True)
class Normalization:
    source_from_world: Float[Tensor, "4 4"]
    unbounded: bool
    up: tuple[float, float, float] | None
    """The upward direction in the source frame, a unit vector; None if it is unknown."""
    notes: tuple[str, ...]


def normalized_poses(source_from_camera: Float[Tensor, "views 4 4"], source_from_world: Float[Tensor, "4 4"]) -> Float[Tensor, "views 4 4"]:
    """Return rigid ``world_from_camera``: the similarity's scale applies to camera positions, not to axes.

    >>> pose = torch.eye(4, dtype=torch.float64)[None].clone()
    >>> pose[0, :3, 3] = torch.tensor([10.0, 0.0, 4.0])
    >>> normalized_poses(pose, similarity(torch.tensor([10.0, 0.0, 0.0]).double(), 2.0, torch.eye(3).double()))[0, :3, 3].tolist()
    [0.0, 0.0, 2.0]
    """
    world_from_source = inverse_similarity(source_from_world)
    poses = world_from_source @ source_from_camera
    poses[:, :3, :3] *= scale_of(source_from_world)
    return poses


def source_cameras(source: Source, views: Sequence[int], frame: Float[Tensor, "4 4"]) -> Cameras:
    """Return some cameras of a source, at the size of its photos, in the world that ``frame`` (``source_from_world``) describes."""
    index = torch.tensor(views)
    return Cameras(
        world_from_camera=normalized_poses(source.source_from_camera[index], frame).float(),
        intrinsics=source.intrinsics[index].float(),
        distortion=source.distortion[index].float(),
        sizes=source.sizes[index],
        fisheye=source.fisheye[index],
    )


def normalize(
    source: Source,
    masks: Sequence[UInt8[Tensor, "_ _"]] | None,
    *,
    center: tuple[float, float, float] | None = None,
    radius: float | None = None,
    up: Up | None = None,
) -> Normalization:
    """Find the region of interest of a capture.

    - Files with a normalization: that one, with the axes of their own frame.
    - Files that state the box of the object: the cube around it; masks narrow down a larger one.
    - With masks: the box of their visual hull, padded by a tenth and made a cube. It is carved from the region that the format specifies,
      or from a box between the cameras.
    - Without masks: the point nearest to all optical axes, or the mean camera position if the axes are nearly parallel or meet
      behind the cameras; the median distance of the cameras from it becomes one.

    +Z is the cameras' mean upward axis, unless the format says that +Z is up, or an object with masks is upright already.

    Everything is computed in float64 relative to the cameras, so georeferenced poses keep their accuracy.

    Args:
        source: the cameras.
        masks: at the size of the photos or smaller by an integer factor; None for no masks.
        center: of the region, in the source frame; overrides the one found.
        radius: half the extent of the region, in the source frame.
        up: the upward direction of the source frame.

    Raises:
        CaptureError: a radius that is not positive, a center that is not finite, or an upward direction of length zero.
    """
    _check_overrides(center, radius)
    poses = source.source_from_camera
    chosen = None if center is None else torch.tensor(center, dtype=torch.float64)
    found, notes = source.source_from_world, list[str]()
    if found is not None and up is None:
        rotation, known = found[:3, :3] / scale_of(found), False
        notes.append("the world keeps the axes of the capture's own unit sphere, so +Z need not be up; give up to turn it")
    else:
        rotation, known, notes = _world_axes(source, masks is not None, up)
    if found is not None:
        middle, extent = found[:3, 3], scale_of(found)
    elif chosen is not None and radius is not None:
        middle, extent = chosen, radius
    elif source.focus is not None and masks is None:
        middle, extent = torch.tensor(source.focus.center, dtype=torch.float64), source.focus.half_side_along(rotation)
    elif source.focus is not None and masks is not None:
        middle = torch.tensor(source.focus.center, dtype=torch.float64)
        middle, extent = _carved(source, masks, middle, _AROUND * source.focus.half_side_along(rotation), rotation, notes)
    elif source.region is not None and masks is not None:
        middle, extent = torch.tensor(source.region.center, dtype=torch.float64), source.region.half_side_along(rotation)
        middle, extent = _carved(source, masks, middle, extent, rotation, notes)
    else:
        middle = _center(source, masks is not None, notes) if chosen is None else chosen
        extent = float((poses[:, :3, 3] - middle).norm(dim=-1).median())
        if extent <= _ONE_PLACE * float(poses[:, :3, 3].abs().max()):
            extent = 1.0
            notes.append("the cameras share one position, so the scale of the world is that of the file")
        if masks is not None:
            longest = source.sizes.amax(1).double()
            # Focal lengths, rescaled as if all photos had the longer side of the largest one.
            focal = source.intrinsics[:, :2] * (longest.max() / longest)[:, None]
            half_view = 0.5 * float(longest.max()) / float(focal.median())
            middle, extent = _carved(source, masks, middle, extent * min(0.9, half_view), rotation, notes)
    middle, extent = (middle if chosen is None else chosen), (extent if radius is None else radius)
    x, y, z = rotation[:, 2].tolist()
    return Normalization(similarity(middle, extent, rotation), masks is None, (x, y, z) if known else None, tuple(notes))


def _center(source: Source, has_masks: bool, notes: list[str]) -> Float[Tensor, " 3"]:
    """Find the center of the region from the cameras alone."""
    poses = source.source_from_camera
    positions, axes = poses[:, :3, 3], poses[:, :3, 2]
    middle = positions.mean(0)
    if float((positions - middle).norm(dim=-1).max()) <= _ONE_PLACE * float(positions.abs().max()):
        if not has_masks:
            notes.append("the cameras share one position, so the world is centered on them; give a center to change it")
            return middle
        forward = axes.mean(0) if float(axes.mean(0).norm()) > 0.1 else axes[0]
        forward = forward / forward.norm()
        distance = -float(torch.dot(middle, forward))
        notes.append(
            "the cameras share one position, so the masks do not tell how far away the object is: the region of interest is a guess; give "
            "center and radius"
        )
        return middle + forward * (distance if distance > 0 else 1.0)
    meeting = _meeting_of_axes(poses)
    if meeting is None:
        notes.append("the optical axes do not meet in front of the cameras, so the world is centered on them; give a center to change it")
        return middle
    point, ahead = meeting
    if ahead > 0:
        return point
    others = "opengl" if source.camera_axes == "opencv" else "mitsuba, or opencv if the pictures are then upside down"
    notes.append(
        "the optical axes meet behind the cameras, so the world is centered on the cameras: if they should look at an object, the axes of "
        f"the cameras are not those of the format ({source.camera_axes}); give camera_axes={others}"
    )
    return middle


def nearest_to_axes(poses: Float[Tensor, "views 4 4"]) -> Float[Tensor, " 3"] | None:
    """Find the point nearest to all optical axes.

    It has the least sum of squared distances: Σ (I - d dᵀ) x = Σ (I - d dᵀ) o. None if the axes are nearly parallel, or if the point lies
    behind most cameras.
    """
    meeting = _meeting_of_axes(poses)
    return meeting[0] if meeting is not None and meeting[1] > 0 else None


def _meeting_of_axes(poses: Float[Tensor, "views 4 4"]) -> tuple[Float[Tensor, " 3"], float] | None:
    """Return the point of :func:`nearest_to_axes` and its median depth in the cameras; None if the axes are nearly parallel."""
    origins, axes = poses[:, :3, 3], poses[:, :3, 2]
    shift = origins.mean(0)
    across = torch.eye(3).to(poses) - axes[:, :, None] * axes[:, None, :]
    total = across.mean(0)
    if float(torch.linalg.eigvalsh(total)[0]) < _LEAST_SPREAD:
        return None
    point = shift + torch.linalg.solve(total, (across @ (origins - shift)[:, :, None]).mean(0)[:, 0])
    return point, float(((point - origins) * axes).sum(-1).median())


def visual_hull_box(masks: Sequence[UInt8[Tensor, "_ _"]], cameras: Cameras) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]] | None:
    """Return the lower and upper corner of the visual hull within [-1, 1]³.

    The cube is cut into 48³ cells; the result is None if none remains. A cell remains if at least half of the views see its center, and at
    most one view in twenty (a bad mask) sees the whole cell outside its mask. Coarser cells are carved first, with fewer views. ``masks``
    may be smaller than the images of ``cameras`` by an integer factor.
    """
    pooled = [Silhouette.of(mask, int(width)) for mask, width in zip(masks, cameras.sizes[:, 0], strict=True)]
    cell, allowed = 2 / _COARSE_GRID, len(cameras) // 20
    few = slice(None, None, _COARSE_STEP)
    coarse, _ = _carved_cells(cells_of_cube(_COARSE_GRID), cell, pooled[few], cameras[few], allowed)
    fine, seen = _carved_cells(children(coarse, cell, 2), cell / 2, pooled, cameras, allowed)
    fine = fine[2 * seen >= len(cameras)]
    if len(fine) == 0:
        return None
    return fine.amin(0) - cell / 4, fine.amax(0) + cell / 4


def _carved_cells(
    centers: Float[Tensor, "cells 3"], cell: float, silhouettes: Sequence[Silhouette], cameras: Cameras, allowed: int
) -> tuple[Float[Tensor, "left 3"], Int[Tensor, " left"]]:
    """Keep the cells that lie outside of at most ``allowed`` masks, which are grown by half a cell's diagonal first."""
    grown = grown_by_a_cell(silhouettes, cameras, cell)
    return carved(centers, [(mask, silhouette.pixel) for mask, silhouette in zip(grown, silhouettes, strict=True)], cameras, allowed)


def _carved(
    source: Source,
    masks: Sequence[UInt8[Tensor, "_ _"]],
    middle: Float[Tensor, " 3"],
    half: float,
    rotation: Float[Tensor, "3 3"],
    notes: list[str],
) -> tuple[Float[Tensor, " 3"], float]:
    """Find center and half side of the padded cube around the visual hull within a box.

    If the hull is empty, the box itself is used.
    """
    views = outlining(source.split.train)
    first = (middle, half)
    for _ in range(2):
        frame = similarity(middle, half, rotation)
        box = visual_hull_box([masks[view] for view in views], source_cameras(source, views, frame))
        if box is None:
            notes.append(
                "no point lies inside the masks of most views, so the region of interest is a guess; check that masks are bright on the "
                "object and that poses follow the convention of their format"
            )
            return first
        low, high = box
        extent = float((high - low).max()) / 2 * _PADDING
        middle, half = transformed(((low + high) / 2).double()[None], frame)[0], half * extent
        if extent > _TIGHT:
            break
    return middle, half


def _world_axes(source: Source, has_masks: bool, up: Up | None) -> tuple[Float[Tensor, "3 3"], bool, list[str]]:
    """Decide R of the similarity, and whether its +Z is known to be up, with a note about it."""
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    cameras_up = -source.source_from_camera[:, :3, 1].mean(0)
    agree = float(cameras_up.norm()) > 0.1
    if up is None:
        tilted = agree and float(torch.dot(cameras_up, z)) < _UPRIGHT * float(cameras_up.norm())
        if source.up is not None:
            return rotation_between(z, torch.tensor(source.up, dtype=torch.float64)), True, []
        if not agree or (has_masks and not tilted):
            return torch.eye(3, dtype=torch.float64), agree, []
        return rotation_between(z, cameras_up), True, ["+Z of the world is the mean upward direction of the cameras"]
    if up == "cameras":
        if not agree:
            raise CaptureError('the upward directions of the cameras cancel; give up as an axis ("x", "-y", ...) or a vector')
        return rotation_between(z, cameras_up), True, ["+Z of the world is the mean upward direction of the cameras"]
    if isinstance(up, str):
        direction = torch.eye(3, dtype=torch.float64)["xyz".index(up[-1])] * (-1 if up.startswith("-") else 1)
    else:
        direction = torch.tensor(up, dtype=torch.float64)
    if not 0 < float(direction.norm()) < math.inf:
        raise CaptureError(f"up is {up}; give a direction of finite length above zero")
    return rotation_between(z, direction), True, []


def _check_overrides(center: tuple[float, float, float] | None, radius: float | None) -> None:
    if center is not None and not all(map(math.isfinite, center)):
        raise CaptureError(f"center is {center}; give three finite numbers in the frame of the poses")
    if radius is not None and not 0 < radius < math.inf:
        raise CaptureError(f"radius is {radius}; give a positive number in the units of the poses")
