"""OpenSfM and OpenDroneMap: ``reconstruction.json``, or ``shots.geojson`` with the lenses of ``cameras.json``.

A rotation is a vector along the axis whose length is the angle, from world to camera, with OpenCV's axes and +Z of the world up. In
``reconstruction.json`` the translation belongs to it; in ``shots.geojson`` it is the place of the camera. Lengths of lenses are shares of
the longer side of the photo, counted from its middle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.errors import CaptureError
from unrender.captures.points import MOST_POINTS
from unrender.captures.posed_photos import Lens, PosedPhoto, affine, posed_source, rotation_about
from unrender.captures.reading import finite_matrix, is_regular_file, number, read_json, read_json_value, shown
from unrender.captures.source import Source

_FISHEYE: Mapping[str, bool] = {
    "perspective": False,
    "simple_radial": False,
    "radial": False,
    "brown": False,
    "fisheye": True,
    "fisheye_opencv": True,
}
"""Projection types that are read, and whether each is a fisheye."""

_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_REFUSED = ("k5", "k6", "s0", "s1", "s2", "s3")


def read_opensfm(folder: Path, file: Path, test_every: int) -> Source:
    """Read the largest reconstruction of a ``reconstruction.json``, with its points.

    Raises:
        CaptureError: no shots, a shot without its camera, a lens that is not supported, or as in
            :func:`unrender.captures.posed_photos.posed_source`.
    """
    content = read_json_value(file)
    listed = content if isinstance(content, list) else []
    parts = [part for part in listed if isinstance(part, dict) and isinstance(part.get("shots"), dict)]
    if not parts:
        raise CaptureError(f"{file} has no reconstruction with shots; it must be OpenSfM's list of reconstructions")
    largest = max(parts, key=lambda part: len(part["shots"]))
    others = sum(len(part["shots"]) for part in parts) - len(largest["shots"])
    notes = [f"{others} shots of smaller reconstructions have no pose in the frame of the largest one and were left out"] if others else []
    cameras = largest.get("cameras")
    photos = []
    for name, shot in largest["shots"].items():
        what = f"the shot {name} in {file}"
        lens = cameras.get(shot.get("camera")) if isinstance(cameras, dict) and isinstance(shot, dict) else None
        if not isinstance(shot, dict) or not isinstance(shot.get("camera"), str) or not isinstance(lens, dict):
            raise CaptureError(f"{what} has no camera that the file describes; write the reconstruction again")
        rotation, translation = _rotation(shot, what), _vector(shot, "translation", what)
        photos.append(PosedPhoto(name, affine(rotation, translation), _lens(lens, f"the camera of {what}")))
    source = posed_source(folder, file, photos, test_every, camera_from_source=True, places=_places(folder, file), notes=notes)
    return replace(source, up=(0.0, 0.0, 1.0), points=_points(largest.get("points"), file))


def read_odm(folder: Path, file: Path, test_every: int) -> Source:
    """Read the shots of a ``shots.geojson``, and the lenses of the ``cameras.json`` in the capture's folder or beside it.

    Raises:
        CaptureError: no shots, no ``cameras.json``, several lenses that a shot may have, a lens that is not supported, or as in
            :func:`unrender.captures.posed_photos.posed_source`.
    """
    cameras_file = next((path for path in (folder / "cameras.json", file.with_name("cameras.json")) if is_regular_file(path)), None)
    if cameras_file is None:
        raise CaptureError(f"{folder / 'cameras.json'} does not exist; {file.name} says nothing about lenses, so put it there")
    cameras = [camera for camera in read_json(cameras_file).values() if isinstance(camera, dict)]
    features = read_json(file).get("features")
    shots = [feature.get("properties") for feature in features if isinstance(feature, dict)] if isinstance(features, list) else []
    photos = []
    for count, shot in enumerate(shots):
        name = shot.get("filename") if isinstance(shot, dict) else None
        if not isinstance(shot, dict) or not isinstance(name, str):
            raise CaptureError(f"shot {count} in {file} has no filename; write it again")
        what = f"the shot {name} in {file}"
        rotation, place = _rotation(shot, what), _vector(shot, "translation", what)
        photos.append(PosedPhoto(name, affine(rotation.T, place), _lens(_camera_of(shot, cameras, what), f"the camera of {what}")))
    source = posed_source(folder, file, photos, test_every, places=_places(folder, file), files=(file, cameras_file))
    return replace(source, up=(0.0, 0.0, 1.0))


def _places(folder: Path, file: Path) -> list[str]:
    """Return where photos are: in ``images/`` of the capture, which may be the folder above the one of the file."""
    return list(dict.fromkeys(("images", (file.parent / "images").relative_to(folder).as_posix())))


def _rotation(shot: Mapping[str, Any], what: str) -> Float[np.ndarray, "3 3"]:
    x, y, z = _vector(shot, "rotation", what)
    angle = math.hypot(x, y, z)
    share = math.sin(angle / 2) / angle if angle > 1e-12 else 0.5
    return rotation_about(math.cos(angle / 2), share * x, share * y, share * z)


def _vector(shot: Mapping[str, Any], key: str, what: str) -> list[float]:
    return finite_matrix([shot.get(key)], [(1, 3)], f"the {key} of {what}")[0].tolist()


def _camera_of(shot: Mapping[str, Any], cameras: Sequence[Mapping[str, Any]], what: str) -> Mapping[str, Any]:
    """Return the camera with the focal length and size of a shot."""

    def key(item: Mapping[str, Any]) -> tuple[object, ...]:
        return item.get("focal", item.get("focal_x")), item.get("width"), item.get("height")

    fitting = cameras if len(cameras) == 1 else [camera for camera in cameras if key(camera) == key(shot)]
    if len(fitting) != 1:
        raise CaptureError(
            f"{what} fits {len(fitting)} of the {len(cameras)} cameras in cameras.json, by focal length and size; put "
            "opensfm/reconstruction.json there instead"
        )
    return fitting[0]


def _lens(camera: Mapping[str, Any], what: str) -> Lens:
    kind = camera.get("projection_type", "perspective")
    if not isinstance(kind, str) or kind not in _FISHEYE:
        raise CaptureError(f"{what} has the projection_type {shown(kind)}; supported are {', '.join(_FISHEYE)}; undistort the photos first")

    def value(key: str, otherwise: float = 0.0) -> float:
        return otherwise if camera.get(key) is None else number(camera[key], f'"{key}" of {what}')

    refused = [key for key in _REFUSED if value(key)]
    if refused:
        raise CaptureError(f"{what} has {refused[0]}, which no lens here has; undistort the photos first")
    focal = value("focal")
    k1, k2, k3, k4, p1, p2 = (value(key) for key in _DISTORTION)
    return Lens(
        focal=(value("focal_x", focal), value("focal_y", focal)),
        center=(value("c_x"), value("c_y")),
        size=(value("width"), value("height")) if camera.get("width") and camera.get("height") else None,
        distortion=(k1, k2, k3, k4, p1, p2),
        fisheye=_FISHEYE[kind],
        relative=True,
    )


def _points(value: Any, file: Path) -> Float[Tensor, "points 3"] | None:
    if not isinstance(value, dict) or not value:
        return None
    if len(value) > MOST_POINTS:
        raise CaptureError(f"{file} has {len(value):,} points, and at most {MOST_POINTS:,} are read")
    rows = [point.get("coordinates") if isinstance(point, dict) else None for point in value.values()]
    return torch.from_numpy(finite_matrix(rows, [(len(rows), 3)], f"the coordinates of the points in {file}"))
