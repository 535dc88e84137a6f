"""RealityCapture's CSV "Internal/External camera parameters".

Columns are ``#name,x,y,alt,heading,pitch,roll,f,px,py,k1,k2,k3,k4,t1,t2``. Angles are in degrees, with OpenGL's axes and +Z up:
R = Rz(-heading) Rx(pitch) Ry(roll). f is the focal length for a longer side of 36 mm, px and py are shares of the longer side from the
middle of the photo, k and t those of Brown's model on x / z and y / z.
"""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from unrender.captures.errors import CaptureError
from unrender.captures.posed_photos import Lens, PosedPhoto, affine, posed_source, rotation_about
from unrender.captures.reading import reason, shown
from unrender.captures.reading_text import numbers, read_text
from unrender.captures.source import Source

_NEEDED = ("name", "x", "y", "alt", "heading", "pitch", "roll", "f")
_DISTORTION = ("k1", "k2", "k3", "k4", "t1", "t2")
_LONGER_SIDE = 36.0
"""Millimeters."""


def is_reality_capture(head: str) -> bool:
    """Tell whether the beginning of a CSV file names the columns of RealityCapture.

    >>> is_reality_capture("#cameras 2\\n#name,x,y,alt,heading,pitch,roll,f\\n"), is_reality_capture("name,x,y\\n")
    (True, False)
    """
    return any(set(_NEEDED) <= set(_columns(line)) for line in head.splitlines()[:4])


def _columns(line: str) -> list[str]:
    return [name.strip().lower() for name in line.removeprefix("\ufeff").removeprefix("ï»¿").lstrip("#").split(",")]


def read_reality_capture(folder: Path, file: Path, test_every: int) -> Source:
    """Read the cameras of a CSV file.

    Raises:
        CaptureError: a row of another length, a number that is none, or as in
            :func:`unrender.captures.posed_photos.posed_source`.
    """
    lines = [line for line in read_text(file).splitlines() if line.strip()]
    header = next((count for count, line in enumerate(lines[:4]) if set(_NEEDED) <= set(_columns(line))), None)
    if header is None:
        raise CaptureError(f"{file} does not begin with the columns {', '.join(_NEEDED)}; export the cameras again")
    columns = _columns(lines[header])
    photos = []
    try:
        rows = list(csv.reader(lines[header + 1 :]))
    except csv.Error as error:
        raise CaptureError(f"{file} is not valid CSV ({reason(error)}); export the cameras again") from error
    for row in rows:
        if len(row) != len(columns):
            raise CaptureError(f"the row of {shown(row[0] if row else '')} in {file} has {len(row)} columns, which must be {len(columns)}")
        keys = dict(zip(columns, row, strict=True))
        what = f"the camera of {keys['name']} in {file}"
        x, y, z, heading, pitch, roll, focal = numbers([keys[key] for key in _NEEDED[1:]], 7, what)
        px, py = numbers([keys.get(key) or "0" for key in ("px", "py")], 2, what)
        k1, k2, k3, k4, t1, t2 = numbers([keys.get(key) or "0" for key in _DISTORTION], 6, what)
        rotation = _about(2, -heading) @ _about(0, pitch) @ _about(1, roll)
        lens = Lens((focal / _LONGER_SIDE, focal / _LONGER_SIDE), (px, py), distortion=(k1, k2, k3, k4, t1, t2), relative=True)
        photos.append(PosedPhoto(keys["name"].strip(), affine(rotation, [x, y, z]), lens))
    source = posed_source(folder, file, photos, test_every, axes="opengl", as_stored=False)
    return replace(source, up=(0.0, 0.0, 1.0))


def _about(axis: int, degrees: float) -> Float[np.ndarray, "3 3"]:
    """Return the rotation about a coordinate axis."""
    half = math.radians(degrees % 360) / 2
    x, y, z = (math.sin(half) * (axis == other) for other in range(3))
    return rotation_about(math.cos(half), x, y, z)
