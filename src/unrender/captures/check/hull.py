"""How well masks and cameras agree: the visual hull of all masks, projected back into each photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.images import averaged_gray
from unrender.captures.silhouettes import Silhouette, carved, cells_of_cube, children, grown_by_a_cell

_COARSE = 24
_FINER = 4
"""Cells of the hull along a coarse cell: 96 along the region."""
_MASK_SIDE = 256
"""Masks are averaged to at most about this many pixels along a side."""
_ALLOWED = 0.03
"""Share of the views that may see a cell outside of their masks."""


@dataclass(frozen=True)
class HullAgreement:
    """The visual hull of a capture, and how its projection covers the masks."""

    iou: Float[Tensor, " views"]
    """Intersection by union of the mask and the projected hull; NaN for a view that sees neither."""
    covered: Float[Tensor, " views"]
    """Share of the mask that the projected hull covers; NaN for an empty mask."""
    cells: Float[Tensor, "cells 3"]
    """Centers of the hull's outermost cells in the world."""
    cell: float
    """Side of a cell."""

    @property
    def mean(self) -> float:
        """Mean intersection by union; 0 without a hull."""
        known = self.iou[~self.iou.isnan()]
        return float(known.mean()) if len(known) else 0.0


def hull_agreement(masks: Sequence[UInt8[Tensor, "_ _"]], cameras: Cameras) -> HullAgreement:
    """Carve the visual hull within [-1, 1]³ in cells of 96³ and compare its projections with the masks.

    A cell remains if at least half of the views see its center, and at most three in a hundred see it outside of their masks. Right masks
    with right cameras give a mean intersection by union of 0.9 to 0.98, shuffled ones 0.3.

    Args:
        masks: at the size of the images of ``cameras``; 255 is inside.
        cameras: of the masks.
    """
    pooled = [Silhouette.of(mask, int(width)) for mask, width in zip(masks, cameras.sizes[:, 0], strict=True)]
    coarse, cell, allowed = 2 / _COARSE, 2 / (_COARSE * _FINER), int(_ALLOWED * len(cameras))
    grown = [(mask, silhouette.pixel) for mask, silhouette in zip(grown_by_a_cell(pooled, cameras, coarse), pooled, strict=True)]
    left, seen = carved(cells_of_cube(_COARSE), grown, cameras, allowed)
    left = left[2 * seen >= len(cameras)]
    blocks = [max(1, -(-max(mask.shape) // _MASK_SIDE)) for mask in masks]
    plain = [(_shrunk(mask, block), block) for mask, block in zip(masks, blocks, strict=True)]
    left, seen = carved(children(left, coarse, _FINER), plain, cameras, allowed)
    cells = _outermost(left[2 * seen >= len(cameras)], cell)
    overlap = [_overlap(masks[view], cameras, view, cells, cell) for view in range(len(masks))]
    iou, covered = (torch.tensor(values, dtype=torch.float64) for values in zip(*overlap, strict=True))
    return HullAgreement(iou, covered, cells, cell)


def _shrunk(mask: UInt8[Tensor, "height width"], block: int) -> Bool[Tensor, "rows columns"]:
    return torch.from_numpy(averaged_gray(mask.numpy(), block)) >= 128


def _outermost(cells: Float[Tensor, "cells 3"], cell: float) -> Float[Tensor, "left 3"]:
    """Return the cells that have an empty neighbor, which look the same from outside."""
    size = _COARSE * _FINER
    place = ((cells + 1) / cell).floor().long().clamp(0, size - 1)
    solid = torch.zeros(size, size, size)
    solid[place.unbind(1)] = 1.0
    inner = -F.max_pool3d(-F.pad(solid[None], (1,) * 6), 3, 1)[0] > 0
    return cells[~inner[place.unbind(1)]]


def projected(cameras: Cameras, view: int, cells: Float[Tensor, "cells 3"], cell: float) -> tuple[Bool[Tensor, "rows columns"], int]:
    """Project cells into a photo whose pixels are averaged over blocks as large as a cell looks.

    Returns:
        The projection, and the side of a block in pixels.
    """
    pixels, depth = cameras.project(cells, view)
    ahead = depth > 0
    width, height = cameras.sizes[view].tolist()
    focal = float(cameras.intrinsics[view, :2].mean())
    usual = float(depth[ahead].median()) if bool(ahead.any()) else 1.0
    block = min(max(1, round(1.25 * cell * focal / max(usual, cell))), max(1, min(width, height) // 8))
    rows, columns = height // block, width // block
    column, row = (pixels[ahead] / block).floor().long().unbind(-1)
    kept = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    image = torch.zeros(rows, columns, dtype=torch.bool)
    image[row[kept], column[kept]] = True
    return image, block


def _overlap(mask: UInt8[Tensor, "height width"], cameras: Cameras, view: int, cells: Float[Tensor, "cells 3"], cell: float):
    hull, block = projected(cameras, view, cells, cell)
    inside = _shrunk(mask, block)
    both, either, whole = int((hull & inside).sum()), int((hull | inside).sum()), int(inside.sum())
    return (both / either if either else float("nan")), (both / whole if whole else float("nan"))
