"""Edges and samples along rays, as a table with one row per ray or packed ray by ray."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class RayIntervals:
    """Edges of intervals along rays.

    As a table ``[rays, edges]``, where neighboring edges bound an interval; or packed ``[edges]``, with the rest of the fields.
    """

    vals: Tensor
    """Distances, in ascending order on each ray."""
    packed_info: Tensor | None = None
    """First edge and number of edges of each ray, ``[rays, 2]``."""
    ray_indices: Tensor | None = None
    """Ray of each edge."""
    is_left: Tensor | None = None
    """Whether an interval begins at an edge."""
    is_right: Tensor | None = None
    """Whether an interval ends at an edge; both hold between two intervals that touch."""

    @property
    def device(self) -> torch.device:
        """Device of the distances."""
        return self.vals.device


@dataclass
class RaySamples:
    """Points along rays, as a table ``[rays, samples]`` or packed ``[samples]``, with the rest of the fields."""

    vals: Tensor
    """Distances, in ascending order on each ray."""
    packed_info: Tensor | None = None
    """First sample and number of samples of each ray, ``[rays, 2]``."""
    ray_indices: Tensor | None = None
    """Ray of each sample."""
    is_valid: Tensor | None = None
    """Whether a sample is in use."""

    @property
    def device(self) -> torch.device:
        """Device of the distances."""
        return self.vals.device
