"""The layout of COLMAP: ``images/``, ``masks/NAME.png``, a binary model in ``sparse/0``, and lists of the split."""

from __future__ import annotations

import os
import struct
from functools import partial
from itertools import chain

import numpy as np

from unrender.captures.colmap_lenses import MODELS
from unrender.captures.errors import CaptureError
from unrender.captures.writing.plan import COMMON_SUFFIXES, Given, NewFile, Plan, gray_points
from unrender.files.atomic import write_bytes
from unrender.transforms import wxyz_from_matrix

_NUMBERS = {name: number for number, name in enumerate(MODELS)}


def plan_colmap(given: Given) -> Plan:
    """Plan a capture with any lenses, masks of pixels that count, the split, and points without tracks.

    Raises:
        CaptureError: a perspective lens with k4, which no model of COLMAP has.
    """
    source = given.source
    names = given.names(COMMON_SUFFIXES, range(given.count), flat=False)
    pictures = [given.photo(view, f"images/{name}", COMMON_SUFFIXES) for view, name in enumerate(names)]
    pictures += given.copied_masks([f"masks/{name}.png" for name in names])
    lenses = [_camera(given, view) for view in range(given.count)]
    numbers = {lens: number for number, lens in enumerate(dict.fromkeys(lenses), 1)}
    files = {
        "sparse/0/cameras.bin": _records([struct.pack("<I", number) + lens for lens, number in numbers.items()]),
        "sparse/0/points3D.bin": _points(given),
    }
    if source.split.test:
        files |= {"test_list.txt": _listed(names, source.split.test)}
    files |= {"train_list.txt": _listed(names, source.split.train)}
    files |= {"sparse/0/images.bin": _images(given, names, [numbers[lens] for lens in lenses])}
    notes = given.encoding_notes(COMMON_SUFFIXES)
    if source.masks is not None and source.mask_meaning == "object":
        notes.append("the masks outline the object, and COLMAP leaves out what is dark in masks")
    if source.points is not None:
        notes.append("points are written without tracks, and images without features, which are not read")
    notes += [*given.color_key_notes(), *given.lost_notes(points=True)]
    return Plan(tuple(pictures), tuple(NewFile(name, partial(write_bytes, data=data)) for name, data in files.items()), tuple(notes))


def _camera(given: Given, view: int) -> bytes:
    """Return the record of a view's lens, without the number of the camera."""
    source = given.source
    width, height = source.sizes[view].tolist()
    k1, k2, k3, k4, p1, p2 = source.distortion[view].tolist()
    if bool(source.fisheye[view]):
        model, further = "OPENCV_FISHEYE", [k1, k2, k3, k4]
    elif k4:
        raise CaptureError(f"{source.names[view]} has a perspective lens with k4, which no model of COLMAP has; write nerfstudio")
    elif k3:
        model, further = "FULL_OPENCV", [k1, k2, p1, p2, k3, 0.0, 0.0, 0.0]
    elif any((k1, k2, p1, p2)):
        model, further = "OPENCV", [k1, k2, p1, p2]
    else:
        model, further = "PINHOLE", []
    numbers = [*source.intrinsics[view].tolist(), *further]
    return struct.pack(f"<iQQ{len(numbers)}d", _NUMBERS[model], width, height, *numbers)


def _images(given: Given, names: list[str], cameras: list[int]) -> bytes:
    """Return the poses, as ``camera_from_source``, of images without features."""
    rotations = given.source.source_from_camera[:, :3, :3].mT
    quaternions = wxyz_from_matrix(rotations).tolist()
    translations = (-(rotations @ given.source.source_from_camera[:, :3, 3:])[:, :, 0]).tolist()
    rows = zip(quaternions, translations, cameras, names, strict=True)
    return _records(
        [
            struct.pack("<I7dI", number, *wxyz, *translation, camera) + os.fsencode(name) + b"\0" + struct.pack("<Q", 0)
            for number, (wxyz, translation, camera, name) in enumerate(rows, 1)
        ]
    )


def _points(given: Given) -> bytes:
    """Return points without tracks; their errors are unknown, which COLMAP writes as -1."""
    points = given.source.points
    if points is None:
        return struct.pack("<Q", 0)
    rows = np.zeros(len(points), [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])
    rows["id"], rows["xyz"], rows["rgb"], rows["error"] = np.arange(1, len(points) + 1), points.numpy(), gray_points(given.source), -1.0
    return struct.pack("<Q", len(points)) + rows.tobytes()


def _records(records: list[bytes]) -> bytes:
    return b"".join(chain([struct.pack("<Q", len(records))], records))


def _listed(names: list[str], views: tuple[int, ...]) -> bytes:
    return b"".join(os.fsencode(names[view]) + b"\n" for view in views)
