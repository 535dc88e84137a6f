"""The photos to mask: which they are, where their cameras are, and their pixels at the size at which masks are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from unrender.captures.errors import CaptureError
from unrender.captures.formats import FORMATS
from unrender.captures.images import in_threads
from unrender.captures.mask_making.colors import lab_of
from unrender.captures.mask_names import is_mask_beside
from unrender.captures.photo_files import IMAGE_FOLDERS, check_format_of, natural_key
from unrender.captures.photos import image_files, image_size, read_photo
from unrender.captures.reading import is_folder
from unrender.captures.source import Source

SIDE = 512
"""Masks are made at a size whose longer side is at most this many pixels, then refined at the size of the photos."""


@dataclass(frozen=True)
class PhotoSet:
    """The photos of a folder, with or without cameras."""

    folder: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]
    """Paths below the folder, with forward slashes."""
    sizes: tuple[tuple[int, int], ...]
    """Width and height of each photo."""
    apply_exif: tuple[bool, ...]
    source: Source | None
    """The cameras; None for photos without poses."""

    def __len__(self) -> int:
        return len(self.files)

    def working_size(self, view: int) -> tuple[int, int]:
        """Return width and height at which the mask of a view is made."""
        width, height = self.sizes[view]
        shrink = max(1.0, max(width, height) / SIDE)
        return max(1, round(width / shrink)), max(1, round(height / shrink))

    def rgb(self, view: int, size: tuple[int, int] | None = None) -> UInt8[ndarray, "rows columns 3"]:
        """Decode a photo, by default at its working size."""
        pixels, _ = read_photo(self.files[view], use_alpha=False, apply_exif=self.apply_exif[view])
        size = self.working_size(view) if size is None else size
        image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BOX))

    def lab(self, view: int, size: tuple[int, int] | None = None) -> Float[ndarray, "rows columns 3"]:
        """Decode a photo to CIELAB, by default at its working size."""
        return lab_of(self.rgb(view, size))

    def spread(self, most: int) -> list[int]:
        """Return at most ``most`` views, evenly spread over all."""
        count = min(most, len(self))
        return [k * len(self) // count for k in range(count)]


def find_photos(folder: Path) -> PhotoSet:
    """Find the photos of a capture, or of a folder without poses.

    Raises:
        CaptureError: the folder does not exist or has no photos; or its cameras cannot be read.
    """
    if not is_folder(folder):
        raise CaptureError(f"{folder} is no folder; give the folder of a capture or of photos")
    for layout in FORMATS:
        cameras = layout.find(folder)
        if cameras is not None:
            source = layout.read(folder, cameras, 0)
            sizes = tuple((width, height) for width, height in source.sizes.tolist())
            return PhotoSet(folder, source.images, source.names, sizes, source.apply_exif, source)
    places = [folder / name for name in IMAGE_FOLDERS if is_folder(folder / name)]
    for place in (*places, folder):
        files = [file for file in sorted(image_files(place), key=natural_key) if not is_mask_beside(file)]
        if files:
            names = tuple(file.relative_to(folder).as_posix() for file in files)
            sizes = tuple(in_threads(image_size, files))
            return PhotoSet(folder, tuple(files), names, sizes, (True,) * len(files), None)
    for place in (*places, folder):
        check_format_of(place)
    raise CaptureError(f"{folder} has no photos; give a folder of photos, or one with the photos in {folder / 'images'}")
