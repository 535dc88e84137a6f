"""Triangle meshes in PLY, OBJ and GLB files.

Content of each format:

- ``.ply``: binary little endian, float32 positions and normals, sRGB vertex colors as bytes.
- ``.obj``: text; vertex colors follow the position, ``v x y z r g b``, sRGB from 0 to 1. Texture coordinates have their own rows (``vt``),
  so vertices are not split along texture seams; there v grows upwards.
- ``.glb``: glTF 2.0. Its up axis is +Y, so a root node rotates a +Z-up mesh upright; the stored positions are unchanged. Vertex colors
  are linear light there (``COLOR_0``), so they are converted; they are omitted if a texture has the base color, because readers multiply
  the two. The material is double-sided; without textures it is non-metallic and fully rough; textures are embedded as PNG, the base color
  as sRGB. A vertex has one texture coordinate (``TEXCOORD_0``), so vertices along texture seams are written once per texture coordinate.

This module uses arrays, not :class:`unrender.geometry.mesh.Mesh`.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from PIL import Image
from trimesh.exchange.ply import export_ply
from trimesh.visual.color import ColorVisuals

from unrender.color import linear_from_srgb, srgb_from_linear
from unrender.files.atomic import write_bytes

SUFFIXES = (".ply", ".obj", ".glb")

_LARGEST_ROW = 2**31 - 1
"""Upper limit on the rows of one kind in a mesh file."""

_GLB_MAGIC = 0x46546C67
_JSON_CHUNK = 0x4E4F534A
_BINARY_CHUNK = 0x004E4942
_FLOAT = 5126
_UNSIGNED_INT = 5125
_ARRAY_BUFFER = 34962
_ELEMENT_ARRAY_BUFFER = 34963
_POSITION = "POSITION"
_LINEAR = 9729
_LINEAR_MIPMAP_LINEAR = 9987
_REPEAT = 10497
_COMPONENTS = {5121: (np.uint8, 255.0), 5123: (np.uint16, 65535.0), _FLOAT: (np.float32, 1.0)}
_Y_UP_FROM_Z_UP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


class MeshArrays(NamedTuple):
    """The content of a mesh file."""

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    colors: Float[np.ndarray, "vertices 3"] | None = None
    """sRGB, 0 to 1."""
    normals: Float[np.ndarray, "vertices 3"] | None = None
    uvs: Float[np.ndarray, "coordinates 2"] | None = None
    """(0, 0) is the top left corner of the texture's image, as in glTF; in an OBJ v grows upwards, and is flipped on reading."""
    uv_faces: Int[np.ndarray, "faces 3"] | None = None


class MaterialArrays(NamedTuple):
    """The textures and factors of a glTF metallic-roughness material; row 0 is the top of each image."""

    base_color: Float[torch.Tensor, "height width channels"] | None = None
    """Linear light, three channels, or four with opacity."""
    roughness_metallic: Float[torch.Tensor, "roughness_height roughness_width 2"] | None = None
    normal: Float[torch.Tensor, "normal_height normal_width 3"] | None = None
    """Unit vectors in tangent space."""
    roughness: float = 1.0
    metallic: float = 0.0

    @property
    def has_textures(self) -> bool:
        return any(texture is not None for texture in (self.base_color, self.roughness_metallic, self.normal))


def write(path: Path, arrays: MeshArrays, *, z_up: bool, material: MaterialArrays | None = None) -> None:
    """Write a mesh atomically: readers of ``path`` see the old or the new file, never a part.

    Raises:
        ValueError: the suffix is not .ply, .obj or .glb, or positions or texture coordinates are not finite.
        FileNotFoundError: the folder does not exist.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"cannot write a mesh to {path}: the suffix {path.suffix!r} is not one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    for name, rows in (("vertices", arrays.vertices), ("texture coordinates", arrays.uvs)):
        broken = 0 if rows is None else int((~np.isfinite(rows).all(1)).sum())
        if rows is not None and broken:
            raise ValueError(f"cannot write {path}: {broken} of {len(rows)} {name} are not finite numbers")
    if material is not None and material.has_textures and arrays.uvs is None:
        raise ValueError(f"cannot write {path}: a material with textures needs a mesh with texture coordinates; unwrap it first")
    if suffix == ".glb":
        data = _glb_bytes(arrays, z_up, material or MaterialArrays())
    else:
        data = _obj_bytes(arrays) if suffix == ".obj" else _ply_bytes(arrays)
    write_bytes(path, data)


def read(path: Path, *, z_up: bool) -> MeshArrays:
    """Read positions, triangles, vertex colors and texture coordinates.

    Polygons become triangles, and the components of a scene one mesh. Colors and texture coordinates of a GLB are read only if it has a
    single component.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no triangles or cannot be parsed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no mesh file {path}")
    suffix = path.suffix.lower()
    if suffix == ".obj":
        return _obj_arrays(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            loaded = trimesh.load_mesh(path, process=False, maintain_order=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a mesh ({error}); give a PLY, OBJ, GLB, STL or OFF file") from error
    faces = np.asarray(loaded.faces) if isinstance(loaded, trimesh.Trimesh) else np.zeros((0, 3), np.int64)
    if len(faces) == 0:
        raise ValueError(f"{path} holds no triangles; a point cloud is not a mesh")
    vertices = np.asarray(loaded.vertices)
    if suffix != ".glb":
        visual = loaded.visual
        colors = visual.vertex_colors[:, :3] / 255.0 if isinstance(visual, ColorVisuals) and visual.kind == "vertex" else None
        return MeshArrays(vertices, faces, colors)
    if z_up:
        vertices = vertices @ _Y_UP_FROM_Z_UP[:3, :3]
    data = path.read_bytes()
    linear, uvs = _glb_attribute(data, "COLOR_0"), _glb_attribute(data, "TEXCOORD_0")
    colors = None
    if linear is not None and len(linear) == len(vertices):
        colors = srgb_from_linear(torch.from_numpy(linear[:, :3])).numpy()
    if uvs is None or len(uvs) != len(vertices):
        return MeshArrays(vertices, faces, colors)
    return MeshArrays(vertices, faces, colors, uvs=uvs, uv_faces=faces)


def _obj_arrays(path: Path) -> MeshArrays:
    """Read the ``v``, ``vt`` and ``f`` lines of an OBJ.

    Texture coordinates are read only where every corner of every face has one. Trimesh is of no use here: it keeps one coordinate per
    vertex, which tears the texture at its seams or the mesh along them.
    """
    text = _ObjText([], [], [], [], {})
    begun = ""
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        whole = begun + line.partition("#")[0].rstrip()
        if whole.endswith("\\"):
            begun = whole[:-1] + " "
            continue
        begun = ""
        try:
            _add_obj_line(text, whole.split(), number)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read as a mesh: line {number}, {line.strip()[:80]!r}: {error}") from error
    if not text.corners:
        raise ValueError(f"{path} holds no triangles; a point cloud is not a mesh")
    positions = np.array([row[:3] for row in text.positions], np.float64).reshape(-1, 3)
    faces = _obj_rows(path, text, 0, len(positions), "position")
    colors = None
    if all(len(row) >= 6 for row in text.positions):
        colors = np.array([row[3:6] for row in text.positions], np.float64)
        colors = colors / 255 if colors.max() > 1 else colors
    if any(corner[1] is None for corner in text.corners):
        return MeshArrays(positions, faces, colors)
    uvs = np.array(text.coordinates, np.float64).reshape(-1, 2)
    uv_faces = _obj_rows(path, text, 1, len(uvs), "texture coordinate")
    uvs[:, 1] = 1 - uvs[:, 1]
    return MeshArrays(positions, faces, colors, uvs=uvs, uv_faces=uv_faces)


class _ObjText(NamedTuple):
    """The content of an OBJ file, as far as it has been read."""

    positions: list[list[float]]
    """x, y, z, and whatever follows."""
    coordinates: list[tuple[float, float]]
    corners: list[tuple[int, int | None]]
    """Rows of position and texture coordinate, three pairs for each triangle."""
    lines: list[int]
    """Line of each triangle."""
    known: dict[str, tuple[int, int | None]]
    """Cache of parsed corners that do not depend on earlier lines."""


def _add_obj_line(text: _ObjText, words: list[str], number: int) -> None:
    kind = words[0] if words else ""
    if kind == "v":
        if len(words) < 4:
            raise ValueError("a position has three coordinates")
        text.positions.append([float(word) for word in words[1:]])
    elif kind == "vt":
        if len(words) < 2:
            raise ValueError("a texture coordinate has at least one number")
        text.coordinates.append((float(words[1]), float(words[2]) if len(words) > 2 else 0.0))
    elif kind == "f":
        if len(words) < 4:
            raise ValueError("a face has at least three corners")
        known = text.known
        polygon = [known[word] if word in known else _obj_corner(text, word) for word in words[1:]]
        for k in range(1, len(polygon) - 1):
            text.corners.extend((polygon[0], polygon[k], polygon[k + 1]))
            text.lines.append(number)


def _obj_corner(text: _ObjText, word: str) -> tuple[int, int | None]:
    """Parse ``v``, ``v/t``, ``v//n`` or ``v/t/n``, counted from 1, or backwards from the latest row with −1."""
    names = word.split("/")
    coordinate = _obj_row(names[1], len(text.coordinates)) if len(names) > 1 and names[1] else None
    corner = _obj_row(names[0], len(text.positions)), coordinate
    if "-" not in word:
        text.known[word] = corner
    return corner


def _obj_row(name: str, so_far: int) -> int:
    row = int(name)
    if row == 0 or row < -so_far or row > _LARGEST_ROW:
        raise ValueError(f"there is no row {row}")
    return row - 1 if row > 0 else so_far + row


def _obj_rows(path: Path, text: _ObjText, which: int, count: int, kind: str) -> Int[np.ndarray, "faces 3"]:
    """Return the rows that the corners name, all of which must exist by the end of the file."""
    rows = np.array([corner[which] for corner in text.corners], np.int64).reshape(-1, 3)
    beyond = np.flatnonzero((rows >= count).any(1))
    if len(beyond):
        raise ValueError(
            f"{path} cannot be read as a mesh: line {text.lines[beyond[0]]}: a face names a {kind} that is not among its {count}"
        )
    return rows


def _ply_bytes(arrays: MeshArrays) -> bytes:
    colors = None if arrays.colors is None else np.rint(arrays.colors.clip(0, 1) * 255).astype(np.uint8)
    mesh = trimesh.Trimesh(arrays.vertices, arrays.faces, vertex_normals=arrays.normals, vertex_colors=colors, process=False)
    return export_ply(mesh, vertex_normal=arrays.normals is not None)


def _obj_bytes(arrays: MeshArrays) -> bytes:
    """Write nine significant digits, which reproduce every float32."""
    colors = None if arrays.colors is None else arrays.colors.clip(0, 1)
    text = ["# unrender\n", _obj_lines("v", "%.9g", arrays.vertices if colors is None else np.hstack([arrays.vertices, colors]))]
    corner, names = "%d", [arrays.faces]
    if arrays.uvs is not None and arrays.uv_faces is not None:
        upwards = np.stack([arrays.uvs[:, 0], 1 - arrays.uvs[:, 1].astype(np.float64)], axis=1)
        text.append(_obj_lines("vt", "%.9g", upwards))
        corner, names = "%d/%d", [arrays.faces, arrays.uv_faces]
    if arrays.normals is not None:
        text.append(_obj_lines("vn", "%.9g", arrays.normals))
        corner, names = corner + ("/%d" if len(names) > 1 else "//%d"), [*names, arrays.faces]
    text.append(_obj_lines("f", corner, 1 + np.stack(names, axis=-1)))
    return "".join(text).encode("ascii")


def _obj_lines(kind: str, form: str, rows: np.ndarray) -> str:
    """Write one line per row of [lines, words] or [lines, words, numbers].

    ``form`` is the format of the numbers of one word.
    """
    columns = rows.shape[1]
    return "".join([kind, *[f" {form}"] * columns, "\n"]) * len(rows) % tuple(rows.reshape(-1).tolist())


def _glb_bytes(arrays: MeshArrays, z_up: bool, material: MaterialArrays) -> bytes:
    """Write one node, one mesh, one material and one buffer, every view padded to four bytes."""
    arrays = _split_at_seams(arrays)
    if material.base_color is not None:  # readers multiply a texture by the vertex colors
        arrays = arrays._replace(colors=None)
    columns = _glb_columns(arrays)
    indices = arrays.faces.astype("<u4").reshape(-1)
    surface, pictures = _gltf_material(material)
    payloads = [*(column.tobytes() for column in columns.values()), indices.tobytes(), *pictures]
    padded = [payload + b"\0" * (-len(payload) % 4) for payload in payloads]
    starts = np.cumsum([0, *map(len, padded)]).tolist()

    targets = [*[_ARRAY_BUFFER] * len(columns), _ELEMENT_ARRAY_BUFFER, *[None] * len(pictures)]
    views = [
        {"buffer": 0, "byteOffset": start, "byteLength": len(payload)} | ({} if target is None else {"target": target})
        for start, payload, target in zip(starts, payloads, targets, strict=False)
    ]
    accessors: list[dict[str, Any]] = [
        {"bufferView": k, "componentType": _FLOAT, "count": len(column), "type": f"VEC{column.shape[1]}"}
        for k, column in enumerate(columns.values())
    ]
    positions = columns[_POSITION]
    accessors[0] |= {"min": [float(x) for x in positions.min(0)], "max": [float(x) for x in positions.max(0)]}
    accessors.append({"bufferView": len(columns), "componentType": _UNSIGNED_INT, "count": len(indices), "type": "SCALAR"})
    attributes = {name: k for k, name in enumerate(columns)}
    node: dict[str, Any] = {"name": "mesh", "mesh": 0}
    if z_up:
        node |= {"matrix": [float(x) for x in _Y_UP_FROM_Z_UP.T.reshape(-1)]}
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "unrender"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [node],
        "meshes": [{"name": "mesh", "primitives": [{"attributes": attributes, "indices": len(columns), "material": 0, "mode": 4}]}],
        "materials": [surface],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": starts[-1]}],
    }
    if pictures:
        first = len(columns) + 1
        document |= {
            "images": [{"bufferView": first + k, "mimeType": "image/png"} for k in range(len(pictures))],
            "textures": [{"source": k, "sampler": 0} for k in range(len(pictures))],
            "samplers": [{"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": _REPEAT, "wrapT": _REPEAT}],
        }
    text = json.dumps(document, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + starts[-1]
    head = struct.pack("<III", _GLB_MAGIC, 2, total) + struct.pack("<II", len(text), _JSON_CHUNK)
    return b"".join([head, text, struct.pack("<II", starts[-1], _BINARY_CHUNK), *padded])


def _glb_columns(arrays: MeshArrays) -> dict[str, np.ndarray]:
    """Return the attributes of the vertices by their glTF names, float32, positions first."""
    columns = {_POSITION: arrays.vertices.astype("<f4")}
    if arrays.normals is not None:
        columns |= {"NORMAL": _unit(arrays.normals)}
    if arrays.colors is not None:
        linear = linear_from_srgb(torch.from_numpy(arrays.colors.clip(0, 1).astype(np.float64))).numpy()
        columns |= {"COLOR_0": linear.astype("<f4")}
    if arrays.uvs is not None:
        columns |= {"TEXCOORD_0": arrays.uvs.astype("<f4")}
    return columns


def _gltf_material(material: MaterialArrays) -> tuple[dict[str, Any], list[bytes]]:
    """Return glTF's description of a material and its pictures as PNG, in the order in which the description numbers them."""
    pictures: list[bytes] = []

    def add(picture: torch.Tensor) -> dict[str, int]:
        levels = (picture.clamp(0, 1) * 255).round().byte().numpy()
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, format="PNG")
        pictures.append(buffer.getvalue())
        return {"index": len(pictures) - 1}

    surface: dict[str, Any] = {"metallicFactor": material.metallic, "roughnessFactor": material.roughness}
    extras: dict[str, Any] = {}
    if material.base_color is not None:
        color = material.base_color
        surface |= {"baseColorTexture": add(torch.cat([srgb_from_linear(color[..., :3]), color[..., 3:]], -1))}
        extras |= {"alphaMode": "BLEND"} if color.shape[-1] == 4 else {}
    if material.roughness_metallic is not None:
        # glTF reads roughness from green and metallic from blue; red is free, and white there means no occlusion to programs that look.
        roughness, metallic = material.roughness_metallic.unbind(-1)
        packed = add(torch.stack([torch.ones_like(roughness), roughness, metallic], -1))
        surface |= {"metallicRoughnessTexture": packed, "metallicFactor": 1.0, "roughnessFactor": 1.0}
    if material.normal is not None:
        extras |= {"normalTexture": add(0.5 * material.normal + 0.5)}
    return {"name": "surface", "doubleSided": True, "pbrMetallicRoughness": surface} | extras, pictures


def _split_at_seams(arrays: MeshArrays) -> MeshArrays:
    """Return the same triangles with one texture coordinate per vertex.

    A vertex on a seam is repeated for each of its texture coordinates. Vertices keep their order; unused ones are dropped.
    """
    if arrays.uvs is None or arrays.uv_faces is None:
        return arrays
    pairs = arrays.faces.astype(np.int64) * len(arrays.uvs) + arrays.uv_faces
    kept, faces = np.unique(pairs, return_inverse=True)
    vertex, coordinate = np.divmod(kept, len(arrays.uvs))
    faces = faces.reshape(-1, 3)
    return MeshArrays(
        vertices=arrays.vertices[vertex],
        faces=faces,
        colors=None if arrays.colors is None else arrays.colors[vertex],
        normals=None if arrays.normals is None else arrays.normals[vertex],
        uvs=arrays.uvs[coordinate],
        uv_faces=faces,
    )


def _glb_attribute(data: bytes, name: str) -> Float[np.ndarray, "vertices channels"] | None:
    """Return a vertex attribute in its stored precision.

    None unless the file has one primitive and holds its attribute.
    """
    length, _ = struct.unpack_from("<II", data, 12)
    document = json.loads(data[20 : 20 + length])
    primitives = [primitive for mesh in document["meshes"] for primitive in mesh["primitives"]]
    if len(primitives) != 1 or name not in primitives[0]["attributes"]:
        return None
    accessor = document["accessors"][primitives[0]["attributes"][name]]
    if "bufferView" not in accessor or "sparse" in accessor:
        return None
    view = document["bufferViews"][accessor["bufferView"]]
    if view["buffer"] != 0 or "uri" in document["buffers"][0]:
        return None
    kind, one = _COMPONENTS[accessor["componentType"]]
    channels = {"VEC2": 2, "VEC3": 3, "VEC4": 4}[accessor["type"]]
    size = np.dtype(kind).itemsize
    start = 20 + length + 8 + view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    strides = (view.get("byteStride", channels * size), size)
    return np.ndarray((accessor["count"], channels), kind, data, start, strides).astype(np.float64) / one


def _unit(normals: Float[np.ndarray, "vertices 3"]) -> Float[np.ndarray, "vertices 3"]:
    """Return unit normals; +Z for missing ones, because glTF does not allow zero normals."""
    lengths = np.linalg.norm(normals.astype(np.float64), axis=1, keepdims=True)
    known = lengths > 1e-12
    return np.where(known, normals / np.where(known, lengths, 1.0), [0.0, 0.0, 1.0]).astype("<f4")
