"""Photos and masks: decoding in threads, exact area averaging, and resampling to a pinhole."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import CaptureError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""In the order in which a name without a suffix is looked up."""

_ORIENTATION_TAG = 0x0112
_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file it cannot decode."""

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Pixels:
    """The decoded images of a capture."""

    colors: UInt8[Tensor, "views height width 3"]
    alphas: UInt8[Tensor, "views height width"] | None
    """None where no image has a transparent pixel."""


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, sorted by name; hidden files are left out."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))


def image_size(path: Path, *, turn: bool = True) -> tuple[int, int]:
    """Width and height of an image, with ``turn`` as its EXIF orientation shows it; only the header is read.

    Raises:
        CaptureError: the file is missing or is not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = turn and image.getexif().get(_ORIENTATION_TAG, 1) >= 5
    except FileNotFoundError as error:
        raise CaptureError(f"the image {path} does not exist") from error
    except _BROKEN as error:
        raise CaptureError(f"{path} cannot be read as an image ({error}); replace the file or leave the view out") from error
    return (height, width) if turned else (width, height)


def read_pixels(files: Sequence[Path], *, downscale: int = 1, use_alpha: bool = True, turn: bool = True) -> Pixels:
    """Decodes photos, turns them as their EXIF orientation says if ``turn``, and averages blocks of ``downscale`` x ``downscale`` pixels.

    Sixteen-bit images keep their upper eight bits, palettes and gray become RGB. A block's color is the mean of its pixels weighted by
    their alpha, so nothing hidden behind transparency bleeds into an edge; a fully transparent block takes the mean of what is stored.

    Raises:
        CaptureError: no files, a file that cannot be decoded, images of two sizes, or a downscale that does not fit the images.
    """
    if not files:
        raise CaptureError("there are no images to read; check the image folder of the capture")
    width, height = image_size(files[0], turn=turn)
    if not 1 <= downscale <= min(width, height):
        raise CaptureError(
            f"downscale is {downscale}; it must be at least 1 and at most the shorter side of the {width}x{height} images "
            f"of {files[0].parent}"
        )
    count, rows, columns = len(files), height // downscale, width // downscale
    colors = torch.empty(count, rows, columns, 3, dtype=torch.uint8)
    alphas = torch.full((count, rows, columns), 255, dtype=torch.uint8)
    colors_out, alphas_out = colors.numpy(), alphas.numpy()

    def read(view: int) -> bool:
        image = _decoded(files[view], turn)
        if image.size != (width, height):
            raise CaptureError(
                f"{files[view]} is {image.width}x{image.height} but {files[0].name} is {width}x{height}; "
                "a capture needs images of one size, so crop or resize them, with their intrinsics"
            )
        has_alpha = use_alpha and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info)
        pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
        if has_alpha:
            has_alpha = bool((pixels[..., 3] < 255).any())
        if not has_alpha:
            colors_out[view] = _block_mean(pixels[..., :3], downscale)
            return False
        colors_out[view], alphas_out[view] = _weighted_block_mean(pixels, downscale)
        return True

    transparent = in_threads(read, range(count))
    return Pixels(colors, alphas if any(transparent) else None)


def read_masks(
    files: Sequence[Path | None], width: int, height: int, *, images: Sequence[Path], downscale: int = 1, turn: bool = True
) -> UInt8[Tensor, "views rows columns"]:
    """Decodes one gray image a view, 255 where bright; where there is no file the mask is zero.

    Masks of ones and zeros are stretched to 255. Color masks count by their luminance, and masks that are white all over but have an alpha
    channel by that.

    Args:
        files: one a view.
        width: of the images before downscaling.
        height: likewise.
        images: the photo of each view, for messages.
        downscale: as in :func:`read_pixels`.
        turn: likewise.

    Raises:
        CaptureError: a mask that cannot be decoded, or whose size is not that of its image.
    """
    masks = torch.zeros(len(files), height // downscale, width // downscale, dtype=torch.uint8)
    out = masks.numpy()

    def read(view: int) -> None:
        file = files[view]
        if file is None:
            return
        image = _decoded(file, turn)
        if image.size != (width, height):
            raise CaptureError(
                f"the mask {file} is {image.width}x{image.height} but its image {images[view].name} is {width}x{height}; "
                "resize the mask to its image"
            )
        gray = np.asarray(image.convert("L"))
        if image.mode in ("RGBA", "LA") and gray.min() == gray.max():
            gray = np.asarray(image.getchannel("A"))
        if gray.max() == 1:
            gray = gray * np.uint8(255)
        out[view] = _block_mean(gray[..., None], downscale)[..., 0]

    in_threads(read, range(len(files)))
    return masks


def undistorted(
    images: UInt8[Tensor, "views height width channels"], cameras: Cameras
) -> tuple[UInt8[Tensor, "views height width channels"], Cameras, Bool[Tensor, "views height width"]]:
    """The images as pinhole cameras with the same focal lengths and principal points would have taken them.

    For methods that draw triangles: rays need no resampling, since :meth:`Cameras.rays` follows the lens. Bilinear.

    Returns:
        The images, their pinhole cameras, and where they show something (False where the photo does not reach).
    """
    straight = Cameras(cameras.world_from_camera, cameras.intrinsics, torch.zeros_like(cameras.distortion), cameras.width, cameras.height)
    if not cameras.has_distortion:
        return images, straight, torch.ones(images.shape[:3], dtype=torch.bool, device=images.device)
    made = torch.empty_like(images)
    valid = torch.empty(images.shape[:3], dtype=torch.bool, device=images.device)
    size = torch.tensor([cameras.width, cameras.height]).to(cameras.intrinsics)
    for view in range(len(cameras)):
        rays = straight.image_rays(view)
        pixels, _ = cameras.project(rays.origins + rays.directions, view)
        valid[view] = ((pixels >= 0.5) & (pixels <= size - 0.5)).all(-1).reshape(cameras.height, cameras.width)
        grid = (2 * pixels / size - 1).reshape(1, cameras.height, cameras.width, 2)
        photo = images[view].permute(2, 0, 1)[None].to(grid.dtype)
        sampled = F.grid_sample(photo, grid, mode="bilinear", padding_mode="border", align_corners=False)
        made[view] = sampled[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)
    return made, straight, valid


def in_threads(work: Callable[[_Item], _Made], items: Sequence[_Item]) -> list[_Made]:
    """``work`` for every item on a pool of threads, results in order; the first error in that order is raised."""
    threads = max(1, min(8, os.cpu_count() or 1, len(items)))
    with ThreadPoolExecutor(threads, thread_name_prefix="unrender-read") as pool:
        return list(pool.map(work, items))


def _decoded(path: Path, turn: bool) -> Image.Image:
    """The whole image with eight bits a channel."""
    try:
        with Image.open(path) as file:
            file.load()
            image = ImageOps.exif_transpose(file) if turn else file.copy()
    except FileNotFoundError as error:
        raise CaptureError(f"the image {path} does not exist") from error
    except _BROKEN as error:
        raise CaptureError(f"{path} cannot be decoded ({error}); replace the file or leave the view out") from error
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise CaptureError(f"{path} holds floating-point numbers; convert it to an 8-bit or 16-bit sRGB image")
    return image


def _block_sum(pixels: np.ndarray, block: int) -> np.ndarray:
    """Sums over blocks of pixels."""
    rows, columns, channels = pixels.shape[0] // block, pixels.shape[1] // block, pixels.shape[2]
    whole = pixels[: rows * block, : columns * block]
    strips = whole.reshape(rows, block, columns * block * channels).sum(1, dtype=np.float32)
    return strips.reshape(rows, columns, block, channels).sum(2)


def _block_mean(pixels: np.ndarray, block: int) -> np.ndarray:
    if block == 1:
        return pixels
    return np.rint(_block_sum(pixels, block) / (block * block)).astype(np.uint8)


def _weighted_block_mean(rgba: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Straight color and alpha of each block: Σ α c / Σ α, and the mean of α."""
    if block == 1:
        return rgba[..., :3], rgba[..., 3]
    alpha = rgba[..., 3:]
    weight = _block_sum(alpha, block)
    premultiplied = _block_sum(rgba[..., :3] * alpha.astype(np.float32), block)
    plain = _block_sum(rgba[..., :3], block) / (block * block)
    color = np.where(weight > 0, premultiplied / np.maximum(weight, 1), plain)
    return np.rint(color).astype(np.uint8), np.rint(weight[..., 0] / (block * block)).astype(np.uint8)
