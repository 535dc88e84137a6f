"""Intrinsics: how ``transforms.json`` writes them, and whether they are plausible for the photos.

Lengths in pixels win over angles, numbers of a frame over those of the file. What contradicts itself is said in a note, with the reading
that was taken. See docs/captures.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.captures.capture import CaptureError
from unrender.captures.reading import flag, number, shown

_FISHEYE: Mapping[str, bool] = {
    "SIMPLE_PINHOLE": False,
    "PINHOLE": False,
    "PERSPECTIVE": False,
    "SIMPLE_RADIAL": False,
    "RADIAL": False,
    "OPENCV": False,
    "OPENCV_FISHEYE": True,
    "FISHEYE": True,
    "SIMPLE_FISHEYE": True,
    "SIMPLE_RADIAL_FISHEYE": True,
    "RADIAL_FISHEYE": True,
}
"""Camera models, and whether each is a fisheye."""

_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_RATIONAL = ("k5", "k6")

LENS_KEYS = frozenset(
    (*_DISTORTION, *_RATIONAL, "distortion_params", "camera_model", "is_fisheye", "w", "h", "cx", "cy", "fl_x", "fl_y")
) | {"camera_angle_x", "camera_angle_y", "x_fov", "y_fov"}
"""Keys that this module reads."""

_DISAGREE = 0.02
"""Relative difference of two focal lengths that is worth a note."""

_OFF_CENTER = 0.25
"""Distance of a principal point from the center, as a share of the width or height, that is worth a note."""

_WIDE, _TOO_WIDE, _NARROW = 150.0, 170.0, 1.0
"""Fields of view of perspective lenses, in degrees: unusual, not believed, unusual."""

_FACTORS = (2, 3, 4, 8)
"""Factors by which photos are made smaller."""

_FACTOR_TOLERANCE = 0.06


def number_of(keys: Mapping[str, Any], key: str, name: str, file: Path) -> float | None:
    """Return a number of a frame, None if it is not given."""
    value = keys.get(key)
    return None if value is None else number(value, f'"{key}" of {name} in {file}')


class LensReader:
    """Reads the intrinsics of the frames of one file, and collects what contradicts itself."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._zero: list[str] = []
        self._contradictions: list[tuple[str, float, float, str]] = []
        self._pinhole_distorted: list[str] = []
        self._tangential_fisheye: list[str] = []
        self._views = 0

    def intrinsics(self, keys: Mapping[str, Any], size: tuple[int, int], name: str) -> list[float]:
        """Return fx, fy, cx, cy in pixels of a photo of ``size``.

        Raises:
            CaptureError: no focal length, or a field of view that is none.
        """
        self._views += 1
        get = lambda key: number_of(keys, key, name, self._file)  # noqa: E731
        width, height = get("w") or float(size[0]), get("h") or float(size[1])
        has_size = bool(get("w")) or bool(get("cx"))
        fx = self._focal(get("fl_x"), get("camera_angle_x"), get("x_fov"), width, name, "x", has_size)
        fy = self._focal(get("fl_y"), get("camera_angle_y"), get("y_fov"), height, name, "y", has_size)
        if get("fl_x") and not get("fl_y"):
            fy = fx
        if fx is None and fy is None:
            zero = " (fl_x is 0)" if get("fl_x") == 0 else ""
            raise CaptureError(
                f"{self._file} says nothing about the focal length of {name}{zero}; it must be positive: "
                'give "fl_x" in pixels or "camera_angle_x" in radians'
            )
        fx, fy = (fy if fx is None else fx), (fx if fy is None else fy)
        assert fx is not None and fy is not None
        cx, cy = get("cx"), get("cy")
        across, down = size[0] / width, size[1] / height
        return [fx * across, fy * down, (width / 2 if cx is None else cx) * across, (height / 2 if cy is None else cy) * down]

    def _focal(
        self, length: float | None, radians: float | None, degrees: float | None, extent: float, name: str, axis: str, has_size: bool
    ) -> float | None:
        angle = math.radians(degrees) if not radians and degrees else radians
        if length == 0:
            self._zero.append(name)
        if angle and not 0 < angle < math.pi:
            raise CaptureError(
                f"the field of view of {name} in {self._file} is {angle:g} radians; it must lie between 0 and π (x_fov, y_fov: degrees)"
            )
        from_angle = 0.5 * extent / math.tan(0.5 * angle) if angle else None
        if not length or from_angle is None:
            return length or from_angle
        if abs(from_angle / length - 1) > _DISAGREE:
            # An angle holds for photos of every size; a length only for the size it was solved on, which is not given here.
            taken = "fl" if has_size else "camera_angle"
            self._contradictions.append((axis, length, from_angle, taken))
            return length if has_size else from_angle
        return length

    def is_fisheye(self, keys: Mapping[str, Any], name: str) -> bool:
        """Tell whether a frame's lens is a fisheye.

        Raises:
            CaptureError: a lens that is not supported.
        """
        if any(key.startswith("ftheta_p") for key in keys):
            raise CaptureError(f"{name} in {self._file} has an F-theta lens, which is not supported; undistort the photos first")
        model = str(keys.get("camera_model") or "OPENCV")
        if model.upper() not in _FISHEYE:
            raise CaptureError(
                f'{name} in {self._file} has the camera_model "{shown(model)[1:-1]}"; supported are {", ".join(_FISHEYE)}; '
                "undistort the photos first"
            )
        declared = keys.get("is_fisheye")
        return _FISHEYE[model.upper()] or (declared is not None and flag(declared, f'"is_fisheye" of {name} in {self._file}'))

    def distortion(self, keys: Mapping[str, Any], name: str, fisheye: bool) -> list[float]:
        """Return k1, k2, k3, k4, p1, p2.

        Raises:
            CaptureError: coefficients of another model, or a list of them whose order is not known.
        """
        written = keys.get("distortion_params")
        what = f"distortion_params of {name} in {self._file}"
        if written is None:
            values = [number_of(keys, key, name, self._file) or 0.0 for key in _DISTORTION]
            if any(number_of(keys, key, name, self._file) for key in _RATIONAL):
                raise CaptureError(
                    f"{name} in {self._file} has k5 or k6, so its lens is OpenCV's rational model, which is not supported; "
                    "undistort the photos first"
                )
        else:
            if not isinstance(written, list):
                raise CaptureError(f"{what} are {shown(written)}; they must be a list of the numbers k1, k2, k3, k4, p1, p2")
            values = [number(value, what) for value in written]
            if len(values) == 4 and fisheye:
                values += [0.0, 0.0]
            if len(values) != 6 and any(values):
                raise CaptureError(
                    f"{what} are {len(values)} numbers, whose order is not known; write k1, k2, k3, k4, p1, p2 as six numbers or as keys"
                )
            values = values if len(values) == 6 else [0.0] * 6
        if any(values) and str(keys.get("camera_model")).upper() in ("PINHOLE", "SIMPLE_PINHOLE"):
            self._pinhole_distorted.append(name)
        if fisheye and any(values[4:]):
            self._tangential_fisheye.append(name)
            values[4:] = [0.0, 0.0]
        return values

    def notes(self) -> tuple[str, ...]:
        """Return a note for each kind of contradiction."""
        notes: list[str] = []
        if self._zero:
            notes.append(f"a focal length of {self._file.name} is 0, so it counts as not given ({self._zero[0]})")
        for axis in ("x", "y"):
            found = [(length, angle, taken) for own, length, angle, taken in self._contradictions if own == axis]
            if found:
                length, angle, taken = found[0]
                why = "" if taken == "fl" else ", because an angle does not depend on the size of the photos, which is not given"
                notes.append(
                    f"fl_{axis} is {length:g} pixels but camera_angle_{axis} means {angle:g}, in {len(found)} of {self._views} views; "
                    f"{taken}_{axis} is used{why}"
                )
        if self._pinhole_distorted:
            notes.append(f"the camera_model of {self._pinhole_distorted[0]} is a pinhole, but it has distortion, which is used")
        if self._tangential_fisheye:
            notes.append("p1 and p2 of a fisheye lens are not used")
        return tuple(notes)


def plausible_intrinsics(
    intrinsics: Float[Tensor, "views 4"], sizes: Int[Tensor, "views 2"], fisheye: Bool[Tensor, " views"], names: Sequence[str], file: Path
) -> tuple[Float[Tensor, "views 4"], tuple[str, ...]]:
    """Check intrinsics against the sizes of the photos, and undo a resizing that they betray.

    If all principal points lie at 2, 3, 4 or 8 times the center, the photos were made smaller by that factor after the cameras were solved:
    the intrinsics are divided by it. Another factor is refused, because it cannot be told exactly.

    Returns:
        The intrinsics, and notes.

    Raises:
        CaptureError: a focal length that is not positive, a number that is not finite, a perspective lens of more than 170 degrees, or
            principal points outside of all photos.
    """
    for view, (fx, fy, *center) in enumerate(intrinsics.tolist()):
        if not (0 < fx < math.inf and 0 < fy < math.inf):
            raise CaptureError(f"the focal length of {names[view]} in {file} is {fx:g}, {fy:g} pixels; it must be positive and finite")
        if not all(abs(value) < math.inf for value in center):
            raise CaptureError(f"the principal point of {names[view]} in {file} is not finite; give cx and cy in pixels")
    notes: list[str] = []
    intrinsics = _with_resizing_undone(intrinsics, sizes, names, file, notes)
    angles = torch.rad2deg(2 * torch.atan(sizes / (2 * intrinsics[:, :2])))
    angles = torch.where(fisheye[:, None], 90.0, angles)
    widest = int(angles.amax(1).argmax())
    if float(angles[widest].max()) > _TOO_WIDE:
        axis = int(angles[widest].argmax())
        raise CaptureError(
            f"the focal length of {names[widest]} in {file} is {float(intrinsics[widest, axis]):.4g} pixels for "
            f"{int(sizes[widest, axis])} pixels, a field of view of {float(angles[widest, axis]):.0f} degrees; give it in pixels, not in "
            "millimeters or divided by the width"
        )
    for unusual, view in ((angles.amax(1) > _WIDE, widest), (angles.amax(1) < _NARROW, int(angles.amax(1).argmin()))):
        if bool(unusual.any()):
            notes.append(
                f"the field of view of {names[view]} is {float(angles[view].max()):.3g} degrees, which is unusual; check the focal length"
            )
    ratio = torch.maximum(intrinsics[:, 0] / intrinsics[:, 1], intrinsics[:, 1] / intrinsics[:, 0])
    if float(ratio.max()) > 1.2:
        view = int(ratio.argmax())
        fx, fy = intrinsics[view, :2].tolist()
        notes.append(f"the focal lengths of {names[view]} differ ({fx:.4g} and {fy:.4g} pixels); were the photos stretched?")
    off = (intrinsics[:, 2:] / sizes - 0.5).abs().amax(1) > _OFF_CENTER
    if bool(off.any()):
        view = int(off.int().argmax())
        notes.append(f"{_place(intrinsics, sizes, names, view)}, far from the center, in {int(off.sum())} of {len(names)} views: were the "
                     "photos cropped or resized after the cameras were solved?")  # fmt: skip
    return intrinsics, tuple(notes)


def _with_resizing_undone(
    intrinsics: Float[Tensor, "views 4"], sizes: Int[Tensor, "views 2"], names: Sequence[str], file: Path, notes: list[str]
) -> Float[Tensor, "views 4"]:
    ratios = 2 * intrinsics[:, 2:] / sizes
    mean = ratios.mean(1)
    if not bool((ratios.amin(1) > 1.4).all() and (ratios.amax(1) / ratios.amin(1) < 1.2).all()):
        return intrinsics
    if float(mean.max() / mean.min()) > 1 + _FACTOR_TOLERANCE:
        return intrinsics
    likely = float(mean.median())
    factor = next((factor for factor in _FACTORS if abs(likely / factor - 1) < _FACTOR_TOLERANCE), None)
    where = _place(intrinsics, sizes, names, 0)
    if factor is not None:
        notes.append(
            f"{where}, at the lower right corner or beyond, in all views: the photos seem to be smaller by {factor} than those the cameras "
            f"were solved on, so the intrinsics were divided by {factor}"
        )
        return intrinsics / factor
    if likely > 1.8:
        raise CaptureError(
            f"{where} in {file}, at the border or outside, in all views: the photos seem to be about {likely:.2g} times smaller than those "
            "the cameras were solved on; scale the intrinsics to the photos, or use the original photos"
        )
    return intrinsics


def _place(intrinsics: Float[Tensor, "views 4"], sizes: Int[Tensor, "views 2"], names: Sequence[str], view: int) -> str:
    (cx, cy), (width, height) = intrinsics[view, 2:].tolist(), sizes[view].tolist()
    return f"the principal point of {names[view]} is ({cx:.4g}, {cy:.4g}) in {width} x {height} pixels"
