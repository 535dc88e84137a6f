"""An initial surface as a signed distance grid, from the visual hull or from depth maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt, gaussian_filter, label
from torch import Tensor

from unrender.cameras import Cameras
from unrender.ops.rays import OccupancyGrid

_COMPARED_VIEWS, _COMPARED_PIXELS = 24, 2_000
"""Views whose depth maps are compared, and pixels of each."""
_SMALL = 0.02
"""Components smaller than this share of the largest are specks of a noisy depth map."""


def signed_distance(inside: Bool[Tensor, "Z Y X"]) -> Float[Tensor, "Z Y X"] | None:
    """Compute the signed distance to the border between inside and outside vertices of a lattice over [-1, 1]³.

    The border runs half a cell from the vertices on either side, and the distance is smoothed over one cell. None if all vertices are on
    one side.
    """
    solid = inside.cpu().numpy()
    if not solid.any() or solid.all():
        return None
    spacing = 2.0 / (solid.shape[0] - 1)
    outward = np.asarray(distance_transform_edt(~solid))
    inward = np.asarray(distance_transform_edt(solid))
    distance = np.where(solid, 0.5 - inward, outward - 0.5) * spacing
    return torch.from_numpy(gaussian_filter(distance, 1.0).astype(np.float32))


def hull_distance(hull: OccupancyGrid) -> Float[Tensor, "Z Y X"] | None:
    """Compute the signed distance to the border of the seen cells of an occupancy grid over [-1, 1]³.

    It is given at the corners of the cells. A corner is inside if all cells around it are. Cells beyond the cube copy their neighbors
    within, so a hull cropped by the cube reaches its faces. None if the hull is empty or full.
    """
    size = hull.resolution
    seen = hull.seen[: size**3].reshape(1, 1, size, size, size).float()
    # A corner is inside if the smallest of its eight cells is.
    padded = F.pad(seen, (1, 1, 1, 1, 1, 1), mode="replicate")
    return signed_distance(-F.max_pool3d(-padded, 2, 1)[0, 0] > 0.5)


def seen_through(cameras: Cameras, distances: Sequence[Float[Tensor, "_ _"]], tolerance: float) -> float:
    """Return how often depth maps contradict each other.

    A surface point of one view that lies in the image of another is hidden there, seen, or seen through: then the other view sees a point
    more than ``tolerance`` behind it, with its pixel and all around it. The share is that of points seen through among those that are not
    hidden; 0 if there are none. Depths of one surface do not contradict each other. Those of mirror images and of fog differ from view to
    view.

    Points in [-1, 1]³ of up to 24 views, evenly spaced, are compared, a few thousand of each.

    Args:
        cameras: the cameras of the depth maps.
        distances: depth map of each view, along the unit ray; infinite at pixels without a surface.
        tolerance: world units.
    """
    nearest = [-F.max_pool2d(-depth[None], 3, 1, 1)[0] for depth in distances]
    views = torch.linspace(0, len(cameras) - 1, min(_COMPARED_VIEWS, len(cameras))).round().int().tolist()
    through = seen = 0
    for view in views:
        rays, depth = cameras.image_rays(view), distances[view].reshape(-1)
        chosen = depth.isfinite().nonzero()[:, 0]
        chosen = chosen[:: max(1, len(chosen) // _COMPARED_PIXELS)]
        points = rays.origins[chosen] + depth[chosen, None] * rays.directions[chosen]
        points = points[(points.abs() <= 1).all(1)]
        for other in views:
            if other != view:
                _, behind = _behind(points, cameras, other, nearest[other])
                through += int((behind > tolerance).sum())
                seen += int((behind.abs() <= tolerance).sum())
    return through / max(1, through + seen)


def _behind(
    points: Float[Tensor, "points 3"], cameras: Cameras, view: int, distances: Float[Tensor, "_ _"]
) -> tuple[Int[Tensor, " inside"], Float[Tensor, " inside"]]:
    """Return which points are in an image, and how far behind each of them its depth map has the surface."""
    found, _, places = cameras.project_inside(points, view)
    away = (points[found] - cameras.world_from_camera[view, :3, 3].to(points)).norm(dim=1)
    return found, distances[places.unbind(-1)] - away


def fuse_depth_maps(
    cameras: Cameras, distances: Sequence[Float[Tensor, "_ _"]], size: int, truncation: float
) -> Float[Tensor, "size size size"] | None:
    """Fuse depth maps into a signed distance at the vertices of a lattice over [-1, 1]³.

    For a vertex at distance r whose pixel has depth d, a view contributes d - r, at most ``truncation``, and nothing if r > d + truncation.
    A vertex is outside if the mean over the views is positive, or if it is in no image; a vertex hidden in all views is inside. Small
    components are dropped. None if nothing, or everything, is inside.

    Args:
        cameras: the cameras of the depth maps.
        distances: depth map of each view, along the unit ray; infinite at pixels without a surface.
        size: vertices along an axis.
        truncation: world units.

    Source: Curless and Levoy, A volumetric method for building complex models from range images, 1996.
    """
    axis = torch.linspace(-1, 1, size)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], dim=-1).reshape(-1, 3)
    total, count, behind = torch.zeros(size**3), torch.zeros(size**3), torch.zeros(size**3)
    for view in range(len(cameras)):
        found, outside_by = _behind(points, cameras, view, distances[view])
        informed = outside_by >= -truncation
        total[found] += torch.where(informed, outside_by.clamp(max=truncation), 0.0)
        count[found] += informed
        behind[found] += ~informed
    inside = torch.where(count > 0, total < 0, behind > 0).reshape(size, size, size)
    components, number = label(inside.numpy())  # pyright: ignore[reportGeneralTypeIssues]
    if number > 1:
        volume = np.bincount(components.reshape(-1))
        volume[0] = 0
        inside &= torch.from_numpy((volume > _SMALL * volume.max())[components])
    return signed_distance(inside)
