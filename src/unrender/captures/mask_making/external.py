"""Masks from any other program, which is run once for each photo."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import UInt8
from numpy import ndarray

from unrender.captures.errors import CaptureError
from unrender.captures.images import averaged_gray
from unrender.captures.mask_making.photos import PhotoSet
from unrender.captures.masks import decode_mask
from unrender.captures.reading import is_regular_file, reason

_LONGEST = 300
"""Letters of a program's last message that are repeated."""


def command_words(command: str) -> tuple[str, ...]:
    """Split a command line into the program and its arguments.

    >>> command_words("rembg i {image} {mask}")
    ('rembg', 'i', '{image}', '{mask}')

    Raises:
        CaptureError: it cannot be split, or lacks ``{image}`` or ``{mask}``.
    """
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise CaptureError(f"the command {command!r} cannot be split into words ({error}); check its quotes") from error
    missing = [place for place in ("{image}", "{mask}") if not any(place in word for word in words)]
    if missing:
        raise CaptureError(
            f"the command {command!r} has no {' and no '.join(missing)}; write the places of the photo and of its mask, "
            "for example 'rembg i {image} {mask}'"
        )
    return words


def mask_by_command(words: Sequence[str], photos: PhotoSet, view: int, target: Path) -> UInt8[ndarray, "height width"]:
    """Run a program on one photo, and read the mask that it wrote.

    The program is started directly, without a shell. Cut-outs with an alpha channel and black-and-white pictures are masks alike.

    Args:
        words: the program and its arguments, with ``{image}`` and ``{mask}``.
        photos: the photos.
        view: the photo.
        target: where the program is told to write.

    Raises:
        CaptureError: the program does not run or fails, or writes no mask of the photo's size.
    """
    image, name = photos.files[view].absolute(), photos.names[view]
    target.unlink(missing_ok=True)
    line = [word.replace("{image}", str(image)).replace("{mask}", str(target.absolute())) for word in words]
    try:
        ended = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise CaptureError(f"the program {line[0]} cannot be run ({reason(error)}); check that it is installed and on the PATH") from error
    if ended.returncode:
        said = (ended.stderr or ended.stdout).decode("utf-8", "replace").strip().splitlines()
        about = f": {said[-1][-_LONGEST:]}" if said else " and said nothing"
        raise CaptureError(
            f"{line[0]} ended with exit code {ended.returncode} for {name}{about}; run it by hand to see more: {shlex.join(line)}"
        )
    if not is_regular_file(target):
        raise CaptureError(f"{line[0]} wrote no mask for {name}; it must write a picture to the path that stands for {{mask}}")
    decoded = decode_mask(target, apply_exif=photos.apply_exif[view])
    rows, columns = decoded.values.shape
    width, height = photos.sizes[view]
    if (columns, rows) != (width, height):
        raise CaptureError(
            f"{line[0]} wrote a mask of {columns}x{rows} for {name}, which is {width}x{height}; it must have the photo's size"
        )
    unit = 1 if decoded.peak == 1 else decoded.full
    mask = averaged_gray(decoded.as_bytes(unit), 1)
    target.unlink(missing_ok=True)
    return mask
