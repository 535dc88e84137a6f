"""The part of the world that training views can show: the visual hull of their masks, or all they see."""

from __future__ import annotations

from unrender.captures.capture import Capture
from unrender.ops.rays import OccupancyGrid

_FEW = 6
"""With fewer views than this, every mask counts."""
_PER_WRONG_VIEW = 20
"""With more, one mask in twenty may be wrong, and at least one."""


def close_unseen(occupancy: OccupancyGrid, capture: Capture, *, within_masks: bool) -> None:
    """Close the cells of a grid that no training view sees; with ``within_masks``, those outside the visual hull.

    A wrong mask cuts no hole: a cell is outside the hull if more than one mask in twenty says so, and more than one of six or more.
    """
    views = capture.split.train
    masks = [capture.mask(view) for view in range(len(capture))] if within_masks else None
    wrong_views = 0 if len(views) < _FEW else min(254, max(1, len(views) // _PER_WRONG_VIEW))
    occupancy.mark_seen(capture.cameras.to(occupancy.values.device), views, masks=masks, wrong_views=wrong_views)
