"""What a mesh shows in the pixels of each photo of a capture: the triangle, its distance, and how far the pixel can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.images import averaged_pixels
from unrender.geometry.mesh import Mesh
from unrender.numerics import SMALLEST_LENGTH, normalized
from unrender.ops.raster import Raster, TriangleTree, cast_rays, interpolate, rasterize

Passing = Callable[[str, Sequence[int]], Iterable[int]]
"""Passes the views of a pass over the photos on, and shows how far it is; the first argument says what is done."""

_BORDER = 2
"""Pixels around silhouettes, occlusion borders and left-out parts of a photo in which a fitted surface may be off by more than a pixel."""

_NEAR_BORDER = 0.02
"""Weight of such pixels: they decide where nothing better is seen, as on thin parts."""

STEEPEST = 5.0
"""Tangent of the angle between ray and normal from which a surface counts as seen from the side: 79 degrees."""

_PIXELS_PER_EDGE = 2.0
"""A photo is averaged over blocks until an edge of the mesh spans at most about twice this many pixels."""


@dataclass(frozen=True)
class PhotoView:
    """A photo, and what the mesh shows in each of its pixels."""

    camera: Cameras
    """The one camera of the photo, whose size may have been reduced."""
    color: Float[Tensor, "height width 3"]
    """sRGB of the photo."""
    usable: Bool[Tensor, "height width"]
    """Where the photo shows the object and is not ignored."""
    raster: Raster
    """The triangle at each pixel of the photo."""
    distance: Float[Tensor, "height width"]
    """From the camera to the surface; infinite at empty pixels."""
    footprint: Float[Tensor, "height width"]
    """Width of a pixel at this distance, in world units."""
    confidence: Float[Tensor, "height width"]
    """Zero where the photo does not show the front of the mesh, small near borders, otherwise one."""


class PhotoViews:
    """The photos of a capture as a mesh covers them, made one at a time."""

    def __init__(self, mesh: Mesh, capture: Capture) -> None:
        """Prepare the training views of a capture.

        Args:
            mesh: in the normalized world; normals are computed if it has none.
            capture: any lenses and sizes; photos may be on disk.
        """
        normals = mesh.normals if mesh.normals is not None else mesh.with_vertex_normals().normals
        assert normals is not None
        self.mesh, self.normals, self.capture = mesh, normals, capture
        self.cameras = capture.cameras.to(mesh.vertices.device)
        self._tree = TriangleTree(mesh.vertices, mesh.faces) if self.cameras.has_distortion else None
        self._surface = torch.cat([mesh.vertices, normals], 1)
        a, b, _ = mesh.vertices[mesh.faces[:: max(1, len(mesh.faces) // 10_000)].long()].unbind(1)
        self.edge = float((a - b).norm(dim=-1).median())
        """Length of a typical edge."""

    def each(self, title: str, progress: Passing | None) -> Iterator[PhotoView]:
        """Pass over the training views once, and show how far it is."""
        views: Sequence[int] = self.capture.split.train
        for view in views if progress is None else progress(title, views):
            with torch.no_grad():
                yield self[view]

    def __getitem__(self, view: int) -> PhotoView:
        """Return what the mesh shows in one photo."""
        block = self._block(view)
        camera = self.cameras[view].downscaled(block)
        rgba = averaged_pixels(self.capture.photos[view].cpu().numpy(), block)
        photo = torch.from_numpy(np.ascontiguousarray(rgba)).to(self.mesh.vertices.device).float() / 255
        usable = photo[..., 3] > 0.5
        if self.capture.ignored is not None:
            left_out = self.capture.ignored[view].to(usable.device).float()
            usable &= F.max_pool2d(left_out[None, None], block)[0, 0] == 0
        raster = self._raster(camera)
        seen = interpolate(self._surface, raster, self.mesh.faces)[0]
        to_camera = camera.positions[0] - seen[..., :3]
        covered = raster.face[0] >= 0
        distance = torch.where(covered, to_camera.norm(dim=-1), torch.inf)
        cosine = (normalized(seen[..., 3:]) * normalized(to_camera)).sum(-1)
        footprint = distance / float(camera.intrinsics[0, :2].mean())
        shown = covered & usable & (cosine > 0)
        clean = shown & ~_near(~(covered & usable), _BORDER) & ~_near(_jumps(distance, footprint), _BORDER - 1)
        confidence = torch.where(clean, 1.0, torch.where(shown, _NEAR_BORDER, 0.0))
        return PhotoView(camera, photo[..., :3], usable, raster, distance, footprint, confidence)

    def _block(self, view: int) -> int:
        """Return the side of the blocks of pixels that are averaged.

        Detail that is finer than the mesh would be aliased.
        """
        camera = self.cameras[view]
        distance = float((self.mesh.vertices.mean(0) - camera.positions[0]).norm())
        edge_in_pixels = self.edge * float(camera.intrinsics[0, :2].mean()) / max(distance, SMALLEST_LENGTH)
        return int(min(max(1.0, edge_in_pixels / _PIXELS_PER_EDGE), camera.width, camera.height))

    def _raster(self, camera: Cameras) -> Raster:
        """Return the triangle at each pixel: rasterized, or by rays through the lens where it has distortion."""
        vertices, faces = self.mesh.vertices, self.mesh.faces
        if self._tree is None:
            depth = (vertices - camera.positions[0]) @ camera.world_from_camera[0, :3, 2]
            farthest = float(depth.max().clamp_min(SMALLEST_LENGTH))
            near = max(0.5 * float(torch.where(depth > 0, depth, torch.inf).min().clamp_max(farthest)), 1e-3 * farthest)
            return rasterize(camera.clip_positions(vertices, near, float("inf")), faces, (camera.height, camera.width))
        return raster_by_rays(self._tree, camera)


def raster_by_rays(tree: TriangleTree, camera: Cameras) -> Raster:
    """Return the triangle at each pixel of one camera, which may have any lens.

    The depth is the distance along the unit ray.
    """
    rays = camera.image_rays(0)
    hits = cast_rays(tree, rays.origins.float().contiguous(), rays.directions.float().contiguous())
    grid = (1, camera.height, camera.width)
    return Raster(hits.face.view(grid), hits.barycentrics.view(*grid, 2), hits.distance.view(grid))


def _jumps(distance: Float[Tensor, "height width"], footprint: Float[Tensor, "height width"]) -> Bool[Tensor, "height width"]:
    """Tell where the distance differs between neighboring pixels by more than on any surface seen from the front."""
    jumps = torch.zeros_like(distance, dtype=torch.bool)
    for axis in (0, 1):
        count = distance.shape[axis] - 1
        one, other = distance.narrow(axis, 1, count), distance.narrow(axis, 0, count)
        jump = one.isfinite() & other.isfinite() & ((one - other).abs() > STEEPEST * footprint.narrow(axis, 0, count))
        jumps.narrow(axis, 1, count).logical_or_(jump)
        jumps.narrow(axis, 0, count).logical_or_(jump)
    return jumps


def _near(mask: Bool[Tensor, "height width"], radius: int) -> Bool[Tensor, "height width"]:
    """Grow a mask by some pixels to all sides."""
    grown = F.max_pool2d(mask[None, None].float(), 2 * radius + 1, stride=1, padding=radius)
    return grown[0, 0] > 0
