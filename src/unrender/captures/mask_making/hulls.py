"""The visual hull of masks some of which are wrong, and what it says about each of them.

A cell of space belongs to the hull if at least nine tenths of the views that see it have it inside their masks. What a single view must
show is asked of the other views alone, so a mask that is wrong does not confirm itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.ndimage import binary_dilation, distance_transform_edt, label
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.images import in_threads
from unrender.captures.normalization import normalize, source_cameras
from unrender.captures.silhouettes import CHUNK, cells_of_cube, children
from unrender.captures.source import Source
from unrender.transforms import similarity

_TOLERANCE = 0.1
"""Share of the views that may see a cell of the hull outside of their masks."""

_SURE = 0.01
"""Share of the other views that may see a cell outside of their masks if a view must show it inside."""

_CELLS = (24, 48, 96)
"""Cells along a side of the box, coarse ones first."""

_STRIDE = 6
"""Views between two removals of cells that are cut away; these views are spread over all."""

_MOST_VIEWS = 64
_PADDING = 1.15
_TIGHT = 0.7
"""A hull smaller than this share of its box is carved again in a smaller one."""

_SMALL = 0.02
"""Parts of the hull with fewer cells than this share of the largest, and a gap of cells around them, are other things."""

_LEAST_VIEWS = 3


@dataclass(frozen=True)
class Hull:
    """Cells of space inside the masks of nearly all views."""

    cells: Float[Tensor, "cells 3"]
    """Their centers in the world of ``cameras``."""
    side: float
    """Of a cell."""
    seen: Int[Tensor, " cells"]
    """Number of views that see each cell."""
    cuts: Int[Tensor, " cells"]
    """Number of views that see each cell outside of their masks."""
    cameras: Cameras
    voters: frozenset[int]
    frame: Float[Tensor, "4 4"]
    """The similarity from their world to the frame of the poses."""


@dataclass(frozen=True)
class Expectation:
    """What the other views say about a mask, at its size."""

    outline: Bool[ndarray, "rows columns"]
    """The hull."""
    core: Bool[ndarray, "rows columns"]
    """Pixels that show the object in the opinion of nearly all others."""
    blur: float
    """Size of a cell in pixels of the mask."""


def carve(source: Source, masks: Sequence[Bool[ndarray, "_ _"]], frame: Float[Tensor, "4 4"] | None = None) -> Hull | None:
    """Carve the visual hull of masks of any sizes, one for each view; None if nothing remains.

    Args:
        source: the cameras.
        masks: as said.
        frame: of an earlier hull of nearly the same masks, whose box is used again.
    """
    count = min(_MOST_VIEWS, len(masks))
    voters = [k * len(masks) // count for k in range(count)]
    silhouettes = in_threads(lambda view: _Silhouette.of(masks[view]), voters)
    frame = _box_around(source, voters, silhouettes) if frame is None else frame
    if frame is None:
        return None
    cells, seen, cuts = _carved(silhouettes, source_cameras(source, voters, frame), _CELLS)
    main = _main_parts(cells, cuts <= _TOLERANCE * seen)
    if not bool(main.any()):
        return None
    cameras = source_cameras(source, range(len(masks)), frame)
    return Hull(cells[main], 2 / _CELLS[-1], seen[main], cuts[main], cameras, frozenset(voters), frame)


def _box_around(source: Source, voters: Sequence[int], silhouettes: Sequence[_Silhouette]) -> Float[Tensor, "4 4"] | None:
    """Return the similarity from [-1, 1]³ to a padded cube around the hull; None if nothing remains of it."""
    first = normalize(source, None).source_from_world
    longest, focal = source.sizes.amax(1).double(), source.intrinsics[:, :2].amax(1)
    half_view = 0.5 * float((longest / focal).median())  # half the width of a photo, at the distance one
    distance = float(source_cameras(source, voters, first).positions.norm(dim=-1).median())
    middle, half = torch.zeros(3), 1.0 if source.source_from_world is not None else distance * min(0.9, half_view)
    for attempt in range(4):
        frame = first @ similarity(middle.double(), half, torch.eye(3, dtype=torch.float64))
        found = _carved(silhouettes, source_cameras(source, voters, frame), _CELLS[:2])[0]
        if len(found) == 0:
            return None
        low, high = found.amin(0) - 1 / _CELLS[1], found.amax(0) + 1 / _CELLS[1]
        extent = float((high - low).max()) / 2 * _PADDING
        if extent > _TIGHT and attempt:
            break
        middle, half = middle + half * (low + high) / 2, half * min(1.0, extent)
    return first @ similarity(middle.double(), half, torch.eye(3, dtype=torch.float64))


def expectation(hull: Hull, view: int, mask: Bool[ndarray, "rows columns"]) -> Expectation:
    """Project the hull of all other views into a view, at the size of its mask."""
    rows, columns = mask.shape
    where, depth = hull.cameras.project(hull.cells, view)
    width, height = hull.cameras.sizes[view].tolist()
    x, y = (where[:, 0] * (columns / width)).floor(), (where[:, 1] * (rows / height)).floor()
    visible = (depth > 0) & (x >= 0) & (y >= 0) & (x < columns) & (y < rows)
    x, y = x[visible].long().numpy(), y[visible].long().numpy()
    focal = float(hull.cameras.intrinsics[view, :2].max()) * columns / width
    blur = hull.side * focal / float(depth[visible].median()) if len(x) else 1.0
    seen, cuts = hull.seen[visible].numpy(), hull.cuts[visible].numpy()
    if view in hull.voters:
        seen, cuts = seen - 1, cuts - _Silhouette.of(mask).misses(x, y, 0.87 * blur)
    outline, core = (
        _splatted(x[chosen], y[chosen], (rows, columns), 0.75 * blur) for chosen in (cuts <= _TOLERANCE * seen, cuts <= _SURE * seen)
    )
    return Expectation(outline, core, blur)


def agreement(mask: Bool[ndarray, "rows columns"], expected: Expectation) -> float:
    """Return the intersection over union of a mask and the hull of the others."""
    union = int((mask | expected.outline).sum())
    return int((mask & expected.outline).sum()) / union if union else 1.0


@dataclass(frozen=True)
class _Silhouette:
    distance: Float[ndarray, "rows columns"]
    """Distance of each pixel from the border of the mask in pixels, negative inside."""

    @classmethod
    def of(cls, mask: Bool[ndarray, "rows columns"]) -> _Silhouette:
        if not mask.any():
            return cls(np.full(mask.shape, np.inf, np.float32))
        return cls(
            np.where(mask, 1 - np.asarray(distance_transform_edt(mask)), np.asarray(distance_transform_edt(~mask))).astype(np.float32)
        )

    def misses(self, x: ndarray, y: ndarray, radius: float | ndarray) -> Bool[ndarray, " points"]:
        """Tell which discs lie outside of the mask."""
        return self.distance[y, x] > radius


def _splatted(x: ndarray, y: ndarray, shape: tuple[int, int], radius: float) -> Bool[ndarray, "rows columns"]:
    marks = np.zeros(shape, bool)
    marks[y, x] = True
    return np.asarray(distance_transform_edt(~marks)) <= radius if marks.any() else marks


def _carved(silhouettes: Sequence[_Silhouette], cameras: Cameras, levels: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the centers of the cells of [-1, 1]³ that few views cut away.

    With them come the numbers of views that see and that cut each. Cells deep inside of all masks are divided without looking at their
    parts.
    """
    cells = cells_of_cube(levels[0])
    seen = cuts = torch.zeros(len(cells), dtype=torch.int64)
    deep = torch.zeros(len(cells), dtype=torch.bool)
    for number in levels:
        side = 2 / number
        if number != levels[0]:
            cells = children(cells, 2 * side, 2)
            seen, cuts, deep = (values.repeat_interleave(8) for values in (seen, cuts, deep))
        within = (cells[deep], seen[deep], cuts[deep], deep[deep])
        parts = in_threads(lambda part, side=side: _votes(part, side, silhouettes, cameras), cells[~deep].split(CHUNK))
        cells, seen, cuts, deep = (torch.cat(column) for column in zip(within, *parts, strict=True))
    return cells, seen, cuts


def _votes(cells: Tensor, side: float, silhouettes: Sequence[_Silhouette], cameras: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keep the cells that are inside of enough masks, each grown by half the diagonal of a cell.

    Returns:
        Their centers, the views that see and that cut each of them, and whether they are deep inside of all masks.
    """
    seen, cuts, deep = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.int64), np.ones(len(cells), bool)
    allowed = int(_TOLERANCE * len(silhouettes)) + 1
    order = [view for start in range(_STRIDE) for view in range(start, len(silhouettes), _STRIDE)]
    for number, view in enumerate(order):
        distance = silhouettes[view].distance
        where, depth = (part.numpy() for part in cameras.project(cells, view))
        width, height = cameras.sizes[view].tolist()
        rows, columns = distance.shape
        visible = (depth > 0) & (where >= 0).all(-1) & (where[:, 0] < width) & (where[:, 1] < height)
        x = np.clip(np.nan_to_num(where[:, 0]) * (columns / width), 0, columns - 1).astype(np.int64)
        y = np.clip(np.nan_to_num(where[:, 1]) * (rows / height), 0, rows - 1).astype(np.int64)
        focal = float(cameras.intrinsics[view, :2].max()) * columns / width
        radius = side * math.sqrt(3) / 2 * focal / np.maximum(depth, 1e-6)
        seen += visible
        far = distance[y, x]
        cuts += visible & (far > radius)
        deep &= ~visible | (far < -2 * radius)
        if number % _STRIDE == _STRIDE - 1:
            stays = np.flatnonzero(cuts <= allowed)
            cells, seen, cuts, deep = cells[torch.from_numpy(stays)], seen[stays], cuts[stays], deep[stays]
    stays = np.flatnonzero((cuts <= _TOLERANCE * seen + 1) & (2 * seen >= len(silhouettes)) & (seen >= _LEAST_VIEWS))
    votes = [torch.from_numpy(values[stays]) for values in (seen, cuts, deep)]
    return cells[torch.from_numpy(stays)], votes[0], votes[1], votes[2]


def _main_parts(cells: Float[Tensor, "cells 3"], inside: Bool[Tensor, " cells"]) -> Bool[Tensor, " cells"]:
    """Return the cells of the large connected parts of the hull, and those that touch them."""
    number = _CELLS[-1]
    index = ((cells + 1) * (number / 2)).long().clamp(0, number - 1).numpy()
    grid = np.zeros((number,) * 3, bool)
    chosen = index[inside.numpy()]
    grid[chosen[:, 0], chosen[:, 1], chosen[:, 2]] = True
    parts, count = label(binary_dilation(grid))  # pyright: ignore[reportGeneralTypeIssues]
    if count == 0:
        return torch.zeros(len(cells), dtype=torch.bool)
    sizes = np.bincount(parts[grid], minlength=count + 1)
    large = (sizes >= _SMALL * sizes.max())[parts] & grid
    near = np.asarray(distance_transform_edt(~large)) <= 2
    return torch.from_numpy(near[index[:, 0], index[:, 1], index[:, 2]] & (large[index[:, 0], index[:, 1], index[:, 2]] | ~inside.numpy()))
