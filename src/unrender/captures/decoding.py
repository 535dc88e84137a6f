"""Decoding of image files: their sizes from headers, and their pixels.

Pillow decodes PNG, JPEG, WebP, TIFF, BMP, AVIF, JPEG 2000, GIF, TGA and PPM; the format follows from the content, not from the suffix. No
other format is opened, because some of Pillow's run other programs. HEIC, OpenEXR and raw photos need the packages of ``unrender[photos]``:

- OpenEXR holds linear light with premultiplied alpha; colors are divided by alpha, encoded as sRGB and clipped to [0, 1].
- Raw photos are developed with the white balance of the camera and without automatic brightness, so that all views match.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from unrender.captures.errors import CaptureError
from unrender.captures.images import in_threads
from unrender.captures.reading import check_file, entries, reason
from unrender.color import srgb_from_linear

RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
"""Suffixes of raw photos; most are TIFF files in which Pillow would find a thumbnail only."""

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".heic", ".heif", ".exr", ".jp2", ".jfif", ".gif", ".tga"),
    *(".ppm", ".pgm", *RAW_SUFFIXES),
)
"""Image suffixes, in the order in which a name without a suffix is completed."""

Kind = Literal["Pillow", "HEIC", "OpenEXR", "raw"]

_PACKAGES: dict[Kind, str] = {"HEIC": "pillow-heif", "OpenEXR": "OpenEXR", "raw": "rawpy"}
_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "GIF", "TGA", "PPM")
_TELLING = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP")
"""Formats whose header tells whether there is transparency."""

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_MOST_PIXELS = 178_956_970
"""Most pixels of a photo: the limit of Pillow, 16-bit panoramas excluded."""

_ORIENTATION_TAG = 0x0112
_EXIF_TAG = 0x8769
_FILM_FOCAL_TAG = 0xA405
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a photo upright, by its EXIF orientation."""


def exif_orientation(path: Path) -> int:
    """Return the EXIF orientation of an image that Pillow reads, 1 to 8; others and damaged data count as 1.

    Raises:
        CaptureError: the file is missing or of no known format.
    """
    kind = _kind(path)
    if kind != "Pillow":
        return 1
    with _opened(path, kind) as image:
        return _orientation(image, path)


def image_files(folder: Path) -> list[Path]:
    """List the images in a folder, sorted by name; hidden files and folders are skipped."""
    names = [name for name in entries(folder) if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")]
    return [folder / name for name in names if not (folder / name).is_dir()]


def image_size(path: Path, *, apply_exif: bool = True) -> tuple[int, int]:
    """Return width and height of an image, as stored or after EXIF orientation.

    Only the header is read.

    Raises:
        CaptureError: the file is missing, is not an image, needs a package that is not installed, or has too many pixels.
    """
    kind = _kind(path)
    try:
        if kind == "OpenEXR":
            size = _exr_size(path)
        elif kind == "raw":
            size = _raw_size(path, apply_exif)
        else:
            with _opened(path, kind) as image:
                size = image.size
                if apply_exif and _orientation(image, path) >= 5:
                    size = (size[1], size[0])
    except CaptureError:
        raise
    except Exception as error:  # decoders raise a dozen types for damaged files
        raise CaptureError(f"{path} cannot be read as an image ({_said(error)}); replace the file or leave the view out") from error
    if not 0 < size[0] * size[1] <= _MOST_PIXELS:
        raise _too_large(path)
    return size


def is_opaque(path: Path) -> bool:
    """Tell from its header whether an image cannot have transparent pixels.

    It has no alpha channel, and no color stands for transparent.

    Raises:
        CaptureError: the file cannot be read.
    """
    if _kind(path) != "Pillow":
        return False
    with _opened(path, "Pillow") as image:
        return image.format in _TELLING and not {"A", "a"} & set(image.getbands()) and "transparency" not in image.info


def is_gray(path: Path) -> bool:
    """Tell from its header whether an image has one channel of brightness, and nothing that is transparent.

    Raises:
        CaptureError: the file cannot be read.
    """
    if _kind(path) != "Pillow":
        return False
    with _opened(path, "Pillow") as image:
        return len(image.getbands()) == 1 and image.mode != "P" and "transparency" not in image.info


def decoded_image(path: Path, *, apply_exif: bool = True) -> Image.Image:
    """Decode a whole image, with the numbers as stored; OpenEXR becomes sRGB.

    The first page or frame is decoded if there are several.

    Raises:
        CaptureError: as :func:`image_size`; or the content is damaged.
    """
    kind = _kind(path)
    try:
        if kind == "OpenEXR":
            return _exr(path)
        if kind == "raw":
            return _raw(path, apply_exif)
        with _opened(path, kind) as file:
            file.load()
            turn = _TRANSPOSES.get(_orientation(file, path)) if apply_exif else None
            image = Image.Image.copy(file) if turn is None else file.transpose(turn)
            image.info = dict(file.info)
            return image
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(
            f"{path} cannot be decoded ({_said(error)}); replace the file, or leave the photo out (--leave-out {path.stem})"
        ) from error


@dataclass(frozen=True)
class Stored:
    """How a photo is stored."""

    as_is: bool
    """Whether it is an upright JPEG or PNG file, which every program reads."""
    lossless: bool


def stored_as(path: Path) -> Stored:
    """Tell how a photo is stored; only its header is read. A file that is no image counts as JPEG, which decoding it will refuse."""
    try:
        kind = _kind(path)
        if kind != "Pillow":
            return Stored(False, kind != "HEIC")
        with _opened(path, kind) as image:
            upright, lossy = _orientation(image, path) == 1, image.format in ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
            return Stored(upright and image.format in ("JPEG", "MPO", "PNG"), not lossy)
    except Exception:  # decoders raise a dozen types for damaged files
        return Stored(False, False)


def focal_length(path: Path) -> float | None:
    """Return the focal length in pixels that the EXIF data of a photo tell; None if they do not.

    It is the focal length equivalent to film of 36 mm x 24 mm, compared by the diagonal.
    """
    try:
        kind = _kind(path)
        if kind not in ("Pillow", "HEIC"):
            return None
        with _opened(path, kind) as image:
            equivalent = float(_exif(image, path).get_ifd(_EXIF_TAG).get(_FILM_FOCAL_TAG, 0))
            focal = equivalent * math.hypot(*image.size) / math.hypot(36.0, 24.0)
            return focal if 5 < equivalent < 2000 else None
    except Exception:  # EXIF data are a file format of their own, which Pillow does not validate
        return None


def format_notes(files: Sequence[Path]) -> tuple[str, ...]:
    """Return notes about formats whose pixels are converted, and about files with several pages."""
    kinds = in_threads(_kind, files)
    notes = []
    if (count := kinds.count("OpenEXR")) > 0:
        notes.append(f"{count} OpenEXR photos hold linear light: they were encoded as sRGB, and values above 1 clipped")
    if (count := kinds.count("raw")) > 0:
        notes.append(f"{count} raw photos were developed with the camera's white balance; convert them to PNG to choose otherwise")
    pages = in_threads(_pages, [file for file, kind in zip(files, kinds, strict=True) if kind == "Pillow"])
    if (count := sum(number > 1 for number in pages)) > 0:
        notes.append(f"{count} photos are animated or have several pages, of which the first is read")
    return tuple(notes)


def _pages(path: Path) -> int:
    if path.suffix.lower() not in (".tif", ".tiff", ".gif", ".webp", ".png", ".avif"):
        return 1  # JPEG files of phones hold depth and gain maps behind the photo
    try:
        with _opened(path, "Pillow") as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # damaged pages behind the first, which is all that is read
        return 1


def _kind(path: Path) -> Kind:
    """Tell what decodes a file, by its first bytes; raw photos by their suffix.

    Raises:
        CaptureError: the file cannot be read.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CaptureError(f"{path} cannot be read ({reason(error)}); check its permissions") from error
    if head.startswith(b"\x76\x2f\x31\x01"):
        return "OpenEXR"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS:
        return "HEIC"
    if path.suffix.lower() in RAW_SUFFIXES:
        return "raw"
    if head.startswith(b"version https://"):
        raise CaptureError(f"{path} is a Git LFS pointer, not the photo itself; fetch the photos with git lfs pull")
    return "Pillow"


def _package(kind: Kind, path: Path) -> Any:
    """Import the package that reads a kind of file.

    Raises:
        CaptureError: it is not installed.
    """
    try:
        return importlib.import_module(_PACKAGES[kind].replace("-", "_"))
    except ImportError as error:
        article = "a raw photo" if kind == "raw" else f"an {kind} file" if kind == "OpenEXR" else f"a {kind} file"
        raise CaptureError(
            f"{path} is {article}, which needs the package {_PACKAGES[kind]}; install unrender[photos], or convert the photos to PNG or "
            "JPEG"
        ) from error


def _opened(path: Path, kind: Kind) -> Image.Image:
    """Open an image with Pillow; its header is read."""
    formats = _formats()
    if kind == "HEIC":
        _package(kind, path).register_heif_opener()
        formats = ("HEIF",)
    try:
        return Image.open(path, formats=formats)
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except Image.UnidentifiedImageError as error:
        raise CaptureError(
            f"{path} cannot be read as an image: its content is of no known format; replace the file or leave the view out"
        ) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return the formats to open, without those that this build of Pillow lacks."""
    Image.init()
    return tuple(name for name in _PILLOW_FORMATS if name in Image.OPEN)


def _too_large(path: Path) -> CaptureError:
    return CaptureError(f"{path} has more than {_MOST_PIXELS // 10**6} megapixels; save a smaller version of the photos")


def _said(error: BaseException) -> str:
    return (
        reason(error) if isinstance(error, OSError | ValueError | SyntaxError | MemoryError) else f"{type(error).__name__}, {reason(error)}"
    )


def _orientation(image: Image.Image, path: Path) -> int:
    """Return the EXIF orientation, 1 to 8; damaged EXIF data counts as none."""
    try:
        value = _exif(image, path).get(_ORIENTATION_TAG, 1)
    except Exception:  # EXIF data are a file format of their own, which Pillow does not validate
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


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


def _exr_size(path: Path) -> tuple[int, int]:
    (left, top), (right, bottom) = _window(_package("OpenEXR", path).File(str(path), header_only=True).header(), "displayWindow")
    return right - left + 1, bottom - top + 1


def _window(header: dict[str, Any], name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    low, high = header[name]
    return (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))


def linear_colors(path: Path) -> Float[np.ndarray, "height width 3"]:
    """Decode the linear light of an OpenEXR file, straight alpha, not limited from above.

    Raises:
        CaptureError: the file cannot be decoded.
    """
    try:
        return _exr_planes(path)[0]
    except CaptureError:
        raise
    except Exception as error:  # the decoder raises many types
        raise CaptureError(f"{path} cannot be decoded ({_said(error)}); download it again") from error


def _exr(path: Path) -> Image.Image:
    """Decode the colors of an OpenEXR file, encoded as sRGB, on the canvas of its display window."""
    color, alpha = _exr_planes(path)
    encoded = srgb_from_linear(torch.from_numpy(color.clip(0, 1))).numpy()
    return Image.fromarray(np.rint(np.concatenate((encoded, alpha.clip(0, 1)), -1) * 255).astype(np.uint8))


def _exr_planes(path: Path) -> tuple[Float[np.ndarray, "height width 3"], Float[np.ndarray, "height width _"]]:
    """Decode the colors and the alpha, if any, of an OpenEXR file.

    They are on the canvas of its display window.
    """
    width, height = image_size(path)
    file = _package("OpenEXR", path).File(str(path), separate_channels=True)
    channels = file.channels()
    layers = sorted({name[:-1] for name in channels if name[-1:] == "R" and {name[:-1] + "G", name[:-1] + "B"} <= set(channels)})
    layer = "" if "" in layers else next((name for name in layers if name.endswith("Combined.")), layers[0] if len(layers) == 1 else None)
    names = [f"{layer}{band}" for band in "RGB"] if layer is not None else ["Y"] * 3 if "Y" in channels else None
    if names is None:
        raise CaptureError(f"{path} has no channels R, G and B (it has {', '.join(sorted(channels)[:6])}); write the photo as RGB")
    (left, top), _ = _window(file.header(), "displayWindow")
    (data_left, data_top), _ = _window(file.header(), "dataWindow")
    alpha_name = f"{layer or ''}A"
    names += [alpha_name] if alpha_name in channels else []
    planes = np.stack([np.asarray(channels[name].pixels, dtype=np.float32) for name in names], -1)
    planes = np.nan_to_num(planes, nan=0.0, posinf=1.0, neginf=0.0)
    canvas = np.zeros((height, width, planes.shape[-1]), np.float32)
    down, across = data_top - top, data_left - left
    inside = planes[max(0, -down) :, max(0, -across) :][: max(0, height - max(0, down)), : max(0, width - max(0, across))]
    canvas[max(0, down) :, max(0, across) :][: inside.shape[0], : inside.shape[1]] = inside
    color, alpha = canvas[..., :3], canvas[..., 3:]
    if alpha.shape[-1]:
        color = np.divide(color, alpha, out=color.copy(), where=alpha > 0)
    return color, alpha


def _raw_size(path: Path, apply_exif: bool) -> tuple[int, int]:
    with _package("raw", path).imread(str(path)) as raw:
        sizes = raw.sizes
        turned = apply_exif and sizes.flip in (5, 6)
        return (sizes.height, sizes.width) if turned else (sizes.width, sizes.height)


def _raw(path: Path, apply_exif: bool) -> Image.Image:
    with _package("raw", path).imread(str(path)) as raw:
        keywords = {} if apply_exif else {"user_flip": 0}
        return Image.fromarray(raw.postprocess(use_camera_wb=True, no_auto_bright=True, output_bps=8, **keywords))
