"""Multiresolution grids of features in one to four dimensions: the otypes HashGrid, DenseGrid and TiledGrid.

Level l has the scale ``N_l = base_resolution per_level_scale^l - 1`` and ``R_l = ceil(N_l) + 1`` corners along each axis, and places a
point at ``p = x N_l + 1/2``. Its table has an entry for each of the ``R_l^d`` corners, rounded up to a multiple of 8; at most
``2^log2_hashmap_size`` entries in a hash grid, at most ``base_resolution^d`` in a tiled one. The entry of a corner is

    dense, tiled    (c_0 + c_1 R + c_2 R^2 + ...) mod entries, over the axes whose stride is at most the number of entries
    hash            the same if all corners have an entry, else (c_0 xor c_1 2654435761 xor c_2 805459861 xor c_3 3674653429) mod entries

Source: Müller et al. 2022, "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding", section 3, and the documentation of
tiny-cuda-nn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.compat.tinycudann.encodings import InputEncoding
from unrender.ops.encodings import HashGrid, hash_encode
from unrender.ops.kernels.checks import MOST_ELEMENTS

_PRIMES = (1, 2654435761, 805459861, 3674653429)
LARGEST_DIMENSIONS = len(_PRIMES)
"""Axes that a grid may have."""
_LARGEST_RESOLUTION = 2**24
"""Corners along an axis that float32 can count."""
_KERNEL_RESOLUTION = 2**20
"""Corners along an axis up to which :class:`HashGrid` goes."""
_FARTHEST = 2.0**30
"""Cells beyond this count as this far away."""


@dataclass(frozen=True)
class Grid(InputEncoding):
    """Grids of growing resolution, whose features at a point stand side by side, the coarsest first.

    Raises:
        ValueError: for levels that are too fine, or tables that are too large.
    """

    inputs: int
    kind: str = "Hash"
    """How corners share entries: Hash, Dense or Tiled."""
    levels: int = 16
    features: int = 2
    log2_entries: int = 19
    base_resolution: int = 16
    per_level_scale: float = 2.0
    interpolation: str = "Linear"
    """Nearest, Linear or Smoothstep."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        finest = self.base_resolution * self.per_level_scale ** (self.levels - 1)
        if finest > _LARGEST_RESOLUTION:
            raise ValueError(
                f"Grid takes levels of at most {_LARGEST_RESOLUTION} corners along an axis, got {finest:.3g} in the finest: lower "
                "'per_level_scale', 'n_levels' or 'base_resolution'"
            )
        if self.parameters > MOST_ELEMENTS:
            key = {"Hash": "log2_hashmap_size", "Dense": "per_level_scale", "Tiled": "base_resolution"}[self.kind]
            raise ValueError(
                f"Grid takes fewer than 2^31 features in all levels, got {self.parameters:.3g} of kind {self.kind}: lower {key!r}"
            )

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Cells across the unit cube of each level, rounded to float32."""
        return tuple(float(np.float32(self.base_resolution * self.per_level_scale**level - 1.0)) for level in range(self.levels))

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Corners along one axis of each level."""
        return tuple(int(np.ceil(scale)) + 1 for scale in self.scales)

    @cached_property
    def entries(self) -> tuple[int, ...]:
        """Entries of the table of each level."""
        limit = {"Hash": 2**self.log2_entries, "Tiled": self.base_resolution**self.inputs}
        rounded = (-(-(resolution**self.inputs) // 8) * 8 for resolution in self.resolutions)
        return tuple(min(corners, limit.get(self.kind, corners)) for corners in rounded)

    @property
    def padding(self) -> float:
        """What a network reads beyond the columns."""
        return 0.0

    @property
    def outputs(self) -> int:
        """Columns of the result."""
        return self.levels * self.features

    @property
    def parameters(self) -> int:
        """Length of the parameter vector."""
        return sum(self.entries) * self.features

    @cached_property
    def twin(self) -> HashGrid | None:
        """The grid of :func:`hash_encode` with the same tables and entries, if there is one."""
        largest = {"Hash": self.log2_entries, "Dense": 24}.get(self.kind, 0)
        fits = self.inputs == 3 and 3 <= largest <= 24 and max(self.resolutions) <= _KERNEL_RESOLUTION and self.base_resolution > 1
        if not fits or self.interpolation == "Nearest" or max(self.entries) > 2**largest:
            return None
        smooth = "smoothstep" if self.interpolation == "Smoothstep" else "linear"
        return HashGrid(self.levels, self.features, largest, self.base_resolution, self.per_level_scale, smooth)

    def initial(self, generator: torch.Generator) -> Float[Tensor, " parameters"]:
        """Draw features, uniform in [-1e-4, 1e-4]."""
        return torch.empty(self.parameters, device="cpu").uniform_(-1e-4, 1e-4, generator=generator)

    def encode(self, x: Float[Tensor, "points inputs"], parameters: Float[Tensor, " parameters"]) -> Float[Tensor, "points outputs"]:
        """Interpolate the features of all levels."""
        table = parameters.view(-1, self.features)
        if self.twin is not None and x.dtype == torch.float32:
            return hash_encode(x, table, self.twin)
        return self.encode_generally(x, table)

    def encode_generally(self, x: Float[Tensor, "points inputs"], table: Float[Tensor, "rows features"]) -> Float[Tensor, "points outputs"]:
        """Interpolate in plain PyTorch: any dimensions, kind and floating dtype, differentiable any number of times."""
        axes = x.t().contiguous()
        columns = []
        for level, rows in enumerate(table.split(self.entries)):
            place = axes * self.scales[level] + 0.5
            cell = place.detach().floor()
            corner = cell.nan_to_num().clamp(-_FARTHEST, _FARTHEST).long()
            if self.interpolation == "Nearest":
                columns.append(rows.index_select(0, self._entries_of(corner[:, None], level)) + 0.0 * x.sum(1, keepdim=True))
                continue
            u = place - cell
            if self.interpolation == "Smoothstep":
                u = u * u * (3.0 - 2.0 * u)
            weights = reduce(lambda low, high: (low[:, None] * high).flatten(0, 1), torch.stack([1.0 - u, u], dim=1))
            found = rows.index_select(0, self._entries_of(torch.stack([corner, corner + 1], dim=1), level))
            columns.append((weights[:, :, None] * found.view(*weights.shape, self.features)).sum(0))
        return torch.cat(columns, dim=1)

    def _entries_of(self, corners: Int[Tensor, "inputs choices points"], level: int) -> Int[Tensor, " corners_points"]:
        """Return the rows of all corners that combine one of the choices of each axis.

        Unsigned arithmetic of 32 bits. The point changes first, then the choice of the last axis.
        """
        resolution, entries = self.resolutions[level], self.entries[level]
        if self.kind == "Hash" and resolution**self.inputs > entries:
            terms = [axis * prime for axis, prime in zip(corners, _PRIMES, strict=False)]
            row = reduce(lambda low, high: (low[:, None] ^ high).flatten(0, 1), terms)
        else:
            strides = [resolution**k if resolution**k <= entries else 0 for k in range(self.inputs)]
            terms = [axis * stride for axis, stride in zip(corners, strides, strict=True)]
            row = reduce(lambda low, high: (low[:, None] + high).flatten(0, 1), terms)
        if entries & (entries - 1) == 0:
            return (row & (entries - 1)).flatten()
        return ((row & (2**32 - 1)) % entries).flatten()
