"""Reading and writing of OBJ files.

Trimesh does not do here: it keeps one texture coordinate per vertex, which tears the texture at its seams or the mesh along them, and it
cuts concave polygons wrongly.

An ordinary file is read with NumPy, all lines of a kind at once. A file with anything unusual (corners counted backwards, rows of different
length, lines that are continued, mistakes) is read line by line, so that an error can name its line.
"""

from __future__ import annotations

import re
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unrender.files.mesh_files.arrays import Y_UP, Frame, MeshArrays, MeshFileError, checked, colors_from_codes, frame_in
from unrender.files.mesh_files.polygons import triangulated

_LARGEST_ROW = 2**31 - 1
"""Upper limit on the rows of one kind in a file."""

_DIGITS = 5
"""Decimals to which normals are equal."""

_HEADER = 4096
"""Bytes at the beginning of a file that are searched for its frame."""


class _Text(NamedTuple):
    """The numbers of an OBJ file."""

    positions: Float[np.ndarray, "vertices columns"]
    """x, y, z, and w or a color, if all rows have them."""
    coordinates: Float[np.ndarray, "coordinates 2"]
    sizes: Int[np.ndarray, " faces"]
    """Number of corners of each face."""
    corners: Int[np.ndarray, " corners"]
    uv_corners: Int[np.ndarray, " corners"] | None
    """Rows of ``coordinates``, −1 for a corner without one; None if no corner has one."""
    normals: Float[np.ndarray, "normals 3"]
    normal_corners: Int[np.ndarray, " corners"] | None
    """Rows of ``normals``; None unless every corner has one."""


def read_obj(data: bytes, *, own_axes: bool, split: bool = False) -> MeshArrays:
    """Read the ``v``, ``vt``, ``f`` and ``usemtl`` lines of an OBJ.

    Colors are read only where every vertex has one.

    Args:
        data: the file.
        own_axes: keep the axes of the file, even if it tells those of the mesh.
        split: read normals (``vn``) too, and repeat a vertex for each of its normals: there are hard edges then.
    """
    frame = None
    if not own_axes:
        comments = (line for line in data[:_HEADER].decode("utf-8", "replace").splitlines() if line.startswith("#"))
        frame = next(filter(None, map(frame_in, comments)), None)
    text = _quick(data) or _line_by_line(data)
    if len(text.sizes) == 0:
        raise MeshFileError("it holds no triangles; a point cloud is not a mesh")
    uvs = uv_faces = None
    triangles = triangulated(text.positions[:, :3], text.sizes, text.corners)
    if text.uv_corners is not None:
        uvs = np.stack([text.coordinates[:, 0], 1 - text.coordinates[:, 1]], 1)
        uv_faces = text.uv_corners[triangles]
    colors = colors_from_codes(text.positions[:, 3:6]) if text.positions.shape[1] >= 6 else None
    polygon = np.repeat(np.arange(len(text.sizes)), text.sizes)[triangles[:, 0]]
    arrays = MeshArrays(text.positions[:, :3], text.corners[triangles], colors, uvs=uvs, uv_faces=uv_faces, up=Y_UP)
    arrays = checked(arrays._replace(materials=_materials_of_polygons(data, len(text.sizes))[polygon]))
    if split and text.normal_corners is not None:
        arrays = _with_normals(arrays, text.normals, text.normal_corners[triangles])
    return arrays if frame is None else frame.applied(arrays)


def _with_normals(arrays: MeshArrays, normals: Float[np.ndarray, "normals 3"], normal_faces: Int[np.ndarray, "faces 3"]) -> MeshArrays:
    """Return a mesh with one normal for each vertex; a vertex of several normals is repeated.

    A mesh with a normal of no direction is returned unchanged.
    """
    lengths = np.linalg.norm(normals, axis=1)
    used = np.unique(normal_faces)
    if not (np.isfinite(lengths[used]) & (lengths[used] > 0)).all():
        return arrays
    units = (normals / np.where(lengths > 0, lengths, 1.0)[:, None]).round(_DIGITS)
    distinct, rows = np.unique(units, axis=0, return_inverse=True)
    pairs, faces = np.unique(arrays.faces.astype(np.int64) * len(distinct) + rows.reshape(-1)[normal_faces], return_inverse=True)
    vertex, normal = np.divmod(pairs, len(distinct))
    colors = None if arrays.colors is None else arrays.colors[vertex]
    return arrays._replace(vertices=arrays.vertices[vertex], faces=faces.reshape(-1, 3), colors=colors, normals=distinct[normal])


_USES = re.compile(rb"^[ \t]*(?:usemtl[ \t]+([^\r\n]*?)[ \t]*|f[ \t][^\r\n]*)\r?$", re.MULTILINE)
"""Lines that choose a material, and faces."""


def used_materials(data: bytes) -> list[str]:
    """Return the names of the materials that faces of an OBJ have, in the order of their first mention."""
    names, _ = _uses(data)
    return [name.decode("utf-8", "replace") for name in names]


def _materials_of_polygons(data: bytes, count: int) -> Int[np.ndarray, " faces"]:
    """Return for each polygon the row of its material in :func:`used_materials`, −1 before the first one is chosen."""
    _, rows = _uses(data)
    if len(rows) not in (0, count):
        raise MeshFileError("its faces cannot be told apart by their materials; write each face on a line of its own")
    return np.array(rows, np.int64) if rows else np.full(count, -1)


def _uses(data: bytes) -> tuple[list[bytes], list[int]]:
    """Return the materials of the faces, and the number of that of each face; nothing for a file without materials."""
    if b"usemtl" not in data:
        return [], []
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    numbers: dict[bytes, int] = {}
    rows: list[int] = []
    name: bytes | None = None
    for found in _USES.finditer(data):
        if found.group(1) is not None:
            name = found.group(1)
        elif name is None:
            rows.append(-1)
        else:
            rows.append(numbers.setdefault(name, len(numbers)))
    return list(numbers), rows


def _quick(data: bytes) -> _Text | None:
    """Read an ordinary file; None for one that has to be read line by line."""
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\t", b" ")
    if b"\\\n" in data or b"\0" in data:
        return None
    if b"#" in data:
        data = re.sub(rb"#[^\n]*", b"", data)
    for wide, narrow in ((b"  ", b" "), (b"\n ", b"\n"), (b" \n", b"\n")):
        while wide in data:
            data = data.replace(wide, narrow)
    lines = data.strip(b" ").split(b"\n")
    positions = _table([line[2:] for line in lines if line[:2] == b"v "])
    if positions is None or not 3 <= positions.shape[1] <= 8:
        return None
    coordinates = _table([line[3:] for line in lines if line[:3] == b"vt "], columns=1)
    faces = [line[2:] for line in lines if line[:2] == b"f "]
    without_numbers = lines.count(b"v") + lines.count(b"vt") + lines.count(b"f")
    if coordinates is None or without_numbers or not faces:
        return None
    coordinates = np.pad(coordinates, ((0, 0), (0, 1))) if coordinates.shape[1] == 1 else coordinates[:, :2]
    corners = _corners(faces)
    normals = _table([line[3:] for line in lines if line[:3] == b"vn "])
    if corners is None:
        return None
    sizes, rows, uv_rows, normal_rows = corners
    if normals is None or normals.shape[1] != 3 or (normal_rows is not None and int(normal_rows.max()) >= len(normals)):
        normals, normal_rows = np.zeros((0, 3)), None
    if int(rows.max()) >= len(positions) or (uv_rows is not None and int(uv_rows.max()) >= len(coordinates)):
        return None
    return _Text(positions, coordinates, sizes, rows, uv_rows, normals, normal_rows)


def _table(lines: list[bytes], columns: int = 3) -> Float[np.ndarray, "rows columns"] | None:
    """Parse lines of equally many numbers; None if they differ or hold something else."""
    if not lines:
        return np.zeros((0, columns))
    counts = {line.count(b" ") for line in lines}
    if len(counts) > 1:
        return None
    columns = counts.pop() + 1
    numbers = numbers_in(b"\n".join(lines), np.float64)
    return None if numbers is None or numbers.size != columns * len(lines) else numbers.reshape(-1, columns)


def numbers_in(text: bytes, kind: type[np.float64] | type[np.int64]) -> np.ndarray | None:
    """Parse numbers between blanks; None if there is anything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # given where the text has something else
        try:
            return np.fromstring(text, kind, sep=" ")
        except (DeprecationWarning, ValueError):
            return None


def _corners(
    faces: list[bytes],
) -> (
    tuple[Int[np.ndarray, " faces"], Int[np.ndarray, " corners"], Int[np.ndarray, " corners"] | None, Int[np.ndarray, " corners"] | None]
    | None
):
    """Parse faces whose corners are all of one form: v, v/t, v//n or v/t/n, counted from 1."""
    sizes = np.array([line.count(b" ") + 1 for line in faces])
    if int(sizes.min()) < 3:
        return None
    text = b" ".join(faces)
    if b"-" in text or b"+" in text or b"." in text:
        return None
    count = int(sizes.sum())
    bare = b"//" in text
    slashes = text.count(b"/") // count
    if slashes > 2:
        return None
    # Every corner must have its slashes in the same places, or numbers would be taken for others.
    marks = np.frombuffer(text + b" ", np.uint8)
    marks = marks[(marks == ord(" ")) | (marks == ord("/"))]
    expected = np.array(list(b"/" * slashes + b" "), np.uint8)
    if len(marks) != count * len(expected) or (marks.reshape(count, -1) != expected).any():
        return None
    if bare and (slashes != 2 or text.count(b"//") != count):
        return None
    numbers = numbers_in(text.replace(b"/", b" "), np.int64)
    width = slashes if bare else slashes + 1
    if numbers is None or numbers.size != width * count or int(numbers.min()) < 1 or int(numbers.max()) > _LARGEST_ROW:
        return None
    numbers = numbers.reshape(-1, width) - 1
    uv_rows, normal_rows = numbers[:, 1] if slashes and not bare else None, numbers[:, -1] if slashes == 2 else None
    return sizes, numbers[:, 0], uv_rows, normal_rows


class _Lines(NamedTuple):
    """The content of an OBJ file, as far as it has been read line by line."""

    positions: list[list[float]]
    """x, y, z, and whatever follows."""
    coordinates: list[tuple[float, float]]
    normals: list[tuple[float, float, float]]
    corners: list[tuple[int, int | None, int | None]]
    """Rows of position, texture coordinate and normal."""
    sizes: list[int]
    numbers: list[int]
    """Line of each face."""
    known: dict[str, tuple[int, int | None, int | None]]
    """Cache of parsed corners that do not depend on earlier lines."""


def _line_by_line(data: bytes) -> _Text:
    text = _Lines([], [], [], [], [], [], {})
    begun = ""
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        whole = begun + line.partition("#")[0].rstrip()
        if whole.endswith("\\"):
            begun = whole[:-1] + " "
            continue
        begun = ""
        try:
            _add_line(text, whole.split(), number)
        except ValueError as error:
            raise MeshFileError(f"line {number}, {line.strip()[:80]!r}: {error}") from error
    columns = 6 if all(len(row) >= 6 for row in text.positions) else 3
    rows = np.array([corner[0] for corner in text.corners], np.int64)
    _check_rows(text, rows, len(text.positions), "position")
    uv_rows = None
    if any(corner[1] is not None for corner in text.corners):
        uv_rows = np.array([-1 if corner[1] is None else corner[1] for corner in text.corners], np.int64)
        _check_rows(text, uv_rows, len(text.coordinates), "texture coordinate")
    normal_rows = np.array([-1 if corner[2] is None else corner[2] for corner in text.corners], np.int64)
    if not ((normal_rows >= 0) & (normal_rows < len(text.normals))).all():
        normal_rows = None
    return _Text(
        np.array([row[:columns] for row in text.positions], np.float64).reshape(-1, columns),
        np.array(text.coordinates, np.float64).reshape(-1, 2),
        np.array(text.sizes, np.int64),
        rows,
        uv_rows,
        np.array(text.normals, np.float64).reshape(-1, 3),
        normal_rows,
    )


def _check_rows(text: _Lines, rows: Int[np.ndarray, " corners"], count: int, kind: str) -> None:
    """Check that the corners name rows that exist by the end of the file."""
    beyond = np.flatnonzero(rows >= count)
    if len(beyond):
        face = int(np.searchsorted(np.cumsum(text.sizes), beyond[0], side="right"))
        raise MeshFileError(f"line {text.numbers[face]}: a face names a {kind} that is not among its {count}")


def _add_line(text: _Lines, words: list[str], number: int) -> None:
    kind = words[0] if words else ""
    if kind == "v":
        if len(words) < 4:
            raise ValueError("a position has three coordinates")
        text.positions.append([float(word) for word in words[1:]])
    elif kind == "vt":
        if len(words) < 2:
            raise ValueError("a texture coordinate has at least one number")
        text.coordinates.append((float(words[1]), float(words[2]) if len(words) > 2 else 0.0))
    elif kind == "vn" and len(words) > 3:
        text.normals.append((float(words[1]), float(words[2]), float(words[3])))
    elif kind == "f":
        if len(words) < 4:
            raise ValueError("a face has at least three corners")
        known = text.known
        text.corners.extend([known[word] if word in known else _corner(text, word) for word in words[1:]])
        text.sizes.append(len(words) - 1)
        text.numbers.append(number)


def _corner(text: _Lines, word: str) -> tuple[int, int | None, int | None]:
    """Parse ``v``, ``v/t``, ``v//n`` or ``v/t/n``, counted from 1, or backwards from the latest row with −1."""
    names = word.split("/")
    coordinate = _row(names[1], len(text.coordinates)) if len(names) > 1 and names[1] else None
    normal = _row(names[2], len(text.normals)) if len(names) > 2 and names[2] else None
    corner = _row(names[0], len(text.positions)), coordinate, normal
    if "-" not in word:
        text.known[word] = corner
    return corner


def _row(name: str, so_far: int) -> int:
    row = int(name[:40])
    if row == 0 or row < -so_far or row > _LARGEST_ROW:
        raise ValueError(f"there is no row {row}")
    return row - 1 if row > 0 else so_far + row


def obj_bytes(arrays: MeshArrays, frame: Frame, library: tuple[str, str] | None = None) -> bytes:
    """Write a mesh whose arrays are in the axes of the file.

    Float32 positions are written with nine significant digits, which reproduce them, float64 ones with fifteen.

    Args:
        arrays: the mesh.
        frame: stated in the first line.
        library: name of the MTL file beside it, and of the material in it.
    """
    digits = "%.9g" if arrays.vertices.dtype == np.float32 else "%.15g"
    text = [f"# {frame.comment}\n", *([] if library is None else [f"mtllib {library[0]}\n"])]
    if arrays.colors is None:
        text.append(_lines("v", [digits] * 3, arrays.vertices))
    else:
        text.append(_lines("v", [digits] * 3 + ["%.9g"] * 3, np.hstack([arrays.vertices, arrays.colors.clip(0, 1)])))
    corner, names = "%d", [arrays.faces]
    if arrays.uvs is not None and arrays.uv_faces is not None:
        upwards = np.stack([arrays.uvs[:, 0], 1 - arrays.uvs[:, 1].astype(np.float64)], axis=1)
        text.append(_lines("vt", ["%.9g"] * 2, upwards))
        corner, names = "%d/%d", [arrays.faces, arrays.uv_faces]
    if arrays.normals is not None:
        text.append(_lines("vn", ["%.9g"] * 3, arrays.normals))
        corner, names = corner + ("/%d" if len(names) > 1 else "//%d"), [*names, arrays.faces]
    text += [] if library is None else [f"usemtl {library[1]}\n"]
    text.append(_lines("f", [corner] * 3, 1 + np.stack(names, axis=-1)))
    return "".join(text).encode("ascii")


def _lines(kind: str, forms: list[str], rows: np.ndarray) -> str:
    """Write one line per row of [lines, words] or [lines, words, numbers]; ``forms`` has the format of each word."""
    return " ".join([kind, *forms, "\n"]).replace(" \n", "\n") * len(rows) % tuple(rows.reshape(-1).tolist())
