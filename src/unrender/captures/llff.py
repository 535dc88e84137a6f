"""Captures of LLFF: ``images/`` and ``poses_bounds.npy``, one row for each image in the order of the sorted names.

A row is a 3x5 matrix [R | t | (height, width, focal length)] and, unless it is missing, the nearest and farthest depth. The columns of R
are the axes +X down, +Y right, +Z backward of the camera in the source frame; the principal point is the center.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from unrender.captures.capture import CaptureError
from unrender.captures.normalization import nearest_to_axes
from unrender.captures.photo_files import IMAGE_FOLDERS, check_format_of, matched_masks, natural_key, smaller_folders
from unrender.captures.photos import image_files
from unrender.captures.posed_photos import Lens, PosedPhoto, affine, posed_source
from unrender.captures.reading import is_folder, read_npy
from unrender.captures.source import Source

_MOST_BYTES = 64 * 2**20
_COLUMNS = (17, 15)
_LARGEST = float(np.finfo(np.float32).max)


def read_llff(folder: Path, file: Path, test_every: int) -> Source:
    """Read the cameras of a ``poses_bounds.npy``, and the photos and masks of its folder.

    Photos are those of ``images``, or of a smaller copy such as ``images_4``. Masks outline the object.

    Raises:
        CaptureError: an array of another shape, numbers that are not finite, or another number of photos than of poses.
    """
    rows = _rows(file)
    notes: list[str] = []
    images = _images(folder, len(rows), file, notes)
    cameras = rows[:, :15].reshape(-1, 3, 5)
    photos = []
    for image, camera in zip(images, cameras, strict=True):
        height, width, focal = camera[:, 4].tolist()
        down, right, backward, center, _ = camera.T
        lens = Lens((focal, focal), size=(width, height))
        photos.append(PosedPhoto(image, affine(np.stack((right, down, -backward), 1), center), lens))
    source = posed_source(folder, file, photos, test_every, as_stored=False)
    notes += source.notes
    _note_bounds(rows[:, 15:], source.source_from_camera, file, notes)
    return replace(source, masks=matched_masks(folder, images), notes=tuple(notes))


def _rows(file: Path) -> Float[ndarray, "views columns"]:
    rows = read_npy(file, _MOST_BYTES)
    if rows.ndim != 2 or rows.shape[1] not in _COLUMNS or len(rows) == 0:
        raise CaptureError(f"{file} has the shape {rows.shape}; it must be Nx17, or Nx15 without bounds, one row for each image")
    rows = rows.astype(np.float64)
    good = (np.abs(rows[:, :15]) <= _LARGEST).all(1)
    if not good.all():
        raise CaptureError(f"row {int(np.argmin(good))} of {file} has a number that is not finite; remove the view or solve its pose again")
    return rows


def _images(folder: Path, wanted: int, file: Path, notes: list[str]) -> tuple[Path, ...]:
    """List the photos in the order of their sorted names, which is that of the rows."""
    places = [folder / name for name in ("images", *IMAGE_FOLDERS, *smaller_folders(folder)) if is_folder(folder / name)]
    place, images = next(((place, images) for place in places if (images := image_files(place))), (folder / "images", []))
    if not images:
        for other in places:
            check_format_of(other)
        raise CaptureError(f"{folder} has no images; LLFF captures keep them in {place} as .png or .jpg files")
    if len(images) != wanted:
        raise CaptureError(
            f"{file} has {wanted} poses but {place} has {len(images)} images; remove the images without a pose, or write one row for each"
        )
    if place.name not in IMAGE_FOLDERS:
        notes.append(f"the photos are those of {place.name}, because there are none in images")
    counted = sorted(images, key=natural_key)
    if counted != images:
        first = next(k for k, (one, other) in enumerate(zip(images, counted, strict=True)) if one != other)
        notes.append(
            f"poses belong to the photos sorted by letters ({images[first].name} before {counted[first].name}), as the format prescribes"
        )
    return tuple(images)


def _note_bounds(bounds: Float[ndarray, "views bounds"], poses: Float[Tensor, "views 4 4"], file: Path, notes: list[str]) -> None:
    """Propose a region of interest from the bounds if the optical axes do not meet."""
    if not bounds.size or nearest_to_axes(poses) is not None:
        return
    near, far = float(np.median(bounds[:, 0])), float(np.median(bounds[:, 1]))
    if not 0 < near < far <= _LARGEST:
        notes.append(f"the bounds in {file.name} are {near:g} and {far:g}, which say nothing")
        return
    middle = (poses[:, :3, 3] + poses[:, :3, 2] * (near + far) / 2).mean(0)
    center = " ".join(f"{value:.4g}" for value in middle.tolist())
    notes.append(
        f"{file.name} says that the scene lies {near:.4g} to {far:.4g} in front of the cameras: center {center} and radius "
        f"{(far - near) / 2:.4g} hold it"
    )
