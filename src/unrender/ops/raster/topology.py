"""Edges of a mesh and the triangles that meet there.

Edge k of a face runs from its corner k to the next; its number is 3 · face + k. Vertices are distinguished by index alone: coincident
vertices with different indices are different, so edges between them are not shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments, as_int32


@dataclass(frozen=True)
class Topology:
    """The faces on the other side of each edge.

    Raises:
        ValueError: ``across`` is not [faces, 3] of int32 or int64.
    """

    across: Int[Tensor, "faces 3"]
    """int32 number, 3 · face + k, of the same edge in the next face that has it; -1 if there is none. The two faces of an
    interior edge refer to each other. If more than two meet, each refers to the next and the last to the first."""

    def __post_init__(self) -> None:
        """Check the tensor; its values are checked where they are followed."""
        across = Arguments("Topology").integers(self.across, "across", ("faces", 3))
        if across.dtype != torch.int32:
            object.__setattr__(self, "across", as_int32(across))


def edge_topology(faces: Int[Tensor, "faces 3"]) -> Topology:
    """Find the faces that share an edge, in either direction.

    The result depends on ``faces`` alone and stays valid while vertices move.

    Raises:
        ValueError: for other shapes, types other than int32 and int64, or more than 2³¹ / 3 faces.

    >>> edge_topology(torch.tensor([[0, 1, 2], [2, 1, 3]])).across.tolist()
    [[-1, 3, -1], [1, -1, -1]]
    """
    faces = Arguments("edge_topology").integers(faces, "faces", ("faces", 3))
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
class _RecentTopologies:
    """A cache for :func:`topology_of`. Its tuple is replaced, never modified, so threads may share it."""

    entries: tuple[tuple[Tensor, Topology], ...] = ()
    """Copies of the faces of recent meshes with their topologies, the latest first."""


_recent = _RecentTopologies()
_MESHES_KEPT = 4
_MOST_FACES_KEPT = 2**22


def topology_of(faces: Int[Tensor, "faces 3"]) -> Topology:
    """Return the :func:`edge_topology` of faces, from a cache on a CPU.

    The cache holds the last four meshes of up to 2²² faces. Faces are compared by value, which takes a fiftieth of the time of rebuilding,
    so changes in place are noticed. On a GPU nothing is cached, because a comparison would synchronize.

    Raises:
        ValueError: as :func:`edge_topology`.
    """
    faces = Arguments("topology_of").integers(faces, "faces", ("faces", 3))
    if not on_cpu(faces.device) or faces.shape[0] > _MOST_FACES_KEPT:
        return edge_topology(faces)
    entries = _recent.entries
    for entry in entries:
        if entry[0].dtype == faces.dtype and torch.equal(entry[0], faces):
            break
    else:
        with torch.inference_mode(False):  # a tensor made in inference mode could not be used outside it
            copy = faces.detach().clone()
            entry = copy, edge_topology(copy)
    _recent.entries = (entry, *(other for other in entries if other is not entry))[:_MESHES_KEPT]
    return entry[1]
