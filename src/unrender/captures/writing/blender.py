"""The layout of Blender captures: PNG photos with alpha in ``train/`` and ``test/``, and a JSON file for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from unrender.captures.images import in_threads
from unrender.captures.photos import read_photo
from unrender.captures.source import opencv_from
from unrender.captures.writing.plan import Given, NewFile, Plan, copying, encoding, region_options
from unrender.files.atomic import write_json
from unrender.printing import counted
from unrender.transforms import scale_of

_LAYOUT = "a Blender capture"
_SUFFIXES = frozenset((".png",))
_HALF_SIDE = 1.5
"""Programs expect the object within this distance of the origin along each axis."""


def plan_blender(given: Given) -> Plan:
    """Plan a capture for NeRF: one focal length, and masks in the alpha of the photos.

    Raises:
        CaptureError: cameras that differ or have distortion.
    """
    notes: list[str] = []
    focal = given.centered_focal(_LAYOUT, notes)
    source, capture = given.source, given.capture
    copied = in_threads(lambda view: _holds_its_mask(given, view), range(given.count))
    pictures: list[NewFile] = []
    cameras: list[NewFile] = []
    poses = source.source_from_camera * opencv_from("opengl")
    for part, views in (("train", source.split.train), ("test", source.split.test)):
        frames = []
        for view, name in zip(views, given.names(_SUFFIXES, views, flat=True), strict=True):
            write = copying(source.images[view]) if copied[view] else _encoding(given, view)
            pictures.append(NewFile(f"{part}/{name}", write))
            frames.append({"file_path": f"./{part}/{PurePosixPath(name).stem}", "transform_matrix": poses[view].tolist()})
        content = {"camera_angle_x": 2 * math.atan(int(source.sizes[0, 0]) / (2 * focal)), "frames": frames}
        if views:
            cameras.append(NewFile(f"transforms_{part}.json", partial(write_json, value=content)))
    if not all(copied):
        masks = " with their masks as alpha" if capture.has_masks else ""
        notes.append(f"{counted(copied.count(False), 'photo')} became PNG files{masks} ({source.images[copied.index(False)].name})")
    unused = given.count - len(source.split.train) - len(source.split.test)
    if unused:
        notes.append(f"{unused} views are neither fitted nor held out and are not written")
    if not source.split.test:
        notes.append("no view is held out, so there is no transforms_test.json; give --test-every 0 to what reads the capture")
    if source.up != (0.0, 0.0, 1.0):
        notes.append("Blender captures have +Z up, and the upward direction of this one may be another; the poses are not turned")
    corner = capture.source_from_world[:3, 3].abs().max() + scale_of(capture.source_from_world)
    if float(corner) > _HALF_SIDE:
        notes.append(
            f"programs expect the object within {_HALF_SIDE} of the origin, and the region of this capture is another: "
            f"{region_options(capture.source_from_world)}"
        )
    return Plan(tuple(pictures), tuple(reversed(cameras)), (*notes, *given.ignored_notes(_LAYOUT), *given.lost_notes(up=True, region=True)))


def _holds_its_mask(given: Given, view: int) -> bool:
    """Tell whether the file of a photo is a PNG whose alpha is the mask of the view."""
    if given.must_be_encoded(view, _SUFFIXES):
        return False
    rgba, _ = read_photo(given.source.images[view], apply_exif=False)
    return np.array_equal(rgba[..., 3], given.capture.mask(view).numpy())


def _encoding(given: Given, view: int) -> Callable[[Path], None]:
    return encoding(lambda: (given.capture.photos[view].numpy(), given.capture.has_masks))
