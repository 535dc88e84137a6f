"""Photo files: their sizes, and their pixels with eight bits per channel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy import ndarray
from PIL import Image, ImageOps
from torch import Tensor

from unrender.captures.capture import CaptureError
from unrender.captures.images import ImageMemory, Images, averaged_pixels, in_threads

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Image suffixes, in the order in which a name without a suffix is completed."""

_ORIENTATION_TAG = 0x0112
_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""Exceptions of Pillow for files it cannot decode."""


def image_files(folder: Path) -> list[Path]:
    """List the images in a folder, sorted by name; hidden files are skipped."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))


def image_size(path: Path, *, apply_exif: bool = True) -> tuple[int, int]:
    """Return width and height of an image, as stored or after EXIF orientation.

    Only the header is read.

    Raises:
        CaptureError: the file is missing or is not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            swapped = apply_exif and _exif(image, path).get(_ORIENTATION_TAG, 1) >= 5
    except FileNotFoundError as error:
        raise CaptureError(f"the image {path} does not exist") from error
    except _BROKEN as error:
        raise CaptureError(f"{path} cannot be read as an image ({error}); replace the file or leave the view out") from error
    return (height, width) if swapped else (width, height)


def _exif(image: Image.Image, path: Path) -> Image.Exif:
    """Return EXIF data without decoding the pixels of a PNG, which Pillow does because EXIF may follow them."""
    if image.format != "PNG" or "exif" in image.info or _has_exif_chunk(path):
        return image.getexif()
    return Image.Image.getexif(image)


def _has_exif_chunk(png: Path) -> bool:
    """Tell whether a PNG file has an ``eXIf`` chunk; only the headers of its chunks are read."""
    with png.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            if header[4:] == b"eXIf":
                return True
            file.seek(int.from_bytes(header[:4], "big") + 4, os.SEEK_CUR)
    return False


def read_photo(
    file: Path,
    *,
    downscale: int = 1,
    use_alpha: bool = True,
    transparent_colors: Sequence[tuple[int, int, int]] = (),
    apply_exif: bool = True,
) -> tuple[UInt8[ndarray, "rows columns 4"], bool]:
    """Decode a photo to RGBA and average blocks of ``downscale`` x ``downscale`` pixels, colors weighted by alpha.

    Sixteen-bit images keep their upper eight bits; palettes and gray become RGB.

    Args:
        file: the photo.
        downscale: side of a block.
        use_alpha: whether to keep the alpha channel; otherwise alpha is 255.
        transparent_colors: pixels of exactly these colors become transparent.
        apply_exif: whether to apply the EXIF orientation.

    Returns:
        The pixels, and whether any of them is transparent.

    Raises:
        CaptureError: the file cannot be decoded.
    """
    image = _eight_bits(file, apply_exif)
    has_alpha = use_alpha and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info)
    pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    if not has_alpha:
        pixels = np.concatenate((pixels, np.full_like(pixels[..., :1], 255)), -1)
    pixels = np.array(pixels) if transparent_colors else pixels  # Pillow's own pixels are read-only
    for color in transparent_colors:
        pixels[(pixels[..., :3] == color).all(-1), 3] = 0
    return averaged_pixels(pixels, downscale), (has_alpha or bool(transparent_colors)) and bool((pixels[..., 3] < 255).any())


def read_photos(
    files: Sequence[Path],
    sizes: Int[Tensor, "views 2"],
    *,
    downscale: int = 1,
    use_alpha: bool = True,
    transparent_colors: Sequence[tuple[int, int, int]] = (),
    apply_exif: Sequence[bool] | None = None,
    memory: ImageMemory | None = None,
) -> tuple[Images, bool]:
    """Decode photos in threads; see :func:`read_photo`.

    Args:
        files: one per view.
        sizes: of the photos before downscaling, as :func:`image_size` returns them.
        downscale: side of the blocks of pixels to average.
        use_alpha: whether to keep alpha channels.
        transparent_colors: pixels of exactly these colors become transparent.
        apply_exif: for each view whether to apply the EXIF orientation, by default to all.
        memory: decides whether the photos are kept in memory or on disk.

    Returns:
        RGBA images, and whether any pixel of them is transparent.

    Raises:
        CaptureError: no files, a file that cannot be decoded, or a downscale that does not fit the photos.
    """
    if not files:
        raise CaptureError("there are no images to read; check the image folder of the capture")
    smallest = int(sizes.amin(1).argmin())
    width, height = sizes[smallest].tolist()
    if not 1 <= downscale <= min(width, height):
        raise CaptureError(
            f"downscale is {downscale}; it must be at least 1 and at most the shorter side of {files[smallest]}, which is {width}x{height}"
        )
    photos = (memory or ImageMemory()).empty(sizes // downscale, (4,), torch.uint8)

    def read(view: int) -> bool:
        upright = apply_exif is None or apply_exif[view]
        pixels, transparent = read_photo(
            files[view], downscale=downscale, use_alpha=use_alpha, transparent_colors=transparent_colors, apply_exif=upright
        )
        photos[view].numpy()[:] = pixels
        return transparent

    return photos, any(in_threads(read, range(len(files))))


def decoded_image(path: Path, *, apply_exif: bool = True) -> Image.Image:
    """Decode a whole image, with the numbers as stored.

    Raises:
        CaptureError: the file is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as file:
            file.load()
            return ImageOps.exif_transpose(file) if apply_exif else file.copy()
    except FileNotFoundError as error:
        raise CaptureError(f"the image {path} does not exist") from error
    except _BROKEN as error:
        raise CaptureError(f"{path} cannot be decoded ({error}); replace the file or leave the view out") from error


def _eight_bits(path: Path, apply_exif: bool) -> Image.Image:
    """Decode a whole image to eight bits per channel."""
    image = decoded_image(path, apply_exif=apply_exif)
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise CaptureError(f"{path} holds floating-point numbers; convert it to an 8-bit or 16-bit sRGB image")
    return image
