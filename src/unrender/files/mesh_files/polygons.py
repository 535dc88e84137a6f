"""Triangulation of polygons by ear clipping, in their own planes.

The normal of a polygon is Newell's, n = Σ pᵢ × pᵢ₊₁. A strictly convex polygon becomes a fan from its first corner. From any other polygon
ears are cut: a corner whose triangle turns to the left and has no other corner inside or on its border. Corners on a straight side are
therefore used, and a polygon with a hole, joined to it by an edge that is walked twice, keeps its hole.

Source: Meisters, Polygons have ears, 1975.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from unrender.files.mesh_files.arrays import MeshFileError

_STRAIGHT = 1e-10
"""Twice the area of a triangle that counts as none, in squared extents of its polygon."""

_FULL_TURN = 1e-3
"""Largest deviation from 2π, in radians, of the total turning of a polygon that winds once."""

_MOST_COMPARISONS = 10**9
"""Upper limit on the pairs of corner and ear that are compared for one polygon; it bounds the time to some seconds."""


def triangulated(
    positions: Float[np.ndarray, "vertices 3"], sizes: Int[np.ndarray, " polygons"], corners: Int[np.ndarray, " corners"]
) -> Int[np.ndarray, "triangles 3"]:
    """Cut polygons into triangles.

    Args:
        positions: of the vertices.
        sizes: number of corners of each polygon, at least three.
        corners: vertices of all polygons, one polygon after the other.

    Returns:
        for each triangle three positions in ``corners``, in the order of the polygons. A polygon that names a vertex several times in a row
        loses these corners; a triangle is kept as it is, even without area.

    >>> triangulated(np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), np.array([4]), np.arange(4)).tolist()
    [[0, 1, 2], [0, 2, 3]]
    """
    if len(sizes) == 0:
        return np.zeros((0, 3), np.int64)
    if (sizes == 3).all():
        return np.arange(len(corners)).reshape(-1, 3)
    starts = np.cumsum(sizes) - sizes
    triangles, owners = [], []
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        index = starts[members, None] + np.arange(size)
        if size == 3:
            triangles.append(index)
            owners.append(members)
            continue
        rows = corners[index]
        repeats = rows == np.roll(rows, 1, axis=1)
        whole = ~repeats.any(1)
        if whole.any():
            cut, owner = _cut(positions[rows[whole]], index[whole])
            triangles.append(cut)
            owners.append(members[whole][owner])
        for polygon in np.flatnonzero(~whole):
            kept = index[polygon][~repeats[polygon]]
            kept = kept if len(kept) >= 3 else index[polygon][:3]  # no area: one triangle, so that the face is not lost
            cut, _ = _cut(positions[corners[kept]][None], kept[None])
            triangles.append(cut)
            owners.append(np.full(len(cut), members[polygon]))
    order = np.argsort(np.concatenate(owners), kind="stable")
    return np.concatenate(triangles)[order]


def _cut(
    points: Float[np.ndarray, "polygons size 3"], index: Int[np.ndarray, "polygons size"]
) -> tuple[Int[np.ndarray, "triangles 3"], Int[np.ndarray, " triangles"]]:
    """Cut polygons of one size, and tell the polygon of each triangle."""
    polygons, size = index.shape
    if size == 3:
        return index, np.arange(polygons)
    points = points - points[:, :1]
    normal = np.cross(points, np.roll(points, -1, axis=1)).sum(1)
    length = np.linalg.norm(normal, axis=1)
    axis = normal / np.where(length > 0, length, 1.0)[:, None]
    fan = np.stack([np.zeros(size - 2, np.int64), np.arange(1, size - 1), np.arange(2, size)], 1)
    triangles = index[:, fan]
    if size == 4:
        # A quadrilateral has two diagonals; the first is right unless a triangle beside it is turned over or has no area.
        other = np.array([[0, 1, 3], [1, 2, 3]])
        least = [_areas(points[:, cut], axis).min(1) for cut in (fan, other)]
        limit = _STRAIGHT * np.square(points).sum(2).max(1)
        turned = (least[0] <= limit) & (least[1] > least[0])
        triangles[turned] = index[turned][:, other]
    else:
        for polygon in np.flatnonzero(~_is_convex(points, axis)):
            if length[polygon] > 0:
                triangles[polygon] = index[polygon][_ears(_plane(points[polygon], axis[polygon]))]
    return triangles.reshape(-1, 3), np.repeat(np.arange(polygons), size - 2)


def _areas(triangles: Float[np.ndarray, "polygons triangles 3 3"], axis: Float[np.ndarray, "polygons 3"]) -> np.ndarray:
    """Return twice the signed area of each triangle, seen along its polygon's axis."""
    sides = triangles[:, :, 1:] - triangles[:, :, :1]
    return np.einsum("ptk,pk->pt", np.cross(sides[:, :, 0], sides[:, :, 1]), axis)


def _is_convex(points: Float[np.ndarray, "polygons size 3"], axis: Float[np.ndarray, "polygons 3"]) -> Bool[np.ndarray, " polygons"]:
    """Tell which polygons turn to the left at every corner, by 2π in total."""
    leaving = np.roll(points, -1, axis=1) - points
    arriving = np.roll(leaving, 1, axis=1)
    turn = np.einsum("psk,pk->ps", np.cross(arriving, leaving), axis)
    total = np.arctan2(turn, (arriving * leaving).sum(2)).sum(1)
    limit = _STRAIGHT * np.square(points).sum(2).max(1)
    return (turn > limit[:, None]).all(1) & (np.abs(total - 2 * np.pi) < _FULL_TURN)


def _plane(points: Float[np.ndarray, "size 3"], axis: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "size 2"]:
    """Return coordinates in the plane across ``axis``, in which the polygon has extent one and turns to the left."""
    first = np.cross(axis, np.eye(3)[np.abs(axis).argmin()])
    first /= np.linalg.norm(first)
    second = np.cross(axis, first)
    flat = np.stack([(points * first).sum(1), (points * second).sum(1)], 1)
    return flat / np.ptp(flat, axis=0).max()


def _ears(flat: Float[np.ndarray, "size 2"]) -> Int[np.ndarray, "triangles 3"]:
    """Cut a polygon that turns to the left into ears."""
    ring, at = np.arange(len(flat)), 0
    triangles, comparisons = [], 0
    while len(ring) > 3:
        before, after = np.roll(ring, 1), np.roll(ring, -1)
        turn = _cross(flat[ring] - flat[before], flat[after] - flat[ring])
        # Only corners that do not turn to the left can lie inside an ear.
        blockers = flat[ring[turn <= _STRAIGHT]]
        candidates = np.flatnonzero(turn > _STRAIGHT)
        candidates = np.roll(candidates, -int(np.searchsorted(candidates, at)))
        for k in candidates:
            comparisons += len(blockers) + 8
            if not _blocked(blockers, flat[before[k]], flat[ring[k]], flat[after[k]]):
                ear = int(k)
                break
            if comparisons > _MOST_COMPARISONS:
                raise MeshFileError(f"a face with {len(flat)} corners is too intricate to be triangulated; triangulate it before writing")
        else:  # no area is left, or the polygon crosses itself
            ear = int(np.abs(turn).argmin())
        triangles.append((before[ear], ring[ear], after[ear]))
        ring = np.delete(ring, ear)
        at = ear + 1  # the next ear elsewhere, because ears around one corner are thin
    return np.array([*triangles, ring])


def _blocked(
    points: Float[np.ndarray, "points 2"], a: Float[np.ndarray, " 2"], b: Float[np.ndarray, " 2"], c: Float[np.ndarray, " 2"]
) -> bool:
    """Tell whether a point lies in the triangle abc or on its border, except its corners."""
    inside = np.ones(len(points), np.bool_)
    for start, end in ((a, b), (b, c), (c, a)):
        inside &= _cross(end - start, points - start) >= -_STRAIGHT
    for corner in (a, b, c):
        inside &= np.square(points - corner).sum(1) > _STRAIGHT**2
    return bool(inside.any())


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
