"""Checks that hold for captures of every format: options, views that cannot be right together, and numbers beyond float32.

Whatever is certainly wrong is refused; what is only suspicious becomes a note.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import Split
from unrender.captures.errors import CaptureError
from unrender.captures.memory import bytes_of
from unrender.captures.reading import reason, shown
from unrender.captures.source import Source, held_out
from unrender.words import CameraAxes, HoldOut, MaskUse, NormalFrame, Up

_LARGEST = float(torch.finfo(torch.float32).max)

_FAR = 1000.0
"""A camera is suspicious if it is this many times farther from the middle camera than the median."""

_FARTHEST = 1e6
"""Positions beyond this many units of the world lose pixels to the rounding of float32."""

_FOCAL_SHARE = (1e-3, 1e5)
"""Smallest and largest focal length as a share of the image's side: lenses have 0.1 to 60."""

_FARTHEST_CENTER = 100.0
"""Largest distance of the principal point from the image's corner, as a share of the image's side."""

_SAME_POSE = 1e-6


def check_options(
    *,
    downscale: int,
    center: tuple[float, float, float] | None,
    radius: float | None,
    up: Up | None,
    test_every: int | HoldOut,
    leave_out: Sequence[str],
    normal_maps: Path | str | None,
    normal_maps_frame: NormalFrame,
    masks: MaskUse | None,
    camera_axes: CameraAxes | None,
    principal_shift: tuple[float, float],
    memory: int | str | None,
) -> None:
    """Check the options of :func:`unrender.captures.load_capture`.

    Raises:
        CaptureError: an option has another type than it should, or a value that makes no sense.
    """

    def check(name: str, value: object, is_right: bool, wanted: str) -> None:
        if not is_right:
            raise CaptureError(f"{name} is {shown(value)}; give {wanted}")

    axes = ("x", "y", "z", "-x", "-y", "-z", "cameras")
    check("downscale", downscale, _is_integer(downscale, 1), "an integer of at least 1")
    rules = get_args(HoldOut)
    known = test_every in rules if isinstance(test_every, str) else _is_integer(test_every, 0)
    check("test_every", test_every, known, f"0 to hold out nothing, at least 2, or one of {', '.join(rules)}")
    are_names = isinstance(leave_out, tuple | list) and all(isinstance(name, str) and name for name in leave_out)
    check("leave_out", leave_out, are_names, "a tuple of names of photos")
    check("center", center, center is None or _are_numbers(center, 3), "three finite numbers in the frame of the poses")
    check("radius", radius, radius is None or (_is_finite(radius) and radius > 0), "a positive number in the units of the poses")
    check("up", up, up is None or _is_direction(up, axes), f"a direction of three finite numbers, or one of {', '.join(axes)}")
    check("principal_shift", principal_shift, _are_numbers(principal_shift, 2), "two finite numbers of pixels")
    if memory is not None:
        bytes_of(memory)
    check("normal_maps", normal_maps, isinstance(normal_maps, str | Path | None), "the folder of the normal images")
    check("normal_maps_frame", normal_maps_frame, normal_maps_frame in get_args(NormalFrame), f"one of {', '.join(get_args(NormalFrame))}")
    check("masks", masks, masks in (None, *get_args(MaskUse)), f"one of {', '.join(get_args(MaskUse))}")
    check("camera_axes", camera_axes, camera_axes in (None, *get_args(CameraAxes)), f"one of {', '.join(get_args(CameraAxes))}")


def _is_direction(value: Any, axes: Sequence[str]) -> bool:
    return value in axes if isinstance(value, str) else _are_numbers(value, 3) and any(value)


def _is_integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, tuple | list) and len(value) == count and all(map(_is_finite, value))


def checked_source(source: Source, folder: Path, test_every: int) -> tuple[Source, list[str]]:
    """Check what a reader returned, repair its split, and return notes about both.

    Raises:
        CaptureError: a photo has two poses, or a lens or pose is beyond what float32 or an image allows.
    """
    _check_lenses(source)
    source, notes = _each_photo_once(source)
    split, about_split = _disjoint(source, test_every)
    source = replace(source, split=split)
    return source, [*notes, *about_split, *_about_positions(source), *_about_places(source, folder)]


def _each_photo_once(source: Source) -> tuple[Source, list[str]]:
    """Drop views that repeat a photo with its pose.

    Raises:
        CaptureError: the poses or lenses differ.
    """
    first: dict[object, int] = {}
    same: dict[int, int] = {}
    for view, image in enumerate(source.images):
        earlier = first.setdefault(_identity(image), view)
        if earlier != view:
            same[view] = earlier
    if not same:
        return source, []
    scale = float(source.source_from_camera[:, :3, 3].abs().max()) + 1
    for view, earlier in same.items():
        moved = float((source.source_from_camera[view] - source.source_from_camera[earlier]).abs().max()) > _SAME_POSE * scale
        if moved or not torch.equal(source.intrinsics[view], source.intrinsics[earlier]):
            raise CaptureError(
                f"the photo {source.names[view]} is listed with two different cameras (views {earlier} and {view}); give each view its "
                "own photo"
            )
    kept = [view for view in range(len(source.images)) if view not in same]
    place = {view: number for number, view in enumerate(kept)}
    place |= {view: place[earlier] for view, earlier in same.items()}
    train, test = (tuple(place[view] for view in views) for views in (source.split.train, source.split.test))
    chosen = source.select(kept, replace(source.split, train=train, test=test))
    return chosen, [f"{len(same)} of the {len(source.images)} views repeat the photo and pose of another one and were left out"]


def _identity(path: Path) -> object:
    """Return what two names of one file have in common."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise CaptureError(f"the image {path} cannot be read ({reason(error)}); check its name and its permissions") from error
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _disjoint(source: Source, test_every: int) -> tuple[Split, list[str]]:
    """Return a split in which a view occurs once, with a note if that changed it.

    A view that is both fitted and held out is fitted. If no view is held out any more, every N-th is, as without a split.
    """
    split = source.split
    train = tuple(dict.fromkeys(split.train))
    test = tuple(view for view in dict.fromkeys(split.test) if view not in set(train))
    both = len(set(split.test)) - len(test)
    notes = []
    if len(train) < len(split.train) or len(set(split.test)) < len(split.test):
        notes.append("the split names some views twice; they count once")
    if not both:
        return replace(split, train=train, test=test), notes
    if test or test_every == 0 or len(train) < 2:
        notes.append(f"{both} views are both fitted and held out by the files; they are fitted only, so that measures are of unseen views")
        return replace(split, train=train, test=test), notes
    names = [source.names[view] for view in train]
    again = held_out(names, test_every)
    notes.append(f"all views that the files hold out are fitted too, so {again.rule} instead")
    return Split(tuple(train[place] for place in again.train), tuple(train[place] for place in again.test), again.rule), notes


def _check_lenses(source: Source) -> None:
    """Check focal lengths, principal points and distortion against the sizes of the photos."""
    sizes = source.sizes.double()
    share = source.intrinsics[:, :2] / sizes
    beyond = source.intrinsics[:, 2:] / sizes - 0.5
    for view, name in enumerate(source.names):
        low, high = float(share[view].min()), float(share[view].max())
        if not (_FOCAL_SHARE[0] <= low and high <= _FOCAL_SHARE[1]):
            fx, fy = source.intrinsics[view, :2].tolist()
            raise CaptureError(f"the focal length of {name} is {fx:g}, {fy:g} pixels, which no lens has; give it in pixels of the photo")
        if not float(beyond[view].abs().max()) <= _FARTHEST_CENTER - 1:
            cx, cy = source.intrinsics[view, 2:].tolist()
            raise CaptureError(f"the principal point of {name} is {cx:g}, {cy:g}, far outside of the photo; give it in pixels of the photo")
        if not float(source.distortion[view].abs().max()) <= _LARGEST:
            raise CaptureError(f"the distortion of {name} is not finite in float32; solve the lens again or leave it out")


def _about_positions(source: Source) -> list[str]:
    """Check the positions of the cameras.

    Returns:
        A note about a camera far from the others, or about poses that are all the same.
    """
    poses = source.source_from_camera
    positions = poses[:, :3, 3]
    for view, name in enumerate(source.names):
        if not float(poses[view].abs().max()) <= _LARGEST:
            raise CaptureError(f"the pose of {name} is not finite in float32; remove the view or solve its pose again")
    if len(poses) < 2:
        return []
    distance = (positions - positions.median(0).values).norm(dim=-1)
    usual = float(distance.median())
    farthest = int(distance.argmax())
    if float((poses - poses[:1]).abs().max()) <= _SAME_POSE * (1 + float(positions.abs().max())):
        return ["all cameras have the same pose, so nothing can be said about depth; check the poses"]
    if len(poses) > 2 and float(distance[farthest]) > _FAR * usual > 0:
        times = float(distance[farthest]) / usual
        return [f"the camera of {source.names[farthest]} is {times:,.0f} times farther from the others than the median; check its pose"]
    return []


def _about_places(source: Source, folder: Path) -> list[str]:
    """Return a note if files are read from outside of the capture's folder."""
    root = os.path.realpath(folder)
    files: Sequence[Path] = [*source.files, *source.images, *(source.masks or ()), *(file for file in source.ignored if file is not None)]
    outside = [place for place in map(os.path.realpath, files) if not Path(place).is_relative_to(root)]
    if not outside:
        return []
    return [
        f"{len(outside)} files are read from outside of the capture's folder, because its files name or link to them, such as {outside[0]}"
    ]


def check_world(poses: Float[Tensor, "views 4 4"], source_from_world: Float[Tensor, "4 4"], names: Sequence[str]) -> None:
    """Check that float32 holds the poses in the normalized world.

    Raises:
        CaptureError: the region is too small or too large, or a camera is too many times its size away.
    """
    scale = float(torch.linalg.det(source_from_world[:3, :3]).abs()) ** (1 / 3)
    if not (1e-30 < scale < 1e30 and float(source_from_world.abs().max()) < 1e30):
        raise CaptureError(f"the region of interest has the half side {scale:.3g} in units of the poses; give another center and radius")
    far = poses[:, :3, 3].norm(dim=-1)
    lost = ~(far <= _FARTHEST)
    if bool(lost.any()):
        view = int(lost.int().argmax())
        raise CaptureError(
            f"the camera of {names[view]} is {float(far[view]):.3g} times the region's half side ({scale:.3g}) away from its center; check "
            "the pose, or give another center and radius"
        )
