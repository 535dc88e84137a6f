"""Cameras in small text files of matrices: Middlebury, Strecha, MVSNet and BlendedMVS, and HALCON.

All have OpenCV's camera axes. Pixel centers are integers, except in MVSNet, whose own program samples its photos at +0.5.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from unrender.captures.errors import CaptureError
from unrender.captures.photo_files import natural_key
from unrender.captures.posed_photos import CENTER, Lens, PosedPhoto, affine, first_three, pinhole, place_of, posed_source
from unrender.captures.reading import is_regular_file, shown
from unrender.captures.reading_text import count_of, head_of, names_in, numbers, read_text
from unrender.captures.source import Region, Source

_MOST_CAMERAS = 100_000

_PADDING = 1.1
"""The region of interest exceeds a tight box by this factor."""

_CORNERS = r"\(([^()]{5,200})\)\s{0,20}\(([^()]{5,200})\)"
"""Two brackets in succession, as READMEs write a bounding box."""

_HALCON_PHOTOS = ("image_camera{}", "camera{}", "{}")
"""Names of the photo of camera NN, without suffix."""


def read_middlebury(folder: Path, file: Path, test_every: int) -> Source:
    """Read a ``*_par.txt``: the number of cameras, then lines ``name K R t`` with the projection K [R | t].

    A bounding box in the README.txt becomes the region of interest.

    Raises:
        CaptureError: another number of lines than promised, or as in :func:`posed_source`.
    """
    lines = [words for line in read_text(file).splitlines() if (words := line.split())]
    promised = count_of(lines[0][0] if lines else "", _MOST_CAMERAS, f"the number of cameras in {file}")
    if promised != len(lines) - 1:
        raise CaptureError(f"{file} promises {promised} cameras and lists {len(lines) - 1}; write it again")
    photos = []
    for name, *words in lines[1:]:
        what = f"the camera of {name} in {file}"
        values = np.array(numbers(words, 21, what))
        photos.append(PosedPhoto(name, affine(values[9:18], values[18:]), pinhole(values[:9].reshape(3, 3), what)))
    source = posed_source(folder, file, photos, test_every, camera_from_source=True)
    readme = file.with_name("README.txt")
    box = _box(readme)
    if box is None:
        return source
    notes = (*source.notes, "the region of interest is the bounding box in README.txt")
    return replace(source, files=(file, readme), focus=Region.between(*box, _PADDING), notes=notes)


def _box(file: Path) -> tuple[list[float], list[float]] | None:
    """Return the corners of the only bounding box that a text file states."""
    boxes = []
    for corners in re.findall(_CORNERS, head_of(file)):
        try:
            boxes.append([numbers(corner.replace(",", " ").split(), 3, "a corner") for corner in corners])
        except CaptureError:  # other words in brackets
            continue
    if len(boxes) != 1:
        return None
    low, high = boxes[0]
    return (low, high) if all(a < b for a, b in zip(low, high, strict=True)) else None


def read_strecha(folder: Path, file: Path, test_every: int) -> Source:
    """Read files ``NAME.camera``: K, a row of zeros, the rotation from camera to world, the center, width and height.

    Raises:
        CaptureError: a file with other numbers, or as in :func:`posed_source`.
    """
    files = _files_like(file, r".+\.camera")
    photos = []
    for path in files:
        words = read_text(path).split()
        what = f"the camera {path}"
        values = np.array(numbers(words, 26 if len(words) > 24 else 24, what))
        size = (float(values[24]), float(values[25])) if len(values) > 24 else None
        lens = pinhole(values[:9].reshape(3, 3), what, size=size)
        photos.append(PosedPhoto(path.stem, affine(values[12:21], values[21:24]), lens))
    return posed_source(folder, file, photos, test_every, files=files, places=place_of(folder, file))


def read_mvsnet(folder: Path, file: Path, test_every: int) -> Source:
    """Read files ``cams/NAME_cam.txt``: the 4x4 pose from world to camera, then K, then a range of depths.

    Photos are in ``blended_images/`` or ``images/``. If each has a copy ``NAME_masked`` whose surroundings are black, this is its mask.

    Raises:
        CaptureError: a file with other numbers, or as in :func:`posed_source`.
    """
    files = _files_like(file, r".+_cam\.txt")
    photos = []
    for path in files:
        words = read_text(path).split()
        what = f"the camera {path}"
        if words[:1] != ["extrinsic"] or words[17:18] != ["intrinsic"]:
            raise CaptureError(f"{what} is not extrinsic, 16 numbers, intrinsic and 9 numbers; write it again")
        pose = np.array(numbers(words[1:17], 16, what)).reshape(4, 4)
        lens = pinhole(np.array(numbers(words[18:27], 9, what)).reshape(3, 3), what, shift=0.0)
        photos.append(PosedPhoto(path.stem[: -len("_cam")], pose, lens))
    source = posed_source(
        folder,
        file,
        photos,
        test_every,
        camera_from_source=True,
        places=("blended_images", "images", "image"),
        is_photo=lambda path: not path.stem.endswith("_masked"),
        files=files,
    )
    masked = tuple(image.with_name(f"{image.stem}_masked{image.suffix}") for image in source.images)
    absent = [image.name for image in masked if not is_regular_file(image)]
    if not absent:
        return replace(source, masks=masked, masks_are_cut_outs=True)
    if len(absent) == len(masked):
        return source
    return replace(source, notes=(*source.notes, f"the masked copies are not used, because {first_three(absent)} is missing"))


def read_halcon(folder: Path, file: Path, test_every: int) -> Source:
    """Read ``extrinsics_cameraNN.txt``, 12 numbers of [R | t] from camera to world, and ``intrinsics_cameraNN.txt``.

    fx = Focus / Sx and fy = Focus / Sy. Photos are undistorted, so distortion in the files is of the photos before; alpha is zero where
    undistortion left pixels without a value.

    Raises:
        CaptureError: other contents, no intrinsics for a camera, or as in :func:`posed_source`.
    """
    files = _files_like(file, r"extrinsics_camera\d{1,6}\.txt")
    beside = [file.parent, folder, *(folder / name for name in ("intrinsics", "calibration"))]
    photos, read, bent = [], list(files), 0
    for path in files:
        number = path.stem[len("extrinsics_camera") :]
        lens_file = next((place / f"intrinsics_camera{number}.txt" for place in beside if _has(place, number)), None)
        if lens_file is None:
            raise CaptureError(f"there is no intrinsics_camera{number}.txt for {path}; put it into the same folder")
        lens, distorted = _halcon_lens(lens_file)
        matrix = np.vstack((np.reshape(numbers(read_text(path).split(), 12, f"the pose {path}"), (3, 4)), [0.0, 0.0, 0.0, 1.0]))
        photos.append(PosedPhoto(_halcon_photo(folder, number), matrix, lens))
        read.append(lens_file)
        bent += distorted
    notes = [f"{bent} intrinsics have distortion, which is not used: the photos must be undistorted"] if bent else []
    source = posed_source(folder, file, photos, test_every, files=read, places=("images", "undistorted"), notes=notes)
    return replace(source, alpha_meaning="ignore")


def _has(place: Path, number: str) -> bool:
    return is_regular_file(place / f"intrinsics_camera{number}.txt")


def _halcon_photo(folder: Path, number: str) -> str:
    """Return the name of the photo of a camera, without its suffix."""
    stems = {Path(name).stem for place in (folder, folder / "images", folder / "undistorted") for name in names_in(place)}
    names = [pattern.format(number) for pattern in _HALCON_PHOTOS]
    return next((name for name in names if name in stems), names[0])


def _halcon_lens(file: Path) -> tuple[Lens, bool]:
    """Return a lens from lines ``Key:key: value;``, and whether the file has distortion."""
    rows = (re.match(r"(\w{1,20}):\w{1,20}:\s*([^;\s]{1,40})\s*;", line.lstrip()) for line in read_text(file).splitlines())
    found = {row[1]: row[2] for row in rows if row is not None}

    def value(key: str) -> float:
        if key not in found:
            raise CaptureError(f"{file} has no {key}; a HALCON camera has Focus, Sx, Sy, Cx, Cy, ImageWidth and ImageHeight")
        return numbers([found[key]], 1, f"{key} in {file}")[0]

    focus, across, down = value("Focus"), value("Sx"), value("Sy")
    if not (across > 0 and down > 0):
        raise CaptureError(f"Sx and Sy in {file} are {shown(found['Sx'])} and {shown(found['Sy'])}; a pixel has a positive size")
    size = (value("ImageWidth"), value("ImageHeight")) if "ImageWidth" in found and "ImageHeight" in found else None
    bent = any(value(key) for key in found if re.fullmatch(r"Poly[1-5]|Kappa", key))
    return Lens((focus / across, focus / down), (value("Cx") + CENTER, value("Cy") + CENTER), size), bent


def _files_like(file: Path, pattern: str) -> list[Path]:
    """List the files beside one whose names match, as people count."""
    found = [file.parent / name for name in names_in(file.parent) if re.fullmatch(pattern, name, re.IGNORECASE)]
    return sorted((path for path in found if is_regular_file(path)), key=natural_key)[:_MOST_CAMERAS]
