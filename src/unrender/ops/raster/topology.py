"""Which triangles meet at the edges of a mesh.

Edge k of a face runs from its corner k to the next, and edge 3 · face + k is its number. Corners are told apart by their index alone:
vertices that coincide and have two indices are two vertices, and the edges between them belong to one face each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.raster.checks import check_face_list


@dataclass(frozen=True)
class Topology:
    """The faces on the other side of each edge."""

    across: Int[Tensor, "faces 3"]
    """int32 number, 3 · face + k, of the same edge in the next face that has it; -1 where there is no other. The two faces of an ordinary
    edge name each other. Where more than two meet, each names the next and the last the first."""


def edge_topology(faces: Int[Tensor, "faces 3"]) -> Topology:
    """Finds the faces that share an edge, whichever way round they run through it.

    Depends on ``faces`` alone: a mesh whose vertices move keeps it.

    Raises:
        ValueError: for other shapes, other types than int32 and int64, or more than 2³¹ / 3 faces.

    >>> edge_topology(torch.tensor([[0, 1, 2], [2, 1, 3]])).across.tolist()
    [[-1, 3, -1], [1, -1, -1]]
    """
    check_face_list(faces, "edge_topology")
    edges = 3 * faces.shape[0]
    if edges == 0:
        return Topology(torch.empty(0, 3, dtype=torch.int32, device=faces.device))
    corner = faces.long()
    following = corner.roll(-1, dims=1)
    ends = ((torch.minimum(corner, following) << 32) + torch.maximum(corner, following)).flatten()
    ends, edge = torch.sort(ends, stable=True)
    place = torch.arange(edges, device=faces.device)
    begins = torch.ones(edges, dtype=torch.bool, device=faces.device)
    begins[1:] = ends[1:] != ends[:-1]
    first = torch.where(begins, place, 0).cummax(0).values
    following = torch.where(begins.roll(-1), first, (place + 1) % edges)
    across = torch.where(following == place, -1, edge[following])
    result = torch.empty(edges, dtype=torch.int32, device=faces.device)
    result[edge] = across.int()
    return Topology(result.view(-1, 3))


@dataclass
class _Lately:
    """What :func:`topology_of` keeps; replaced and never changed, so that threads may share it."""

    met: tuple[tuple[Tensor, Topology], ...] = ()
    """Copies of the faces of the meshes met last, and their topologies."""


_lately = _Lately()
_MESHES_KEPT = 4
_MOST_FACES_KEPT = 2**22


def topology_of(faces: Int[Tensor, "faces 3"]) -> Topology:
    """:func:`edge_topology`, which on a CPU is found once for the same faces; those of the last four meshes of up to 2²² faces are kept.

    Faces are compared by their numbers, not by where they lie: to compare takes a fiftieth of the time of finding, and who changes them
    in place gets the topology of what they are now. A GPU would have to be waited for, so there it is found anew.
    """
    if not on_cpu(faces.device) or faces.shape[0] > _MOST_FACES_KEPT:
        return edge_topology(faces)
    met = _lately.met
    for mesh in met:
        if mesh[0].dtype == faces.dtype and torch.equal(mesh[0], faces):
            break
    else:
        with torch.inference_mode(False):
            mine = faces.detach().clone()
            mesh = mine, edge_topology(mine)
    _lately.met = (mesh, *(other for other in met if other is not mesh))[:_MESHES_KEPT]
    return mesh[1]
