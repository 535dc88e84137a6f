"""Topology of triangle meshes."""

from __future__ import annotations

import numpy as np
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
    faces = np.sort(mesh.faces.detach().cpu().numpy().astype(np.int64), axis=1)
    faces = faces[(faces[:, :-1] != faces[:, 1:]).all(1)]
    if len(faces) == 0:
        return None
    count = len(mesh.vertices)
    pairs = np.concatenate([faces[:, :2], faces[:, 1:], faces[:, ::2]])
    edges, shared = np.unique(pairs[:, 0] * count + pairs[:, 1], return_counts=True)
    if shared.max() > 2:
        return None
    characteristic = len(np.unique(faces)) - len(edges) + len(faces)
    twice = 2 - characteristic - _loops(edges[shared == 1], count)
    return int(twice // 2) if twice >= 0 and twice % 2 == 0 else None


def _loops(border: np.ndarray, count: int) -> int:
    """Count the connected loops of border edges, each of them a · count + b for vertices a and b."""
    starts, ends = np.divmod(border, count)
    used, rows = np.unique(np.concatenate([starts, ends]), return_inverse=True)
    rows = rows.reshape(2, -1)
    graph = coo_matrix((np.ones(len(border), np.bool_), (rows[0], rows[1])), shape=(len(used), len(used)))
    return int(connected_components(graph, directed=False)[0])
