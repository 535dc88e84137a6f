"""Files of a sparse model of COLMAP, as text or binary: cameras, images and points, without features and tracks.

A pose maps the world to the camera, with a Hamilton quaternion, scalar first. Files may claim anything: counts are compared with the bytes
that are there before memory is allocated, and features and tracks are skipped unread.
"""

from __future__ import annotations

import math
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from unrender.captures.colmap_lenses import MODELS, PARAMETERS
from unrender.captures.errors import CaptureError
from unrender.captures.points import MOST_POINTS
from unrender.captures.reading import check_file, is_regular_file, read_bytes, reason, shown

SUFFIXES = (".bin", ".txt")
"""Suffixes of the files of a model; the first that is there is read."""

MOST_IMAGES = 1_000_000
"""Most images of a model."""

_MOST_CAMERA_BYTES = 64 * 2**20
_LARGEST_SIDE = 2**24
_LONGEST_LINE = 65536
"""Bytes of a line that are read; only lines of features and tracks are longer."""
_LONGEST_NAME = 1024
_BLOCK = 2**24
"""Bytes of points that are read at once."""
_LARGEST = float(np.finfo(np.float32).max)

_CAMERA = struct.Struct("<IiQQ")
_IMAGE = struct.Struct("<I7dI")
_FEATURE = 24
_POINT = struct.Struct("<Q3d3BdQ")
_TRACK = 8
_COUNT = struct.Struct("<Q")

Points: TypeAlias = tuple[Float[ndarray, "points 3"], UInt8[ndarray, "points 3"]]
"""Positions and colors."""


@dataclass(frozen=True)
class ColmapCamera:
    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class ColmapImage:
    name: str
    camera: int
    wxyz: tuple[float, float, float, float]
    """The rotation of ``camera_from_world``, of any length above zero."""
    translation: tuple[float, float, float]


def files_of(folder: Path, name: str) -> list[Path]:
    """List the files ``name.bin`` and ``name.txt`` of a model that are there."""
    return [folder / (name + suffix) for suffix in SUFFIXES if is_regular_file(folder / (name + suffix))]


def read_cameras(file: Path) -> dict[int, ColmapCamera]:
    """Read the cameras of a model by their numbers.

    Raises:
        CaptureError: the file is damaged, names an unknown model, or a number or size makes no sense.
    """
    cameras: dict[int, ColmapCamera] = {}
    for number, camera in _binary_cameras(file) if file.suffix == ".bin" else _text_cameras(file):
        if number in cameras:
            raise CaptureError(f"{file} has two cameras with the number {number}; give each its own")
        if not (0 < camera.width < _LARGEST_SIDE and 0 < camera.height < _LARGEST_SIDE):
            raise CaptureError(f"camera {number} in {file} is {camera.width}x{camera.height} pixels; correct its size or solve again")
        if not all(abs(value) <= _LARGEST for value in camera.parameters):
            raise CaptureError(f"camera {number} in {file} has a parameter that is not finite; solve the cameras again")
        cameras[number] = camera
    return cameras


def read_images(file: Path) -> list[ColmapImage]:
    """Read the images of a model: their names, cameras and poses.

    Raises:
        CaptureError: the file is damaged, or a pose is not finite.
    """
    images: list[ColmapImage] = []
    for image in _binary_images(file) if file.suffix == ".bin" else _text_images(file):
        if len(images) == MOST_IMAGES:
            raise CaptureError(f"{file} has more than {MOST_IMAGES:,} images; split the model")
        if not image.name:
            raise CaptureError(f"image {len(images)} in {file} has no name; write the model again")
        if not all(abs(value) <= _LARGEST for value in (*image.wxyz, *image.translation)) or math.hypot(*image.wxyz) < 1e-6:
            raise CaptureError(f"the pose of {shown(image.name)} in {file} is not finite or has no rotation; solve the poses again")
        images.append(image)
    return images


def read_model_points(file: Path) -> Points:
    """Read the points of a model.

    Raises:
        CaptureError: the file is damaged, or has more than :data:`unrender.captures.points.MOST_POINTS` points.
    """
    return _binary_points(file) if file.suffix == ".bin" else _text_points(file)


def _binary_cameras(file: Path) -> Iterator[tuple[int, ColmapCamera]]:
    data = read_bytes(file, _MOST_CAMERA_BYTES)
    names = list(MODELS)
    try:
        (count,), at = _COUNT.unpack_from(data), _COUNT.size
        for _ in range(_plausible(count, _CAMERA.size, len(data), "cameras", file)):
            number, model, width, height = _CAMERA.unpack_from(data, at)
            if not 0 <= model < len(names):
                raise CaptureError(f"camera {number} in {file} has the model {model}, which COLMAP does not have; write the model again")
            parameters = struct.unpack_from(f"<{PARAMETERS[names[model]]}d", data, at + _CAMERA.size)
            at += _CAMERA.size + 8 * len(parameters)
            yield number, ColmapCamera(names[model], width, height, parameters)
    except struct.error as error:
        raise _ends_early(file) from error


def _text_cameras(file: Path) -> Iterator[tuple[int, ColmapCamera]]:
    for number, line in _with_content(file):
        words = line.split()
        model = words[1].upper() if len(words) > 1 else ""
        if model not in PARAMETERS:
            raise CaptureError(f"line {number} of {file} names no camera model of COLMAP ({shown(line)}); write the model again")
        if len(words) != 4 + PARAMETERS[model]:
            raise CaptureError(
                f"line {number} of {file} has {len(words) - 4} parameters, and {model} has {PARAMETERS[model]}; write the model again"
            )
        camera, width, height = (_integer(word, number, file) for word in (words[0], *words[2:4]))
        yield camera, ColmapCamera(model, width, height, tuple(_float(word, number, file) for word in words[4:]))


def _binary_images(file: Path) -> Iterator[ColmapImage]:
    size = check_file(file)
    with _opened(file) as stream:
        (count,) = _unpacked(stream, _COUNT, file)
        for _ in range(_plausible(count, _IMAGE.size + 1 + _COUNT.size, size, "images", file)):
            _, w, x, y, z, tx, ty, tz, camera = _unpacked(stream, _IMAGE, file)
            name = _name(stream, file)
            (features,) = _unpacked(stream, _COUNT, file)
            if stream.tell() + _FEATURE * features > size:
                raise _ends_early(file)
            stream.seek(_FEATURE * features, os.SEEK_CUR)
            yield ColmapImage(name, camera, (w, x, y, z), (tx, ty, tz))


def _name(stream: BinaryIO, file: Path) -> str:
    """Read a name up to its zero byte, and leave the stream behind it."""
    begin = stream.tell()
    name, zero, _ = stream.read(_LONGEST_NAME + 1).partition(b"\0")
    if not zero:
        raise CaptureError(f"{file} has a name without an end at byte {begin}; copy the file again")
    stream.seek(begin + len(name) + 1)
    return os.fsdecode(name)


def _text_images(file: Path) -> Iterator[ColmapImage]:
    """Yield the image of every first line. The second, of features, may be empty or, in files of other programs, missing."""
    expects_features = False
    for number, line in _lines(file):
        words = line.split(None, 9)
        if expects_features and not (len(words) == 10 and not _is_number(words[9].split()[0])):
            expects_features = False
            continue
        if not words or line.startswith("#"):
            continue
        if len(words) < 10 or len(line) >= _LONGEST_LINE:
            raise CaptureError(
                f"line {number} of {file} is no image ({shown(line)}); it must be IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            )
        w, x, y, z, tx, ty, tz = (_float(word, number, file) for word in words[1:8])
        if len(words[9]) > _LONGEST_NAME:
            raise CaptureError(f"line {number} of {file} has a name of {len(words[9]):,} letters; write the model again")
        yield ColmapImage(words[9], _integer(words[8], number, file), (w, x, y, z), (tx, ty, tz))
        expects_features = True


def _binary_points(file: Path) -> Points:
    size = check_file(file)
    with _opened(file) as stream:
        (count,) = _unpacked(stream, _COUNT, file)
        _check_point_count(count, file)
        _plausible(count, _POINT.size, size, "points", file)
        positions, colors = np.empty((count, 3)), np.empty((count, 3), np.uint8)
        done, at = 0, _COUNT.size
        track_at = _POINT.size - _COUNT.size
        while done < count:
            stream.seek(at)
            block = stream.read(_BLOCK)
            places: list[int] = []
            place, last, left = 0, len(block) - _POINT.size, count - done
            while place <= last and len(places) < left:
                places.append(place)
                place += _POINT.size + _TRACK * _COUNT.unpack_from(block, place + track_at)[0]
            at += place
            if not places or at > size:
                raise _ends_early(file)
            rows = np.frombuffer(block, np.uint8)[np.array(places)[:, None] + np.arange(8, 35)]
            positions[done : done + len(places)] = np.ascontiguousarray(rows[:, :24]).view("<f8")
            colors[done : done + len(places)] = rows[:, 24:]
            done += len(places)
    return positions, colors


def _text_points(file: Path) -> Points:
    positions, colors = array("d"), bytearray()
    for number, line in _with_content(file):
        words = line.split(None, 7)
        if len(words) < 7:
            raise CaptureError(f"line {number} of {file} is no point ({shown(line)}); it must begin with POINT3D_ID X Y Z R G B")
        try:
            positions.extend(map(float, words[1:4]))
            colors.extend(map(int, words[4:7]))
        except ValueError as error:
            raise CaptureError(f"line {number} of {file} is no point ({shown(line)}); write the model again") from error
        _check_point_count(len(positions) // 3, file)
    return np.array(positions).reshape(-1, 3), np.frombuffer(colors, np.uint8).reshape(-1, 3)


def _check_point_count(count: int, file: Path) -> None:
    if count > MOST_POINTS:
        raise CaptureError(f"{file} has {count:,} points, and at most {MOST_POINTS:,} are read; filter the points")


def _plausible(count: int, least: int, size: int, what: str, file: Path) -> int:
    """Return a count if the file has space for so many records of the least size."""
    if count > (size - _COUNT.size) // least:
        raise CaptureError(f"{file} promises {count:,} {what} but has only {size:,} bytes; copy the file again")
    return count


def _ends_early(file: Path) -> CaptureError:
    return CaptureError(f"{file} ends before what it promises, so it is damaged; copy the file again")


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise CaptureError(f"{file} cannot be read ({reason(error)}); check its permissions") from error


def _unpacked(stream: BinaryIO, record: struct.Struct, file: Path) -> tuple[Any, ...]:
    data = stream.read(record.size)
    if len(data) < record.size:
        raise _ends_early(file)
    return record.unpack(data)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers from 1, without the ends of long ones."""
    check_file(file)
    with _opened(file) as stream:
        number = 0
        while line := stream.readline(_LONGEST_LINE):
            number += 1
            rest = line
            while len(rest) == _LONGEST_LINE and not rest.endswith(b"\n"):
                rest = stream.readline(_LONGEST_LINE)
            yield number, os.fsdecode(line.removeprefix(b"\xef\xbb\xbf")).strip()


def _with_content(file: Path) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in _lines(file) if line and not line.startswith("#"))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _float(word: str, number: int, file: Path) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise _no_number(word, number, file) from error


def _integer(word: str, number: int, file: Path) -> int:
    try:
        return int(word)
    except ValueError as error:
        raise _no_number(word, number, file) from error


def _no_number(word: str, number: int, file: Path) -> CaptureError:
    return CaptureError(f"line {number} of {file} has {shown(word)} in place of a number; write the model again")
