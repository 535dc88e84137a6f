"""The photos of a capture that is to be solved: upright, in formats that other programs read, with their masks."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from unrender.captures.decoding import (
    Stored,
    decoded_image,
    focal_length,
    image_files,
    image_size,
    is_gray,
    stored_as,
)
from unrender.captures.errors import CaptureError
from unrender.captures.formats import FORMATS
from unrender.captures.images import in_threads
from unrender.captures.masks import decode_mask
from unrender.captures.photo_files import IMAGE_FOLDERS, MASK_FOLDERS, check_format_of, is_video
from unrender.captures.reading import entries, is_folder, is_regular_file, size_and_ends
from unrender.captures.structure_from_motion.frames import Progress, sharpness
from unrender.files.atomic import replacing, write_copy

_FEWEST = 3
"""Photos without which nothing can be solved."""

_SMALL = 640
"""Longer side of the gray picture in which sharpness is measured."""


@dataclass(frozen=True)
class Given:
    """What a folder of photos holds, or a video."""

    photos: tuple[Path, ...]
    """Empty for a video."""
    masks: tuple[Path, ...] | None
    """One for each photo."""
    video: Path | None = None


@dataclass(frozen=True)
class Photo:
    """A photo of the new capture."""

    name: str
    """Its file below ``images``."""
    mask: str | None
    """Its file below ``masks``."""
    width: int
    height: int
    focal: float | None
    """Focal length in pixels, from EXIF."""
    sharpness: float


def needs_poses(path: Path) -> bool:
    """Tell whether a path leads to a video, or to a folder of photos without camera poses."""
    if is_regular_file(path):
        return is_video(path)
    if not is_folder(path) or any(layout.find(path) is not None for layout in FORMATS):
        return False
    return any(image_files(folder) for folder in _photo_folders(path))


def _photo_folders(folder: Path) -> list[Path]:
    return [folder, *(folder / name for name in IMAGE_FOLDERS if is_folder(folder / name))]


def find_photos(source: Path) -> Given:
    """Find the photos in a folder or its folder ``images``, with the masks in its folder ``masks``, or a video.

    Raises:
        CaptureError: there are too few photos, or photos without a mask beside some with one.
    """
    if is_regular_file(source):
        if is_video(source):
            return Given((), None, source)
        raise CaptureError(f"{source} is neither a folder nor a video; give a folder of photos, or a video file such as MP4 or MOV")
    if not is_folder(source):
        raise CaptureError(f"{source} does not exist; give a folder of photos or a video file")
    photos = next((found for folder in _photo_folders(source) if (found := image_files(folder))), [])
    if not photos:
        for folder in _photo_folders(source):
            check_format_of(folder)
        videos = [name for name in entries(source) if is_video(Path(name))]
        hint = f"give the video itself, {source / videos[0]}" if videos else "give a folder of photos or a video file"
        raise CaptureError(f"{source} holds no photos; {hint}")
    if len(photos) < _FEWEST:
        raise CaptureError(f"{source} holds {len(photos)} photos; poses need at least {_FEWEST}, better 30 to 150 from all sides")
    return Given(tuple(photos), _masks_of(source, photos))


def _masks_of(source: Path, photos: Sequence[Path]) -> tuple[Path, ...] | None:
    folder = next((source / name for name in MASK_FOLDERS if is_folder(source / name)), None)
    files = [] if folder is None else image_files(folder)
    if not files:
        return None
    by_name = {file.stem: file for file in files}
    found = [by_name.get(photo.name) or by_name.get(photo.stem) for photo in photos]
    without = [photo.name for photo, mask in zip(photos, found, strict=True) if mask is None]
    if without:
        raise CaptureError(
            f"{folder} has no mask for {without[0]}{f' and {len(without) - 1} more photos' if len(without) > 1 else ''}; name masks like "
            "their photos, or move the folder of masks away"
        )
    return tuple(mask for mask in found if mask is not None)


def fingerprint(given: Given, frames: int | None, focal: float | None) -> str:
    """Hash the settings, and the names, sizes and both ends of all files, with SHA-256."""
    whole = hashlib.sha256(repr(frames if focal is None else (frames, focal)).encode())
    for file in (*given.photos, *(given.masks or ()), *([] if given.video is None else [given.video])):
        size, content = size_and_ends(file)
        whole.update(f"{file.name}\n{size}\n".encode() + content)
    return whole.hexdigest()


def lay_out(given: Given, folder: Path, progress: Progress) -> tuple[list[Photo], dict[str, str]]:
    """Put the photos into ``folder/images`` and their masks into ``folder/masks``.

    Upright JPEG and PNG files are linked or copied as they are. Others are written upright: as PNG if their format is lossless, else as
    JPEG.

    Returns:
        The photos, and for each one that cannot be read its name and why.

    Raises:
        CaptureError: a mask of another size than its photo, or no photo that can be read.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    broken: dict[str, str] = {}
    names = _unique_names([(file, stored_as(file)) for file in given.photos])
    done = 0

    def put(index: int) -> Photo | None:
        nonlocal done
        file, target = given.photos[index], folder / "images" / names[index]
        try:
            photo = _put(file, target)
        except CaptureError as error:
            broken[file.name] = str(error)
            target.unlink(missing_ok=True)
            photo = None
        done += 1
        progress("reading photos", done, len(given.photos))
        return photo

    found = in_threads(put, range(len(given.photos)), most=2)
    photos = [photo for photo in found if photo is not None]
    if len(photos) < _FEWEST:
        why = f" ({next(iter(broken.values()))})" if broken else ""
        raise CaptureError(f"only {len(photos)} of {len(given.photos)} photos can be read{why}; poses need at least {_FEWEST}")
    if given.masks is not None:
        (folder / "masks").mkdir(exist_ok=True)
        pairs = [(photo, mask) for photo, mask in zip(found, given.masks, strict=True) if photo is not None]
        photos = [_with_mask(photo, mask, folder / "masks") for photo, mask in pairs]
    return photos, broken


def _with_mask(photo: Photo, mask: Path, folder: Path) -> Photo:
    size = image_size(mask)
    if size != (photo.width, photo.height):
        raise CaptureError(
            f"the mask {mask} is {size[0]}x{size[1]} but its photo is {photo.width}x{photo.height} when upright; make masks of that size"
        )
    if is_gray(mask):
        name = f"{photo.name}{mask.suffix.lower()}"
        link_or_copy(mask, folder / name)
        return replace(photo, mask=name)
    name = f"{photo.name}.png"  # cut-outs and labels: nerfstudio takes masks of one channel
    with replacing(folder / name) as partial:
        Image.fromarray(decode_mask(mask).values).save(partial)
    return replace(photo, mask=name)


def _unique_names(files: Sequence[tuple[Path, Stored]]) -> list[str]:
    names: list[str] = []
    for file, stored in files:
        name = file.name if stored.as_is else f"{file.stem}{'.png' if stored.lossless else '.jpg'}"
        names.append(name if name not in names else f"{file.stem}_{file.suffix[1:]}{Path(name).suffix}")
    return names


def _put(file: Path, target: Path) -> Photo:
    stored = stored_as(file)
    image = decoded_image(file)
    if not stored.as_is:
        upright = image if image.mode in ("RGB", "RGBA", "L", "LA") else image.convert("RGBA" if image.has_transparency_data else "RGB")
        with replacing(target) as partial:
            if target.suffix == ".png":
                upright.save(partial, compress_level=1)
            else:
                upright.convert("RGB").save(partial, quality=95, subsampling=0)
    elif not (target.exists() and os.path.samefile(file, target)):
        link_or_copy(file, target)
    return _described(target.name, image, focal_length(file))


def _described(name: str, image: Image.Image, focal: float | None) -> Photo:
    width, height = image.size
    gray = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if image.mode.startswith("I") else image.convert("L")
    gray.thumbnail((_SMALL, _SMALL), Image.Resampling.BOX)
    return Photo(name, None, width, height, focal, sharpness(np.asarray(gray)))


def link_or_copy(file: Path, target: Path) -> None:
    """Make a hard link to a file, or a copy where links are not possible."""
    target.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(os.path.realpath(file), target)
        return
    write_copy(target, file)


def frame_photos(files: Sequence[Path], progress: Progress) -> list[Photo]:
    """Describe the frames of a video."""
    photos = []
    for count, file in enumerate(files, 1):
        photos.append(_described(file.name, decoded_image(file), None))
        progress("reading frames", count, len(files))
    return photos


def write_feature_masks(photos: Sequence[Photo], capture: Path, folder: Path) -> Path | None:
    """Write masks as the solver reads them: ``NAME.png`` for each photo ``NAME``; None if there are none.

    They are zero where no feature may be. They are the masks of the capture, or the alpha channels of its photos.
    """
    wanted = 0
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        image = capture / "images" / photo.name
        if photo.mask is not None:
            mask = decode_mask(capture / "masks" / photo.mask)
            inside = mask.values > (mask.peak / 2 if mask.peak > 64 or mask.full == 1 else 0)
        elif image.suffix.lower() == ".png" and decoded_image(image).mode in ("RGBA", "LA"):
            inside = np.asarray(decoded_image(image).getchannel("A")) >= 128
        else:
            continue
        wanted += int(inside.any() and not inside.all())
        with replacing(folder / f"{photo.name}.png") as partial:
            Image.fromarray(inside.astype(np.uint8) * 255).save(partial)
    return folder if wanted else None


def camera_groups(photos: Sequence[Photo]) -> list[list[Photo]]:
    """Group the photos that one lens can have taken: of one size, and of one focal length in EXIF.

    >>> one, two = Photo("a", None, 4, 3, None, 1.0), Photo("b", None, 3, 4, None, 1.0)
    >>> [len(group) for group in camera_groups([one, two, one])]
    [2, 1]
    """
    groups: dict[tuple[int, int, int | None], list[Photo]] = {}
    for photo in photos:
        focal = None if photo.focal is None else round(photo.focal)
        groups.setdefault((photo.width, photo.height, focal), []).append(photo)
    return list(groups.values())
