"""Tangents of triangle meshes, as MikkTSpace defines them.

Notation: a corner of a triangle has the position p, the unit vertex normal n and the texture coordinate (u, v), with v = 0 in the top row
of the image. The tangent t is the direction of growing u in the surface, the bitangent b = w (n × t) that of falling v, with w = ±1. A
normal (x, y, z) of a texture is x t + y b + z n.

Source: Mikkelsen, Simulation of wrinkled surfaces revisited, 2008; glTF 2.0 prescribes the same.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.numerics import normalized


def grouped_coordinates(
    vertices: Float[Tensor, "vertices 3"],
    normals: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    uvs: Float[Tensor, "coordinates 2"],
    uv_faces: Int[Tensor, "faces 3"],
) -> tuple[Float[Tensor, "groups 2"], Int[Tensor, "faces 3"]]:
    """Give each group of corners that share a tangent one texture coordinate of its own.

    A group are the corners with the same position, normal, texture coordinate and orientation, the sign of the triangle's area in the
    texture. A triangle without area there joins the others. Texture coordinates are split and joined for this and keep their order, and
    unused ones are dropped; where nothing changes, the tensors are returned as they are.
    """
    place = _numbered(torch.cat([vertices, normals], 1))[faces.long()]
    coordinate = _numbered(uvs)[uv_faces.long()]
    spot = torch.unique(place * max(1, len(uvs)) + coordinate, return_inverse=True)[1]
    area = _texture_areas(uvs, uv_faces)[:, None].expand_as(spot)
    has_positive = torch.zeros(spot.numel(), dtype=torch.bool, device=spot.device)
    has_positive[spot[area > 0]] = True
    is_negative = torch.where(area == 0, ~has_positive[spot], area < 0)
    group = torch.unique(2 * spot + is_negative.long(), return_inverse=True)[1]
    count = int(group.max()) + 1 if group.numel() else 0
    first = torch.full((count,), len(uvs), dtype=torch.int64, device=group.device)
    first.scatter_reduce_(0, group.reshape(-1), uv_faces.long().reshape(-1), "amin")
    order = torch.argsort(first, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(count, device=order.device)
    grouped = rank[group].to(uv_faces.dtype)
    return (uvs, uv_faces) if count == len(uvs) and torch.equal(grouped, uv_faces) else (uvs[first[order]], grouped)


def tangents_of(
    vertices: Float[Tensor, "vertices 3"],
    normals: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    uvs: Float[Tensor, "coordinates 2"],
    uv_faces: Int[Tensor, "faces 3"],
) -> Float[Tensor, "coordinates 4"]:
    """Compute the tangent of each texture coordinate, and w.

    t = Σ α s / |…| over the corners of a coordinate, with s = ∂p/∂u of the triangle, made orthogonal to the vertex normal and of unit
    length, and α the angle of the corner between the edges, seen along the normal. Where a coordinate has no triangle with an area in the
    texture, t is some direction orthogonal to the normal.
    """
    kind = normals.dtype
    corners, n, uv = vertices[faces.long()].to(kind), normals[faces.long()], uvs[uv_faces.long()].to(kind)
    ahead, back = corners.roll(-1, 1) - corners, corners.roll(1, 1) - corners
    to_second, to_third = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    area = _texture_areas(uvs, uv_faces)
    along = to_third[:, 1:] * ahead[:, 0] - to_second[:, 1:] * back[:, 0]
    along = normalized(along * area.sign().to(kind)[:, None])[:, None]
    inside = normalized(along - n * _dot(n, along))
    dot = _dot(ahead, back) - _dot(n, ahead) * _dot(n, back)
    cross = _dot(n, torch.linalg.cross(ahead, back)).abs()
    angle = torch.atan2(cross, torch.where((cross == 0) & (dot == 0), 1.0, dot))
    rows = uv_faces.long().reshape(-1)
    sums = torch.zeros(len(uvs), 3, dtype=kind, device=uvs.device).index_add(0, rows, (angle * inside).reshape(-1, 3))
    around = normals[_vertex_of_each(faces, uv_faces, len(uvs))]
    is_known = (sums != 0).any(1, keepdim=True)
    found = torch.where(is_known, normalized(sums), some_direction_across(around))
    votes = torch.zeros(len(uvs), dtype=torch.int64, device=uvs.device)
    votes.index_add_(0, rows, area.sign().long()[:, None].expand_as(uv_faces).reshape(-1))
    handedness = torch.where(votes > 0, -1.0, 1.0).to(kind)
    return torch.cat([found, handedness[:, None]], 1)


def made_orthogonal(
    tangents: Float[Tensor, "coordinates 4"],
    normals: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    uv_faces: Int[Tensor, "faces 3"],
) -> Float[Tensor, "coordinates 4"]:
    """Turn tangents by the smallest angle until they are orthogonal to their vertex normals."""
    around = normals[_vertex_of_each(faces, uv_faces, len(tangents))].to(tangents.dtype)
    direction, handedness = tangents[:, :3], tangents[:, 3:]
    direction = direction - around * _dot(around, direction)
    is_known = (direction != 0).any(1, keepdim=True)
    return torch.cat([torch.where(is_known, normalized(direction), some_direction_across(around)), handedness], 1)


def some_direction_across(normals: Float[Tensor, "rows 3"]) -> Float[Tensor, "rows 3"]:
    """Return a unit vector orthogonal to each unit vector, from the coordinate axis least along it.

    >>> some_direction_across(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    axis = torch.zeros_like(normals).scatter(1, normals.detach().abs().argmin(1, keepdim=True), 1.0)
    return normalized(axis - normals * _dot(normals, axis))


def _texture_areas(uvs: Float[Tensor, "coordinates 2"], uv_faces: Int[Tensor, "faces 3"]) -> Float[Tensor, " faces"]:
    """Compute twice the signed area of each triangle in the texture.

    It is negative unless the image is mirrored, because v grows down.
    """
    a, b, c = uvs.detach()[uv_faces.long()].unbind(1)
    (u1, v1), (u2, v2) = (b - a).unbind(1), (c - a).unbind(1)
    return u1 * v2 - u2 * v1


def _vertex_of_each(faces: Int[Tensor, "faces 3"], uv_faces: Int[Tensor, "faces 3"], count: int) -> Int[Tensor, " coordinates"]:
    """Return the lowest vertex that has each texture coordinate; 0 for an unused one."""
    first = torch.full((count,), torch.iinfo(torch.int64).max, dtype=torch.int64, device=faces.device)
    first.scatter_reduce_(0, uv_faces.long().reshape(-1), faces.long().reshape(-1), "amin")
    return torch.where(first == torch.iinfo(torch.int64).max, 0, first)


def _numbered(rows: Float[Tensor, "rows columns"]) -> Int[Tensor, " rows"]:
    """Give equal rows equal numbers."""
    number = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for column in rows.detach().unbind(1):
        values, ranks = torch.unique(column + 0.0, return_inverse=True)  # makes -0 to 0
        number = torch.unique(number * max(1, len(values)) + ranks, return_inverse=True)[1]
    return number


def _dot(a: Float[Tensor, "*#shape axes"], b: Float[Tensor, "*#shape axes"]) -> Float[Tensor, "*#shape 1"]:
    return (a * b).sum(-1, keepdim=True)
