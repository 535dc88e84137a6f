"""FlexiCubes: dual marching cubes whose vertices have weights to fit a shape, differentiable in all of them.

Source: Shen, Munkberg, Hasselgren, Yin, Wang, Chen, Gojcic, Fidler, Sharp and Gao, Flexible isosurface extraction for gradient-based mesh
optimization, 2023.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.geometry.flexicubes_cases import CORNERS, EDGES, OWN_FACE, PATCH_COUNT, PATCHES
from unrender.geometry.marching_tets import zero_crossings
from unrender.geometry.voxels import VoxelLattice

WEIGHTS = 21
"""Weights of a cell: β of its twelve edges, α of its eight corners, γ of its vertices."""

_RANGE = 0.99
"""α and β are 1 ± 0.99 and γ is 0.5 ± 0.495, so none can be zero."""

_AROUND_EDGE = ((0, 0), (1, 0), (1, 1), (0, 1))
"""Cells around an edge, counter-clockwise seen from its upper end."""


class FlexiCubesSurface(NamedTuple):
    """Triangles with the deviation of their vertices."""

    vertices: Float[Tensor, "vertices 3"]
    faces: Int[Tensor, "faces 3"]
    """Counter-clockwise seen from outside."""
    deviation: Float[Tensor, ""]
    """The regularizer L_dev: mean | d − d̄ |, where d are the distances of a vertex to its edge crossings, and d̄ is their mean."""


def flexicubes(
    vertices: Float[Tensor, "lattice 3"],
    sdf: Float[Tensor, " values"],
    lattice: VoxelLattice,
    weights: Float[Tensor, "cells 21"] | None = None,
    *,
    training: bool = True,
) -> FlexiCubesSurface:
    """Extract the surface f = 0 as triangles.

    Each patch of a cell has one vertex, Σ β u / Σ β, over the crossings u of its edges, where α f is zero along the edge. Each crossed edge
    of the lattice has a quadrilateral of the vertices around it. It becomes four triangles about a center, the means of its diagonals
    weighted by the products of their γ, or two triangles along the diagonal of larger product. The mesh is a manifold, closed unless it
    reaches the boundary of the lattice, where it is open and may have unused vertices. It may intersect itself.

    Args:
        vertices: of the lattice, moved or not.
        sdf: f at the vertices, negative inside.
        lattice: its cells.
        weights: twelve of β, eight of α and γ for each cell, before β = 1 + 0.99 tanh, α = 1 + 0.99 tanh and γ = 0.005 + 0.99 sigmoid;
            zeros are α = β = 1 and γ = ½. None for zeros.
        training: split quadrilaterals in four, which is smooth in γ, instead of two.

    Raises:
        ValueError: the lattice has another number of vertices or cells.

    >>> from unrender.geometry.voxels import voxel_lattice
    >>> lattice = voxel_lattice(8)
    >>> surface = flexicubes(lattice.vertices, lattice.vertices.norm(dim=1) - 0.5, lattice, training=False)
    >>> len(surface.vertices) - 3 * len(surface.faces) // 2 + len(surface.faces)
    2
    """
    if len(vertices) != len(lattice.vertices) or len(sdf) != len(lattice.vertices):
        count = len(lattice.vertices)
        raise ValueError(f"a lattice of {count} vertices needs as many positions and values, got {len(vertices)} and {len(sdf)}")
    if weights is not None and len(weights) != lattice.cell_count:
        raise ValueError(f"a lattice of {lattice.cell_count} cells needs as many rows of weights, got {len(weights)}")
    cells = _crossed_cells(sdf, lattice)
    beta, alpha, gamma = _mapped(weights, cells.rows, sdf)

    cell, edge = (cells.patches >= 0).nonzero(as_tuple=True)
    patch = cells.first[cell] + cells.patches[cell, edge]
    corners = _on(EDGES, sdf)[edge].unbind(1)
    ends = [cells.corner_vertices(cell, corner) for corner in corners]
    places = [vertices.index_select(0, end) for end in ends]
    values = [sdf.index_select(0, end) * alpha[cell, corner] for end, corner in zip(ends, corners, strict=True)]
    crossings = zero_crossings(*places, *values)
    share = beta[cell, edge]
    total = share.new_zeros(cells.patch_count).index_add(0, patch, share)
    points = vertices.new_zeros(cells.patch_count, 3).index_add(0, patch, share[:, None] * crossings) / total[:, None]

    quads, owners = cells.quads()
    deviation = _deviation(points, crossings, patch)
    corner_gamma = gamma.index_select(0, owners.reshape(-1)).view(-1, 4)
    first, second = (corner_gamma[:, k] * corner_gamma[:, k + 2] for k in (0, 1))
    if not training:
        straight, other = quads[:, [0, 1, 2, 0, 2, 3]], quads[:, [0, 1, 3, 1, 2, 3]]
        return FlexiCubesSurface(points, torch.where((first > second)[:, None], straight, other).view(-1, 3), deviation)
    a, b, c, d = (points.index_select(0, column) for column in quads.unbind(1))
    share = (first / (first + second))[:, None]
    centers = share * (a + c) / 2 + (1 - share) * (b + d) / 2
    center = len(points) + torch.arange(len(quads), device=quads.device)
    faces = torch.stack([quads, quads.roll(-1, 1), center[:, None].expand_as(quads)], -1).view(-1, 3)
    return FlexiCubesSurface(torch.cat([points, centers]), faces, deviation)


class _Cells(NamedTuple):
    """The cells that the surface passes through."""

    lattice: VoxelLattice
    rows: Int[Tensor, " cells"]
    """Their numbers in the lattice."""
    number: Int[Tensor, " all"]
    """Their rows here, by their numbers; undefined for other cells."""
    places: Int[Tensor, "cells 3"]
    case: Int[Tensor, " cells"]
    patches: Int[Tensor, "cells 12"]
    """The patch of each edge in its cell; −1 for an edge without a crossing."""
    first: Int[Tensor, " cells"]
    """The number of the first patch of each cell among all patches."""
    patch_count: int

    def corner_vertices(self, cell: Int[Tensor, " edges"], corner: Int[Tensor, " edges"]) -> Int[Tensor, " edges"]:
        """Return the vertex of the lattice at a corner of a cell."""
        _, y, z = self.lattice.cells
        stride = torch.tensor([(y + 1) * (z + 1), z + 1, 1], device=cell.device)
        return (self.places * stride).sum(1)[cell] + (_on(CORNERS, cell) * stride).sum(1)[corner]

    def quads(self) -> tuple[Int[Tensor, "quads 4"], Int[Tensor, "quads 4"]]:
        """Return the patches around each crossed edge that has four cells, and the rows of these cells."""
        _, y, z = self.lattice.cells
        stride = (y * z, z, 1)
        found, owners = [], []
        for axis in range(3):
            next_axis, last_axis = (axis + 1) % 3, (axis + 2) % 3
            edge = 4 * axis + 3  # the one farthest along the other axes, so its cell is the first of the four
            has_four = (self.places[:, next_axis] < self.lattice.cells[next_axis] - 1) & (
                self.places[:, last_axis] < self.lattice.cells[last_axis] - 1
            )
            start = ((self.patches[:, edge] >= 0) & has_four).nonzero()[:, 0]
            around = [self.number[self.rows[start] + j * stride[next_axis] + k * stride[last_axis]] for j, k in _AROUND_EDGE]
            quad = [self.first[cell] + self.patches[cell, edge - j - 2 * k] for cell, (j, k) in zip(around, _AROUND_EDGE, strict=True)]
            leaves = (self.case[start] >> int(EDGES[edge, 0]) & 1 == 1)[:, None]
            for rows, columns in ((found, quad), (owners, around)):
                ahead = torch.stack(columns, 1)
                rows.append(torch.where(leaves, ahead, ahead.flip(1)))
        return torch.cat(found), torch.cat(owners)


def _crossed_cells(sdf: Float[Tensor, " values"], lattice: VoxelLattice) -> _Cells:
    x, y, z = lattice.cells
    bits = (sdf.detach() < 0).to(torch.uint8).view(x + 1, y + 1, z + 1)
    for axis, size in enumerate(lattice.cells):
        bits = bits.narrow(axis, 0, size) + (bits.narrow(axis, 1, size) << 2**axis)
    cases = bits.reshape(-1)
    rows = ((cases > 0) & (cases < 255)).nonzero()[:, 0]
    case = cases[rows].long()
    places = torch.stack([rows // (y * z), rows // z % y, rows % z], 1)
    variant = case + 256 * _must_separate(case, places, cases, lattice).long()
    counts = _on(PATCH_COUNT, sdf)[variant]
    number = torch.empty(len(cases), dtype=torch.int64, device=sdf.device)
    number[rows] = torch.arange(len(rows), device=sdf.device)
    patches = _on(PATCHES, sdf)[variant]
    return _Cells(lattice, rows, number, places, case, patches, counts.cumsum(0) - counts, int(counts.sum()))


def _must_separate(case: Int[Tensor, " cells"], places: Int[Tensor, "cells 3"], cases: Tensor, lattice: VoxelLattice) -> Tensor:
    """Tell which cells have a neighbor such that both lines on their common face join one patch on both sides."""
    own_face = _on(OWN_FACE, case)
    result = torch.zeros_like(case, dtype=torch.bool)
    suspects = (own_face[case] >= 0).nonzero()[:, 0]
    face = own_face[case[suspects]]
    beyond = places[suspects].scatter_add(1, face[:, None] // 2, 2 * (face[:, None] % 2) - 1)
    size = torch.tensor(lattice.cells, device=case.device)
    exists = ((beyond >= 0) & (beyond < size)).all(1)
    i, j, k = torch.where(exists[:, None], beyond, 0).unbind(1)
    across = cases[(i * size[1] + j) * size[2] + k].long()
    result[suspects] = exists & (own_face[across] == face ^ 1)
    return result


def _mapped(weights: Tensor | None, rows: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return β [cells, 12], α [cells, 8] and γ [cells] of the cells in use."""
    raw = like.new_zeros(len(rows), WEIGHTS) if weights is None else weights.index_select(0, rows)
    beta, alpha, gamma = raw.split([12, 8, 1], 1)
    return 1 + _RANGE * beta.tanh(), 1 + _RANGE * alpha.tanh(), (1 - _RANGE) / 2 + _RANGE * gamma[:, 0].sigmoid()


def _deviation(
    points: Float[Tensor, "vertices 3"], crossings: Float[Tensor, "crossings 3"], patch: Int[Tensor, " crossings"]
) -> Float[Tensor, ""]:
    if len(crossings) == 0:
        return crossings.sum()
    distance = (crossings - points.index_select(0, patch)).norm(dim=1)
    count = torch.bincount(patch, minlength=len(points)).to(distance.dtype)
    mean = distance.new_zeros(len(points)).index_add(0, patch, distance) / count
    return (distance - mean.index_select(0, patch)).abs().mean()


def _on(table: object, like: Tensor) -> Tensor:
    return torch.as_tensor(table, device=like.device)
