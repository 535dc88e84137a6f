"""Photos as RGBA with eight bits per channel."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from unrender.captures.decoding import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from unrender.captures.decoding import decoded_image, image_files, image_size, is_opaque
from unrender.captures.errors import CaptureError
from unrender.captures.filling import Filling
from unrender.captures.images import ImageMemory, Images, averaged_pixels, in_threads

__all__ = ["IMAGE_SUFFIXES", "decoded_image", "image_files", "image_size", "read_photo", "read_photos"]

_STRIP = 2**22
"""Pixels that are converted at once, so that a large photo needs little memory besides its own."""

_DECODING_BYTES = 8
"""Bytes that decoding takes for each pixel of a photo."""

_DECODING_MEMORY = 2**30
"""Bytes that the photos that are decoded at the same time may take together."""


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
    pixels = np.empty((image.height // downscale, image.width // downscale, 4), np.uint8)
    return pixels, _convert(image, pixels, downscale, use_alpha, transparent_colors)


def _convert(
    image: Image.Image,
    pixels: UInt8[ndarray, "rows columns 4"],
    downscale: int,
    use_alpha: bool,
    transparent_colors: Sequence[tuple[int, int, int]],
) -> bool:
    """Write an image as RGBA, averaged over blocks, and tell whether any pixel is transparent."""
    has_alpha = use_alpha and (bool({"A", "a"} & set(image.getbands())) or "transparency" in image.info)
    rows = max(1, _STRIP // (image.width * downscale)) * downscale
    transparent = False
    for top in range(0, len(pixels) * downscale, rows):
        bottom = min(top + rows, len(pixels) * downscale)
        strip = image if bottom - top == image.height else image.crop((0, top, image.width, bottom))
        if not has_alpha:
            strip = strip if strip.mode == "RGB" else strip.convert("RGB")
            strip.info.pop("transparency", None)
        elif strip.mode == "La":
            strip = strip.convert("LA")
        rgba = np.array(strip.convert("RGBA"))
        for color in transparent_colors:
            rgba[(rgba[..., :3] == color).all(-1), 3] = 0
        transparent = transparent or ((has_alpha or bool(transparent_colors)) and bool((rgba[..., 3] < 255).any()))
        pixels[top // downscale : bottom // downscale] = averaged_pixels(rgba, downscale)
    return transparent


def read_photos(
    files: Sequence[Path],
    sizes: Int[Tensor, "views 2"],
    *,
    downscale: int = 1,
    use_alpha: bool = True,
    transparent_colors: Sequence[tuple[int, int, int]] = (),
    apply_exif: Sequence[bool] | None = None,
    memory: ImageMemory | None = None,
    finish: Callable[[int, UInt8[ndarray, "rows columns 4"]], None] | None = None,
    first: Sequence[int] = (),
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
        finish: changes the pixels of a view when they are decoded.
        first: views that are needed before the others, if photos are decoded in the background.

    Returns:
        RGBA images, and whether any pixel of them is transparent, before ``finish``. Photos on disk that cannot be transparent, or that are
        finished, are decoded in the background; a view is there when it is taken from the images.

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
        image = _eight_bits(files[view], upright)
        if list(image.size) != sizes[view].tolist():
            raise CaptureError(f"{files[view]} is {image.width}x{image.height} but its header says otherwise; replace the file")
        transparent = _convert(image, photos[view].numpy(), downscale, use_alpha, transparent_colors)
        if finish is not None:
            finish(view, photos[view].numpy())
        photos.release(view)
        return transparent

    at_once = min(8, max(1, _DECODING_MEMORY // (_DECODING_BYTES * int(sizes.prod(1).max()))))
    opaque = finish is None and not transparent_colors and (not use_alpha or all(in_threads(is_opaque, files)))
    if photos.on_disk and (opaque or finish is not None):
        use_alpha = use_alpha and not opaque  # what a damaged header hides may not appear while a fit runs
        threads = min(at_once, os.cpu_count() or 1)
        return replace(photos, waits=Filling(read, len(files), threads, first).waits), False
    return photos, any(in_threads(read, range(len(files)), most=at_once))


def _eight_bits(path: Path, apply_exif: bool) -> Image.Image:
    """Decode a whole image to eight bits per channel."""
    image = decoded_image(path, apply_exif=apply_exif)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.size and not (0 <= values.min() and values.max() <= 65535):
            raise CaptureError(f"{path} holds 32-bit integers; convert it to an 8-bit or 16-bit sRGB image")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise CaptureError(f"{path} holds floating-point numbers; convert it to an 8-bit or 16-bit sRGB image, or to OpenEXR")
    if image.mode == "LAB":
        raise CaptureError(f"{path} holds Lab colors; convert it to an sRGB image")
    return image
