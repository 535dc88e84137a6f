"""Distances between two surfaces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from unrender.geometry.mesh import Mesh

_FIRST_CANDIDATES = 8
_CANDIDATES_AT_ONCE = 2**19


@dataclass(frozen=True)
class SurfaceDistance:
    """The distance of a reconstruction from a reference, in the units of their coordinates."""

    accuracy: float
    """Mean distance from the reconstruction to the reference: increases with spurious surface."""
    completeness: float
    """Mean distance from the reference to the reconstruction: increases with missing surface."""
    precision: float
    """Share of the reconstruction nearer to the reference than the threshold."""
    recall: float
    """Share of the reference nearer to the reconstruction than the threshold."""
    threshold: float
    normal_consistency: float | None
    """Mean |n · n'| over nearest pairs, both ways; None unless both are meshes."""

    @property
    def chamfer(self) -> float:
        """The mean of accuracy and completeness."""
        return (self.accuracy + self.completeness) / 2

    @property
    def f_score(self) -> float:
        """Harmonic mean of precision and recall; zero if both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total > 0 else 0.0


def surface_distance(
    reconstruction: Mesh | Float[Tensor, "points 3"],
    reference: Mesh | Float[Tensor, "others 3"],
    *,
    count: int = 100_000,
    threshold: float | None = None,
    generator: torch.Generator,
) -> SurfaceDistance:
    """Compute Chamfer distance (L1, symmetric) and F-score between samples of two surfaces.

    Points are drawn uniformly from each mesh and matched with the nearest point drawn from the other. The result of two equal surfaces is
    therefore not zero but about half the spacing of the samples, 0.5 √(area / count).

    Args:
        reconstruction: a mesh, or points, which are used directly.
        reference: the true surface, likewise.
        count: points drawn from each mesh.
        threshold: for precision and recall; by default a hundredth of the diagonal of the reference's bounding box.
        generator: draws the points.

    Raises:
        ValueError: a mesh has no area or a cloud no points.

    Source: Knapitsch, Park, Zhou, Koltun, Tanks and Temples, 2017, section 3.1 (precision, recall, F-score).
    """
    ours, our_normals = _samples(reconstruction, count, generator)
    theirs, their_normals = _samples(reference, count, generator)
    if threshold is None:
        extent = reference.bounding_box.double().cpu().numpy() if isinstance(reference, Mesh) else np.stack([theirs.min(0), theirs.max(0)])
        threshold = 0.01 * float(np.linalg.norm(extent[1] - extent[0]))
    to_reference, there = KDTree(theirs, balanced_tree=False).query(ours)
    to_reconstruction, here = KDTree(ours, balanced_tree=False).query(theirs)
    consistency = None
    if our_normals is not None and their_normals is not None:
        forth = np.abs((our_normals * their_normals[there]).sum(1)).mean()
        back = np.abs((their_normals * our_normals[here]).sum(1)).mean()
        consistency = float(forth + back) / 2
    return SurfaceDistance(
        accuracy=float(to_reference.mean()),
        completeness=float(to_reconstruction.mean()),
        precision=float((to_reference < threshold).mean()),
        recall=float((to_reconstruction < threshold).mean()),
        threshold=threshold,
        normal_consistency=consistency,
    )


def points_to_mesh_distance(points: Float[Tensor, "points 3"], mesh: Mesh) -> Float[Tensor, " points"]:
    """Compute the exact unsigned distance from each point to the nearest triangle.

    Raises:
        ValueError: the mesh has no triangles.

    >>> triangle = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    >>> points_to_mesh_distance(torch.tensor([[0.25, 0.25, 2.0], [-3.0, -4.0, 0.0]]), triangle).tolist()
    [2.0, 5.0]
    """
    return nearest_triangles(points, mesh)[0]


def nearest_triangles(points: Float[Tensor, "points 3"], mesh: Mesh) -> tuple[Float[Tensor, " points"], Int[Tensor, " points"]]:
    """Find the nearest triangle of each point: the exact unsigned distance to it, and its row (int64).

    Triangles are sorted by size into classes, those below the median into one, each with a search tree over the centers of its triangles. A
    triangle whose center is farther than the best distance so far plus the largest radius of its class cannot be nearer, so each point
    queries more of the nearest centers, four times as many each time, until no center can be nearer. Of equally near triangles any may be
    returned.

    Raises:
        ValueError: the mesh has no triangles.
    """
    if mesh.is_empty:
        raise ValueError("there is no distance to a mesh without triangles; check mesh.is_empty first")
    query = points.detach().double().cpu().numpy()
    corners = mesh.vertices.detach().double()[mesh.faces.long()].cpu().numpy()
    centers = corners.mean(1)
    radii = np.linalg.norm(corners - centers[:, None], axis=2).max(1)
    best, corner = KDTree(corners.reshape(-1, 3), balanced_tree=False).query(query)
    nearest = corner // 3
    classes = np.frexp(np.maximum(radii, np.median(radii)))[1]
    for size in np.unique(classes):
        members = np.flatnonzero(classes == size)
        tree = KDTree(centers[members], balanced_tree=False)
        radius = radii[members].max()
        pending = np.arange(len(query))
        wanted = min(_FIRST_CANDIDATES, len(members))
        while len(pending):
            unsettled = []
            for chunk in np.array_split(pending, max(1, len(pending) * wanted // _CANDIDATES_AT_ONCE)):
                distance, index = (np.reshape(found, (-1, wanted)) for found in tree.query(query[chunk], k=wanted))
                possible, slot = np.nonzero(distance - radius < best[chunk, None])
                exact = np.full(distance.shape, np.inf)
                exact[possible, slot] = _point_triangle_distance(query[chunk[possible]], corners[members[index[possible, slot]]])
                first = exact.argmin(1)
                found = exact[np.arange(len(chunk)), first]
                nearer = found < best[chunk]
                best[chunk[nearer]] = found[nearer]
                nearest[chunk[nearer]] = members[index[nearer, first[nearer]]]
                # The next center may still be near enough: query more.
                unsettled.append(chunk[distance[:, -1] - radius < best[chunk]])
            pending = np.concatenate(unsettled)
            if wanted == len(members):
                break
            wanted = min(4 * wanted, len(members))
    return torch.from_numpy(best).to(points.device, points.dtype), torch.from_numpy(nearest).to(points.device)


def _samples(
    surface: Mesh | Float[Tensor, "points 3"], count: int, generator: torch.Generator
) -> tuple[Float[np.ndarray, "samples 3"], Float[np.ndarray, "samples 3"] | None]:
    if isinstance(surface, Mesh):
        points, normals = surface.sample_surface(count, generator)
        return points.double().cpu().numpy(), normals.double().cpu().numpy()
    if len(surface) == 0:
        raise ValueError("there is no distance to a cloud that has no points")
    return surface.detach().double().cpu().numpy(), None


def _point_triangle_distance(points: Float[np.ndarray, "pairs 3"], corners: Float[np.ndarray, "pairs 3 3"]) -> Float[np.ndarray, " pairs"]:
    """Compute the distance from each point to its triangle.

    This is the distance to the plane if the foot of the perpendicular lies inside the triangle, otherwise that to the nearest side.
    """
    squared = np.full(len(points), np.inf)
    for k in range(3):
        start, side = corners[:, k], corners[:, (k + 1) % 3] - corners[:, k]
        length = _dot(side, side)
        along = np.clip(_dot(points - start, side) / np.where(length > 0, length, 1.0), 0.0, 1.0)
        gap = points - start - along[:, None] * side
        squared = np.minimum(squared, _dot(gap, gap))
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inside = _dot(normal, normal) > 0
    for k in range(3):
        inward = np.cross(normal, corners[:, (k + 1) % 3] - corners[:, k])
        inside &= _dot(inward, points - corners[:, k]) >= 0
    height = _dot(points - corners[:, 0], normal) / np.sqrt(np.where(inside, _dot(normal, normal), 1.0))
    return np.where(inside, np.abs(height), np.sqrt(squared))


def _dot(a: Float[np.ndarray, "pairs 3"], b: Float[np.ndarray, "pairs 3"]) -> Float[np.ndarray, " pairs"]:
    return np.einsum("ij,ij->i", a, b)
