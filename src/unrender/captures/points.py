"""Point files from structure from motion: PLY files, and NumPy archives with an array ``points``."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.captures.errors import CaptureError
from unrender.captures.reading import ArchiveLimits, check_file, entries, read_npy, read_npz, reason

_PATTERNS = ("points3D.ply", "sparse_points*.ply", "points3D.npz", "sparse_points*.npz", "points.npz")

MOST_POINTS = 10_000_000
"""Most points of a file."""

_LIMITS = ArchiveLimits(member_bytes=24 * MOST_POINTS + 2**16, total_bytes=24 * MOST_POINTS + 2**16)
_CLOUD_NAMES = ("points", "xyz", "vertices")
_LONGEST_HEADER = 65536
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8"},
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}


def points_file(folder: Path) -> Path | None:
    """Find a point file by the names that exporters use."""
    names = entries(folder)
    return next((folder / name for pattern in _PATTERNS for name in fnmatch.filter(names, pattern)), None)


def read_points(file: Path) -> Float[Tensor, "points 3"]:
    """Read the vertices of a PLY file, or the array ``points`` of an ``.npz`` file, float64.

    Points that are not finite in float32 are dropped.

    Raises:
        CaptureError: the file cannot be read, or has another format.
    """
    suffix = file.suffix.lower()
    if suffix == ".npz":
        arrays, names = read_npz(file, "points", _LIMITS)
        if "points" not in arrays:
            raise _unreadable(file, f"it has no array points, but {', '.join(sorted(names)[:4]) or 'nothing'}")
        loaded = arrays["points"]
        if loaded.ndim != 2 or loaded.shape[1] != 3:
            raise _unreadable(file, f"its points have the shape {loaded.shape}, which must be Nx3")
    elif suffix == ".ply":
        loaded = _ply_vertices(file)
    else:
        raise CaptureError(f"the points {file} are not a PLY or npz file; convert them to PLY, or take the name out of the camera file")
    return _finite(loaded)


def read_cloud(file: Path) -> Float[Tensor, "points 3"]:
    """Read points from a PLY, ``.npz`` or ``.npy`` file, float64; the array may have any name.

    Of several arrays Nx3 of floats in an ``.npz``, the one called points, xyz or vertices is read. Points that are not finite in float32
    are dropped.

    Raises:
        CaptureError: the file cannot be read, or holds no points.
    """
    suffix = file.suffix.lower()
    if suffix == ".npz":
        arrays, names = read_npz(file, r"[^/]+", _LIMITS)
        fitting = [name for name, array in arrays.items() if array.ndim == 2 and array.shape[1] == 3 and array.dtype.kind == "f"]
        known = [name for name in _CLOUD_NAMES if name in fitting] or fitting
        if not known or (len(known) > 1 and known[0] not in _CLOUD_NAMES):
            what = "no array" if not known else f"{len(known)} arrays"
            raise _unreadable(file, f"it has {what} of floats with the shape Nx3, among {', '.join(sorted(names)[:6]) or 'nothing'}")
        loaded = arrays[known[0]]
    elif suffix == ".npy":
        loaded = read_npy(file, _LIMITS.member_bytes)
        if loaded.ndim != 2 or loaded.shape[1] != 3:
            raise _unreadable(file, f"its array has the shape {loaded.shape}, which must be Nx3")
    else:
        loaded = _ply_vertices(file)
    points = _finite(loaded)
    if not len(points):
        raise _unreadable(file, "it holds no finite points")
    return points


def _finite(loaded: np.ndarray) -> Float[Tensor, "points 3"]:
    points = torch.from_numpy(loaded.astype(np.float64))
    return points[are_finite(points)]


def are_finite(points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
    """Tell which points are finite in float32."""
    return (points.abs() <= torch.finfo(torch.float32).max).all(-1)


def _unreadable(file: Path, why: str) -> CaptureError:
    return CaptureError(f"the points {file} cannot be read ({why}); remove the file or write it again")


@dataclass(frozen=True)
class _Header:
    """What the header of a PLY file says about its vertices."""

    order: str
    """Byte order of NumPy; empty for text."""
    vertices: int
    columns: tuple[tuple[str, str], ...]
    """Name and type of each property of a vertex."""
    begin: int
    """Bytes of the header."""


def _ply_vertices(file: Path) -> np.ndarray:
    """Read the positions in a PLY file, text or binary."""
    size = check_file(file)
    try:
        with file.open("rb") as stream:
            header = _ply_header(stream.read(_LONGEST_HEADER), file)
            stream.seek(header.begin)
            if header.order:
                row = np.dtype([(name, header.order + kind) for name, kind in header.columns])
                if header.vertices * row.itemsize > size - header.begin:
                    raise _unreadable(file, f"it promises {header.vertices:,} points but ends before them")
                rows = np.frombuffer(stream.read(header.vertices * row.itemsize), row)
                return np.stack([rows[axis].astype(np.float64) for axis in "xyz"], -1)
            if 2 * header.vertices * len(header.columns) > size - header.begin + 1:
                raise _unreadable(file, f"it promises {header.vertices:,} points but ends before them")
            order = [name for name, _ in header.columns]
            places = [order.index(axis) for axis in "xyz"]
            points = np.empty((header.vertices, 3))
            for number in range(header.vertices):
                words = stream.readline(_LONGEST_HEADER).split()
                if len(words) < len(order):
                    raise _unreadable(file, f"point {number} has {len(words)} numbers, which must be {len(order)}")
                points[number] = [float(words[place]) for place in places]
            return points
    except (OSError, ValueError) as error:
        raise error if isinstance(error, CaptureError) else _unreadable(file, reason(error)) from error


def _ply_header(data: bytes, file: Path) -> _Header:
    """Parse the header of a PLY file, whose first element must be the vertices."""
    end = re.search(rb"\bend_header[ \t]*\r?\n", data)
    if not re.match(rb"ply\s", data) or end is None:
        raise _unreadable(file, "it has no PLY header")
    lines = [line.split() for line in data[: end.start()].decode("latin-1").splitlines()[1:]]
    formats = [words[1] for words in lines if words[:1] == ["format"] and len(words) > 1]
    if len(formats) != 1 or formats[0] not in _ORDERS:
        raise _unreadable(file, "its header names no known format")
    elements = [number for number, words in enumerate(lines) if words[:1] == ["element"]]
    if not elements or lines[elements[0]][1:2] != ["vertex"] or len(lines[elements[0]]) != 3 or not lines[elements[0]][2].isdecimal():
        raise _unreadable(file, "its first element is not the vertices")
    count = lines[elements[0]][2]
    if len(count) > len(str(MOST_POINTS)) or int(count) > MOST_POINTS:
        raise _unreadable(file, f"it has {count[:20]} points, and at most {MOST_POINTS:,} are read")
    last = elements[1] if len(elements) > 1 else len(lines)
    columns = [tuple(words[1:]) for words in lines[elements[0] + 1 : last] if words[:1] == ["property"]]
    if any(len(column) != 2 or column[0] not in _TYPES for column in columns):
        raise _unreadable(file, "its vertices have properties of unknown types or lists")
    named = tuple((name, _TYPES[kind]) for kind, name in columns)
    names = [name for name, _ in named]
    if not set("xyz") <= set(names) or len(set(names)) < len(names):
        raise _unreadable(file, "its vertices need the properties x, y and z, each once")
    return _Header(_ORDERS[formats[0]], int(count), named, end.end())
