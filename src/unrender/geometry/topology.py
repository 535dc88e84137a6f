"""Topology of triangle meshes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from unrender.geometry.mesh import Mesh


def genus(mesh: Mesh) -> int | None:
    """Compute the genus, the number of handles, of a connected surface.

    Euler's formula V − E + F = 2 − 2 g − b holds for an orientable surface with b loops of boundary, so an open surface has a genus too.
    Vertices at equal positions are different ones: see :meth:`unrender.geometry.mesh.Mesh.welded`.

    Returns:
        None for an empty mesh, or where the formula does not hold: an edge has more than two triangles, sheets touch at a vertex, or the
        surface is one-sided.

    >>> import torch
    >>> corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> genus(Mesh(corners, torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])))
    0
    """
    edges, shared = mesh.edges()
    if len(edges) == 0 or shared.max() > 2:
        return None
    characteristic = len(np.unique(edges)) - len(edges) + shared.sum() // 3
    twice = 2 - characteristic - _loops(edges[shared == 1])
    return int(twice // 2) if twice >= 0 and twice % 2 == 0 else None


def _loops(border: Int[np.ndarray, "edges 2"]) -> int:
    """Count the connected loops of border edges."""
    used, rows = np.unique(border, return_inverse=True)
    rows = rows.reshape(-1, 2)
    graph = coo_matrix((np.ones(len(border), np.bool_), (rows[:, 0], rows[:, 1])), shape=(len(used), len(used)))
    return int(connected_components(graph, directed=False)[0])
