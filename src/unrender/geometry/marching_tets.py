"""Marching tetrahedra, differentiable in the lattice's vertices and the values at them.

Source: Shen, Gao, Yin, Liu and Fidler, Deep marching tetrahedra, 2021; Doi and Koide, 1991.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.geometry.tetrahedra import LOCAL_EDGES, TetrahedralLattice

_ALL_INSIDE = 0x01010101


def marching_tets(
    vertices: Float[Tensor, "lattice 3"], sdf: Float[Tensor, " values"], lattice: TetrahedralLattice
) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "faces 3"]]:
    """Extract the surface f = 0 as triangles, counter-clockwise seen from outside, where f ≥ 0.

    Each edge of the lattice whose ends have different signs has one vertex, p = a + f(a) / (f(a) − f(b)) · (b − a), and each tetrahedron
    one or two triangles. The mesh is a manifold, closed unless it reaches the boundary of the lattice. Gradients reach ``vertices`` and
    ``sdf`` through the positions; the faces change where a sign does.

    Args:
        vertices: of the lattice, moved or not.
        sdf: f at the vertices, negative inside.
        lattice: its tetrahedra and edges.

    Raises:
        ValueError: the lattice has another number of vertices.

    >>> from unrender.geometry.tetrahedra import tetrahedral_lattice
    >>> lattice = tetrahedral_lattice(4)
    >>> points, faces = marching_tets(lattice.vertices, lattice.vertices.norm(dim=1) - 0.5, lattice)
    >>> len(points) - 3 * len(faces) // 2 + len(faces)
    2
    """
    if len(vertices) != len(lattice.vertices) or len(sdf) != len(lattice.vertices):
        raise ValueError(
            f"a lattice of {len(lattice.vertices)} vertices needs as many positions and values, got {len(vertices)}, {len(sdf)}"
        )
    inside = (sdf.detach() < 0).to(torch.uint8)
    # Four bytes, one for each corner, are compared as one number.
    signs = inside.index_select(0, lattice.tetrahedra.reshape(-1)).view(torch.int32)
    active = ((signs != 0) & (signs != _ALL_INSIDE)).nonzero()[:, 0]
    bits = signs[active].view(torch.uint8).view(-1, 4)
    case = (bits << torch.arange(4, dtype=torch.uint8, device=sdf.device)).sum(1)
    crosses = torch.from_numpy(_CROSSES).to(sdf.device)[case]
    edges = lattice.tetrahedron_edges[active].long()
    # Each crossed edge is numbered once: mark, collect, and look up.
    marks = torch.zeros(len(lattice.edges), dtype=torch.bool, device=sdf.device)
    marks[edges[crosses]] = True
    crossed = marks.nonzero()[:, 0]
    number = torch.empty(len(lattice.edges), dtype=torch.int64, device=sdf.device)
    number[crossed] = torch.arange(len(crossed), device=sdf.device)
    triangles = torch.from_numpy(_TRIANGLES).to(sdf.device)[case]
    exists = triangles[..., 0] >= 0
    corners = edges.gather(1, triangles.clamp_min(0).flatten(1)).view_as(triangles)
    ends = lattice.edges[crossed].long().unbind(1)
    places = [vertices.index_select(0, end) for end in ends]
    values = [sdf.index_select(0, end) for end in ends]
    return zero_crossings(*places, *values), number[corners[exists]]


def zero_crossings(
    start: Float[Tensor, "edges 3"], end: Float[Tensor, "edges 3"], first: Float[Tensor, " edges"], second: Float[Tensor, " edges"]
) -> Float[Tensor, "edges 3"]:
    """Compute where linear interpolation from ``first`` to ``second``, values of different signs, is zero along each edge."""
    return start + (first / (first - second))[:, None] * (end - start)


def _tables() -> tuple[Bool[np.ndarray, "16 6"], Int[np.ndarray, "16 2 3"]]:
    """Return the crossed edges of each case, and its triangles by their edges, −1 for none.

    Bit k of a case tells whether corner k is inside.
    """
    places = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    middles = np.array([places[i] + places[j] for i, j in LOCAL_EDGES]) / 2
    crosses, triangles = np.zeros((16, 6), np.bool_), np.full((16, 2, 3), -1)
    for case in range(1, 15):
        is_inside = np.array([case >> corner & 1 for corner in range(4)], np.bool_)
        outward = places[~is_inside].mean(0) - places[is_inside].mean(0)
        crosses[case] = [is_inside[i] != is_inside[j] for i, j in LOCAL_EDGES]
        loop = list(np.flatnonzero(crosses[case]))
        if len(loop) == 4:  # opposite corners of the quadrilateral share no corner of the tetrahedron
            opposite = next(pair for pair in combinations(loop, 2) if not {*LOCAL_EDGES[pair[0]]} & {*LOCAL_EDGES[pair[1]]})
            loop = [opposite[0], *(edge for edge in loop if edge not in opposite), opposite[1]]
            loop[2], loop[3] = loop[3], loop[2]
        for k, (i, j) in enumerate(zip(loop[1:-1], loop[2:], strict=True)):
            first = middles[loop[0]]
            flipped = np.cross(middles[i] - first, middles[j] - first) @ outward < 0
            triangles[case, k] = [loop[0], j, i] if flipped else [loop[0], i, j]
    return crosses, triangles


_CROSSES, _TRIANGLES = _tables()
