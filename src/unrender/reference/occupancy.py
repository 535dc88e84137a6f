"""Plain twins of the kernels of ``unrender.ops.rays.occupancy``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from unrender.cameras import Cameras
from unrender.ops.rays import OccupancyGrid


def cell_at(grid: OccupancyGrid, positions: Float[Tensor, "points 3"], lengths: Float[Tensor, " points"]) -> Int[Tensor, " points"]:
    """Return the index of each point's cell.

    It is in the finest level whose cube contains the point and whose cells are no smaller than its length.
    """
    r = grid.resolution
    reach = positions.abs().amax(dim=1)
    level = torch.zeros(positions.shape[0], dtype=torch.int64)
    for above in range(1, grid.levels):
        below = float(2 ** (above - 1))
        level = torch.where((level == above - 1) & ((reach > below) | (below < lengths * (0.5 * r))), above, level)
    extent = torch.exp2(level.to(positions.dtype))[:, None]
    cell = ((positions / extent + 1.0) * (0.5 * r)).nan_to_num(0.0).floor().long().clamp(0, r - 1)
    return ((level * r + cell[:, 2]) * r + cell[:, 1]) * r + cell[:, 0]


def occupied_at(grid: OccupancyGrid, positions: Float[Tensor, "points 3"], lengths: Float[Tensor, " points"]) -> Bool[Tensor, " points"]:
    """Tell whether the cell that ``cell_at`` returns is occupied."""
    return grid.occupied()[cell_at(grid, positions, lengths)]


def seen_cells(
    grid: OccupancyGrid, cameras: Cameras, views: Sequence[int], masks: Sequence[UInt8[Tensor, "_ _"]] | None, margin: float
) -> Bool[Tensor, " cells"]:
    """Mark the cells that a camera sees, less those outside the visual hull.

    For cameras outside the grid, without distortion.
    """
    r = grid.resolution
    half = torch.exp2(torch.arange(grid.levels).float()).repeat_interleave(r**3)[:, None, None] / r
    signs = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    corners = grid.cell_centers()[:, None, :] + half * signs
    seen = torch.zeros(corners.shape[0], dtype=torch.bool)
    empty = torch.zeros_like(seen)
    for view in views:
        world_from_camera = cameras.world_from_camera[view]
        local = (corners - world_from_camera[:3, 3]) @ world_from_camera[:3, :3]
        pixels = local[..., :2] / local[..., 2:] * cameras.intrinsics[view, :2] + cameras.intrinsics[view, 2:]
        low, high = pixels.amin(dim=1) - margin, pixels.amax(dim=1) + margin
        size = cameras.sizes[view]
        seen |= ((high >= 0) & (low <= size)).all(dim=1)
        if masks is not None:
            within = ((low >= 0) & (high <= size)).all(dim=1)
            for cell in within.nonzero()[:, 0].tolist():
                (x0, y0), (x1, y1) = low[cell].floor().long().tolist(), high[cell].ceil().long().tolist()
                empty[cell] |= not bool((masks[view][y0:y1, x0:x1] >= 26).any())
    return seen & ~empty
