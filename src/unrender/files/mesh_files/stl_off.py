"""Reading of STL and OFF files.

STL has no shared vertices: every triangle has three of its own. They are joined at equal positions when read. Trimesh does not do here: it
takes the first corner of a concave polygon of an OFF for a fan.
"""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Float, Int

from unrender.files.mesh_files.arrays import MeshArrays, MeshFileError, checked, colors_from_codes
from unrender.files.mesh_files.obj import numbers_in
from unrender.files.mesh_files.polygons import triangulated

_STL_ROW = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_STL_HEAD = 84


def read_stl(data: bytes) -> MeshArrays:
    """Read a binary or text STL."""
    count = int.from_bytes(data[80:_STL_HEAD], "little")
    if len(data) >= _STL_HEAD and len(data) >= _STL_HEAD + count * _STL_ROW.itemsize and (count or not data.lstrip().startswith(b"solid")):
        corners = np.frombuffer(data, _STL_ROW, count, _STL_HEAD)["corners"].astype(np.float64)
    elif data.lstrip()[:5].lower() == b"solid" and b"\0" not in data:
        numbers = numbers_in(b" ".join(re.findall(rb"(?i)[\r\n]\s*vertex\s+([^\s]+\s+[^\s]+\s+[^\s]+)", data)), np.float64)
        if numbers is None or numbers.size % 9:
            raise MeshFileError("a vertex of its text is not three numbers, or a facet not three vertices")
        corners = numbers.reshape(-1, 3, 3)
    else:
        raise MeshFileError(f"it ends before its {count} triangles do, and it is not a text that begins with `solid`")
    vertices, rows = joined(corners.reshape(-1, 3))
    return checked(MeshArrays(vertices, rows.reshape(-1, 3)))


def joined(positions: Float[np.ndarray, "rows 3"]) -> tuple[Float[np.ndarray, "vertices 3"], Int[np.ndarray, " rows"]]:
    """Join equal positions, which keep the order of their first rows, and return the new row of each old one.

    >>> joined(np.array([[0.0, 0, 1], [2, 0, 0], [-0.0, 0, 1]]))[1].tolist()
    [0, 1, 0]
    """
    keys = np.ascontiguousarray(positions + 0.0)  # makes -0 to 0
    _, first, rows = np.unique(keys.view(f"V{keys.itemsize * 3}").reshape(-1), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return positions[first[order]], rank[rows.reshape(-1)]


def read_off(data: bytes) -> MeshArrays:
    """Read a text OFF with polygons.

    Vertices may have texture coordinates, colors and normals (ST, C, N in front of OFF).
    """
    text = re.sub(rb"#[^\n]*", b"", data.replace(b"\r", b"\n"))
    head = re.match(rb"\s*(ST)?(C)?(N)?OFF\b", text)
    if head is None or text[head.end() :].lstrip()[:6] == b"BINARY":
        raise MeshFileError("it does not begin with OFF, COFF or NOFF in text; binary, 4- and n-dimensional ones are not read")
    lines = [line for line in text[head.end() :].split(b"\n") if line.strip()]
    counts = numbers_in(lines[0], np.int64) if lines else None
    if counts is None or not 2 <= counts.size <= 3 or int(counts.min()) < 0 or int(counts[:2].sum()) >= len(lines):
        raise MeshFileError("its numbers of vertices and faces are missing, or it ends before them")
    vertex_count, face_count = int(counts[0]), int(counts[1])
    rows = numbers_in(b"\n".join(lines[1 : 1 + vertex_count]), np.float64)
    if vertex_count == 0 or rows is None or rows.size % vertex_count or rows.size < 3 * vertex_count:
        raise MeshFileError(f"its {vertex_count} vertices are not rows of equally many numbers")
    rows = rows.reshape(vertex_count, -1)
    sizes, corners = _off_faces(lines[1 + vertex_count : 1 + vertex_count + face_count])
    if len(sizes) and (int(corners.min()) < 0 or int(corners.max()) >= vertex_count):
        raise MeshFileError(f"a face names a vertex that is not among its {vertex_count}")
    colors, first = None, 6 if head[3] else 3
    if head[2] and rows.shape[1] >= first + 3:
        colors = colors_from_codes(rows[:, first : first + 3])
    return checked(MeshArrays(rows[:, :3], corners[triangulated(rows[:, :3], sizes, corners)], colors))


def _off_faces(lines: list[bytes]) -> tuple[Int[np.ndarray, " faces"], Int[np.ndarray, " corners"]]:
    """Return the size of each face and the corners of all; colors behind the corners are skipped."""
    sizes, corners = [], []
    for number, line in enumerate(lines):
        words = line.split()
        size = int(words[0])
        if size < 3 or len(words) <= size:
            raise MeshFileError(
                f"face {number}, counted from 0, is {line.strip()[:40].decode('utf-8', 'replace')!r}; give three or more corners"
            )
        sizes.append(size)
        corners.extend(map(int, words[1 : size + 1]))
    if corners and not -(2**31) <= min(corners) <= max(corners) < 2**31:
        raise MeshFileError("a face names a vertex that does not exist")
    return np.array(sizes, np.int64), np.array(corners, np.int64)
