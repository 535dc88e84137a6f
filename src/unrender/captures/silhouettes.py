"""Masks as silhouettes: where the object is not, and the views whose masks contradict those of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.images import Images, averaged_gray, in_threads

_MASK_SIDE = 128
"""Masks are pooled to about this many pixels along a side before carving, which is finer than the projection of one cell."""

_CELLS = 64
"""Cells along a side of the cube in which masks are compared."""
CHUNK = 8192
"""Cells that a thread visits at once, few enough that PyTorch starts no further threads."""
_WRONG = 0.003
"""A mask is wrong if it alone cuts more than this share, in blocks of 2³ cells, from what all others keep (chair 0.0005, DTU 0.002)."""
_MANY = 40
"""Of fewer views each cuts away more: with n of them the share may be (40 / n)² times as large."""
_AMONG_OTHERS = 8
"""And it must be this many times what all but a tenth of the views cut away alone."""
_MOST_NAMES = 5
_MOST_OF_MANY = 40
"""Masks that outline the object, of photos on disk: more carve little more, and each has to be read."""
_LARGE_SIDE = 1000
"""Longer side, about, to which masks of photos on disk are averaged for that."""


@dataclass(frozen=True)
class Silhouette:
    """A mask pooled to about :data:`_MASK_SIDE` pixels, each ``pixel`` camera pixels wide."""

    mask: Float[Tensor, "rows columns"]
    pixel: int

    @classmethod
    def of(cls, mask: UInt8[Tensor, "_ _"], width: int) -> Silhouette:
        shrink = max(1, math.ceil(max(mask.shape) / _MASK_SIDE))
        small = F.max_pool2d((mask >= 128).float()[None], shrink, ceil_mode=True)[0]
        return cls(small, shrink * (width // mask.shape[1]))

    def grown(self, pixels: float) -> Bool[Tensor, "rows columns"]:
        """Dilate the mask by ``pixels`` of the camera."""
        steps = min(math.ceil(pixels / self.pixel), max(self.mask.shape))
        mask = F.max_pool2d(self.mask[None], (2 * steps + 1, 1), stride=1, padding=(steps, 0))
        return F.max_pool2d(mask, (1, 2 * steps + 1), stride=1, padding=(0, steps))[0] > 0


def grown_by_a_cell(silhouettes: Sequence[Silhouette], cameras: Cameras, cell: float) -> list[Bool[Tensor, "rows columns"]]:
    """Dilate each mask by half the diagonal of a cell.

    The cell is as large as it looks from the median distance of the cameras to the origin.
    """
    distance = max(float(cameras.positions.norm(dim=-1).median()), cell)
    half_diagonal = cell * math.sqrt(3) / 2 / distance
    # With one image size the largest focal length serves all views; otherwise pixel sizes differ.
    focal = cameras.intrinsics[:, :2].amax(1)
    widest = [float(focal[(cameras.sizes == size).all(1)].max()) for size in cameras.sizes]
    return [silhouette.grown(pixels * half_diagonal) for silhouette, pixels in zip(silhouettes, widest, strict=True)]


def silhouette_vote(
    mask: Bool[Tensor, "rows columns"], pixel: int, cameras: Cameras, view: int, points: Float[Tensor, "points 3"]
) -> tuple[Bool[Tensor, " points"], Bool[Tensor, " points"]]:
    """Tell which points one view sees inside its mask, and which outside; neither holds for points it does not see."""
    where, depth = cameras.project(points, view)
    column, row = (where / pixel).floor().unbind(-1)
    width, height = cameras.sizes[view].tolist()
    visible = (depth > 0) & (where >= 0).all(-1) & (where[:, 0] < width) & (where[:, 1] < height)
    column, row = column.clamp(0, mask.shape[1] - 1).long(), row.clamp(0, mask.shape[0] - 1).long()
    covered = mask[row, column]
    return visible & covered, visible & ~covered


def carved(
    cells: Float[Tensor, "cells 3"], masks: Sequence[tuple[Bool[Tensor, "_ _"], int]], cameras: Cameras, allowed: int
) -> tuple[Float[Tensor, "left 3"], Int[Tensor, " left"]]:
    """Keep the cells that few views see outside of their masks, and count the views that see each.

    Args:
        cells: centers in the world.
        masks: of the views, each with the camera pixels along one of its own.
        cameras: of the views.
        allowed: how many views may see a cell outside.
    """

    def carve(left: Float[Tensor, "cells 3"]) -> tuple[Float[Tensor, "left 3"], Int[Tensor, " left"]]:
        seen, misses = torch.zeros(len(left), dtype=torch.int32), torch.zeros(len(left), dtype=torch.int32)
        for view, (mask, pixel) in enumerate(masks):
            inside, outside = silhouette_vote(mask, pixel, cameras, view, left)
            seen += inside | outside
            misses += outside
            stays = misses <= allowed
            left, seen, misses = left[stays], seen[stays], misses[stays]
        return left, seen

    parts = in_threads(carve, cells.split(CHUNK))
    return torch.cat([left for left, _ in parts]), torch.cat([seen for _, seen in parts])


def children(cells: Float[Tensor, "cells 3"], side: float, parts: int) -> Float[Tensor, "children 3"]:
    """Cut cells of a side into ``parts`` cells along each axis, and return the centers of these.

    >>> children(torch.zeros(1, 3), 1.0, 2)[0].tolist()
    [-0.25, -0.25, -0.25]
    """
    within = ((torch.arange(parts) + 0.5) / parts - 0.5) * side
    return (cells[:, None] + torch.cartesian_prod(within, within, within)).reshape(-1, 3)


def cells_of_cube(parts: int) -> Float[Tensor, "cells 3"]:
    """Return the centers of parts³ cells of [-1, 1]³, z running fastest."""
    along = (torch.arange(parts) + 0.5) * (2 / parts) - 1
    return torch.cartesian_prod(along, along, along)


def outlining_views(capture: Capture) -> tuple[int, ...]:
    """Return the fitted views whose masks outline the object.

    All of them, or some spread evenly if the photos are on disk.
    """
    train = capture.split.train
    return outlining(train) if capture.photos.on_disk else train


def outlining(train: Sequence[int]) -> tuple[int, ...]:
    """Return some of the fitted views, spread evenly, whose masks together outline the object nearly as all do.

    >>> len(outlining(range(39))), outlining(range(400))[:3]
    (39, (0, 10, 20))
    """
    count = min(_MOST_OF_MANY, len(train))
    return tuple(train[place * len(train) // count] for place in range(count))


def outlines(capture: Capture) -> tuple[Cameras, list[UInt8[Tensor, "_ _"] | None]]:
    """Return the masks of the outlining views, None for all other views.

    The cameras of all views, at the size of these masks, come first.
    """
    chosen, block = set(outlining_views(capture)), outline_block(capture.photos)
    masks = [outline(capture.photos, view, block) if view in chosen else None for view in range(len(capture))]
    return capture.cameras if block == 1 else capture.cameras.downscaled(block), masks


def outline_block(photos: Images) -> int:
    """Return the side of the blocks over which masks are averaged before they outline the object.

    It is 1 for photos in memory.
    """
    return max(1, int(photos.sizes.amax()) // _LARGE_SIDE) if photos.on_disk else 1


def outline(photos: Images, view: int, block: int) -> UInt8[Tensor, "rows columns"]:
    """Return the mask of a photo, averaged over blocks of pixels, without keeping a photo on disk in memory."""
    mask = photos[view][..., 3]
    if block > 1:
        mask = torch.from_numpy(averaged_gray(mask.numpy(), block))
    photos.release(view)
    return mask


def without_contradicting_masks(capture: Capture, *, margin: float = 0.0) -> Capture:
    """Leave out the fitted views whose masks contradict those of the others, with a note.

    The space that all masks but one keep is the visual hull of the others, from which a right mask cuts thin slices. One that cuts blocks
    from it is wrong: as fits close the space outside of the hull, it would leave a hole in the surface for good.

    Args:
        capture: the photos.
        margin: share of the image size by which a right mask may be off because poses are inexact: only what a mask cuts away farther from
        its outline than this contradicts the others.
    """
    if not capture.has_masks or len(capture.split.train) < 2:
        return capture
    shares = _cut_alone(capture, margin)
    limit = max(_WRONG * max(1, _MANY / len(shares)) ** 2, _AMONG_OTHERS * float(shares.quantile(0.9)))
    wrong = {view: float(share) for view, share in zip(outlining_views(capture), shares, strict=True) if share > limit}
    if not wrong:
        return capture
    named = ", ".join(f"{capture.names[view]} ({100 * share:.1f} %)" for view, share in list(wrong.items())[:_MOST_NAMES])
    others = "" if len(wrong) <= _MOST_NAMES else f" and {len(wrong) - _MOST_NAMES} more"
    note = (
        f"masks that contradict all others: {named}{others}, each with the share of the others' visual hull that it alone cuts away; these "
        "views are not fitted: correct their masks, or fit without masks (masks none)"
    )
    train = tuple(view for view in capture.split.train if view not in wrong)
    return replace(capture, split=replace(capture.split, train=train), notes=(*capture.notes, note))


def _cut_alone(capture: Capture, margin: float) -> Float[Tensor, " views"]:
    """Return the share of the others' visual hull that each fitted view alone cuts away in blocks of 2³ cells.

    Cells are not counted that lie less than the ``margin`` outside of its outline.
    """
    train = outlining_views(capture)
    cameras = capture.cameras.select(train)
    block = outline_block(capture.photos)
    masks = (outline(capture.photos, view, block) for view in train)
    silhouettes = [Silhouette.of(mask, int(width)) for mask, width in zip(masks, cameras.sizes[:, 0], strict=True)]
    cell = 2 / _CELLS
    grown = grown_by_a_cell(silhouettes, cameras, cell)
    centers = cells_of_cube(_CELLS)

    def only_view(cells: Tensor) -> Tensor:
        """Return the one view that sees a cell outside its mask.

        -1 if there is none, -2 for several or if half of the views look past the cell.
        """
        left = torch.arange(len(cells))
        by, seen = torch.full((len(cells),), -1), torch.zeros(len(cells), dtype=torch.int32)
        for view in range(len(cameras)):
            inside, outside = silhouette_vote(grown[view], silhouettes[view].pixel, cameras, view, cells[left])
            seen[left] += inside | outside
            by[left] = torch.where(outside, torch.where(by[left] == -1, view, -2), by[left])
            left = left[by[left] != -2]
        return torch.where(2 * seen >= len(cameras), by, -2)

    only = torch.cat(in_threads(only_view, centers.split(CHUNK)))
    if margin > 0:
        for view, (silhouette, size) in enumerate(zip(silhouettes, cameras.sizes.float().mean(1).tolist(), strict=True)):
            own = (only == view).nonzero()[:, 0]
            _, outside = silhouette_vote(silhouette.grown(margin * size), silhouette.pixel, cameras, view, centers[own])
            only[own[~outside]] = -2
    only = only.reshape(_CELLS, _CELLS, _CELLS)
    kept = int((only == -1).sum())
    # A block of 2³ cells belongs to a view if all eight do.
    low, high = (sign * F.max_pool3d(sign * only[None, None].float(), 2, 1)[0, 0] for sign in (-1, 1))
    blocks = low[(low == high) & (low >= 0)].long().bincount(minlength=len(train))
    alone = only[only >= 0].bincount(minlength=len(train))
    return blocks / (kept + alone).clamp_min(1)
