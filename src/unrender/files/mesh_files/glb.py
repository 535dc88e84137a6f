"""Writing of binary glTF 2.0 (``.glb``).

Colors that were fitted to photos have the light in them. A mesh without a material, but with vertex colors, therefore gets
``KHR_materials_unlit``: viewers show the colors as they are. Programs without that extension see its prescribed fallback, a rough
dielectric. A mesh with a material is lit.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from unrender.color import linear_from_srgb, srgb_from_linear
from unrender.files.mesh_files.arrays import FRAME_KEY, Frame, MaterialArrays, MeshArrays
from unrender.files.mesh_files.gltf import BINARY_CHUNK, GLB_MAGIC, JSON_CHUNK
from unrender.files.mesh_files.pictures import levels_of
from unrender.files.png import png

_FLOAT = 5126
_UNSIGNED_INT = 5125
_ARRAY_BUFFER = 34962
_ELEMENT_ARRAY_BUFFER = 34963
_POSITION = "POSITION"
_LINEAR = 9729
_LINEAR_MIPMAP_LINEAR = 9987
_REPEAT = 10497
_CLAMP = 33071
_UNLIT = "KHR_materials_unlit"


def glb_bytes(arrays: MeshArrays, frame: Frame, material: MaterialArrays | None) -> bytes:
    """Write one node, one mesh, one material and one buffer, every view padded to four bytes.

    Stored positions are float32. If ``arrays`` has float64 ones, they are stored relative to their center, rounded to an integer, and the
    node translates them there.

    Args:
        arrays: in the frame of the mesh.
        frame: the rotation of the root node, in reverse, and the upward direction of the mesh.
        material: None for a mesh without one.
    """
    arrays = _split_at_seams(arrays)
    offset = offset_of(arrays.vertices)
    arrays = arrays._replace(vertices=arrays.vertices - offset.astype(arrays.vertices.dtype))
    is_unlit = material is None and arrays.colors is not None
    material = material or MaterialArrays()
    if material.base_color is not None:  # readers multiply a texture by the vertex colors
        arrays = arrays._replace(colors=None)
    if material.normal is None or arrays.normals is None:  # tangents serve normal textures, and readers ignore those without normals
        arrays = arrays._replace(tangents=None)
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
    matrix = np.eye(4)
    matrix[:3, :3] = frame.source_from_file.T
    matrix[:3, 3] = matrix[:3, :3] @ offset
    if (matrix != np.eye(4)).any():
        node |= {"matrix": [float(x) for x in matrix.T.reshape(-1)]}
    if is_unlit:
        surface |= {"extensions": {_UNLIT: {}}}
    extras = {
        "frame": "vertices times the matrix of the node, then times source_from_file, are in the frame of the mesh",
        FRAME_KEY: frame.source_from_file.tolist(),
        "up_in_source": list(frame.up),
    }
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "unrender", "extras": extras},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [node],
        "meshes": [{"name": "mesh", "primitives": [{"attributes": attributes, "indices": len(columns), "material": 0, "mode": 4}]}],
        "materials": [surface],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": starts[-1]}],
    }
    if is_unlit:
        document |= {"extensionsUsed": [_UNLIT]}
    if pictures:
        first, uvs = len(columns) + 1, columns["TEXCOORD_0"]
        # An atlas must not mix the texels of opposite borders; coordinates beyond the borders ask for repetition.
        wrap = _REPEAT if bool((uvs < 0).any() or (uvs > 1).any()) else _CLAMP
        document |= {
            "images": [{"bufferView": first + k, "mimeType": "image/png"} for k in range(len(pictures))],
            "textures": [{"source": k, "sampler": 0} for k in range(len(pictures))],
            "samplers": [{"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": wrap, "wrapT": wrap}],
        }
    text = json.dumps(document, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + starts[-1]
    head = struct.pack("<III", GLB_MAGIC, 2, total) + struct.pack("<II", len(text), JSON_CHUNK)
    return b"".join([head, text, struct.pack("<II", starts[-1], BINARY_CHUNK), *padded])


def offset_of(vertices: Float[np.ndarray, "vertices 3"]) -> Float[np.ndarray, " 3"]:
    """Return the offset of the stored positions: zero for float32, else the center of the bounding box, rounded to integers."""
    if vertices.dtype == np.float32:
        return np.zeros(3)
    return np.rint((vertices.min(0) + vertices.max(0)) / 2)


def _glb_columns(arrays: MeshArrays) -> dict[str, np.ndarray]:
    """Return the attributes of the vertices by their glTF names, float32, positions first."""
    columns = {_POSITION: arrays.vertices.astype("<f4")}
    if arrays.normals is not None:
        columns |= {"NORMAL": _unit(arrays.normals, (0.0, 0.0, 1.0))}
    if arrays.tangents is not None:
        handedness = np.where(arrays.tangents[:, 3:] < 0, -1.0, 1.0)
        columns |= {"TANGENT": np.concatenate([_unit(arrays.tangents[:, :3], (1.0, 0.0, 0.0)), handedness], 1).astype("<f4")}
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
        pictures.append(png(levels_of(picture)))
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
        tangents=None if arrays.tangents is None else arrays.tangents[coordinate],
    )


def _unit(vectors: Float[np.ndarray, "rows 3"], missing: tuple[float, float, float]) -> Float[np.ndarray, "rows 3"]:
    """Return unit vectors, another for those of zero length, which glTF does not allow."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    known = lengths > 1e-12
    return np.where(known, vectors / np.where(known, lengths, 1.0), missing).astype("<f4")
