"""The body-centered cubic lattice of tetrahedra, on which :func:`unrender.geometry.marching_tets.marching_tets` extracts surfaces.

Space is cut into cubic cells with a vertex at each corner and each center. Two neighboring centers and an edge of the face between them
span a tetrahedron, so there are twelve for each cell, all of the same shape and almost regular. The boundary of the box is closed by
vertices at the centers of its faces.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor

from unrender.geometry.voxels import checked_box
from unrender.printing import of_fields

LOCAL_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
"""The two corners of each edge of a tetrahedron."""

_AROUND_FACE = ((0, 0), (1, 0), (1, 1), (0, 1))
"""Corners of a face, counter-clockwise seen from its upper side."""


@dataclass(frozen=True)
class TetrahedralLattice:
    """Vertices, tetrahedra and edges of a lattice; indices are int32.

    >>> lattice = tetrahedral_lattice(2)
    >>> [len(rows) for rows in (lattice.vertices, lattice.tetrahedra, lattice.edges)]
    [59, 144, 250]
    """

    vertices: Float[Tensor, "vertices 3"]
    tetrahedra: Int32[Tensor, "tetrahedra 4"]
    """Corners, positively oriented: det(b − a, c − a, d − a) > 0."""
    edges: Int32[Tensor, "edges 2"]
    """The vertices of each edge, the lower one first; every edge occurs once."""
    tetrahedron_edges: Int32[Tensor, "tetrahedra 6"]
    """Rows of ``edges``, in the order of ``LOCAL_EDGES``."""

    __repr__ = of_fields

    def to(self, device: torch.device | str) -> TetrahedralLattice:
        """Return the lattice on another device."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def tetrahedral_lattice(cells: int | tuple[int, int, int], box: Float[Tensor, "2 3"] | None = None) -> TetrahedralLattice:
    """Build the body-centered cubic lattice over a box, on the device of the box.

    It has (n + 1)³ + n³ + 6 n² vertices and 12 n³ + 12 n² tetrahedra. Topologies of recent sizes are kept.

    Args:
        cells: how many along each axis, or along x, y and z.
        box: smallest and largest corner; by default [−1, 1]³. Give cells of equal sides for tetrahedra of good shape.

    Raises:
        ValueError: there are no cells, too many for 32-bit indices, or the box is empty.
    """
    shape, low, high = checked_box(cells, box)
    units, *indices = _topology(shape)
    vertices = low + units.to(low) * (high - low)
    return TetrahedralLattice(vertices, *(index.to(low.device) for index in indices))


@lru_cache(maxsize=2)
def _topology(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the vertices in the unit cube, the tetrahedra, the edges, and the edges of the tetrahedra.

    Centers are numbered in a grid with a layer around the cells, whose centers lie on the boundary.
    """
    corners = np.arange(np.prod(np.add(shape, 1))).reshape(np.add(shape, 1))
    outer = np.stack(np.meshgrid(*(np.isin(np.arange(n + 2), (0, n + 1)) for n in shape), indexing="ij"), -1)
    is_used = outer.sum(-1) <= 1
    centers = np.cumsum(is_used).reshape(is_used.shape) - 1 + corners.size
    corner_places = np.stack(np.meshgrid(*(np.arange(n + 1) for n in shape), indexing="ij"), -1) / shape
    center_places = np.stack(np.meshgrid(*(np.clip(np.arange(n + 2) - 0.5, 0, n) for n in shape), indexing="ij"), -1) / shape
    places = np.concatenate([corner_places.reshape(-1, 3), center_places[is_used]])

    edges: list[np.ndarray] = []
    count = 0

    def numbered(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        nonlocal count
        edges.append(np.stack([starts.ravel(), ends.ravel()], 1).astype(np.int32))
        count += starts.size
        return np.arange(count - starts.size, count).reshape(starts.shape)

    # Diagonals by the octant of the corner as seen from the center; a center on the boundary has four.
    diagonals = {}
    for octant in product((0, 1), repeat=3):
        inner = tuple(slice(1 - o, n + 2 - o) for o, n in zip(octant, shape, strict=True))
        exists = is_used[inner]
        diagonals[octant] = np.full(is_used.shape, -1)
        diagonals[octant][inner][exists] = numbered(corners[exists], centers[inner][exists])

    sides = []
    for axis in range(3):
        ahead = corners.swapaxes(0, axis)
        sides.append(numbered(ahead[:-1], ahead[1:]).swapaxes(0, axis))

    tetrahedra, tetrahedron_edges = [], []
    for axis in range(3):
        axes = (axis, (axis + 1) % 3, (axis + 2) % 3)
        corner, center = corners.transpose(axes), centers.transpose(axes)
        layers, rows, columns = (shape[k] for k in axes)
        between = center[:, 1:-1, 1:-1]
        lower, upper = between[:-1], between[1:]
        across = numbered(lower, upper)
        along = [sides[k].transpose(axes) for k in axes[1:]]

        def window(grid: np.ndarray, j: int, k: int, rows: int = rows, columns: int = columns) -> np.ndarray:
            return grid[:, j : j + rows, k : k + columns]

        def diagonal(side: int, j: int, k: int, axes: tuple[int, ...] = axes) -> np.ndarray:
            octant = [0, 0, 0]
            for place, value in zip(axes, (1 - side, j, k), strict=True):
                octant[place] = value
            grid = diagonals[octant[0], octant[1], octant[2]].transpose(axes)[:, 1:-1, 1:-1]
            return grid[side : grid.shape[0] - 1 + side]

        for (j, k), (m, n) in zip(_AROUND_FACE, _AROUND_FACE[1:] + _AROUND_FACE[:1], strict=True):
            side = along[0][:, :, k : k + columns] if k == n else along[1][:, j : j + rows]
            tetrahedra.append([lower, upper, window(corner, j, k), window(corner, m, n)])
            parts = [diagonal(0, j, k), diagonal(0, m, n), diagonal(1, j, k), diagonal(1, m, n)]
            tetrahedron_edges.append([across, *parts, side])
    return (
        torch.from_numpy(places),
        _rows(tetrahedra),
        torch.from_numpy(np.concatenate(edges)),
        _rows(tetrahedron_edges),
    )


def _rows(blocks: list[list[np.ndarray]]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.stack([part.ravel() for part in block], 1).astype(np.int32) for block in blocks]))
