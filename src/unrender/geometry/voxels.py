"""The lattice of cubic cells, on which :func:`unrender.geometry.flexicubes.flexicubes` extracts surfaces."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from unrender.printing import of_fields


@dataclass(frozen=True)
class VoxelLattice:
    """Vertices and edges of a grid of cells; row (i (n_y + 1) + j) (n_z + 1) + k is the vertex at (i, j, k).

    >>> lattice = voxel_lattice(2)
    >>> [len(rows) for rows in (lattice.vertices, lattice.edges)]
    [27, 54]
    """

    cells: tuple[int, int, int]
    """How many along x, y and z."""
    vertices: Float[Tensor, "vertices 3"]
    edges: Int32[Tensor, "edges 2"]
    """The vertices of each edge, the lower one first; every edge occurs once."""

    __repr__ = of_fields

    @property
    def cell_count(self) -> int:
        """Number of cells; cell (i, j, k) is the one after vertex (i, j, k), in the same order."""
        x, y, z = self.cells
        return x * y * z

    def to(self, device: torch.device | str) -> VoxelLattice:
        """Return the lattice on another device."""
        return replace(self, vertices=self.vertices.to(device), edges=self.edges.to(device))


def voxel_lattice(cells: int | tuple[int, int, int], box: Float[Tensor, "2 3"] | None = None) -> VoxelLattice:
    """Build the lattice of equal cells over a box, on the device of the box.

    Args:
        cells: how many along each axis, or along x, y and z.
        box: smallest and largest corner; by default [−1, 1]³.

    Raises:
        ValueError: there are no cells, too many for 32-bit indices, or the box is empty.
    """
    shape, low, high = checked_box(cells, box)
    axes = [torch.arange(n + 1, device=low.device).to(low.dtype) / n for n in shape]
    units = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    rows = torch.arange(units[..., 0].numel(), dtype=torch.int32, device=low.device).view(units.shape[:-1])
    ahead = [torch.stack([rows.narrow(k, 0, n), rows.narrow(k, 1, n)], -1).reshape(-1, 2) for k, n in enumerate(shape)]
    return VoxelLattice(shape, low + units.reshape(-1, 3) * (high - low), torch.cat(ahead))


def checked_box(
    cells: int | tuple[int, int, int], box: Float[Tensor, "2 3"] | None
) -> tuple[tuple[int, int, int], Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """Return the number of cells along each axis and the two corners of the box, [−1, 1]³ by default.

    Raises:
        ValueError: there are no cells, too many for 32-bit indices, or the box is empty or not finite.
    """
    shape = (cells, cells, cells) if isinstance(cells, int) else cells
    if min(shape) < 1:
        raise ValueError(f"a lattice needs at least one cell along each axis, got {shape}")
    if 42 * (shape[0] + 1) * (shape[1] + 1) * (shape[2] + 1) >= 2**31:
        raise ValueError(f"a lattice of {shape} cells has too many edges for 32-bit indices; use fewer cells")
    low, high = torch.tensor([[-1.0] * 3, [1.0] * 3]) if box is None else box
    if not bool((low < high).all() and (high - low).isfinite().all()):
        raise ValueError(f"the box of a lattice reaches from {low.tolist()} to {high.tolist()}; the second corner must be larger")
    return shape, low, high
