"""The result of every camera reader: posed photos as described by their files, before any pixel is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from unrender.captures.capture import CaptureError, KnownScene, Split
from unrender.words import CameraAxes

_RIGID = 1e-3
"""Largest deviation of a rotation that counts as rounding."""

_MOST_SHEAR = 0.05
"""Largest shear that is repaired."""


MaskMeaning = Literal["object", "ignore", "by content"]
"""What a format says about masks: they outline the object, leave dark pixels out, or either, which their content decides."""


_OPENCV_FROM: Mapping[CameraAxes, tuple[float, float, float]] = {
    "opengl": (1.0, -1.0, -1.0),
    "opencv": (1.0, 1.0, 1.0),
    "mitsuba": (-1.0, -1.0, 1.0),
}


def opencv_from(axes: CameraAxes) -> Float[Tensor, " 4"]:
    """Return the diagonal of the 4x4 matrix that multiplies poses from the right, float64."""
    return torch.tensor([*_OPENCV_FROM[axes], 1.0], dtype=torch.float64)


@dataclass(frozen=True)
class Region:
    """A box along the axes of the frame of the poses."""

    center: tuple[float, float, float]
    half_sides: tuple[float, float, float]

    @classmethod
    def cube(cls, center: tuple[float, float, float], half_side: float) -> Region:
        """Return a box with equal sides."""
        return cls(center, (half_side, half_side, half_side))

    @classmethod
    def between(cls, low: Sequence[float], high: Sequence[float], padding: float = 1.0) -> Region:
        """Return the box between two corners, grown by a factor about its center.

        >>> Region.between((0.0, 0.0, 0.0), (2.0, 4.0, 6.0), 1.5)
        Region(center=(1.0, 2.0, 3.0), half_sides=(1.5, 3.0, 4.5))
        """
        (x, y, z), (a, b, c) = low, high
        return cls(((x + a) / 2, (y + b) / 2, (z + c) / 2), (padding * (a - x) / 2, padding * (b - y) / 2, padding * (c - z) / 2))

    def half_side_along(self, rotation: Float[Tensor, "3 3"]) -> float:
        """Return half the side of the cube around the box whose axes are the columns of a rotation.

        It is max |Rᵀ| h of the half sides h.
        """
        return float((rotation.mT.abs() @ torch.tensor(self.half_sides, dtype=rotation.dtype)).max())


@dataclass(frozen=True)
class Source:
    """Posed photos in the frame of their files, with facts about the scene from their format.

    Camera axes are already OpenCV's and pixel centers at +0.5; all numbers are float64. Loading and normalization use these facts, never
    the format.
    """

    files: tuple[Path, ...]
    """The files the cameras were read from."""
    names: tuple[str, ...]
    """One for each view: the image's path below the capture's folder."""
    images: tuple[Path, ...]
    source_from_camera: Float[Tensor, "views 4 4"]
    intrinsics: Float[Tensor, "views 4"]
    distortion: Float[Tensor, "views 6"]
    sizes: Int[Tensor, "views 2"]
    """Width and height of each photo, int64."""
    fisheye: Bool[Tensor, " views"]
    apply_exif: tuple[bool, ...]
    """Whether each view's camera applies to the photo after EXIF orientation, which structure from motion often ignores."""
    split: Split
    masks: tuple[Path, ...] | None = None
    """One mask file for each view; without them, alpha channels of the photos are the masks."""
    mask_meaning: MaskMeaning = "object"
    """Meaning of the files in ``masks``."""
    masks_are_cut_outs: bool = False
    """Whether the files in ``masks`` are copies of the photos, black outside of the object."""
    alpha_meaning: MaskMeaning = "by content"
    """Meaning of alpha channels."""
    transparent_colors: tuple[tuple[int, int, int], ...] = ()
    """Colors of pixels that count as transparent, in photos without alpha."""
    ignored: tuple[Path | None, ...] = ()
    """For each view an optional image whose bright pixels are ignored; empty if no view has one."""
    source_from_world: Float[Tensor, "4 4"] | None = None
    """The normalization stored in the files, if any."""
    region: Region | None = None
    """A region that contains an object with masks, if the format specifies one; the masks narrow it down."""
    focus: Region | None = None
    """The box of the object that the files state; masks narrow down a larger one around it."""
    up: tuple[float, float, float] | None = None
    """The upward direction of the frame of the poses, if the format says it."""
    points: Float[Tensor, "points 3"] | None = None
    """Points from structure from motion, if the files name them."""
    point_colors: UInt8[Tensor, "points 3"] | None = None
    """Their colors, if the files have them."""
    camera_axes: CameraAxes = "opencv"
    """The axes of the cameras in the files, from which the poses were converted."""
    truth: KnownScene | None = None
    """The scene that the photos were rendered of, if the files name it."""
    notes: tuple[str, ...] = ()

    def select(self, views: Sequence[int], split: Split) -> Source:
        """Return the source with these views only, and a split that counts them."""
        index = torch.tensor(views, dtype=torch.int64)
        return replace(
            self,
            names=tuple(self.names[view] for view in views),
            images=tuple(self.images[view] for view in views),
            source_from_camera=self.source_from_camera[index],
            intrinsics=self.intrinsics[index],
            distortion=self.distortion[index],
            sizes=self.sizes[index],
            fisheye=self.fisheye[index],
            apply_exif=tuple(self.apply_exif[view] for view in views),
            split=split,
            masks=None if self.masks is None else tuple(self.masks[view] for view in views),
            ignored=tuple(self.ignored[view] for view in views) if self.ignored else (),
        )

    def keep(self, views: Sequence[int]) -> Source:
        """Return the source with these views only, and what is left of its split."""
        place = {view: number for number, view in enumerate(views)}
        train, test = (tuple(place[view] for view in part if view in place) for part in (self.split.train, self.split.test))
        return self.select(views, replace(self.split, train=train, test=test))

    def with_camera_axes(self, axes: CameraAxes) -> Source:
        """Return the source as if the cameras in its files had other axes."""
        poses = self.source_from_camera * opencv_from(self.camera_axes) * opencv_from(axes)
        return replace(self, source_from_camera=poses, camera_axes=axes)


def rigid_motions(
    matrices: Float[Tensor, "views 4 4"], names: Sequence[str], file: Path
) -> tuple[Float[Tensor, "views 4 4"], tuple[str, ...]]:
    """Make poses rigid motions: rotations are replaced by the nearest orthogonal matrices.

    Rounding is repaired silently. These are repaired with a note: all matrices transposed, a last row 0 0 0 s, columns of another length
    than 1 that are orthogonal, and a shear of at most 5 % (largest by smallest singular value, less 1).

    Returns:
        The poses, and notes about repairs.

    Raises:
        CaptureError: a pose has a number that is not finite, another last row, or a 3x3 part that mirrors, is singular, or shears more.
    """
    finite = matrices.flatten(1).isfinite().all(-1)
    if not bool(finite.all()):
        view = int((~finite).int().argmax())
        raise CaptureError(f"the pose of {names[view]} in {file} has a number that is not finite; remove the view or solve its pose again")
    notes: list[str] = []
    poses = _with_last_row(matrices, names, file, notes)
    rotations = poses[:, :3, :3]
    lengths = rotations.norm(dim=1)
    for view in range(poses.shape[0]):
        _check_repairable(rotations[view], names[view], file)
    scaled = (lengths - 1).abs().amax(1) > _RIGID
    if bool(scaled.any()):
        low, high = float(lengths[scaled].min()), float(lengths[scaled].max())
        by = f"{low:.4g}" if high - low <= 1e-3 * high else f"{low:.4g} to {high:.4g}"
        notes.append(f"the rotations of {_count(scaled, names)} are scaled by {by}, which was divided out")
    unit = rotations / lengths[:, None, :]
    shears = _shear(unit)
    sheared = shears > _RIGID
    if bool(sheared.any()):
        notes.append(
            f"the rotations of {_count(sheared, names)} shear by up to {float(shears.max()):.1%}, so the nearest ones are used; check "
            "the program that wrote the poses"
        )
    left, _, right = torch.linalg.svd(unit)
    exact = poses.clone()
    exact[:, :3, :3] = left @ right
    exact[:, 3] = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=exact.dtype)
    return exact, tuple(notes)


def _with_last_row(matrices: Float[Tensor, "views 4 4"], names: Sequence[str], file: Path, notes: list[str]) -> Float[Tensor, "views 4 4"]:
    """Return matrices whose last row is 0 0 0 1."""
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=matrices.dtype)
    ends_so = (matrices[:, 3] - last).abs().amax(-1) <= 1e-6
    if bool(ends_so.all()):
        return matrices
    if bool(((matrices[:, :, 3] - last).abs().amax(-1) <= 1e-6).all()):
        notes.append("the matrices are transposed (their last column is 0 0 0 1), so rows and columns were swapped")
        return matrices.mT.contiguous()
    weights = matrices[:, 3, 3]
    homogeneous = (matrices[:, 3, :3].abs().amax(-1) <= 1e-6 * weights.abs()) & (weights > 0)
    if not bool(homogeneous.all()):
        view = int((~homogeneous).int().argmax())
        raise CaptureError(f"the pose of {names[view]} in {file} ends in the row {matrices[view, 3].tolist()}; it must be 0 0 0 1")
    notes.append(f"the last row of {_count(~ends_so, names)} is 0 0 0 s with s other than 1, by which the matrices were divided")
    return matrices / weights[:, None, None]


def _count(chosen: Bool[Tensor, " views"], names: Sequence[str]) -> str:
    number = int(chosen.sum())
    return names[int(chosen.int().argmax())] if number == 1 else f"{number} of {len(names)} poses"


def _shear(unit: Float[Tensor, "views 3 3"]) -> Float[Tensor, " views"]:
    """Return the largest by the smallest singular value, less 1: zero for rotations."""
    stretch = torch.linalg.svdvals(unit)
    return stretch[:, 0] / stretch[:, 2] - 1


def _check_repairable(matrix: Float[Tensor, "3 3"], name: str, file: Path) -> None:
    """Reject a 3x3 part from which no rotation can be read."""
    lengths = matrix.norm(dim=0)
    columns = ", ".join(f"{length:.4g}" for length in lengths.tolist())
    fault = None
    if float(lengths.min()) < 1e-3 or float(lengths.max()) > 1e3:
        fault = f"its columns have the lengths {columns}, where a rotation has 1; write a rotation there"
    else:
        unit = matrix / lengths
        shear, determinant = float(_shear(unit[None])), float(torch.linalg.det(unit))
        if shear > _MOST_SHEAR:
            pairs = torch.stack([unit[:, 0] @ unit[:, 1], unit[:, 1] @ unit[:, 2], unit[:, 2] @ unit[:, 0]]).clamp(-1, 1)
            angles = ", ".join(f"{angle:.1f}" for angle in torch.rad2deg(torch.acos(pairs)).tolist())
            kind = "is singular" if abs(determinant) < 1e-6 else f"shears by {shear:.1%} (at most {_MOST_SHEAR:.0%} is repaired)"
            fault = f"its 3x3 part {kind}: its columns meet at {angles} degrees, those of a rotation at 90; write a rotation there"
        elif determinant < 0:
            fault = f"it mirrors (its determinant is {float(torch.linalg.det(matrix)):.4g}); flip the sign of one axis in all poses"
    if fault is not None:
        raise CaptureError(f"the pose of {name} in {file} is not a rotation: {fault}")


def held_out(names: Sequence[str], every: int) -> Split:
    """Hold out every ``every``-th view (0, every, 2 every, ...), sorted by name; none if ``every`` is zero.

    >>> held_out(["c", "a", "b"], 2)
    Split(train=(2,), test=(0, 1), rule='every 2nd view, sorted by file name, is held out', given=False)

    Raises:
        CaptureError: no view is left to fit, or ``every`` is negative.
    """
    if every < 0:
        raise CaptureError(f"test_every is {every}; give 0 to hold out nothing, or at least 2")
    order = sorted(range(len(names)), key=lambda view: names[view])
    if every == 0:
        return Split(tuple(sorted(order)), (), "all views are fitted, none is held out")
    test = tuple(sorted(order[::every]))
    train = tuple(sorted(set(order) - set(test)))
    if not train:
        raise CaptureError(
            f"holding out every {_ordinal(every)} of {len(names)} views leaves none to fit; use a larger test_every, or 0 for none"
        )
    return Split(train, test, f"every {_ordinal(every)} view, sorted by file name, is held out")


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
