"""Priors on surfaces that are extracted from a lattice, and on meshes whose vertices move. Each is a mean over edges or vertices."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from unrender.numerics import normalized
from unrender.ops.raster import edge_topology


def sign_changes(sdf: Float[Tensor, " vertices"], edges: Int[Tensor, "edges 2"]) -> Float[Tensor, ""]:
    """Average H(f_a, s_b) + H(f_b, s_a) over the edges from a to b whose ends have different signs.

    H(f, s) is the cross entropy between σ(f) and the sign s, 1 for f ≥ 0, of the other end. It removes surface that no picture asks for.
    Zero without a sign change. The signed distance is negative inside; the loss is the same for the opposite sign.

    Args:
        sdf: f at the vertices of a lattice.
        edges: the vertices of each edge, once.

    Source: Munkberg et al., Extracting triangular 3D models, materials, and lighting from images, 2022.

    >>> round(sign_changes(torch.tensor([-1.0, 2.0, 3.0]), torch.tensor([[0, 1], [1, 2]])).item(), 4)
    3.4402
    """
    outside = sdf.detach() >= 0
    first, second = (outside.index_select(0, end) for end in edges.unbind(1))
    crossed = edges[(first != second).nonzero()[:, 0]]
    if len(crossed) == 0:
        return 0 * sdf[:0].sum()
    ends = crossed.flip(1)
    values = sdf.index_select(0, crossed.reshape(-1))
    opposite = outside.index_select(0, ends.reshape(-1)).to(sdf.dtype)
    return 2 * binary_cross_entropy_with_logits(values, opposite)


def uniform_laplacian(vectors: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Float[Tensor, ""]:
    """Average (v̄ - v)² over vertices and axes, with v̄ the mean over the neighbors of a vertex.

    A neighbor counts once for each triangle it shares with the vertex. Give positions for a smooth mesh, or their moves from a first
    shape for smooth moves, which keep its details. A vertex in no triangle counts as zero.

    Source: Munkberg et al., 2022, section 8.5.

    >>> triangle = torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 3, 0]])
    >>> uniform_laplacian(triangle, torch.tensor([[0, 1, 2]])).item()
    3.0
    """
    a, b, c = faces.long().unbind(1)
    first, second, third = (vectors.index_select(0, corner) for corner in (a, b, c))
    sums = torch.zeros_like(vectors)
    count = vectors.new_zeros(len(vectors))
    for corner, others in ((a, second + third), (b, third + first), (c, first + second)):
        sums = sums.index_add(0, corner, others)
        count = count.index_add(0, corner, torch.full_like(others[:, 0], 2))
    is_used = (count > 0)[:, None]
    offsets = torch.where(is_used, sums / count.clamp_min(1)[:, None] - vectors, 0.0)
    return offsets.square().mean() if len(vectors) else vectors.sum()


def normal_consistency(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Float[Tensor, ""]:
    """Average (1 - n · n') / 2 over pairs of neighboring triangles.

    n and n' are their normals: a flat pair costs 0, a folded one 1.

    Source: Munkberg et al., 2022, released code.

    >>> fold = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> normal_consistency(fold, torch.tensor([[0, 1, 2], [1, 0, 3]])).item()
    0.5
    """
    corners = [vertices.index_select(0, column) for column in faces.long().unbind(1)]
    normals = normalized(torch.linalg.cross(corners[1] - corners[0], corners[2] - corners[0]))
    across = edge_topology(faces).across.long()
    own = torch.arange(len(faces), device=faces.device)[:, None].expand_as(across)
    pairs = (across >= 0).nonzero(as_tuple=True)
    # An edge of two triangles is found from both sides, which does not change the mean.
    cosine = (normals.index_select(0, own[pairs]) * normals.index_select(0, across[pairs] // 3)).sum(-1)
    return ((1 - cosine) / 2).mean() if len(cosine) else cosine.sum()


def mean_edge_length(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Float[Tensor, ""]:
    """Average the length of the sides of all triangles, in world units.

    Zero without triangles; a side of length zero has no gradient.

    >>> mean_edge_length(torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 4, 0]]), torch.tensor([[0, 1, 2]])).item()
    4.0
    """
    corners = vertices.index_select(0, faces.long().reshape(-1)).view(-1, 3, 3)
    lengths = (corners - corners.roll(1, 1)).norm(dim=-1)
    return lengths.mean() if len(faces) else lengths.sum()


def edge_length_change(
    vertices: Float[Tensor, "vertices 3"], start: Float[Tensor, "vertices 3"], edges: Int[Tensor, "edges 2"]
) -> Float[Tensor, ""]:
    """Average the squared change of the lengths of edges, beside a common factor.

    (l / l̄ - m / m̄)², with l and m the length of an edge now and at first, and l̄ and m̄ their means. Zero without edges.

    >>> square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0]])
    >>> sides = torch.tensor([[0, 1], [1, 2]])
    >>> edge_length_change(3 * square, square, sides).item(), edge_length_change(square * torch.tensor([3.0, 1, 1]), square, sides).item()
    (0.0, 0.25)
    """
    if len(edges) == 0:
        return 0 * vertices.sum()
    now, first = (
        _along(positions, edges).square().sum(-1).clamp_min(torch.finfo(vertices.dtype).tiny).sqrt() for positions in (vertices, start)
    )
    return (now / now.mean() - first / first.mean()).square().mean()


def as_rigid_as_possible(
    vertices: Float[Tensor, "vertices 3"], start: Float[Tensor, "vertices 3"], edges: Int[Tensor, "edges 2"]
) -> Float[Tensor, ""]:
    """Average |d - R e|² over the edges around each vertex.

    d and e are an edge now and at first. R is the rotation of the vertex with the smallest sum, which is zero where its surroundings moved
    rigidly. It minimizes the sum, so the gradient is that with R fixed. Zero without edges.

    Args:
        vertices: positions now.
        start: positions at first.
        edges: the vertices of each edge, once.

    Source: Sorkine and Alexa, As-rigid-as-possible surface modeling, 2007, with equal weights.

    >>> corner = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> spokes = torch.tensor([[0, 1], [0, 2], [0, 3]])
    >>> quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    >>> [round(as_rigid_as_possible(moved, corner, spokes).item(), 4) for moved in (corner @ quarter, 2 * corner)]
    [0.0, 1.0]
    """
    if len(edges) == 0:
        return 0 * vertices.sum()
    both = torch.cat([edges, edges.flip(1)]).long()
    now, first = _along(vertices, both), _along(start, both)
    with torch.no_grad():
        covariance = vertices.new_zeros(len(vertices), 9).index_add(0, both[:, 0], (now[:, :, None] * first[:, None, :]).flatten(1))
        u, _, vh = torch.linalg.svd(covariance.view(-1, 3, 3).nan_to_num())  # vertices that are not finite give a loss that is not
        sign = torch.ones_like(u[:, 0])
        sign[:, 2] = torch.det(u @ vh).sign()
        rotation = (u * sign[:, None]) @ vh
    turned = (rotation.index_select(0, both[:, 0]) @ first[..., None])[..., 0]
    return (now - turned).square().sum(-1).mean()


def _along(positions: Float[Tensor, "vertices 3"], edges: Int[Tensor, "edges 2"]) -> Float[Tensor, "edges 3"]:
    a, b = edges.long().unbind(1)
    return positions.index_select(0, b) - positions.index_select(0, a)
