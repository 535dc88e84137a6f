"""Reading of materials: that of a glTF file, and that of an OBJ in the MTL file beside it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from unrender.color import linear_from_srgb
from unrender.files.mesh_files.arrays import MaterialArrays, MeshFileError, read_regular
from unrender.files.mesh_files.gltf import GltfDocument, file_or_data
from unrender.numerics import normalized

_MOST_PIXELS = 2**28


def read_material(path: Path) -> MaterialArrays | None:
    """Read the material of a mesh file; None if it has none.

    Raises:
        MeshFileError: the file has several materials, or a picture cannot be decoded.
        OSError: a file cannot be read.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".glb", ".gltf"):
            return _gltf_material(GltfDocument(read_regular(path), path))
        return _obj_material(path) if suffix == ".obj" else None
    except MeshFileError as error:
        raise MeshFileError(f"the material of {path} cannot be read: {error}") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise MeshFileError(f"the material of {path} cannot be read: its content does not follow the format ({detail})") from error


def _gltf_material(document: GltfDocument) -> MaterialArrays | None:
    meshes = document.json.get("meshes", [])
    used = {primitive.get("material") for mesh in meshes for primitive in mesh["primitives"]}
    if len(used) > 1:
        raise MeshFileError(f"it has {len(used)} materials; join them into one with one texture")
    number = used.pop() if used else None
    if number is None:
        return None
    material = document.json["materials"][number]
    surface = material.get("pbrMetallicRoughness", {})

    def picture(reference: dict[str, Any] | None) -> Float[torch.Tensor, "height width channels"] | None:
        if reference is None:
            return None
        image = document.json["images"][document.json["textures"][reference["index"]]["source"]]
        data = document.view_bytes(image["bufferView"]) if "bufferView" in image else file_or_data(str(image["uri"]), document.path)
        return _decoded(data)

    factor = torch.tensor([float(x) for x in surface.get("baseColorFactor", [1.0] * 4)])
    roughness, metallic = float(surface.get("roughnessFactor", 1.0)), float(surface.get("metallicFactor", 1.0))
    color, packed, normal = (
        picture(surface.get("baseColorTexture")),
        picture(surface.get("metallicRoughnessTexture")),
        picture(material.get("normalTexture")),
    )
    if color is not None:
        # The format multiplies the texture by its factor in linear light, and ignores opacity unless the material asks for it.
        solid = material.get("alphaMode", "OPAQUE") == "OPAQUE"
        linear = linear_from_srgb(color[..., :3]) * factor[:3]
        color = linear if solid or color.shape[-1] < 4 else torch.cat([linear, color[..., 3:] * factor[3]], -1)
    if packed is not None:
        packed = packed[..., 1:3] * torch.tensor([roughness, metallic])
    if normal is not None:
        scale = float(material["normalTexture"].get("scale", 1.0))
        normal = normalized((2 * normal[..., :3] - 1) * torch.tensor([scale, scale, 1.0]))
    return MaterialArrays(color, packed, normal, roughness, metallic)


def _obj_material(path: Path) -> MaterialArrays | None:
    """Read Kd, map_Kd, Pr, Pm and norm of the one material that an OBJ uses."""
    rows = [line.split(maxsplit=1) for line in read_regular(path).decode("utf-8", "replace").splitlines()]
    libraries = [row[1].strip() for row in rows if len(row) == 2 and row[0] == "mtllib"]
    used = {row[1].strip() for row in rows if len(row) == 2 and row[0] == "usemtl"}
    if not libraries or not used:
        return None
    if len(used) > 1:
        raise MeshFileError(f"it uses {len(used)} materials; join them into one with one texture")
    found: dict[str, str] = {}
    name = None
    for line in file_or_data(libraries[0], path).decode("utf-8", "replace").splitlines():
        key, _, value = line.strip().partition(" ")
        if key == "newmtl":
            name = value.strip()
        elif name in used:
            found[key] = value.strip()

    def picture(key: str) -> Float[torch.Tensor, "height width channels"] | None:
        # Options, which come first, are not applied.
        return _decoded(file_or_data(found[key].split()[-1], path)) if key in found else None

    color, normal = picture("map_Kd"), picture("norm")
    if color is not None:
        color = linear_from_srgb(color[..., :3])
    elif "Kd" in found:
        color = torch.tensor([float(x) for x in found["Kd"].split()[:3]]).view(1, 1, 3)
    if normal is not None:
        normal = normalized(2 * normal[..., :3] - 1)
    return MaterialArrays(color, None, normal, float(found.get("Pr", 1.0)), float(found.get("Pm", 0.0)))


def _decoded(data: bytes) -> Float[torch.Tensor, "height width channels"]:
    """Decode a PNG or JPEG as numbers from 0 to 1, with three or four channels."""
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        if image.width * image.height > _MOST_PIXELS:
            raise MeshFileError(f"a texture has {image.width} x {image.height} pixels; at most {_MOST_PIXELS} are read")
        has_opacity = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        values = np.asarray(image.convert("RGBA" if has_opacity else "RGB"), np.float32)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise MeshFileError("a texture cannot be decoded; it must be a PNG or JPEG picture") from error
    return torch.from_numpy(values / 255)
