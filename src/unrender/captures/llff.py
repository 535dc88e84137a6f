"""Captures of LLFF: ``images/`` and ``poses_bounds.npy``, one row for each image in the order of the sorted names.

A row is a 3x5 matrix [R | t | (height, width, focal length)] and, unless it is missing, the nearest and farthest depth. The columns of R
are the axes +X down, +Y right, +Z backward of the camera in the source frame; the principal point is the center.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from unrender.captures.capture import CaptureError
from unrender.captures.images import in_threads
from unrender.captures.lenses import plausible_intrinsics
from unrender.captures.normalization import nearest_to_axes
from unrender.captures.photo_files import IMAGE_FOLDERS, check_format_of, matched_masks, natural_key, smaller_folders
from unrender.captures.photo_sizes import PhotoSize, fitting_size
from unrender.captures.photos import image_files
from unrender.captures.reading import is_folder, read_npy
from unrender.captures.source import Source, held_out, rigid_motions
from unrender.captures.transforms_json import name_below

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
    names = tuple(name_below(folder, image) for image in images)
    cameras = torch.from_numpy(rows[:, :15].reshape(-1, 3, 5).copy())
    height, width, focal = cameras[:, :, 4].unbind(1)
    photos = in_threads(PhotoSize.read, images)
    stated = list(zip(width.tolist(), height.tolist(), strict=True))
    sized = [fitting_size(photo, size, file) for photo, size in zip(photos, stated, strict=True)]
    if not all(apply for _, apply in sized):
        notes.append("the cameras are of the photos as stored, so their EXIF orientation is not applied")
    sizes = torch.tensor([size for size, _ in sized])
    if [size for size, _ in sized] != stated:
        (wide, high), (across, down) = sized[0][0], stated[0]
        notes.append(f"focal lengths were scaled from {across:g}x{down:g} to the {wide}x{high} pixels of the photos")
    factors = sizes.double() / torch.stack((width, height), 1)
    intrinsics = torch.cat((focal[:, None] * factors, sizes.double() / 2), 1)
    fisheye = torch.zeros(len(images), dtype=torch.bool)
    intrinsics, doubts = plausible_intrinsics(intrinsics, sizes, fisheye, names, file)
    poses = torch.eye(4, dtype=torch.float64).repeat(len(images), 1, 1)
    poses[:, :3, 0], poses[:, :3, 1], poses[:, :3, 2] = cameras[:, :, 1], cameras[:, :, 0], -cameras[:, :, 2]
    poses[:, :3, 3] = cameras[:, :, 3]
    poses, repairs = rigid_motions(poses, names, file)
    _note_bounds(rows[:, 15:], poses, file, notes)
    return Source(
        files=(file,),
        names=names,
        images=images,
        masks=matched_masks(folder, images),
        source_from_camera=poses,
        intrinsics=intrinsics,
        distortion=torch.zeros(len(images), 6, dtype=torch.float64),
        sizes=sizes,
        fisheye=fisheye,
        apply_exif=tuple(apply for _, apply in sized),
        split=held_out(names, test_every),
        notes=(*notes, *repairs, *doubts),
    )


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
