"""Triangle meshes in files: PLY, OBJ and GLB, written so that they open the same everywhere.

What each file holds:

- ``.ply``: binary little endian, float32 positions and normals, sRGB vertex colours as bytes.
- ``.obj``: text; vertex colours follow the position, ``v x y z r g b``, sRGB from 0 to 1.
- ``.glb``: glTF 2.0. Its up axis is +Y, so a root node turns a +Z-up mesh upright and the stored positions stay as they are. Vertex colours
  are linear light there (``COLOR_0``), so they are converted; the material is non-metallic, fully rough and double-sided.

This module knows arrays, not :class:`unrender.geometry.mesh.Mesh`.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from trimesh.exchange.obj import export_obj
from trimesh.exchange.ply import export_ply
from trimesh.visual.color import ColorVisuals
from trimesh.visual.texture import TextureVisuals

from unrender.color import linear_from_srgb, srgb_from_linear

SUFFIXES = (".ply", ".obj", ".glb")

_GLB_MAGIC = 0x46546C67
_JSON_CHUNK = 0x4E4F534A
_BINARY_CHUNK = 0x004E4942
_FLOAT = 5126
_UNSIGNED_INT = 5125
_COMPONENTS = {5121: (np.uint8, 255.0), 5123: (np.uint16, 65535.0), _FLOAT: (np.float32, 1.0)}
_Y_UP_FROM_Z_UP = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


class MeshArrays(NamedTuple):
    """What a mesh file holds."""

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    colours: Float[np.ndarray, "vertices 3"] | None = None
    """sRGB, 0 to 1."""
    normals: Float[np.ndarray, "vertices 3"] | None = None
    uvs: Float[np.ndarray, "coordinates 2"] | None = None
    """(0, 0) is the top left corner of the texture's image, as in glTF; an OBJ counts v upwards, and is turned round when read."""
    uv_faces: Int[np.ndarray, "faces 3"] | None = None


def write(path: Path, arrays: MeshArrays, *, z_up: bool) -> None:
    """Writes a mesh; a reader of ``path`` sees the old file or the whole new one, never a part.

    Raises:
        ValueError: for a suffix other than .ply, .obj and .glb, and for positions that are not finite.
        FileNotFoundError: when the folder does not exist.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"cannot write a mesh to {path}: the suffix {path.suffix!r} is not one of {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if not np.isfinite(arrays.vertices).all():
        count = int((~np.isfinite(arrays.vertices).all(1)).sum())
        raise ValueError(f"cannot write {path}: {count} of {len(arrays.vertices)} vertices are not finite numbers")
    _write_whole(path, _glb_bytes(arrays, z_up) if suffix == ".glb" else _trimesh_bytes(arrays, suffix[1:]))


def read(path: Path, *, z_up: bool) -> MeshArrays:
    """Reads positions, triangles, vertex colours and texture coordinates; polygons become triangles, the parts of a scene one mesh.

    The colours and texture coordinates of a GLB are read where it has one part only.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file holds no triangles or cannot be understood.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no mesh file {path}")
    try:
        loaded = trimesh.load_mesh(path, process=False, maintain_order=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a mesh ({error}); give a PLY, OBJ, GLB, STL or OFF file") from error
    faces = np.asarray(loaded.faces) if isinstance(loaded, trimesh.Trimesh) else np.zeros((0, 3), np.int64)
    if len(faces) == 0:
        raise ValueError(f"{path} holds no triangles; a point cloud is not a mesh")
    vertices = np.asarray(loaded.vertices)
    uvs = uv_faces = None
    if path.suffix.lower() == ".glb":
        if z_up:
            vertices = vertices @ _Y_UP_FROM_Z_UP[:3, :3]
        colours = _glb_colours(path.read_bytes())
        if colours is not None and len(colours) != len(vertices):
            colours = None
        uv = loaded.visual.uv if isinstance(loaded.visual, TextureVisuals) else None
        if uv is not None and len(uv) == len(vertices):
            uvs, uv_faces = np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1), faces
    else:
        visual = loaded.visual
        colours = visual.vertex_colors[:, :3] / 255.0 if isinstance(visual, ColorVisuals) and visual.kind == "vertex" else None
        if path.suffix.lower() == ".obj":
            textured = _obj_corners(path)
            if textured is not None:
                vertices, faces, uvs, uv_faces = textured
                colours = None if colours is None or len(colours) != len(vertices) else colours
    return MeshArrays(vertices, faces, colours, uvs=uvs, uv_faces=uv_faces)


def _obj_corners(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Positions and texture coordinates of an OBJ, each with the triangles that name its rows; None unless every corner has both.

    Trimesh keeps one coordinate per vertex, which tears the texture at its seams or the mesh along them.
    """
    positions: list[list[str]] = []
    coordinates: list[list[str]] = []
    corners: list[tuple[int, int]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ").splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            positions.append(words[:3])
        elif kind == "vt":
            coordinates.append(words[:2])
        elif kind == "f":
            polygon = []
            for word in words:
                names = word.split("/")
                if len(names) < 2 or not names[1]:
                    return None
                v, t = int(names[0]), int(names[1])
                polygon.append((v - 1 if v > 0 else len(positions) + v, t - 1 if t > 0 else len(coordinates) + t))
            for k in range(1, len(polygon) - 1):
                corners += [polygon[0], polygon[k], polygon[k + 1]]
    if not corners or not coordinates:
        return None
    index = np.array(corners, np.int64).reshape(-1, 3, 2)
    vertices, uvs = np.array(positions, np.float64), np.array(coordinates, np.float64)
    for kind, rows, used in (("position", vertices, index[..., 0]), ("texture coordinate", uvs, index[..., 1])):
        if used.min() < 0 or used.max() >= len(rows):
            raise ValueError(f"{path} cannot be read as a mesh: a face names a {kind} that is not among its {len(rows)}")
    uvs[:, 1] = 1 - uvs[:, 1]
    return vertices, index[..., 0], uvs, index[..., 1]


def _trimesh_bytes(arrays: MeshArrays, kind: str) -> bytes:
    colours = None if arrays.colours is None else np.rint(arrays.colours.clip(0, 1) * 255).astype(np.uint8)
    mesh = trimesh.Trimesh(arrays.vertices, arrays.faces, vertex_normals=arrays.normals, vertex_colors=colours, process=False)
    with_normals = arrays.normals is not None
    if kind == "ply":
        return export_ply(mesh, vertex_normal=with_normals)
    extent = float(np.ptp(arrays.vertices, axis=0).max())
    digits = 8 - min(0, int(np.floor(np.log10(extent)))) if extent > 0 else 8
    return export_obj(mesh, include_normals=with_normals, digits=digits, header="unrender").encode("utf-8")


def _glb_bytes(arrays: MeshArrays, z_up: bool) -> bytes:
    """One node, one mesh, one material, one buffer; every view is a multiple of four bytes long, so offsets stay aligned."""
    positions = arrays.vertices.astype("<f4")
    pieces = [(positions, "VEC3", _FLOAT, 34962)]
    attributes = {"POSITION": 0}
    if arrays.normals is not None:
        attributes["NORMAL"] = len(pieces)
        pieces.append((_unit(arrays.normals), "VEC3", _FLOAT, 34962))
    if arrays.colours is not None:
        attributes["COLOR_0"] = len(pieces)
        linear = linear_from_srgb(torch.from_numpy(arrays.colours.clip(0, 1).astype(np.float64))).numpy()
        pieces.append((linear.astype("<f4"), "VEC3", _FLOAT, 34962))
    indices = len(pieces)
    pieces.append((arrays.faces.astype("<u4").reshape(-1), "SCALAR", _UNSIGNED_INT, 34963))

    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    offset = 0
    for k, (data, shape, component, target) in enumerate(pieces):
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": data.nbytes, "target": target})
        accessors.append({"bufferView": k, "componentType": component, "count": len(data), "type": shape})
        offset += data.nbytes
    accessors[0]["min"] = [float(x) for x in positions.min(0)]
    accessors[0]["max"] = [float(x) for x in positions.max(0)]
    node: dict[str, Any] = {"name": "mesh", "mesh": 0}
    if z_up:
        node["matrix"] = [float(x) for x in _Y_UP_FROM_Z_UP.T.reshape(-1)]
    document = {
        "asset": {"version": "2.0", "generator": "unrender"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [node],
        "meshes": [{"name": "mesh", "primitives": [{"attributes": attributes, "indices": indices, "material": 0, "mode": 4}]}],
        "materials": [{"name": "surface", "doubleSided": True, "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    text = json.dumps(document, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + offset
    head = struct.pack("<III", _GLB_MAGIC, 2, total) + struct.pack("<II", len(text), _JSON_CHUNK)
    return b"".join([head, text, struct.pack("<II", offset, _BINARY_CHUNK), *(data.tobytes() for data, *_ in pieces)])


def _glb_colours(data: bytes) -> Float[np.ndarray, "vertices 3"] | None:
    """Vertex colours as sRGB at the precision they are stored with; None unless one primitive has them tightly packed."""
    length, _ = struct.unpack_from("<II", data, 12)
    document = json.loads(data[20 : 20 + length])
    primitives = [primitive for mesh in document["meshes"] for primitive in mesh["primitives"]]
    if len(primitives) != 1 or "COLOR_0" not in primitives[0]["attributes"]:
        return None
    accessor = document["accessors"][primitives[0]["attributes"]["COLOR_0"]]
    if "bufferView" not in accessor or "sparse" in accessor:
        return None
    view = document["bufferViews"][accessor["bufferView"]]
    kind, one = _COMPONENTS[accessor["componentType"]]
    channels = {"VEC3": 3, "VEC4": 4}[accessor["type"]]
    if view.get("byteStride", channels * np.dtype(kind).itemsize) != channels * np.dtype(kind).itemsize:
        return None
    start = 20 + length + 8 + view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    values = np.frombuffer(data, kind, accessor["count"] * channels, start).reshape(-1, channels)
    return srgb_from_linear(torch.from_numpy(values[:, :3].astype(np.float64) / one)).numpy()


def _unit(normals: Float[np.ndarray, "vertices 3"]) -> Float[np.ndarray, "vertices 3"]:
    """Unit normals; +Z where there is none, because glTF allows no zero normal."""
    lengths = np.linalg.norm(normals.astype(np.float64), axis=1, keepdims=True)
    known = lengths > 1e-12
    return np.where(known, normals / np.where(known, lengths, 1.0), [0.0, 0.0, 1.0]).astype("<f4")


def _write_whole(path: Path, data: bytes) -> None:
    """Writes to a neighbour, flushes it to disk and renames it, so that nobody sees half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
