"""Reading of glTF 2.0: ``.glb``, and ``.gltf`` with buffers in files beside it or inside it.

Read are the triangles of all primitives of the scene, with the transforms of their nodes, vertex colors, texture coordinates, and normals
with tangents. Skins and morph targets are not applied: the mesh has the shape that is stored. Trimesh does not do here: it rounds colors to
bytes and keeps them as linear light.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
import torch
from jaxtyping import Float, Int

from unrender.color import srgb_from_linear
from unrender.files.mesh_files.arrays import FRAME_KEY, Y_UP, Z_UP, Frame, MeshArrays, MeshFileError, checked, read_regular

GLB_MAGIC = 0x46546C67
JSON_CHUNK = 0x4E4F534A
BINARY_CHUNK = 0x004E4942
Z_UP_FROM_Y_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])

_TYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_CHANNELS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6

_SPARE_ROWS = 2**22
"""Vertices and triangles that a file may have beyond one for each of its bytes: nodes may repeat a mesh."""

_COMPRESSION = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_meshopt_compression")
_HARMLESS = ("KHR_mesh_quantization", "KHR_lights_punctual", "KHR_animation_pointer", "KHR_xmp_json_ld", "MSFT_texture_dds")
"""Extensions that a file may require, besides those of materials and textures."""

_HARMLESS_BEGINNINGS = ("KHR_materials_", "KHR_texture_", "EXT_texture_")


class _Primitive(NamedTuple):
    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    linear: Float[np.ndarray, "#vertices 3"] | None
    """Color in linear light, one for each vertex or one for all."""
    uvs: Float[np.ndarray, "vertices 2"] | None
    normals: Float[np.ndarray, "vertices 3"] | None
    tangents: Float[np.ndarray, "vertices 4"] | None
    """None unless there are texture coordinates and normals."""
    material: int
    """−1 without one."""


def read_gltf(data: bytes, path: Path, *, own_axes: bool) -> MeshArrays:
    """Read a glTF file.

    A file that tells the frame of its mesh is turned back to it. Others are turned from +Y up, the axes of the format, to +Z up.

    Args:
        data: the file.
        path: of the file, for buffers in its folder.
        own_axes: keep the axes of the format.
    """
    document = GltfDocument(data, path)
    primitives = list(document.primitives())
    if not primitives:
        raise MeshFileError("it holds no triangles; a point cloud is not a mesh")
    offsets = np.cumsum([0, *(len(primitive.vertices) for primitive in primitives)])
    vertices = np.concatenate([primitive.vertices for primitive in primitives])
    faces = np.concatenate([primitive.faces + offset for primitive, offset in zip(primitives, offsets, strict=False)])
    colors = uvs = None
    if any(primitive.linear is not None for primitive in primitives):
        linear = [
            np.broadcast_to(np.ones((1, 3)) if primitive.linear is None else primitive.linear, primitive.vertices.shape)
            for primitive in primitives
        ]
        colors = srgb_from_linear(torch.from_numpy(np.nan_to_num(np.concatenate(linear)).clip(0, 1))).numpy()
    materials = np.repeat([primitive.material for primitive in primitives], [len(primitive.faces) for primitive in primitives])
    uv_faces = None
    if any(primitive.uvs is not None for primitive in primitives):
        uvs = np.concatenate([np.zeros((len(one.vertices), 2)) if one.uvs is None else one.uvs for one in primitives])
        has_coordinates = np.repeat([one.uvs is not None for one in primitives], [len(one.faces) for one in primitives])
        uv_faces = np.where(has_coordinates[:, None], faces, -1)
    frame = None if own_axes else document.frame
    tangents = [primitive.tangents for primitive in primitives if primitive.tangents is not None]
    normals = [primitive.normals for primitive in primitives if primitive.normals is not None]
    arrays = MeshArrays(vertices, faces, colors, uvs=uvs, uv_faces=uv_faces, up=Y_UP, materials=materials)
    if len(normals) == len(primitives):
        arrays = arrays._replace(normals=np.concatenate(normals))
    if len(tangents) == len(primitives):
        arrays = arrays._replace(tangents=np.concatenate(tangents))
    if frame is not None:
        arrays = frame.applied(arrays)
    elif not own_axes:
        arrays = Frame(Z_UP_FROM_Y_UP, Z_UP).applied(arrays)
    return checked(arrays)


class GltfDocument:
    """The JSON of a file, and its buffers."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.path = path
        self.chunk: bytes | None = None
        text = data
        if data[:4] == struct.pack("<I", GLB_MAGIC):
            text, self.chunk = _chunks(data)
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MeshFileError(f"its JSON cannot be parsed ({str(error)[:80]})") from error
        if not isinstance(document, dict):
            raise MeshFileError("its JSON is not an object")
        self.json: dict[str, Any] = document
        version = str(self.json.get("asset", {}).get("version", ""))
        if not version.startswith("2."):
            raise MeshFileError(f"it is glTF {version[:20] or 'without a version'}; it must be glTF 2.0")
        self._buffers: dict[int, bytes] = {}
        self._meshes: dict[int, list[_Primitive]] = {}
        self._check_extensions()
        self._left = len(data) + _SPARE_ROWS

    def _check_extensions(self) -> None:
        for name in self.json.get("extensionsRequired", []):
            if name in _COMPRESSION:
                raise _compressed(name)
            if name not in _HARMLESS and not str(name).startswith(_HARMLESS_BEGINNINGS):
                raise MeshFileError(f"it requires the extension {str(name)[:80]}, which is not read; write the file without it")

    @property
    def frame(self) -> Frame | None:
        """The frame of the mesh, in a file that we wrote."""
        extras = self.json.get("asset", {}).get("extras")
        if not isinstance(extras, dict) or FRAME_KEY not in extras:
            return None
        rotation = [float(number) for row in extras[FRAME_KEY] for number in row]
        return Frame.of([*rotation, *map(float, extras.get("up_in_source", Z_UP))])

    def primitives(self) -> Iterator[_Primitive]:
        """Yield the triangles of every mesh in the scene, in the axes of the file."""
        for mesh, matrix in self._placed_meshes():
            determinant = float(np.linalg.det(matrix[:3, :3]))
            if determinant == 0 or not np.isfinite(determinant):
                continue  # a scale of zero hides a node
            for primitive in self._primitives_of(mesh):
                self._spend(len(primitive.vertices) + len(primitive.faces))
                yield _placed(primitive, matrix)

    def _primitives_of(self, mesh: int) -> list[_Primitive]:
        """Return the triangles of a mesh, in its own axes."""
        if mesh not in self._meshes:
            described = _need(self._item("meshes", mesh), "primitives", f"mesh {mesh}")
            found = [self._primitive(primitive) for primitive in described]
            self._meshes[mesh] = [primitive for primitive in found if primitive is not None]
        return self._meshes[mesh]

    def _spend(self, rows: int) -> None:
        self._left -= rows
        if self._left < 0:
            raise MeshFileError("its nodes repeat meshes too often, so that it has many times more triangles than bytes")

    def _placed_meshes(self) -> Iterator[tuple[int, Float[np.ndarray, "4 4"]]]:
        """Yield each mesh of the scene with the matrix of its node. A file without nodes has its meshes as they are."""
        nodes: list[Any] = self.json.get("nodes", [])
        if not nodes:
            yield from ((mesh, np.eye(4)) for mesh in range(len(self.json.get("meshes", []))))
            return
        scenes: list[Any] = self.json.get("scenes", [])
        if scenes:
            roots = _item(scenes, self.json.get("scene", 0), "scenes").get("nodes", [])
        else:
            children = {child for node in nodes for child in node.get("children", [])}
            roots = [node for node in range(len(nodes)) if node not in children]
        pending, visited = [(root, np.eye(4)) for root in reversed(roots)], set[int]()
        while pending:
            index, above = pending.pop()
            node = _item(nodes, index, "nodes")
            if index in visited:
                raise MeshFileError(f"its node {index} has two parents, or is its own ancestor")
            visited.add(index)
            matrix = above @ _local_matrix(node, index)
            if "mesh" in node:
                if "EXT_mesh_gpu_instancing" in node.get("extensions", {}):
                    raise MeshFileError("it uses the extension EXT_mesh_gpu_instancing, which is not read; write the file without it")
                # The format places a skinned mesh by its joints alone.
                yield node.get("mesh", -1), np.eye(4) if "skin" in node else matrix
            pending.extend((child, matrix) for child in reversed(node.get("children", [])))

    def _primitive(self, described: dict[str, Any]) -> _Primitive | None:
        """Read the triangles of a primitive; None for points, lines, and triangles without positions."""
        mode, attributes = described.get("mode", _TRIANGLES), _need(described, "attributes", "a primitive")
        if mode not in (_TRIANGLES, _STRIP, _FAN) or "POSITION" not in attributes:
            return None
        position = attributes.get("POSITION", -1)
        if "bufferView" not in self._item("accessors", position) and _COMPRESSION[0] in described.get("extensions", {}):
            raise _compressed(_COMPRESSION[0])
        vertices = self._numbers(position, 3)
        if "indices" in described:
            rows = self._accessor(described.get("indices", -1)).reshape(-1).astype(np.int64)
        else:
            rows = np.arange(len(vertices))
        if rows.size and int(rows.max()) >= len(vertices):
            raise MeshFileError(f"a triangle names vertex {int(rows.max())}, counted from 0, and its primitive has {len(vertices)}")
        faces = _triangles(rows, mode)
        if len(faces) == 0:
            return None
        material = self._item("materials", described.get("material", -1)) if "material" in described else {}
        surface = material.get("pbrMetallicRoughness", {})
        texture = surface.get("baseColorTexture")
        factor = np.array(surface.get("baseColorFactor", [1.0] * 4), np.float64)[:3]
        linear = None
        if "COLOR_0" in attributes:
            linear = self._numbers(attributes.get("COLOR_0", -1), 3, rows=len(vertices), one=True) * factor
        elif texture is None and (factor != 1).any():
            linear = factor[None]
        name = f"TEXCOORD_{0 if texture is None else texture.get('texCoord', 0)}"
        uvs = self._numbers(attributes[name], 2, rows=len(vertices), one=True) if name in attributes else None
        normals = tangents = None
        texture = material.get("normalTexture", {})
        if "NORMAL" in attributes:
            normals = self._numbers(attributes["NORMAL"], 3, rows=len(vertices))
            normals = normals if np.isfinite(normals).all() else None
        if uvs is not None and normals is not None and "TANGENT" in attributes and name == f"TEXCOORD_{texture.get('texCoord', 0)}":
            tangents = self._numbers(attributes["TANGENT"], 4, rows=len(vertices))
            tangents = tangents if np.isfinite(tangents).all() else None
        return _Primitive(vertices, faces, linear, uvs, normals, tangents, int(described.get("material", -1)))

    def _numbers(self, accessor: int, channels: int, *, rows: int | None = None, one: bool = False) -> Float[np.ndarray, "rows channels"]:
        """Read an accessor as numbers, and keep its first channels.

        Args:
            accessor: its number in the file.
            channels: how many are wanted.
            rows: how many there must be.
            one: integers stand for 0 to 1 even if the file forgets to say so.
        """
        stored = self._accessor(accessor)
        if stored.shape[1] < channels or (rows is not None and len(stored) != rows):
            raise MeshFileError(
                f"its accessor {accessor} is {list(stored.shape)}; it must be [{'rows' if rows is None else rows}, {channels}]"
            )
        numbers = stored[:, :channels].astype(np.float64)
        if stored.dtype.kind != "f" and (one or self._item("accessors", accessor).get("normalized", False)):
            numbers = np.maximum(numbers / np.iinfo(stored.dtype).max, -1.0)
        return numbers

    def _accessor(self, index: int) -> np.ndarray:
        """Return the stored numbers of an accessor [rows, channels]."""
        accessor, owner = self._item("accessors", index), f"accessor {index}"
        count, kind = _count(accessor, "count", owner), _kind(accessor, owner)
        channels = _CHANNELS.get(accessor.get("type", ""), 0)
        if channels == 0:
            raise MeshFileError(f"its {owner} has the type {str(accessor.get('type'))[:20]}; it must be {', '.join(_CHANNELS)}")
        if "bufferView" in accessor:
            numbers = self._view(accessor, owner, kind, count, channels)
        else:  # zeros, which a sparse part may replace
            self._spend(count)
            numbers = np.zeros((count, channels), kind)
        if "sparse" in accessor:
            owner = f"sparse part of accessor {index}"
            sparse = _need(accessor, "sparse", owner)
            places, changed = _need(sparse, "indices", owner), _count(sparse, "count", owner)
            rows = self._view(places, owner, _kind(places, owner), changed, 1).reshape(-1)
            if rows.dtype.kind != "u" or (rows.size and int(rows.max()) >= count):
                raise MeshFileError(f"the {owner} does not replace rows from 0 to {count - 1}")
            numbers = numbers.copy()
            numbers[rows] = self._view(_need(sparse, "values", owner), owner, kind, changed, channels)
        return numbers

    def _item(self, name: str, index: Any) -> dict[str, Any]:
        return _item(self.json.get(name, []), index, name)

    def _view(self, described: dict[str, Any], owner: str, kind: np.dtype, count: int, channels: int) -> np.ndarray:
        """Return the numbers [rows, channels] of a buffer view that an accessor names, without copying them."""
        offset, index = _count(described, "byteOffset", owner, 0), described.get("bufferView", -1)
        view, name, size = self._item("bufferViews", index), f"bufferView {index}", channels * kind.itemsize
        for extension in _COMPRESSION[1:]:
            if extension in view.get("extensions", {}):
                raise _compressed(extension)
        stride = _count(view, "byteStride", name, 0) or size
        start, length = _count(view, "byteOffset", name, 0), _count(view, "byteLength", name)
        buffer = self._buffer(view.get("buffer", -1))
        last = offset + (count - 1) * stride + size if count else offset
        if stride < size or last > length or start + length > len(buffer):
            raise MeshFileError(f"its {name} ends before the {count} rows of an accessor do, or its buffer is cut short")
        return np.ndarray((count, channels), kind, buffer, start + offset, (stride, kind.itemsize))

    def view_bytes(self, index: int) -> bytes:
        """Return the bytes of a buffer view, as pictures are stored."""
        view, name = self._item("bufferViews", index), f"bufferView {index}"
        start, length = _count(view, "byteOffset", name, 0), _count(view, "byteLength", name)
        buffer = self._buffer(view.get("buffer", -1))
        if start + length > len(buffer):
            raise MeshFileError(f"its {name} ends behind its buffer")
        return buffer[start : start + length]

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            uri = self._item("buffers", index).get("uri")
            if uri is None:
                if index != 0 or self.chunk is None:
                    raise MeshFileError(f"its buffer {index} has no data")
                self._buffers[index] = self.chunk
            else:
                self._buffers[index] = file_or_data(str(uri), self.path)
                self._left += len(self._buffers[index])
        return self._buffers[index]


def _placed(primitive: _Primitive, matrix: Float[np.ndarray, "4 4"]) -> _Primitive:
    """Return the triangles under the transform of a node; a mirroring one reverses their order and the handedness of tangents."""
    linear, sign = matrix[:3, :3], float(np.sign(np.linalg.det(matrix[:3, :3])))
    normals, tangents = primitive.normals, primitive.tangents
    if normals is not None:
        normals = _unit(normals @ np.linalg.inv(linear))
    if tangents is not None:
        handedness = np.where(tangents[:, 3:] < 0, -sign, sign)
        tangents = np.concatenate([_unit(tangents[:, :3] @ linear.T), handedness], 1)
    return primitive._replace(
        vertices=primitive.vertices @ linear.T + matrix[:3, 3],
        faces=primitive.faces[:, ::-1] if sign < 0 else primitive.faces,
        normals=normals,
        tangents=tangents,
    )


def _unit(vectors: Float[np.ndarray, "rows 3"]) -> Float[np.ndarray, "rows 3"]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def _chunks(data: bytes) -> tuple[bytes, bytes | None]:
    """Return the JSON and the binary chunk of a GLB."""
    if len(data) < 20:
        raise MeshFileError("it is cut short within its header")
    _, version, total = struct.unpack_from("<III", data)
    if version != 2 or total > len(data):
        raise MeshFileError(
            f"it is version {version} with {total} bytes, of which there are {len(data)}; it must be a whole GLB of version 2"
        )
    found: dict[int, bytes] = {}
    at = 12
    while at + 8 <= total:
        length, kind = struct.unpack_from("<II", data, at)
        if at + 8 + length > total:
            raise MeshFileError("a chunk of it is cut short")
        found.setdefault(kind, data[at + 8 : at + 8 + length])
        at += 8 + length
    if JSON_CHUNK not in found:
        raise MeshFileError("it has no JSON chunk")
    return found[JSON_CHUNK], found.get(BINARY_CHUNK)


def file_or_data(uri: str, path: Path) -> bytes:
    """Return the bytes behind a URI: data inside it, or a file in the folder of the mesh.

    Raises:
        MeshFileError: the file is elsewhere or not there.
    """
    if uri[:5].lower() == "data:":
        head, comma, payload = uri.partition(",")
        if not comma:
            raise MeshFileError("a data URI of it has no data")
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(payload)
        try:
            return base64.b64decode(unquote(payload), validate=True)
        except ValueError as error:
            raise MeshFileError(f"the base64 of a data URI cannot be decoded ({error})") from error
    name = unquote(uri)
    folder = path.parent.resolve()
    if "://" in name or "\0" in name or not (target := (folder / name).resolve()).is_relative_to(folder):
        raise MeshFileError(f"its file {name[:80]!r} is not in the folder of the file; move it there")
    if not target.is_file():
        raise MeshFileError(f"its file {name[:80]!r} is not in {path.parent}; copy that file too")
    return read_regular(target)


def _compressed(extension: str) -> MeshFileError:
    return MeshFileError(f"its triangles are compressed with {extension}, which is not read; write the file without compression")


def _item(items: list[Any], index: Any, kind: str) -> dict[str, Any]:
    """Return an entry of a list of the file.

    Raises:
        MeshFileError: there is none.
    """
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(items) or not isinstance(items[index], dict):
        raise MeshFileError(f"entry {str(index)[:20]} of its {kind}, counted from 0, does not exist; there are {len(items)}")
    return items[index]


def _need(described: dict[str, Any], name: str, owner: str) -> Any:
    """Return a value that the format prescribes.

    Raises:
        MeshFileError: it is missing.
    """
    if name not in described:
        raise MeshFileError(f"{owner} has no {name}")
    return described[name]


def _kind(described: dict[str, Any], owner: str) -> np.dtype:
    kind = _TYPES.get(described.get("componentType", 0))
    if kind is None:
        raise MeshFileError(f"its {owner} has the componentType {str(described.get('componentType'))[:20]}; glTF has {list(_TYPES)}")
    return np.dtype(kind).newbyteorder("<")


def _count(described: dict[str, Any], name: str, owner: str, default: int | None = None) -> int:
    value = described.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
        raise MeshFileError(f"{name} of its {owner} is {str(value)[:20]}; it must be an integer of zero or more")
    return value


def _local_matrix(node: dict[str, Any], index: int) -> Float[np.ndarray, "4 4"]:
    """Return the transform of a node: its matrix, stored by columns, or translation · rotation · scale."""
    if "matrix" in node:
        matrix = np.array(node["matrix"], np.float64).reshape(4, 4).T
    else:
        x, y, z, w = (float(number) for number in node.get("rotation", (0.0, 0.0, 0.0, 1.0)))
        length = x * x + y * y + z * z + w * w
        s = 2 / length if length > 0 else 0.0
        rotation = np.array(
            [
                [1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)],
                [s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x)],
                [s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y)],
            ]
        )
        matrix = np.eye(4)
        matrix[:3, :3] = rotation * np.array(node.get("scale", (1.0, 1.0, 1.0)), np.float64).reshape(3)
        matrix[:3, 3] = np.array(node.get("translation", (0.0, 0.0, 0.0)), np.float64).reshape(3)
    if not np.isfinite(matrix).all():
        raise MeshFileError(f"the transform of its node {index} is not finite")
    return matrix


def _triangles(rows: Int[np.ndarray, " rows"], mode: int) -> Int[np.ndarray, "triangles 3"]:
    """Return the triangles of a list, a strip or a fan, without those that join the parts of a strip.

    >>> _triangles(np.array([7, 8, 9, 4]), 5).tolist(), _triangles(np.array([7, 8, 9, 4]), 6).tolist()
    ([[7, 8, 9], [8, 4, 9]], [[8, 9, 7], [9, 4, 7]])
    """
    if mode == _TRIANGLES:
        return rows[: len(rows) // 3 * 3].reshape(-1, 3)
    first = np.arange(max(0, len(rows) - 2))
    if mode == _FAN:
        return np.stack([rows[first + 1], rows[first + 2], np.broadcast_to(rows[:1], first.shape)], 1)
    odd = first % 2
    triangles = np.stack([rows[first], rows[first + 1 + odd], rows[first + 2 - odd]], 1)
    return triangles[(triangles != np.roll(triangles, 1, axis=1)).all(1)]
