"""The shape of a multiresolution hash grid, and the constants of its levels for kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from unrender.devices import select_device
from unrender.ops.kernels.checks import Arguments

FINEST = 2**20
"""Largest number of corners along an axis that float32 positions can resolve."""

_MOST_LEVELS = 256


@dataclass(frozen=True)
class HashGrid:
    """The shape of a multiresolution hash grid; the features are a tensor ``[entries, features]`` that the caller owns.

    Raises:
        ValueError: for a value out of its range.

    >>> grid = HashGrid(levels=2, features=2, log2_entries=12, base_resolution=8, per_level_scale=2.0)
    >>> grid.scales, grid.resolutions, grid.offsets   # 8^3 = 512 corners are stored as they are, 16^3 = 4096 just fit too
    ((7.0, 15.0), (8, 16), (0, 512, 4608))
    """

    levels: int = 16
    """Number of grids, at least 1."""
    features: int = 2
    """Features of one entry: 1, 2, 4 or 8."""
    log2_entries: int = 19
    """Base-2 logarithm of the largest number of entries of one level, 3 to 24."""
    base_resolution: int = 16
    """Corners along one axis of the coarsest grid, at least 2."""
    per_level_scale: float = 1.4472692
    """Growth of the resolution from one level to the next, at least 1."""
    interpolation: Literal["linear", "smoothstep"] = "linear"
    """How the eight corners are blended."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        takes = Arguments("HashGrid")
        levels = takes.integer(self.levels, "levels", 1, _MOST_LEVELS)
        features = takes.integer(self.features, "features", 1, 8)
        takes.integer(self.log2_entries, "log2_entries", 3, 24)
        corners = takes.integer(self.base_resolution, "base_resolution", 2, FINEST)
        scale = takes.number(self.per_level_scale, "per_level_scale", 1.0)
        takes.choice(self.interpolation, "interpolation", ("linear", "smoothstep"))
        if features not in (1, 2, 4, 8):
            raise ValueError(f"HashGrid takes 1, 2, 4 or 8 as features, got {features}")
        finest = math.log2(corners) + (levels - 1) * math.log2(scale)
        if finest > math.log2(FINEST) + 1e-9:
            raise ValueError(
                f"HashGrid takes levels of at most 2^20 corners along an axis, which float32 positions can tell apart, got 2^{finest:.1f}: "
                "lower levels or per_level_scale"
            )
        takes.count(self.entries * features, "the table")

    @classmethod
    def spanning(cls, base_resolution: int, finest_resolution: int, *, levels: int, features: int, log2_entries: int) -> HashGrid:
        """Make the grid whose levels grow from one resolution to another.

        Each level is b = (finest / base)^(1 / (levels - 1)) times the one before.

        Raises:
            ValueError: for a value out of its range.

        >>> HashGrid.spanning(16, 64, levels=3, features=2, log2_entries=12).per_level_scale
        2.0
        """
        takes = Arguments("HashGrid.spanning")
        takes.integer(base_resolution, "base_resolution", 2, FINEST)
        takes.integer(finest_resolution, "finest_resolution", base_resolution, FINEST)
        takes.integer(levels, "levels", 1, _MOST_LEVELS)
        scale = (finest_resolution / base_resolution) ** (1 / max(1, levels - 1))
        return cls(levels, features, log2_entries, base_resolution, scale)

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Cells across the unit cube of each level, ``base_resolution * per_level_scale^l - 1``, rounded to float32."""
        return tuple(float(np.float32(self.base_resolution * self.per_level_scale**level - 1.0)) for level in range(self.levels))

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Corners along one axis of each level, ``ceil(scale) + 1``."""
        return tuple(int(np.ceil(scale)) + 1 for scale in self.scales)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First entry of each level in the table and, last, the number of all entries; every level is padded to a multiple of 8."""
        offsets = [0]
        for resolution in self.resolutions:
            offsets.append(offsets[-1] + min(-(-(resolution**3) // 8) * 8, 2**self.log2_entries))
        return tuple(offsets)

    @property
    def entries(self) -> int:
        """Rows of the table."""
        return self.offsets[-1]

    @property
    def columns(self) -> int:
        """Width of the encoding, ``levels * features``; the features of level 0 come first."""
        return self.levels * self.features

    def initial_table(
        self, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "{self.entries} {self.features}"]:
        """Draw an initial float32 table, uniform in ``[-1e-4, 1e-4]`` as published; the same on every device.

        Raises:
            ValueError: the generator is not one of a CPU, or there is no such device.
        """
        if generator is not None:
            Arguments("initial_table").generator(generator, "generator", torch.device("cpu"))
        device = select_device(device) if isinstance(device, str) else Arguments("initial_table").instance(device, "device", torch.device)
        return torch.empty(self.entries, self.features, device="cpu").uniform_(-1e-4, 1e-4, generator=generator).to(device)


class _Levels:
    """The constants of all levels, as kernels read them."""

    features: wp.int32
    smooth: wp.int32
    scales: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]
    resolutions: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]
    offsets: wp.array(dtype=wp.int32)  # pyright: ignore[reportInvalidTypeForm]


Levels = wp.struct(_Levels)


@lru_cache(maxsize=64)
def kernel_levels(grid: HashGrid, device: torch.device) -> Any:
    """Return the ``Levels`` of a grid with their arrays on a device, made once."""
    levels = Levels()
    levels.features, levels.smooth = grid.features, int(grid.interpolation == "smoothstep")
    levels.scales = wp.from_torch(torch.tensor(grid.scales, dtype=torch.float32, device=device))
    levels.resolutions = wp.from_torch(torch.tensor(grid.resolutions, dtype=torch.int32, device=device))
    levels.offsets = wp.from_torch(torch.tensor(grid.offsets, dtype=torch.int32, device=device))
    return levels
