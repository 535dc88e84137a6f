"""Find cells of space that a visual hull lacks because a few masks are wrong.

Every pixel of a mask shows the object, so its ray meets the hull of right masks. Where the rays of several views do not, other masks have
cut away what these views show: a lid that two photos of sixty lost is missing in all of them, as one mask is enough to cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, UInt8
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.images import in_threads
from unrender.captures.silhouettes import CHUNK, Silhouette, grown_by_a_cell, silhouette_vote

_OPPOSED = 0.1
"""Largest share of the views that may see a cell outside of their masks."""
_ASKED_BY = 2
"""Views that must show uncovered pixels at a cell."""
_SIDE = 400
"""Masks are compared at about this many pixels along a side."""
_INSIDE = 2
"""Pixels that count lie as far within their mask, because outlines are inexact."""
_AROUND = 3
"""Cells around such a cell that come with it: most of their pixels are covered by other parts of the object."""


def lacking_cells(
    hull: Bool[Tensor, "size size size"], cameras: Cameras, views: Sequence[int], masks: Sequence[UInt8[Tensor, "_ _"] | None]
) -> Bool[Tensor, "size size size"]:
    """Return the cells outside of a visual hull that nearly all views have inside.

    A cell is among them if at most a tenth of the views that see it have it outside of their masks, and if it, or one near it, lies on rays
    through pixels of at least two masks that meet no cell of the hull. None is for masks that agree.

    Args:
        hull: cells of [-1, 1]³, indexed [z, y, x], that no mask excludes.
        cameras: of all views, on the host.
        views: that outline the object.
        masks: 255 where the object is, of the images' sizes; None for a view that outlines nothing.
    """
    size, nothing = hull.shape[0], torch.zeros_like(hull)
    views = [view for view in views if masks[view] is not None]
    outlines = {view: mask for view in views if (mask := masks[view]) is not None}
    inside = hull.nonzero().flip(1)
    if len(inside) == 0 or len(inside) == size**3 or len(views) <= _ASKED_BY:
        return nothing
    centers = _centers(inside, size)
    uncovered = dict(zip(views, in_threads(lambda view: _uncovered(centers, 2 / size, cameras, view, outlines[view]), views), strict=True))
    if sum(bool(pixels.any()) for pixels, _ in uncovered.values()) < _ASKED_BY:
        return nothing
    chosen = cameras.select(views)
    silhouettes = [Silhouette.of(outlines[view], int(cameras.sizes[view, 0])) for view in views]
    grown = grown_by_a_cell(silhouettes, chosen, 2 / size)
    cells = (~hull).nonzero().flip(1)

    def votes(part: Tensor) -> tuple[Tensor, Tensor]:
        points = _centers(part, size)
        asked, seen, opposed = torch.zeros(3, len(part), dtype=torch.int32)
        for number, (view, silhouette) in enumerate(zip(views, silhouettes, strict=True)):
            within, outside = silhouette_vote(grown[number], silhouette.pixel, chosen, number, points)
            seen, opposed = seen + (within | outside), opposed + outside
            asked = asked + silhouette_vote(*uncovered[view], chosen, number, points)[0]
        possible = (opposed <= _OPPOSED * seen) & (2 * seen >= len(views))
        return possible, possible & (asked >= _ASKED_BY)

    possible, needed = (torch.cat(column) for column in zip(*in_threads(votes, cells.split(CHUNK)), strict=True))
    x, y, z = cells.unbind(1)
    may, must = nothing.clone(), nothing.clone()
    may[z, y, x], must[z, y, x] = possible, needed
    near = F.max_pool3d(must[None, None].float(), 2 * _AROUND + 1, 1, _AROUND)[0, 0] > 0
    return may & near


def _centers(cells: Tensor, size: int) -> Tensor:
    return (cells + 0.5) * (2 / size) - 1


def _uncovered(centers: Tensor, cell: float, cameras: Cameras, view: int, mask: Tensor) -> tuple[Bool[Tensor, "rows columns"], int]:
    """Return the blocks of pixels well within a mask that show no cell of the hull.

    With them comes the number of pixels along the side of a block.
    """
    block = max(1, -(-max(mask.shape) // _SIDE))
    outside = F.max_pool2d((mask < 128).float()[None], block, ceil_mode=True)[0]
    rows, columns = outside.shape
    where, depth = cameras.project(centers, view)
    column, row = (where / block).floor().nan_to_num(-1).long().unbind(-1)
    seen = (depth > 0) & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    shown = torch.zeros(rows, columns)
    shown[row[seen], column[seen]] = 1
    if seen.any():
        half = cell / 2 * float(cameras.intrinsics[view, :2].max()) / float(depth[seen].median())
        shown = _spread(shown, 1 + round(min(half / block, max(rows, columns))))  # a camera in the hull has cells that fill its picture
    return (_spread(outside, -(-_INSIDE // block)) == 0) & (shown == 0), block


def _spread(picture: Tensor, pixels: int) -> Tensor:
    """Return the largest value within some pixels along either axis."""
    down = F.max_pool2d(picture[None, None], (2 * pixels + 1, 1), 1, (pixels, 0))
    return F.max_pool2d(down, (1, 2 * pixels + 1), 1, (0, pixels))[0, 0]
