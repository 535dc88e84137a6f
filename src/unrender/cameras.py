"""Calibrated cameras, the rays through their pixels, and paths of cameras for videos.

Notation: OpenCV camera axes (+X right, +Y down, +Z forward); pixel (0, 0) is top left with its center at (0.5, 0.5);
``world_from_camera`` maps points from the camera to the world and is a rigid motion. See docs/conventions.md.

Lens distortion is part of the ray: a pixel's direction is found by inverting the lens polynomial, so images are never resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.lenses import distorted_fisheye, distorted_perspective, folds, on_plane, undistorted_fisheye, undistorted_perspective
from unrender.numerics import SMALLEST_LENGTH, normalized
from unrender.printing import counted, of_fields, size_range
from unrender.transforms import look_at, matrix_from_wxyz, slerp, wxyz_from_matrix

LensModel = Literal["opencv", "fisheye"]


@dataclass(frozen=True)
class Rays:
    """Half lines x(t) = origin + t direction with unit directions, so t is a Euclidean distance."""

    origins: Float[Tensor, "rays 3"]
    directions: Float[Tensor, "rays 3"]

    __repr__ = of_fields


@dataclass(frozen=True)
class Cameras:
    """A batch of calibrated cameras, each with its own image size and lens.

    ``distortion`` holds k1, k2, k3, k4, p1, p2. For a perspective lens, on the plane z = 1,
    x'' = x (1 + k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸) + 2 p1 x y + p2 (r² + 2 x²) and
    y'' = y (1 + k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸) + p1 (r² + 2 y²) + 2 p2 x y; for a fisheye lens, with the angle θ from the axis,
    θd = θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸). All zeros is a pinhole (perspective) or an equidistant lens (fisheye).

    ``sizes`` and ``fisheye`` always stay on the CPU, because the host splits images and selects formulas by them.
    """

    world_from_camera: Float[Tensor, "views 4 4"]
    intrinsics: Float[Tensor, "views 4"]
    """fx, fy, cx, cy in pixels of the stored size."""
    distortion: Float[Tensor, "views 6"]
    sizes: Int[Tensor, "views 2"]
    """Width and height of each image, int64."""
    fisheye: Bool[Tensor, " views"]
    """Which views have a fisheye lens; the others are perspective."""

    def __repr__(self) -> str:
        lens = "fisheye" if bool(self.fisheye.all()) and len(self) else "mixed lenses" if bool(self.fisheye.any()) else "perspective"
        where = "" if self.world_from_camera.device.type == "cpu" else f", on {self.world_from_camera.device}"
        return f"Cameras({counted(self.sizes.shape[0], 'view')}, {size_range(self.sizes)}, {lens}{where})"

    @classmethod
    def alike(
        cls,
        world_from_camera: Float[Tensor, "views 4 4"],
        intrinsics: Float[Tensor, "views 4"],
        distortion: Float[Tensor, "views 6"] | None,
        width: int,
        height: int,
        lens: LensModel = "opencv",
    ) -> Cameras:
        """Return cameras that share an image size and a lens model; ``distortion`` defaults to zero.

        >>> camera = Cameras.alike(torch.eye(4)[None], torch.tensor([[100.0, 100.0, 32.0, 24.0]]), None, 64, 48)
        >>> len(camera), camera.width, camera.height, camera.lens
        (1, 64, 48, 'opencv')
        """
        views = world_from_camera.shape[0]
        return cls(
            world_from_camera=world_from_camera,
            intrinsics=intrinsics,
            distortion=intrinsics.new_zeros(views, 6) if distortion is None else distortion,
            sizes=torch.tensor([[width, height]], device="cpu").repeat(views, 1),
            fisheye=torch.full((views,), lens == "fisheye", device="cpu"),
        )

    def __len__(self) -> int:
        return self.world_from_camera.shape[0]

    def __getitem__(self, view: int | slice) -> Cameras:
        """Return one camera, as a batch of length one, or a slice of cameras.

        Raises:
            IndexError: there is no such view.
        """
        if isinstance(view, int):
            count = len(self)
            if not -count <= view < count:
                raise IndexError(f"view {view} does not exist; there are {count} cameras")
            view = slice(view % count, view % count + 1)
        return Cameras(
            world_from_camera=self.world_from_camera[view],
            intrinsics=self.intrinsics[view],
            distortion=self.distortion[view],
            sizes=self.sizes[view],
            fisheye=self.fisheye[view],
        )

    def select(self, views: Sequence[int] | Int[Tensor, " selected"]) -> Cameras:
        """Return the cameras of these views, in this order."""
        index = torch.as_tensor(views, dtype=torch.int64, device=self.world_from_camera.device)
        host = torch.as_tensor(views, dtype=torch.int64, device="cpu")
        return Cameras(
            world_from_camera=self.world_from_camera[index],
            intrinsics=self.intrinsics[index],
            distortion=self.distortion[index],
            sizes=self.sizes[host],
            fisheye=self.fisheye[host],
        )

    def to(self, device: torch.device | str) -> Cameras:
        """Move poses, intrinsics and distortion to a device."""
        return replace(
            self,
            world_from_camera=self.world_from_camera.to(device),
            intrinsics=self.intrinsics.to(device),
            distortion=self.distortion.to(device),
        )

    def pinhole(self, view: int) -> Cameras:
        """Return the one camera of ``view`` with the same focal lengths and principal point but without distortion."""
        return replace(self[view], distortion=torch.zeros_like(self.distortion[:1]), fisheye=torch.zeros_like(self.fisheye[:1]))

    def downscaled(self, factor: int) -> Cameras:
        """Return the cameras of images that were averaged over blocks of ``factor`` x ``factor`` pixels.

        Pixel coordinates count from the corner of the image, so K' = diag(1/factor, 1/factor, 1) K. Incomplete blocks at the right and
        bottom border are dropped.

        Raises:
            ValueError: the factor is below one or larger than an image.

        >>> camera = Cameras.alike(torch.eye(4)[None], torch.tensor([[80.0, 80.0, 40.5, 30.0]]), None, 81, 60)
        >>> half = camera.downscaled(2)
        >>> half.width, half.height, half.intrinsics.tolist()
        (40, 30, [[40.0, 40.0, 20.25, 15.0]])
        """
        if len(self) and not 1 <= factor <= int(self.sizes.min()):
            width, height = self.sizes[int(self.sizes.amin(1).argmin())].tolist()
            raise ValueError(f"downscale is {factor}; it must be at least 1 and at most the shorter side of the {width}x{height} images")
        return replace(self, intrinsics=self.intrinsics / factor, sizes=self.sizes // factor)

    def resized(self, width: int, height: int) -> Cameras:
        """Return the cameras of images resampled to one size.

        fx and cx scale with the width, fy and cy with the height.

        >>> Cameras.alike(torch.eye(4)[None], torch.tensor([[80.0, 80.0, 40.0, 30.0]]), None, 80, 60).resized(160, 120).intrinsics.tolist()
        [[160.0, 160.0, 80.0, 60.0]]
        """
        size = torch.tensor([width, height])
        factor = (size / self.sizes).to(self.intrinsics)
        return replace(self, intrinsics=self.intrinsics * torch.cat([factor, factor], 1), sizes=size.expand(len(self), 2).clone())

    @property
    def width(self) -> int:
        """The width of the images of all views.

        Raises:
            ValueError: the views differ in size.
        """
        return self._shared_size()[0]

    @property
    def height(self) -> int:
        """The height of the images of all views.

        Raises:
            ValueError: the views differ in size.
        """
        return self._shared_size()[1]

    @property
    def lens(self) -> LensModel:
        """The lens model of all views.

        Raises:
            ValueError: some views are fisheyes and others are not.
        """
        if bool(self.fisheye.all()) and len(self):
            return "fisheye"
        if bool(self.fisheye.any()):
            raise ValueError("the views differ in lens; take cameras[view].lens")
        return "opencv"

    @cached_property
    def same_size(self) -> bool:
        """Whether all views have images of one size."""
        return bool((self.sizes == self.sizes[:1]).all())

    def _shared_size(self) -> tuple[int, int]:
        if len(self) == 0 or not self.same_size:
            what = "there are no cameras" if len(self) == 0 else "the views differ in size"
            raise ValueError(f"{what}, so they share no width and height; take cameras[view].width or cameras.sizes")
        width, height = self.sizes[0].tolist()
        return width, height

    @property
    def positions(self) -> Float[Tensor, "views 3"]:
        """Camera centers in the world."""
        return self.world_from_camera[:, :3, 3]

    @cached_property
    def has_distortion(self) -> bool:
        """Whether some view's lens is more than a pinhole."""
        # A distortion that is being refined may still be zero, and needs its gradient.
        return bool(self.fisheye.any()) or self.distortion.requires_grad or bool(self.distortion.any())

    @cached_property
    def lens_of_view(self) -> Int[Tensor, " views"]:
        """Index of each view's lens, from 0, on the CPU: views with equal size, lens model, intrinsics and distortion share one."""
        numbers = (self.intrinsics.detach(), self.distortion.detach(), self.sizes, self.fisheye[:, None])
        rows = torch.cat([values.to("cpu", torch.float64) for values in numbers], 1)
        return torch.unique(rows, dim=0, return_inverse=True)[1].reshape(-1)

    def pixel_centers(self, view: int) -> Float[Tensor, "pixels 2"]:
        """Return the (x, y) of every pixel center of one image in row-major order, starting with (0.5, 0.5)."""
        like = self.intrinsics
        width, height = self.sizes[view].tolist()
        x = torch.arange(width, dtype=like.dtype, device=like.device) + 0.5
        y = torch.arange(height, dtype=like.dtype, device=like.device) + 0.5
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        return torch.stack((columns, rows), -1).reshape(-1, 2)

    def directions_in_camera(self) -> tuple[Float[Tensor, "pixels 3"], Int[Tensor, " views"]]:
        """Compute unit directions through every pixel center in camera axes, one map for each different lens.

        It costs a Newton iteration per pixel; keep the result.

        Returns:
            The maps, one after the other, each in row-major order; and the start of each view's map (on the CPU).
        """
        lens = self.lens_of_view
        first = [int((lens == number).nonzero()[0]) for number in range(int(lens.max()) + 1)]
        maps = [self._image_directions(view) for view in first]
        begin = torch.tensor([0, *(one.shape[0] for one in maps[:-1])], device="cpu").cumsum(0)
        return (maps[0] if len(maps) == 1 else torch.cat(maps)), begin[lens]

    def image_rays(self, view: int) -> Rays:
        """Return the rays of one image's pixel centers in row-major order, height x width of them."""
        directions = self._image_directions(view)
        pose = self.world_from_camera[view]
        return Rays(pose[:3, 3].expand_as(directions), _times(directions, pose[:3, :3].T))

    def rays(self, views: Int[Tensor, " rays"], pixels: Float[Tensor, "rays 2"]) -> Rays:
        """Return the rays through ``pixels`` of the images ``views``; differentiable to poses, intrinsics, distortion and pixels.

        Pixels are (x, y); the center of column i and row j is (i + 0.5, j + 0.5).
        """
        index = views.long()
        fisheye = self.fisheye.to(index.device)[index] if self._mixes_lenses else None
        directions = self._directions(pixels, self.intrinsics[index], self.distortion[index], fisheye)
        pose = self.world_from_camera[index]
        return Rays(pose[:, :3, 3], _times(pose[:, :3, :3], directions[..., None])[..., 0])

    def project(self, points: Float[Tensor, "points 3"], view: int) -> tuple[Float[Tensor, "points 2"], Float[Tensor, " points"]]:
        """Project world points into one image: pixel coordinates and camera depth z, the inverse of :meth:`rays`.

        For a perspective lens, a point whose depth is not positive is behind the camera, and its pixel is meaningless. Points at or beyond
        the radius or angle where a lens polynomial stops rising are projected far outside, so they do not reappear in the image.

        >>> camera = Cameras.alike(torch.eye(4)[None], torch.tensor([[100.0, 100.0, 32.0, 24.0]]), None, 64, 48)
        >>> pixels, depth = camera.project(torch.tensor([[0.1, -0.2, 2.0]]), 0)
        >>> pixels.tolist(), depth.tolist()
        ([[37.0, 14.0]], [2.0])
        """
        pose = self.world_from_camera[view]
        in_camera = _times(points - pose[:3, 3], pose[:3, :3])
        fx, fy, cx, cy = self.intrinsics[view].unbind()
        if self.has_distortion:
            bend = distorted_fisheye if bool(self.fisheye[view]) else distorted_perspective
            plane = bend(in_camera, self.distortion[view], self._folds[view])
        else:
            plane = on_plane(in_camera)
        pixels = torch.stack((plane[:, 0] * fx + cx, plane[:, 1] * fy + cy), -1)
        return pixels, in_camera[:, 2]

    def project_inside(
        self, points: Float[Tensor, "points 3"], view: int
    ) -> tuple[Int[Tensor, " inside"], Float[Tensor, "inside 2"], Int[Tensor, "inside 2"]]:
        """Project points and keep those that are in the image.

        Returns their numbers, pixel coordinates, and the row and column of their pixels. A fisheye lens sees beyond a right angle.
        """
        pixels, depth = self.project(points, view)
        inside = ((pixels >= 0) & (pixels < self.sizes[view].to(pixels.device))).all(-1) & ((depth > 0) | bool(self.fisheye[view]))
        found = inside.nonzero()[:, 0]
        return found, pixels[found], pixels[found].long().flip(-1)

    def clip_from_camera(self, near: float, far: float) -> Float[Tensor, "views 4 4"]:
        """Return the projection to clip space.

        x, y and z run from −w to w over the image and from ``near`` to ``far``. y grows downwards, as the rows of an image do, so row 0 of
        a raster is the top of the photo. With w = z in the camera,

            x / w = 2 (fx x / z + cx) / width − 1
            y / w = 2 (fy y / z + cy) / height − 1
            z / w = (far + near − 2 far near / z) / (far − near)

        ``far`` may be infinite: then z / w = 1 − 2 near / z.

        Raises:
            ValueError: for a lens with distortion, which no matrix can express, or unless 0 < near < far.
        """
        if self.has_distortion:
            lens = "a fisheye lens" if bool(self.fisheye.any()) else "lens distortion"
            raise ValueError(f"triangles cannot be projected through {lens}: undistort the images first, or render cameras.pinhole(view)")
        if not 0 < near < far:
            raise ValueError(f"near is {near} and far is {far}; they must satisfy 0 < near < far")
        fx, fy, cx, cy = self.intrinsics.unbind(-1)
        width, height = self._shared_size() if self.same_size and len(self) else self.sizes.to(fx).unbind(-1)
        zero, one = torch.zeros_like(fx), torch.ones_like(fx)
        ratio = near / far
        rows = (
            (2 * fx / width, zero, 2 * cx / width - 1, zero),
            (zero, 2 * fy / height, 2 * cy / height - 1, zero),
            (zero, zero, one * ((1 + ratio) / (1 - ratio)), one * (-2 * near / (1 - ratio))),
            (zero, zero, one, zero),
        )
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    def clip_positions(self, points: Float[Tensor, "points 3"], near: float, far: float) -> Float[Tensor, "views points 4"]:
        """Transform world points to the clip space of every view, the input of :func:`unrender.ops.raster.rasterize`.

        Differentiable to the points, the poses and the intrinsics. A point that is not finite is NaN in all views and gets no gradient.

        Raises:
            ValueError: for a lens with distortion, or unless 0 < near < far.

        >>> camera = Cameras.alike(torch.eye(4)[None], torch.tensor([[100.0, 100.0, 32.0, 24.0]]), None, 64, 48)
        >>> x, y, z, w = camera.clip_positions(torch.tensor([[0.1, -0.2, 2.0]]), 1.0, 100.0)[0, 0].tolist()
        >>> column, row = 64 * (x / w + 1) / 2, 48 * (y / w + 1) / 2
        >>> round(column, 4), round(row, 4), w
        (37.0, 14.0, 2.0)
        """
        rotation, center = self.world_from_camera[:, :3, :3], self.world_from_camera[:, :3, 3]
        finite = points.isfinite().all(-1, keepdim=True)
        in_camera = _times(torch.where(finite, points, 0.0) - center[:, None], rotation)
        projection = self.clip_from_camera(near, far)
        clip = _times(in_camera, projection[:, :, :3].mT) + projection[:, None, :, 3]
        return torch.where(finite, clip, torch.nan)

    @cached_property
    def _folds(self) -> Float[Tensor, " views"]:
        return folds(self.distortion)

    @cached_property
    def _mixes_lenses(self) -> bool:
        return bool(self.fisheye.any()) and not bool(self.fisheye.all())

    def _image_directions(self, view: int) -> Float[Tensor, "pixels 3"]:
        fisheye = self.fisheye[view].to(self.intrinsics.device) if self._mixes_lenses else None
        return self._directions(self.pixel_centers(view), self.intrinsics[view], self.distortion[view], fisheye)

    def _directions(
        self,
        pixels: Float[Tensor, "rays 2"],
        intrinsics: Float[Tensor, "*#rays 4"],
        distortion: Float[Tensor, "*#rays 6"],
        fisheye: Bool[Tensor, " *#rays"] | None,
    ) -> Float[Tensor, "rays 3"]:
        """Invert the lens; ``fisheye`` says which pixels belong to a fisheye, None that all views have the same lens model."""
        plane = (pixels - intrinsics[..., 2:]) / intrinsics[..., :2]
        if not self.has_distortion:
            return normalized(torch.cat((plane, torch.ones_like(plane[:, :1])), -1))
        exact, distortion = plane.double(), distortion.double()
        if fisheye is None:
            undo = undistorted_fisheye if bool(self.fisheye.all()) else undistorted_perspective
            return undo(exact, distortion).to(plane.dtype)
        # Each formula gets zeros for the other's pixels, so that their NaN never reaches a gradient.
        chosen = fisheye[..., None]
        perspective = undistorted_perspective(torch.where(chosen, 0.0, exact), torch.where(chosen, 0.0, distortion))
        bent = undistorted_fisheye(torch.where(chosen, exact, 0.0), torch.where(chosen, distortion, 0.0))
        return torch.where(chosen, bent, perspective).to(plane.dtype)


def _times(rows: Float[Tensor, "... rows 3"], columns: Float[Tensor, "... 3 columns"]) -> Float[Tensor, "... rows columns"]:
    """Multiply in the type of the matrices: half precision, which autocast would choose, moves points by pixels."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ columns


def mean_up(cameras: Cameras) -> Float[Tensor, " 3"]:
    """Return the mean of the cameras' upward axes, which is short if they disagree and zero if they cancel."""
    return -cameras.world_from_camera[:, :3, 1].mean(0)


def orbit_cameras(cameras: Cameras, frames: int) -> Cameras:
    """Make a full circle about +Z at the mean height and distance of the cameras, looking at the origin.

    With mean distance d and mean height h the circle's radius is √(d² - h²); the lens is the pinhole of the median camera, centered.

    Raises:
        ValueError: fewer than one frame.
    """
    positions = cameras.positions
    distance = positions.norm(dim=-1).mean()
    height = positions[:, 2].mean()
    radius = (distance**2 - height**2).clamp_min((0.1 * distance) ** 2).sqrt()
    start = torch.atan2(positions[0, 1], positions[0, 0])
    angle = start + 2 * torch.pi * torch.arange(_checked(frames), dtype=positions.dtype, device=positions.device) / frames
    path = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle), height.expand_as(angle)), -1)
    up = torch.tensor([0.0, 0.0, 1.0]).to(positions)
    return _path(cameras, look_at(path, torch.zeros_like(up), up))


def arc_cameras(cameras: Cameras, frames: int) -> Cameras:
    """Make an arc about the origin, for cameras on one side of the scene.

    It follows the direction in which the cameras spread most. It rotates about the axis of least spread (the eigenvector of least
    eigenvalue of Σ c cᵀ over the camera positions c), as far to both sides as the outermost cameras, and looks at the origin.

    Raises:
        ValueError: fewer than one frame.
    """
    positions = cameras.positions
    axis = torch.linalg.eigh(positions.T.double() @ positions.double())[1][:, 0].to(positions)
    up = mean_up(cameras)
    axis = torch.where(torch.dot(axis, up) < 0, -axis, axis)
    middle = positions.mean(0)
    middle = normalized(middle) * positions.norm(dim=-1).mean()
    forward = normalized(middle - axis * torch.dot(middle, axis))
    sideways = torch.linalg.cross(axis, forward)
    angles = torch.atan2(positions @ sideways, positions @ forward)
    steps = torch.linspace(0, 1, _checked(frames), dtype=positions.dtype, device=positions.device)
    angle = angles.min() + (angles.max() - angles.min()) * steps
    outward = torch.cos(angle)[:, None] * forward + torch.sin(angle)[:, None] * sideways
    along = torch.dot(middle, axis)
    path = outward * torch.dot(middle, forward) + axis * along
    return _path(cameras, look_at(path, torch.zeros_like(up), up if bool(up.norm() > 0.1) else axis))


def spiral_cameras(cameras: Cameras, frames: int, *, turns: int = 2) -> Cameras:
    """Make a closed spiral about the mean camera, for cameras that face one way.

    With the mean position, forward and upward axes as a frame, and r the 90th percentile of the distances from its origin along each axis,
    positions are (r_x cos φ, r_y sin φ, r_z sin(φ / 2)). All look at the point in front of the mean camera that is as deep as the origin
    of the world (Mildenhall et al. 2019, with this focus instead of the depths of points).

    Raises:
        ValueError: fewer than one frame.
    """
    positions = cameras.positions
    forward = normalized(cameras.world_from_camera[:, :3, 2].mean(0))
    middle = positions.mean(0)
    depth = torch.dot(-middle, forward)
    depth = torch.where(depth > 0, depth, positions.norm(dim=-1).mean())
    focus, up = middle + depth * forward, mean_up(cameras)
    axes = look_at(middle[None], focus, up)[0, :3, :3]
    radii = torch.quantile(((positions - middle) @ axes).abs(), 0.9, dim=0)
    angle = 2 * torch.pi * turns * torch.arange(_checked(frames), dtype=positions.dtype, device=positions.device) / frames
    path = middle + (torch.stack((torch.cos(angle), torch.sin(angle), torch.sin(angle / 2)), -1) * radii) @ axes.T
    return _path(cameras, look_at(path, focus, up))


def interpolated_cameras(cameras: Cameras, frames: int, *, keys: int = 12) -> Cameras:
    """Make a smooth path through well-spread cameras, each followed by the nearest remaining one.

    Positions and rotations follow one Catmull-Rom curve, evaluated as a pyramid of interpolations (Barry and Goldman 1988): straight ones
    between positions, great arcs between rotations. Knots are spaced by the square root of the distance, which avoids loops.

    Args:
        cameras: the poses to pass through.
        frames: how many cameras to return.
        keys: largest number of the given cameras that the path visits.

    Raises:
        ValueError: fewer than one frame.
    """
    frames = _checked(frames)
    order = _tour(cameras.positions, min(keys, len(cameras)))
    positions = cameras.positions[order]
    rotations = wxyz_from_matrix(cameras.world_from_camera[order, :3, :3])
    if len(order) == 1:
        return _path(cameras, cameras.world_from_camera[order].expand(frames, 4, 4).clone())
    positions = torch.cat((2 * positions[:1] - positions[1:2], positions, 2 * positions[-1:] - positions[-2:-1]))
    before, after = slerp(rotations[0], rotations[1], -1.0), slerp(rotations[-2], rotations[-1], 2.0)
    rotations = torch.cat((before[None], rotations, after[None]))
    gaps = (positions[1:] - positions[:-1]).norm(dim=-1)
    gaps = gaps.clamp_min(1e-3 * gaps.max().clamp_min(SMALLEST_LENGTH)).sqrt()
    knots = torch.cat((torch.zeros_like(gaps[:1]), gaps.cumsum(0)))
    times = knots[1] + (knots[-2] - knots[1]) * torch.linspace(0, 1, frames, dtype=knots.dtype, device=knots.device)
    segment = (torch.searchsorted(knots, times, right=True) - 1).clamp(1, len(order) - 1)
    levels = torch.stack([knots[segment + offset] for offset in (-1, 0, 1, 2)])
    points = [positions[segment + offset] for offset in (-1, 0, 1, 2)]
    quaternions = [rotations[segment + offset] for offset in (-1, 0, 1, 2)]
    for starts, ends in (((0, 1, 2), (1, 2, 3)), ((0, 1), (2, 3)), ((1,), (2,))):
        shares = [(times - levels[a]) / (levels[b] - levels[a]) for a, b in zip(starts, ends, strict=True)]
        points = [torch.lerp(points[k], points[k + 1], share[:, None]) for k, share in enumerate(shares)]
        quaternions = [slerp(quaternions[k], quaternions[k + 1], share) for k, share in enumerate(shares)]
    path = torch.eye(4).to(positions).repeat(frames, 1, 1)
    path[:, :3, :3] = matrix_from_wxyz(quaternions[0])
    path[:, :3, 3] = points[0]
    return _path(cameras, path)


def _tour(positions: Float[Tensor, "views 3"], keys: int) -> Int[Tensor, " keys"]:
    """Return ``keys`` well-spread positions (each the farthest from those before), ordered by the nearest remaining one."""
    distances = torch.cdist(positions, positions)
    chosen = [0]
    while len(chosen) < keys:
        gap = distances[chosen].min(0).values
        gap[chosen] = -1.0
        chosen.append(int(gap.argmax()))
    tour, left = [chosen[0]], chosen[1:]
    while left:
        here = tour[-1]
        following = min(left, key=lambda view: float(distances[here, view]))
        tour.append(following)
        left.remove(following)
    return torch.tensor(tour, device=positions.device)


def _checked(frames: int) -> int:
    if frames < 1:
        raise ValueError(f"frames is {frames}; it must be at least 1")
    return frames


def _path(cameras: Cameras, world_from_camera: Float[Tensor, "frames 4 4"]) -> Cameras:
    """Give poses the centered pinhole of the median camera, of those with the most frequent image size."""
    frames = world_from_camera.shape[0]
    sizes, of_view, counts = torch.unique(cameras.sizes, dim=0, return_inverse=True, return_counts=True)
    commonest = int(counts.argmax())
    width, height = sizes[commonest].tolist()
    lens = cameras.intrinsics[(of_view == commonest).to(cameras.intrinsics.device)].median(0).values
    center = torch.tensor([width / 2, height / 2]).to(lens)
    return Cameras.alike(world_from_camera, torch.cat((lens[:2], center)).expand(frames, 4).clone(), None, width, height)
