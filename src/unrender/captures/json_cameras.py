"""Cameras in JSON files of their own kind: SDFStudio, Polycam's keyframes, and Record3D."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unrender.captures.errors import CaptureError
from unrender.captures.lenses import number_of
from unrender.captures.photo_files import natural_key
from unrender.captures.posed_photos import Lens, PosedPhoto, pinhole, posed_source, rotation_about
from unrender.captures.reading import finite_matrix, is_folder, is_regular_file, number, read_json, shown
from unrender.captures.reading_text import names_in
from unrender.captures.source import Region, Source


def read_sdfstudio(folder: Path, file: Path, test_every: int) -> Source:
    """Read a ``meta_data.json``: OpenCV axes, pixel centers at +0.5, the scene in a box.

    Raises:
        CaptureError: no frames, a frame without photo, pose or intrinsics, another camera model, masks of some frames only, or as in
            :func:`unrender.captures.posed_photos.posed_source`.
    """
    content = read_json(file)
    frames = _objects(content.get("frames"), f'the "frames" of {file}')
    model = content.get("camera_model") or "OPENCV"
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
        raise CaptureError(f"{file} has the camera_model {shown(model)}; its photos must be undistorted (OPENCV)")
    size = _size(content, "width", "height", file)
    photos = []
    for count, frame in enumerate(frames):
        name = _name(frame.get("rgb_path"), f'the "rgb_path" of frame {count} in {file}')
        pose = finite_matrix(frame.get("camtoworld"), [(4, 4)], f"the camtoworld of {name} in {file}")
        what = f"the intrinsics of {name} in {file}"
        intrinsics = finite_matrix(frame.get("intrinsics"), [(4, 4), (3, 3)], what)
        mask = frame.get("foreground_mask") and _name(frame["foreground_mask"], f'the "foreground_mask" of {name} in {file}')
        photos.append(PosedPhoto(name, pose, pinhole(intrinsics[:3, :3], what, shift=0.0, size=size), mask or None))
    notes = []
    if any(frame.get("mono_depth_path") or frame.get("sensor_depth_path") for frame in frames):
        notes.append("the depth images are not used")
    if any(frame.get("mono_normal_path") for frame in frames):
        notes.append("the monocular normals are not used")
    others = {Path(value).name for frame in frames for value in frame.values() if isinstance(value, str)}
    source = posed_source(folder, file, photos, test_every, as_stored=False, is_photo=lambda path: path.name not in others, notes=notes)
    return replace(source, focus=_scene_box(content.get("scene_box"), file))


def _scene_box(value: Any, file: Path) -> Region | None:
    """Return the box of the scene; None if there is none."""
    if not isinstance(value, Mapping) or value.get("aabb") is None:
        return None
    low, high = finite_matrix(value["aabb"], [(2, 3)], f"the aabb of the scene_box in {file}")
    if not (high > low).all():
        raise CaptureError(f"the aabb of the scene_box in {file} is empty; write the lower and the upper corner")
    return Region.between(low.tolist(), high.tolist())


def read_polycam(folder: Path, file: Path, test_every: int) -> Source:
    """Read one JSON file per keyframe: ``t_00`` to ``t_23`` from camera to world, OpenGL axes, +Y of the world up.

    Photos of ``corrected_cameras/`` are in ``corrected_images/`` beside it, those of ``cameras/`` in ``images/``.

    Raises:
        CaptureError: a number is missing, or as in :func:`unrender.captures.posed_photos.posed_source`.
    """
    place = file.parent
    files = sorted((place / name for name in names_in(place) if name.endswith(".json")), key=natural_key)
    photos = []
    for path in files:
        if not is_regular_file(path):
            continue
        keys = read_json(path)
        value = lambda key, keys=keys, path=path: _needed(keys, key, path)  # noqa: E731
        pose = np.eye(4)
        pose[:3] = [[value(f"t_{row}{column}") for column in range(4)] for row in range(3)]
        lens = Lens((value("fx"), value("fy")), (value("cx"), value("cy")), _size(keys, "width", "height", path))
        photos.append(PosedPhoto(path.stem, pose, lens))
    corrected = place.name == "corrected_cameras"
    notes = [] if corrected else ["the poses are those of the phone, because Polycam's corrected_cameras are not there"]
    where = [place.with_name(name) for name in ("corrected_images", "images")][0 if corrected else 1 :]
    places = [path.relative_to(folder).as_posix() for path in where if is_folder(path)]
    source = posed_source(folder, file, photos, test_every, axes="opengl", places=places, files=files, notes=notes)
    return replace(source, up=(0.0, 1.0, 0.0))


def read_record3d(folder: Path, file: Path, test_every: int) -> Source:
    """Read ``metadata``: ``poses`` x y z w and position from camera to world, OpenGL axes, and ``K`` by columns.

    Photo i is ``rgb/i.jpg`` or ``rgb/i.png``. Intrinsics of each frame win over ``K``.

    Raises:
        CaptureError: poses or intrinsics are missing, or as in :func:`unrender.captures.posed_photos.posed_source`.
    """
    content = read_json(file)
    poses, size = content.get("poses"), _size(content, "w", "h", file)
    if not isinstance(poses, list) or not poses:
        raise CaptureError(f'{file} has no list "poses"; Record3D writes seven numbers for each frame')
    rows = finite_matrix(poses, [(len(poses), 7)], f"the poses of {file}")
    each = content.get("perFrameIntrinsicCoeffs")
    if each:
        lenses = finite_matrix(each, [(len(poses), 4)], f"the perFrameIntrinsicCoeffs of {file}")
    else:
        columns = finite_matrix([content.get("K")], [(1, 9)], f'"K" in {file}')[0]
        lenses = np.tile(columns[[0, 4, 6, 7]], (len(poses), 1))
    photos = []
    for count, (row, (fx, fy, cx, cy)) in enumerate(zip(rows, lenses.tolist(), strict=True)):
        x, y, z, w = row[:4].tolist()
        if not 0.9 < x * x + y * y + z * z + w * w < 1.1:
            raise CaptureError(f"pose {count} in {file} has the quaternion {shown(row[:4].tolist())}, which is not of unit length")
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation_about(w, x, y, z), row[4:]
        photos.append(PosedPhoto(str(count), pose, Lens((fx, fy), (cx, cy), size)))
    return posed_source(folder, file, photos, test_every, axes="opengl", places=("rgb", "rgbd"))


def _objects(value: Any, what: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise CaptureError(f"{what} are not a list of objects; write the cameras there")
    return value


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise CaptureError(f"{what} is {shown(value)}; it must be the name of a file")
    return value


def _needed(keys: Mapping[str, Any], key: str, file: Path) -> float:
    if key not in keys:
        raise CaptureError(f'{file} has no "{key}"; write the camera again')
    return number(keys[key], f'"{key}" in {file}')


def _size(keys: Mapping[str, Any], width: str, height: str, file: Path) -> tuple[float, float] | None:
    across, down = (number_of(keys, key, "the photos", file) for key in (width, height))
    return None if across is None or down is None else (across, down)
