"""Which triangles meet at the edges of a mesh.

Edge k of a face runs from its corner k to the next, and edge 3 · face + k is its number. Corners are told apart by their index alone:
vertices that coincide and have two indices are two vertices, and the edges between them belong to one face each.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from unrender.ops._mesh_checks import check_face_list


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


_lately: deque[tuple[Tensor, Topology]] = deque(maxlen=4)
"""Copies of the faces of the meshes that :func:`topology_of` met last, and their topologies."""


def topology_of(faces: Int[Tensor, "faces 3"]) -> Topology:
    """:func:`edge_topology`, which on a CPU is found once for the same faces.

    Faces are compared by their numbers, not by where they lie: to compare takes a fiftieth of the time of finding, and who changes them
    in place gets the topology of what they are now. A GPU would have to be waited for, so there it is found anew.
    """
    if faces.device.type != "cpu":
        return edge_topology(faces)
    for known, topology in tuple(_lately):
        if known.dtype == faces.dtype and torch.equal(known, faces):
            return topology
    topology = edge_topology(faces)
    _lately.append((faces.detach().clone(), topology))
    return topology
