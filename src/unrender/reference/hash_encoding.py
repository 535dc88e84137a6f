"""Multiresolution hash encoding, level by level and corner by corner: the twin of :mod:`unrender.ops.encodings.hash_encoding`."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.ops.encodings import HashGrid

_PRIMES = (1, 2654435761, 805459861)


def hash_encode(
    positions: Float[Tensor, "points 3"],
    table: Float[Tensor, "entries features"],
    grid: HashGrid,
    *,
    active_levels: int | None = None,
) -> Float[Tensor, "points columns"]:
    """Interpolate the features of every level of a hash grid; see :func:`unrender.ops.encodings.hash_encode`.

    Any floating dtype, the same for positions and table; differentiable any number of times.
    """
    entries = [end - start for start, end in zip(grid.offsets, grid.offsets[1:], strict=False)]
    columns = []
    for level, rows in enumerate(table.split(entries)[:active_levels]):
        place = positions * grid.scales[level] + 0.5
        cell = torch.floor(place.detach())
        fraction = place - cell
        if grid.interpolation == "smoothstep":
            fraction = fraction * fraction * (3.0 - 2.0 * fraction)
        features = table.new_zeros(len(positions), grid.features)
        for corner in ((x, y, z) for z in (0, 1) for y in (0, 1) for x in (0, 1)):
            step = torch.tensor(corner, device=positions.device)
            x_share, y_share, z_share = torch.where(step == 1, fraction, 1.0 - fraction).split(1, dim=1)
            entry = corner_index(cell.nan_to_num().clamp(-(2.0**30), 2.0**30).long() + step, grid.resolutions[level], entries[level])
            features = features + x_share * y_share * z_share * rows.index_select(0, entry)
        columns.append(features)
    return torch.cat(columns, dim=1)


def corner_index(corner: Int[Tensor, "points 3"], resolution: int, entries: int) -> Int[Tensor, " points"]:
    """Return the row, within its level, of the features of a lattice corner.

    Dense, ``x + y R + z R^2``, if the level has an entry for each of the ``R^3`` corners; hashed otherwise. Unsigned 32-bit arithmetic in
    both cases, then modulo the entries of the level: a corner beyond the lattice wraps around.

    >>> corner_index(torch.tensor([[1, 2, 3]]), 4, 64), corner_index(torch.tensor([[1, 2, 3]]), 1000, 2**19)
    (tensor([57]), tensor([128476]))
    """
    x, y, z = corner.unbind(dim=1)
    if resolution**3 <= entries:
        index = x + y * resolution + z * resolution**2
    else:
        index = (x * _PRIMES[0]) ^ (y * _PRIMES[1]) ^ (z * _PRIMES[2])
    return (index % 2**32) % entries
