"""The result of every camera reader: posed photos as described by their files, before any pixel is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.captures.capture import CaptureError, Split
from unrender.words import CameraAxes

_RIGID = 1e-3
"""Largest deviation of RᵀR from the identity: rounding in files stays below, a scale or shear does not."""


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
    """A cube in the frame of the poses."""

    center: tuple[float, float, float]
    half_side: float


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
    z_is_up: bool = False
    """Whether +Z of the frame of the poses is known to be up."""
    points: Float[Tensor, "points 3"] | None = None
    """Points from structure from motion, if the files name them."""
    camera_axes: CameraAxes = "opencv"
    """The axes of the cameras in the files, from which the poses were converted."""
    notes: tuple[str, ...] = ()

    def with_camera_axes(self, axes: CameraAxes) -> Source:
        """Return the source as if the cameras in its files had other axes."""
        poses = self.source_from_camera * opencv_from(self.camera_axes) * opencv_from(axes)
        return replace(self, source_from_camera=poses, camera_axes=axes)


def rigid_motions(matrices: Float[Tensor, "views 4 4"], names: Sequence[str], file: Path) -> Float[Tensor, "views 4 4"]:
    """Check that poses are rigid motions, and replace their rotations by the nearest orthogonal matrices.

    Raises:
        CaptureError: a pose has a number that is not finite, a last row other than 0 0 0 1, or a 3x3 part that scales, mirrors or shears.
    """
    rotations = matrices[:, :3, :3]
    expected = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=matrices.dtype)
    finite = matrices.flatten(1).isfinite().all(-1)
    rigid = (rotations.mT @ rotations - torch.eye(3, dtype=matrices.dtype)).abs().amax((-1, -2)) <= _RIGID
    upright = torch.linalg.det(torch.where(finite[:, None, None], rotations, torch.eye(3, dtype=matrices.dtype))) > 0
    for view in range(matrices.shape[0]):
        if not finite[view]:
            raise CaptureError(
                f"the pose of {names[view]} in {file} has a number that is not finite; remove the view or solve its pose again"
            )
        if not torch.allclose(matrices[view, 3], expected, atol=1e-6):
            raise CaptureError(f"the pose of {names[view]} in {file} ends in the row {matrices[view, 3].tolist()}; it must be 0 0 0 1")
        if not (rigid[view] and upright[view]):
            raise CaptureError(f"the pose of {names[view]} in {file} is not a rotation: {_what_is_wrong(rotations[view])}")
    left, _, right = torch.linalg.svd(rotations)
    exact = matrices.clone()
    exact[:, :3, :3] = left @ right
    return exact


def _what_is_wrong(matrix: Float[Tensor, "3 3"]) -> str:
    determinant = float(torch.linalg.det(matrix))
    scale = abs(determinant) ** (1 / 3)
    if scale < 1e-6:
        return "its 3x3 part is singular; write a rotation there"
    unscaled = matrix / scale
    if float((unscaled.mT @ unscaled - torch.eye(3, dtype=matrix.dtype)).abs().max()) > _RIGID:
        return "its 3x3 part shears (columns are not orthogonal or differ in length); write a rotation there"
    faults = []
    if determinant < 0:
        faults.append("it mirrors (its determinant is negative), so flip the sign of one axis")
    if abs(scale - 1) > _RIGID / 4:
        faults.append(f"it scales by {scale:.4g}, so divide its 3x3 part by that")
    return " and ".join(faults)


def held_out(names: Sequence[str], every: int) -> Split:
    """Hold out every ``every``-th view (0, every, 2 every, ...), sorted by name; none if ``every`` is zero.

    >>> held_out(["c", "a", "b"], 2)
    Split(train=(2,), test=(0, 1), rule='every 2nd view, sorted by file name, is held out')

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


def checked_intrinsics(intrinsics: Float[Tensor, "views 4"], names: Sequence[str], file: Path) -> Float[Tensor, "views 4"]:
    """Check that every number is finite and the focal lengths are positive, and return the intrinsics.

    Raises:
        CaptureError: an intrinsic is not finite or a focal length is not positive.
    """
    for view, numbers in enumerate(intrinsics.tolist()):
        fx, fy, *center = numbers
        if not (0 < fx < float("inf") and 0 < fy < float("inf")):
            raise CaptureError(f"the focal length of {names[view]} in {file} is {fx:g}, {fy:g} pixels; it must be positive and finite")
        if not all(abs(value) < float("inf") for value in center):
            raise CaptureError(f"the principal point of {names[view]} in {file} is not finite; give cx and cy in pixels")
    return intrinsics
