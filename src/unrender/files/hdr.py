"""Pictures of linear light: Radiance (.hdr), four bytes per pixel, and OpenEXR (.exr), which needs the package of that name."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from unrender.files.atomic import replacing, write_bytes

_MOST_PIXELS = 2**28


def write_hdr(path: Path, linear: Float[Tensor, "height width 3"]) -> None:
    """Write linear light as a Radiance RGBE picture, row 0 on top.

    A pixel is three mantissas m and one exponent e that they share, (m + ½) 2^(e - 136): a relative error below 1/256 of the largest
    channel (Ward, Real pixels, Graphics Gems II, 1991). Negative light becomes 0.

    Raises:
        ValueError: a value is not finite.
        OSError: the file cannot be written.
    """
    light = linear.detach().cpu().double().clamp_min(0.0)
    if not bool(torch.isfinite(light).all()):
        raise ValueError(f"{path}: the light has values that are not finite; a picture file holds finite ones")
    height, width = light.shape[:2]
    largest = light.amax(-1)
    _, exponent = torch.frexp(largest)
    seen = largest > 1e-32
    mantissas = torch.floor(light * torch.exp2(8.0 - exponent)[..., None]).clamp_max(255.0)
    rgbe = torch.cat([mantissas, (exponent + 128)[..., None]], -1) * seen[..., None]
    header = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n"
    write_bytes(path, header.encode("ascii") + rgbe.numpy().astype(np.uint8).tobytes())


def read_hdr(path: Path) -> Float[Tensor, "height width 3"]:
    """Read the linear light of a Radiance RGBE picture, row 0 on top.

    Rows may be plain or run-length encoded; the exposure of the header is divided out.

    Raises:
        ValueError: it is no such picture, is cut off, or is not stored from top left to bottom right.
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    head, found, body = data.partition(b"\n\n")
    size, _, body = body.partition(b"\n")
    words = size.split()
    if not data.startswith(b"#?") or not found or b"32-bit_rle_rgbe" not in head:
        raise ValueError(f"{path} is not a Radiance picture with RGBE pixels; convert it to one")
    if len(words) != 4 or words[::2] != [b"-Y", b"+X"] or not (words[1].isdigit() and words[3].isdigit()):
        raise ValueError(f"{path} states the size {size[:40]!r}; it must be of the form -Y rows +X columns")
    height, width = int(words[1]), int(words[3])
    if not 0 < height * width <= _MOST_PIXELS:
        raise ValueError(f"{path} has {height} x {width} pixels; at most {_MOST_PIXELS} are read")
    try:
        rgbe = _scanlines(body, height, width)
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path} is cut off or damaged; download it again") from error
    exposure = math.prod(float(line.split(b"=")[1]) for line in head.split(b"\n") if line.startswith(b"EXPOSURE="))
    scale = np.ldexp(1.0, rgbe[..., 3:].astype(np.int64) - 136) * (rgbe[..., 3:] > 0)
    return torch.from_numpy(((rgbe[..., :3] + 0.5) * scale / exposure).astype(np.float32))


def _scanlines(body: bytes, height: int, width: int) -> Integer[np.ndarray, "height width 4"]:
    """Decode the pixels.

    Rows that begin with 2, 2 and their width store the four channels one after another, in runs of bytes.
    """
    rows, at = np.empty((height, 4, width), np.uint8), 0
    for row in rows:
        if not 8 <= width < 32768 or body[at : at + 2] != b"\2\2":
            row[:] = np.frombuffer(body, np.uint8, 4 * width, at).reshape(width, 4).T
            at += 4 * width
            continue
        if int.from_bytes(body[at + 2 : at + 4], "big") != width:
            raise ValueError("a row has another width")
        at += 4
        for channel in row:
            column = 0
            while column < width:
                count = body[at]
                if count > 128:  # a run of one byte
                    count -= 128
                    values, size = np.full(count, body[at + 1], np.uint8), 2
                else:
                    values, size = np.frombuffer(body, np.uint8, count, at + 1), 1 + count
                if count == 0 or column + count > width:
                    raise ValueError("a run is longer than its row")
                channel[column : column + count] = values
                column, at = column + count, at + size
    return rows.transpose(0, 2, 1)


def read_exr(path: Path) -> Float[Tensor, "height width 3"]:
    """Read the linear light of an OpenEXR picture, row 0 on top.

    Raises:
        ValueError: the package is not installed, or the file has no channels R, G and B or cannot be decoded.
    """
    try:
        channels = _openexr(path).File(str(path), separate_channels=True).channels()
        planes = [np.asarray(channels[name].pixels, np.float32) for name in "RGB"]
        return torch.from_numpy(np.stack(planes, -1))
    except KeyError as error:
        raise ValueError(f"{path} has no channel {error}; it must have R, G and B") from error
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be decoded as OpenEXR; download it again") from error


def write_exr(path: Path, linear: Float[Tensor, "height width 3"]) -> None:
    """Write linear light as an OpenEXR picture of 32-bit floats, row 0 on top.

    Raises:
        ValueError: the package is not installed.
        OSError: the file cannot be written.
    """
    package, light = _openexr(path), linear.detach().cpu().float().numpy()
    header = {"compression": package.ZIP_COMPRESSION, "type": package.scanlineimage}
    with replacing(path) as partial:
        package.File(header, {"RGB": np.ascontiguousarray(light)}).write(str(partial))


def _openexr(path: Path) -> Any:
    try:
        return importlib.import_module("OpenEXR")
    except ImportError as error:
        raise ValueError(f"{path} is an OpenEXR file, which needs the package OpenEXR; install unrender[photos], or use .hdr") from error
