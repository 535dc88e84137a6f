"""Mesh files written by hand for the tests of their readers."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from unrender.geometry.mesh import Mesh

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
CUBE_QUADS = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
CUBE_TRIANGLES = np.array([corner for a, b, c, d in CUBE_QUADS for corner in ([a, b, c], [a, c, d])])

TYPES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}


def signed_volume(mesh: Mesh) -> float:
    vertices = mesh.vertices.double() - mesh.vertices.double().mean(0)
    a, b, c = vertices[mesh.faces].unbind(1)
    return float((a * b.cross(c, dim=-1)).sum() / 6)


def closed_manifold_problem(faces: np.ndarray) -> str | None:
    """Say why triangles are not a closed manifold with one winding; None if they are."""
    if (faces != np.roll(faces, 1, axis=1)).all() and len(faces):
        ahead = np.stack([faces, np.roll(faces, -1, axis=1)], -1).reshape(-1, 2)
        keys = ahead[:, 0] * (faces.max() + 1) + ahead[:, 1]
        reverse = ahead[:, 1] * (faces.max() + 1) + ahead[:, 0]
        order = np.argsort(keys)
        if (np.diff(keys[order]) == 0).any():
            return "an edge has two triangles on one side"
        at = np.searchsorted(keys[order], reverse).clip(0, len(keys) - 1)
        if (keys[order][at] != reverse).any():
            return "an edge has a triangle on one side only"
        # The edge of corner k runs to corner k + 1; its twin starts there, in the triangle beyond.
        twin = order[at]
        beyond = twin // 3 * 3 + (twin + 1) % 3
        graph = coo_matrix((np.ones(len(twin)), (np.arange(len(twin)), beyond)), shape=(len(twin), len(twin)))
        return None if connected_components(graph, directed=False)[0] == len(np.unique(faces)) else "sheets touch at a vertex"
    return "a triangle names a vertex twice" if len(faces) else None


class Gltf:
    """A glTF document that grows, and its buffer."""

    def __init__(self) -> None:
        self.buffer = b""
        self.json: dict[str, Any] = {"asset": {"version": "2.0"}, "accessors": [], "bufferViews": [], "meshes": [], "nodes": []}

    def view(self, data: bytes, **more: Any) -> int:
        self.buffer += b"\0" * (-len(self.buffer) % 4)
        self.json["bufferViews"].append({"buffer": 0, "byteOffset": len(self.buffer), "byteLength": len(data)} | more)
        self.buffer += data
        return len(self.json["bufferViews"]) - 1

    def accessor(self, numbers: np.ndarray, **more: Any) -> int:
        numbers = np.asarray(numbers)
        described = {
            "bufferView": self.view(numbers.tobytes()),
            "componentType": TYPES[numbers.dtype.str[1:]],
            "count": len(numbers),
            "type": SHAPES[1 if numbers.ndim == 1 else numbers.shape[1]],
        }
        self.json["accessors"].append(described | more)
        return len(self.json["accessors"]) - 1

    def primitive(self, vertices: np.ndarray, faces: np.ndarray | None, **attributes: int) -> dict[str, Any]:
        described: dict[str, Any] = {"attributes": {"POSITION": self.accessor(vertices.astype(np.float32))} | attributes}
        return described | ({} if faces is None else {"indices": self.accessor(np.asarray(faces).reshape(-1).astype(np.uint32))})

    def mesh(self, *primitives: dict[str, Any]) -> int:
        self.json["meshes"].append({"primitives": list(primitives)})
        return len(self.json["meshes"]) - 1

    def node(self, **described: Any) -> int:
        self.json["nodes"].append(described)
        return len(self.json["nodes"]) - 1

    def scene(self, *roots: int) -> None:
        self.json |= {"scene": 0, "scenes": [{"nodes": list(roots)}]}

    def glb(self, path: Path) -> Path:
        self.json["buffers"] = [{"byteLength": len(self.buffer)}]
        text = json.dumps(self.json).encode()
        text += b" " * (-len(text) % 4)
        data = self.buffer + b"\0" * (-len(self.buffer) % 4)
        head = struct.pack("<IIIII", 0x46546C67, 2, 28 + len(text) + len(data), len(text), 0x4E4F534A)
        path.write_bytes(head + text + struct.pack("<II", len(data), 0x004E4942) + data)
        return path

    def gltf(self, path: Path, uri: str | None = None) -> Path:
        """Write the JSON, with the buffer inside it, or in a file of its folder."""
        if uri is None:
            inside = "data:application/octet-stream;base64," + base64.b64encode(self.buffer).decode()
            self.json["buffers"] = [{"byteLength": len(self.buffer), "uri": inside}]
        else:
            self.json["buffers"] = [{"byteLength": len(self.buffer), "uri": uri}]
        path.write_text(json.dumps(self.json))
        return path


def cube_gltf(**node: Any) -> Gltf:
    made = Gltf()
    made.scene(made.node(mesh=made.mesh(made.primitive(CUBE, CUBE_TRIANGLES)), **node))
    return made


def cube_ply(order: str, *, color_names: Sequence[str] = (), color_type: str = "uchar", colors: np.ndarray | None = None) -> bytes:
    """A cube of two triangles and five quadrilaterals, with elements and properties that no mesh needs."""
    polygons = [CUBE_QUADS[0][:3], [CUBE_QUADS[0][0], *CUBE_QUADS[0][2:]], *CUBE_QUADS[1:]]
    mark = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}[order]
    codes = {"uchar": "B", "ushort": "H", "float": "f", "double": "d", "int": "i"}
    head = [
        "ply",
        f"format {order} 1.0",
        "comment made by hand",
        "element camera 1",
        "property float view",
        "property list uchar short ids",
    ]
    head += ["element vertex 8", "property double quality", "property float x", "property float y", "property float z"]
    head += [f"property {color_type} {name}" for name in color_names]
    head += ["element face 7", "property uchar flags", "property list uchar int vertex_indices", "property list uchar float texcoord"]
    head += ["element edge 2", "property int vertex1", "property int vertex2", "end_header"]

    def row(form: str, *numbers: float) -> bytes:
        if mark:
            return struct.pack(mark + form, *numbers)
        return (" ".join(f"{number:g}" for number in numbers) + "\n").encode()

    body = row("fBhhh", 0.5, 3, -1, 7, 9)
    for k, corner in enumerate(CUBE):
        extra = [] if colors is None else colors[k].tolist()
        body += row("dfff" + codes[color_type] * len(extra), 0.25, *corner, *extra)
    for polygon in polygons:
        count = len(polygon)
        body += row(f"BB{count}iB{2 * count}f", 1, count, *polygon, 2 * count, *[0.5] * (2 * count))
    body += row("ii", 0, 1) + row("ii", 1, 2)
    return ("\n".join(head) + "\n").encode() + body


def cube_stl(text: bool) -> bytes:
    triangles = CUBE[CUBE_TRIANGLES]
    if text:
        facets = [
            "facet normal 0 0 0\nouter loop\n" + "".join(f"vertex {x:g} {y:g} {z:e}\n" for x, y, z in facet) + "endloop\nendfacet\n"
            for facet in triangles
        ]
        return ("solid cube of vertex\n" + "".join(facets) + "endsolid\n").encode()
    rows = b"".join(struct.pack("<12fH", 0, 0, 0, *facet.reshape(-1), 7) for facet in triangles)
    return b"solid, but binary".ljust(80, b"\0") + struct.pack("<I", len(triangles)) + rows


def cube_off(head: str = "OFF") -> bytes:
    rows = [f"{x:g} {y:g} {z:g}" + (" 255 0 51 255" if head == "COFF" else "") for x, y, z in CUBE]
    faces = [f"4 {a} {b} {c} {d} 0.5 0.5 0.5" for a, b, c, d in CUBE_QUADS]
    return ("\n".join([head, "# by hand", "", "8 6 12", *rows, *faces]) + "\n").encode()


def cube_obj() -> bytes:
    lines = [
        "mtllib cube of mine.mtl",
        "o Cube",
        *(f"v {x:g} {y:g} {z:g} 1 0 0.2" for x, y, z in CUBE),
        "vt 0 0",
        "vt 1 0",
        "vt 1 1",
        "vt 0 1",
    ]
    lines += ["vn 0 0 1", "s off", "usemtl a b"]
    lines += [f"f {a + 1}/1/1 {b + 1}/2/1 {c + 1}/3/1 {d + 1}/4/1" for a, b, c, d in CUBE_QUADS]
    return ("\n".join(lines)).encode()
