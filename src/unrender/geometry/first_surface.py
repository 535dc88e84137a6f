"""An initial surface as a lattice of signed distances, from the visual hull or from depth maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt, gaussian_filter, label
from scipy.spatial import KDTree
from skimage.measure import marching_cubes
from torch import Tensor

from unrender.cameras import Cameras
from unrender.geometry.distance_lattice import CUBE, DistanceLattice, lattice_points
from unrender.ops.rays import OccupancyGrid

_SMALL = 0.02
"""Components smaller than this share of the largest are specks of a noisy depth map."""

_COARSE = 64
"""Vertices along an axis of the lattice over the whole cube that finds the box of the object."""

_MARGIN = 0.06
"""The box is wider than the object by this share of its longest side, so that the surface can move outward."""

_BAND = 2.5
"""Distances are exact within this number of cells of the surface."""

_HIDDEN = 0.01
"""Weight of a view in which a vertex is hidden: one ray in a hundred that leaks through the object does not make it hollow."""


def signed_distance(inside: Bool[Tensor, "Z Y X"], cell: float) -> Float[Tensor, "Z Y X"] | None:
    """Compute the signed distance to the border between inside and outside vertices of a lattice.

    The border runs half a cell from the vertices on either side. None if all vertices are on one side.

    Args:
        inside: of each vertex.
        cell: edge of a cell, in world units.
    """
    solid = inside.cpu().numpy()
    if not solid.any() or solid.all():
        return None
    outward = np.asarray(distance_transform_edt(~solid))
    inward = np.asarray(distance_transform_edt(solid))
    return torch.from_numpy((np.where(solid, 0.5 - inward, outward - 0.5) * cell).astype(np.float32))


def redistanced(lattice: DistanceLattice) -> DistanceLattice:
    """Replace any values by the signed distances to their zero set.

    Within a few cells of it the distance is that to the tangent plane at the nearest point where an edge of the lattice crosses the zero
    set, and beyond it is counted in cells.

    Raises:
        ValueError: all values have one sign.
    """
    far = signed_distance(lattice.values < 0, lattice.cell)
    if far is None:
        raise ValueError("redistanced takes values of both signs, got values of one")
    corners, _, normals, _ = marching_cubes(lattice.values.cpu().numpy(), 0.0)
    z, y, x = lattice.values.shape
    low, high = lattice.bounds.cpu()
    crossings = torch.from_numpy(corners.copy()).flip(1) / (torch.tensor([x, y, z]) - 1) * (high - low) + low
    tangents = torch.from_numpy(normals.copy()).flip(1)
    near = (far.abs() < _BAND * lattice.cell).reshape(-1)
    points = lattice_points(lattice.bounds, (z, y, x))[near]
    nearest = torch.from_numpy(KDTree(crossings.numpy(), balanced_tree=False).query(points.numpy(), workers=-1)[1])
    values = far.reshape(-1)
    height = ((points - crossings[nearest]) * tangents[nearest]).sum(-1).abs()
    values[near] = torch.where(values[near] < 0, -height, height)
    return DistanceLattice(values.reshape(z, y, x), lattice.bounds)


def hull_distance(hull: OccupancyGrid) -> DistanceLattice | None:
    """Compute the signed distance to the border of the seen cells of an occupancy grid over [-1, 1]³.

    It is given at the corners of the cells and smoothed over one of them. A corner is inside if all cells around it are. Cells beyond the
    cube copy their neighbors within, so a hull cropped by the cube reaches its faces. None if the hull is empty or full.
    """
    size = hull.resolution
    seen = hull.seen[: size**3].reshape(1, 1, size, size, size).float()
    # A corner is inside if the smallest of its eight cells is.
    padded = torch.nn.functional.pad(seen, (1, 1, 1, 1, 1, 1), mode="replicate")
    distance = signed_distance(-torch.nn.functional.max_pool3d(-padded, 2, 1)[0, 0] > 0.5, 2.0 / size)
    if distance is None:
        return None
    return DistanceLattice(torch.from_numpy(gaussian_filter(distance.numpy(), 1.0)), torch.tensor(CUBE))


def fuse_depth_maps(
    cameras: Cameras, distances: Sequence[Float[Tensor, "_ _"]], vertices: int, *, whole: bool = False
) -> DistanceLattice | None:
    """Fuse depth maps into signed distances around the object.

    A coarse lattice over [-1, 1]³ finds the box of the object, and a lattice over that box measures it. The value of a vertex at distance r
    whose pixel has depth d is the mean of d - r over the views, truncated at four cells behind the surface and two in front of it. A view
    counts the less the deeper the vertex lies behind its surface, and hardly at all where it is hidden, so concavities that a few views
    look into stay open. Small components are dropped, and closed cavities filled. The zero set of the means is located between the
    vertices, and the distances are those to it.

    Args:
        cameras: the cameras of the depth maps.
        distances: depth map of each view, along the unit ray; infinite at pixels without a surface, NaN where it is
            unknown.
        vertices: the lattice has about ``vertices``³ vertices.
        whole: cover the whole cube instead of the box of the object, for scenes that have more than an object.

    Returns:
        The distances; None if nothing, or everything, is inside.

    Source: Curless and Levoy, A volumetric method for building complex models from range images, 1996.
    """
    fusion = _Fusion(cameras, distances)
    cube = torch.tensor(CUBE)
    everywhere = torch.ones(_COARSE**3, dtype=torch.bool)
    coarse = fusion.over(DistanceLattice(torch.zeros((_COARSE,) * 3), cube), everywhere)
    if coarse is None:
        return None
    box = cube if whole else coarse.box_of_inside(_MARGIN)
    fine = coarse.resampled(box, vertices)
    # Away from the coarse surface the signs are known.
    return fusion.over(fine, (fine.values.abs() < 3 * coarse.cell).reshape(-1))


@dataclass(frozen=True)
class _Fusion:
    """Depth maps with their cameras."""

    cameras: Cameras
    distances: Sequence[Float[Tensor, "_ _"]]

    def over(self, guess: DistanceLattice, measured: Bool[Tensor, " vertices"]) -> DistanceLattice | None:
        """Measure some vertices of a lattice, take the signs of the others from a guess, and return the distances."""
        z, y, x = guess.values.shape
        shape = z, y, x
        truncation = 4 * guess.cell
        values = guess.values.sign().mul_(truncation).reshape(-1)
        values[measured] = self.mean(lattice_points(guess.bounds, shape)[measured], truncation)
        values = torch.from_numpy(gaussian_filter(values.reshape(shape).numpy(), 0.6))
        inside = _main_components(values < 0)
        values = torch.where(inside, values.clamp(max=-1e-3 * truncation), values.clamp(min=1e-3 * truncation))
        if not inside.any() or inside.all():
            return None
        return redistanced(DistanceLattice(values, guess.bounds))

    def mean(self, points: Float[Tensor, "points 3"], truncation: float) -> Float[Tensor, " points"]:
        """Return the weighted mean of d - r, truncated on both sides; positive where no view sees a point."""
        total, weight = torch.zeros(len(points)), torch.zeros(len(points))
        for view in range(len(self.cameras)):
            pixels, depth = self.cameras.project(points, view)
            column, row = pixels[:, 0].floor().nan_to_num(-1).long(), pixels[:, 1].floor().nan_to_num(-1).long()
            width, height = self.cameras.sizes[view].tolist()
            index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            surface = self.distances[view].reshape(-1)[index]
            within = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height) & ~surface.isnan()
            away = (points - self.cameras.world_from_camera[view, :3, 3].to(points)).norm(dim=1)
            # In front less is enough: at silhouettes, half a pixel decides whether a ray passes the object at any distance.
            outside_by = (surface.nan_to_num(0, posinf=torch.inf) - away).clamp(-truncation, 0.5 * truncation)
            # Full to one of the four cells behind the surface, so that noise about it moves it to neither side.
            trust = within * ((truncation + outside_by) / (0.75 * truncation)).clamp(_HIDDEN, 1.0)
            total += trust * outside_by
            weight += trust
        return torch.where(weight > 0, total / weight.clamp_min(1e-6), truncation)


def _main_components(inside: Bool[Tensor, "Z Y X"]) -> Bool[Tensor, "Z Y X"]:
    """Drop small components of the inside, and fill cavities that do not reach the border of the lattice."""
    components, number = label(inside.numpy())  # pyright: ignore[reportGeneralTypeIssues]
    solid = inside.numpy()
    if number > 1:
        volume = np.bincount(components.reshape(-1))
        volume[0] = 0
        solid = (volume > _SMALL * volume.max())[components]
    spaces, _ = label(~solid)  # pyright: ignore[reportGeneralTypeIssues]
    faces = [spaces.take(end, axis=axis).reshape(-1) for axis in range(3) for end in (0, -1)]
    reaching = np.unique(np.concatenate(faces))
    return torch.from_numpy(solid | ~np.isin(spaces, reaching))
