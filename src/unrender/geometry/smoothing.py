"""Meshes without the small bumps of an extracted surface."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import coo_matrix, diags, eye
from scipy.sparse.linalg import splu

from unrender.geometry.mesh import Mesh


def smoothed(mesh: Mesh, strength: float) -> Mesh:
    """Return the mesh with its vertices v moved to (1 + s L²)⁻¹ v.

    This is one implicit step of bilaplacian flow (Desbrun et al., Implicit fairing of irregular meshes, 1999) with the graph Laplacian
    L v = Σ (v − v') over the neighbors v' of a vertex. Waves of few edges vanish; the mean of the vertices stays, and forms much longer
    than an edge hardly shrink.

    Args:
        mesh: its normals are computed again; its tangents are dropped.
        strength: s; 1 halves waves of about eight edges. 0 changes nothing.

    Raises:
        ValueError: the strength is negative or not finite.
    """
    if not (np.isfinite(strength) and strength >= 0):
        raise ValueError(f"a mesh cannot be smoothed with strength {strength}; give a number from 0 on")
    if mesh.is_empty or strength == 0:
        return mesh
    edges, count = mesh.edges()[0], len(mesh.vertices)
    rows, columns = np.concatenate([edges, edges[:, ::-1]]).T
    neighbors = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count)).tocsr()
    laplacian = diags(np.asarray(neighbors.sum(1)).reshape(-1)) - neighbors
    system = (eye(count) + strength * (laplacian @ laplacian)).tocsc()
    moved = splu(system).solve(mesh.vertices.detach().double().cpu().numpy())
    vertices = torch.from_numpy(moved).to(mesh.vertices)
    found = replace(mesh, vertices=vertices, normals=None, tangents=None)
    return found if mesh.normals is None else found.with_vertex_normals()
