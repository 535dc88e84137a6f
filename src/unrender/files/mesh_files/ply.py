"""Reading and writing of PLY files: text, and binary of either byte order.

Trimesh does not do here: it reads colors by one name only, and loses them or the shape for some types and for concave polygons.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from unrender.files.mesh_files.arrays import Frame, MeshArrays, MeshFileError, checked, colors_from_codes, frame_in
from unrender.files.mesh_files.obj import numbers_in
from unrender.files.mesh_files.polygons import triangulated

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
    "int64": "i8", "uint64": "u8",
}  # fmt: skip

_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}

_COLOR_NAMES = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))

_LONGEST_HEADER = 2**20


@dataclass(frozen=True)
class _Property:
    name: str
    kind: str
    """NumPy's code of the numbers."""
    count: str | None = None
    """NumPy's code of the number in front of a list; None for a single number."""


@dataclass
class _Element:
    name: str
    rows: int
    properties: list[_Property] = field(default_factory=list)


@dataclass(frozen=True)
class _Lists:
    """The lists of one property, one after the other."""

    sizes: Int[np.ndarray, " rows"]
    numbers: np.ndarray


_Columns = dict[str, "np.ndarray | _Lists"]


def read_ply(data: bytes, *, own_axes: bool) -> MeshArrays:
    """Read positions, polygons or strips of triangles, and vertex colors.

    Args:
        data: the file.
        own_axes: keep the axes of the file, even if it tells those of the mesh.
    """
    order, elements, comments, start = _header(data)
    columns = _text_columns(elements, data[start:]) if order == "" else _binary_columns(elements, data, start, order)
    vertex = columns.get("vertex", {})
    axes = [vertex.get(name) for name in "xyz"]
    if any(not isinstance(axis, np.ndarray) for axis in axes):
        raise MeshFileError("its element vertex has no x, y and z")
    vertices = np.stack([np.asarray(axis, np.float64) for axis in axes], 1)
    sizes, corners = _polygons(columns)
    if len(sizes) == 0:
        raise MeshFileError("it holds no triangles; a point cloud is not a mesh")
    if int(sizes.min()) < 3:
        raise MeshFileError(f"face {int(sizes.argmin())}, counted from 0, has {int(sizes.min())} corners; it must have at least three")
    if int(corners.min()) < 0 or int(corners.max()) >= len(vertices):
        raise MeshFileError(f"a face names a vertex that is not among its {len(vertices)}")
    faces = corners[triangulated(vertices, sizes, corners)]
    arrays = checked(MeshArrays(vertices, faces, _colors(vertex)))
    frame = None if own_axes else next(filter(None, map(frame_in, comments)), None)
    return arrays if frame is None else frame.applied(arrays)


def _header(data: bytes) -> tuple[str, list[_Element], list[str], int]:
    """Parse the header: byte order, elements, comments, and the position of the first byte after it."""
    head = data[:_LONGEST_HEADER]
    found = re.search(rb"[\r\n]end_header[ \t]*[\r\n]", head)
    if not re.match(rb"ply\s", head) or found is None:
        raise MeshFileError("it has no PLY header, from `ply` to `end_header`")
    order, elements, comments = None, list[_Element](), list[str]()
    for line in head[: found.start()].decode("utf-8", "replace").replace("\r", "\n").split("\n"):
        words = line.split()
        if words[:1] == ["comment"]:
            comments.append(line)
        elif words[:1] == ["format"] and len(words) > 1:
            if words[1] not in _ORDERS:
                raise MeshFileError(f"its format is {words[1][:40]!r}; it must be ascii, binary_little_endian or binary_big_endian")
            order = _ORDERS[words[1]]
        elif words[:1] == ["element"]:
            if len(words) != 3 or not words[2].isdecimal():
                raise MeshFileError(f"{line.strip()[:80]!r} is not an element with a name and a number of rows")
            elements.append(_Element(words[1], int(words[2][:20])))
        elif words[:1] == ["property"]:
            if not elements:
                raise MeshFileError(f"{line.strip()[:80]!r} belongs to no element")
            elements[-1].properties.append(_property(line, words))
    if order is None:
        raise MeshFileError("its header names no format")
    # Lines end as the first one does; data may begin with a byte that looks like a line feed.
    return order, elements, comments, found.end() + head.startswith(b"ply\r\n")


def _property(line: str, words: list[str]) -> _Property:
    is_list = words[1:2] == ["list"]
    kinds = words[2:4] if is_list else words[1:2]
    if len(words) != len(kinds) + (3 if is_list else 2) or any(kind not in _TYPES for kind in kinds):
        raise MeshFileError(f"{line.strip()[:80]!r} is not a property of a known type with a name")
    codes = [_TYPES[kind] for kind in kinds]
    return _Property(words[-1], codes[-1], codes[0] if is_list else None)


def _text_columns(elements: list[_Element], text: bytes) -> dict[str, _Columns]:
    numbers = numbers_in(text, np.float64)
    if numbers is None:
        raise MeshFileError("its text holds something other than numbers")
    at, found = 0, dict[str, _Columns]()
    for element in elements:
        if not element.properties:
            continue
        if all(known.count is None for known in element.properties):
            width = len(element.properties)
            _require(len(numbers) - at, element, width)
            rows = numbers[at : at + element.rows * width].reshape(-1, width)
            at += rows.size
            found[element.name] = {known.name: _typed(rows[:, k], known.kind) for k, known in enumerate(element.properties)}
            continue
        _require(len(numbers) - at, element, len(element.properties))
        sizes, starts, at = _walk_text(element, numbers, at)
        columns: _Columns = {}
        for k, known in enumerate(element.properties):
            values = numbers[_ranges(starts[:, k], sizes[:, k])]
            columns[known.name] = _typed(values, known.kind) if known.count is None else _Lists(sizes[:, k], values)
        found[element.name] = columns
    return found


def _walk_text(element: _Element, numbers: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Find the number and the position of the values of each row and property, and the end of the element."""
    width = len(element.properties)
    lists = [known.count is not None for known in element.properties]
    if width == 1 and lists[0]:  # all rows as long as the first
        size = int(numbers[at]) if element.rows and 0 <= numbers[at] < len(numbers) else -1
        rows = numbers[at : at + element.rows * (size + 1)]
        if size >= 0 and rows.size == element.rows * (size + 1) and (rows[:: size + 1] == size).all():
            starts = at + 1 + np.arange(element.rows) * (size + 1)
            return np.full((element.rows, 1), size), starts[:, None], at + rows.size
    sizes, starts, end = [], [], len(numbers)
    for _ in range(element.rows):
        for is_list in lists:
            size = 1
            if is_list:
                size = numbers[at] if at < end else -1
                if not 0 <= size <= end:
                    raise _ended(element)
                size, at = int(size), at + 1
            sizes.append(size)
            starts.append(at)
            at += size
        if at > end:
            raise _ended(element)
    shape = (element.rows, width)
    return np.array(sizes, np.int64).reshape(shape), np.array(starts, np.int64).reshape(shape), at


def _typed(values: np.ndarray, kind: str) -> np.ndarray:
    """Return numbers of a text in the type of their property, so that colors are scaled by it."""
    limits = np.iinfo(kind) if kind in ("u1", "u2") else None
    if limits is None or not values.size or not np.isfinite(values).all() or values.min() < 0 or values.max() > limits.max:
        return values
    return values.astype(kind)


def _binary_columns(elements: list[_Element], data: bytes, at: int, order: str) -> dict[str, _Columns]:
    found = dict[str, _Columns]()
    for element in elements:
        if not element.properties:
            continue
        if all(known.count is None for known in element.properties):
            row = np.dtype([(f"{k}", order + known.kind) for k, known in enumerate(element.properties)])
            _require(len(data) - at, element, row.itemsize)
            rows = np.frombuffer(data, row, element.rows, at)
            at += rows.nbytes
            found[element.name] = {known.name: _native(rows[f"{k}"]) for k, known in enumerate(element.properties)}
            continue
        least = sum(np.dtype(known.count or known.kind).itemsize for known in element.properties)
        _require(len(data) - at, element, least)
        columns, at = _uniform_rows(element, data, at, order) or _walk_binary(element, data, at, order)
        found[element.name] = columns
    return found


def _uniform_rows(element: _Element, data: bytes, at: int, order: str) -> tuple[_Columns, int] | None:
    """Read rows whose lists are all as long as those of the first; None if they are not."""
    kinds, first = [], at
    for k, known in enumerate(element.properties):
        if known.count is None:
            kinds.append((f"{k}", order + known.kind))
            first += np.dtype(known.kind).itemsize
            continue
        count = np.dtype(order + known.count)
        size = np.frombuffer(data, count, 1, first)[0] if element.rows and first + count.itemsize <= len(data) else -1
        if not 0 <= size <= len(data) // element.rows:
            return None
        kinds += [(f"{k} count", order + known.count), (f"{k}", order + known.kind, (int(size),))]
        first += count.itemsize + int(size) * np.dtype(known.kind).itemsize
    row = np.dtype(kinds)
    if element.rows * row.itemsize > len(data) - at:
        return None
    rows = np.frombuffer(data, row, element.rows, at)
    columns: _Columns = {}
    for k, known in enumerate(element.properties):
        if known.count is None:
            columns[known.name] = _native(rows[f"{k}"])
            continue
        sizes = rows[f"{k} count"].astype(np.int64)
        if (sizes != sizes[0]).any():
            return None
        columns[known.name] = _Lists(sizes, _native(rows[f"{k}"]).reshape(-1))
    return columns, at + rows.nbytes


def _walk_binary(element: _Element, data: bytes, at: int, order: str) -> tuple[_Columns, int]:
    """Read rows with lists of different lengths."""
    counts = [None if known.count is None else np.dtype(order + known.count) for known in element.properties]
    widths = [np.dtype(known.kind).itemsize for known in element.properties]
    signed = [count is not None and count.kind == "i" for count in counts]
    if any(count is not None and count.kind == "f" for count in counts):
        raise MeshFileError(f"a list of its element {element.name} is counted by a fraction")
    byte_order = "big" if order == ">" else "little"
    sizes, starts = [], []
    for _ in range(element.rows):
        for count, width, has_sign in zip(counts, widths, signed, strict=True):
            size = 1
            if count is not None:
                size = int.from_bytes(data[at : at + count.itemsize], byte_order, signed=has_sign)
                at += count.itemsize
                if size < 0:
                    raise MeshFileError(f"a list of its element {element.name} has {size} numbers")
            sizes.append(size)
            starts.append(at)
            at += size * width
        if at > len(data):
            raise _ended(element)
    shape = (element.rows, len(counts))
    size_table, start_table = np.array(sizes, np.int64).reshape(shape), np.array(starts, np.int64).reshape(shape)
    buffer = np.frombuffer(data, np.uint8)
    columns: _Columns = {}
    for k, known in enumerate(element.properties):
        taken = buffer[_ranges(start_table[:, k], size_table[:, k] * widths[k])]
        numbers = _native(taken.view(order + known.kind))
        columns[known.name] = numbers if known.count is None else _Lists(size_table[:, k], numbers)
    return columns, at


def _native(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype(numbers.dtype.newbyteorder("="))


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> Int[np.ndarray, " positions"]:
    """Return the positions start, start + 1, ... of each row, one row after the other.

    >>> _ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    return np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))


def _require(left: int, element: _Element, width: int) -> None:
    if element.rows * width > left:
        raise _ended(element)


def _ended(element: _Element) -> MeshFileError:
    return MeshFileError(f"it ends before the {element.rows} rows of its element {element.name} do")


def _polygons(columns: dict[str, _Columns]) -> tuple[Int[np.ndarray, " polygons"], Int[np.ndarray, " corners"]]:
    """Return the size of each polygon, and the corners of all."""
    face, strips = columns.get("face", {}), columns.get("tristrips", {})
    polygons = next((face[name] for name in ("vertex_indices", "vertex_index") if name in face), _first_list(face))
    strip = _first_list(strips)
    sizes, corners = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if isinstance(polygons, _Lists):
        sizes, corners = polygons.sizes, _rows(polygons.numbers)
    if strip is not None:
        triangles = _strip_triangles(_rows(strip.numbers))
        sizes, corners = np.concatenate([sizes, np.full(len(triangles), 3)]), np.concatenate([corners, triangles.reshape(-1)])
    return sizes, corners


def _first_list(columns: _Columns) -> _Lists | None:
    lists = [column for column in columns.values() if isinstance(column, _Lists)]
    return lists[0] if lists else None


def _rows(numbers: np.ndarray) -> Int[np.ndarray, " corners"]:
    if numbers.size and not np.isfinite(numbers).all():
        raise MeshFileError("a face names a vertex by something that is not a finite number")
    return numbers.clip(-(2**31), 2**31).astype(np.int64)


def _strip_triangles(rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, "triangles 3"]:
    """Return the triangles of strips that are separated by −1; every second one is reversed."""
    new = np.concatenate([[True], rows[:-1] == -1]) if len(rows) else np.zeros(0, np.bool_)
    place = np.arange(len(rows))
    within = place - np.maximum.accumulate(np.where(new, place, 0))
    last = np.flatnonzero((within >= 2) & (rows >= 0))
    triangles = np.stack([rows[last - 2], rows[last - 1], rows[last]], 1)
    odd = within[last] % 2 == 1
    triangles[odd] = triangles[odd][:, [1, 0, 2]]
    return triangles[(triangles != np.roll(triangles, 1, axis=1)).all(1)]


def _colors(vertex: _Columns) -> Float[np.ndarray, "vertices 3"] | None:
    for names in _COLOR_NAMES:
        channels = [vertex.get(name) for name in names]
        if all(isinstance(channel, np.ndarray) for channel in channels):
            return colors_from_codes(np.stack([np.asarray(channel) for channel in channels], 1))
    return None


def ply_bytes(arrays: MeshArrays, frame: Frame | None) -> bytes:
    """Write a binary little-endian PLY, with positions in their own precision and sRGB colors as bytes.

    Args:
        arrays: in the axes of the file.
        frame: the frame of the mesh, if the file has other axes.
    """
    position = "<f4" if arrays.vertices.dtype == np.float32 else "<f8"
    columns = [(name, position, arrays.vertices[:, k]) for k, name in enumerate("xyz")]
    if arrays.normals is not None:
        columns += [(name, "<f4", arrays.normals[:, k]) for k, name in enumerate(("nx", "ny", "nz"))]
    if arrays.colors is not None:
        codes = np.rint(arrays.colors.clip(0, 1) * 255)
        columns += [(name, "u1", codes[:, k]) for k, name in enumerate(_COLOR_NAMES[0])]
    rows = np.empty(len(arrays.vertices), [(name, kind) for name, kind, _ in columns])
    for name, _, column in columns:
        rows[name] = column
    faces = np.empty(len(arrays.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, arrays.faces
    names = {"<f4": "float", "<f8": "double", "u1": "uchar"}
    head = [
        "ply",
        "format binary_little_endian 1.0",
        "comment unrender" if frame is None else f"comment {frame.comment}",
        f"element vertex {len(rows)}",
        *(f"property {names[kind]} {name}" for name, kind, _ in columns),
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    return "\n".join(head).encode("ascii") + rows.tobytes() + faces.tobytes()
