"""Reading of meshes with their materials: that of a glTF file, and those of an OBJ in the MTL file beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from unrender.color import linear_from_srgb
from unrender.files.mesh_files import read_with_materials
from unrender.files.mesh_files.arrays import MaterialArrays, MeshArrays, MeshFileError, read_regular
from unrender.files.mesh_files.atlas import with_one_material
from unrender.files.mesh_files.gltf import GltfDocument, file_or_data
from unrender.files.mesh_files.mtl import read_mtl
from unrender.files.mesh_files.pictures import decoded
from unrender.numerics import normalized


def read_textured(path: Path, *, own_axes: bool = False) -> tuple[MeshArrays, MaterialArrays | None]:
    """Read a mesh with its material; several materials become one with one texture.

    Args:
        path: the file.
        own_axes: as in :func:`unrender.files.mesh_files.read`.

    Returns:
        the mesh, and its material; None if the file has none.

    Raises:
        FileNotFoundError: there is no such file.
        MeshFileError: the file cannot be parsed, a file that it names is missing, or a picture cannot be decoded.
    """
    arrays = read_with_materials(path, own_axes=own_axes)
    try:
        return with_one_material(arrays, _materials(path, arrays))
    except MeshFileError as error:
        raise MeshFileError(f"the material of {path} cannot be read: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise MeshFileError(f"the material of {path} cannot be read: its content does not follow the format ({detail})") from error


def _materials(path: Path, arrays: MeshArrays) -> list[MaterialArrays]:
    """Return the materials of a file by their numbers, those that no triangle has without their textures."""
    suffix = path.suffix.lower()
    if suffix == ".obj":
        return read_mtl(read_regular(path), path)
    if suffix not in (".glb", ".gltf"):
        return []
    document = GltfDocument(read_regular(path), path)
    used = set() if arrays.materials is None else set(arrays.materials.tolist())
    found = enumerate(document.json.get("materials", []))
    return [_gltf_material(document, material) if row in used else MaterialArrays() for row, material in found]


def _gltf_material(document: GltfDocument, material: dict[str, Any]) -> MaterialArrays:
    surface = material.get("pbrMetallicRoughness", {})

    def picture(reference: dict[str, Any] | None) -> Float[torch.Tensor, "height width channels"] | None:
        if reference is None:
            return None
        image = document.json["images"][document.json["textures"][reference["index"]]["source"]]
        data = document.view_bytes(image["bufferView"]) if "bufferView" in image else file_or_data(str(image["uri"]), document.path)
        return decoded(data)

    factor = torch.tensor([float(x) for x in surface.get("baseColorFactor", [1.0] * 4)])
    roughness, metallic = float(surface.get("roughnessFactor", 1.0)), float(surface.get("metallicFactor", 1.0))
    color, packed, normal = (
        picture(surface.get("baseColorTexture")),
        picture(surface.get("metallicRoughnessTexture")),
        picture(material.get("normalTexture")),
    )
    # The format multiplies the texture by its factor in linear light, and ignores opacity unless the material asks for it.
    solid, has_alpha = material.get("alphaMode", "OPAQUE") == "OPAQUE", color is not None and color.shape[-1] == 4
    linear = factor[:3].view(1, 1, 3) if color is None else linear_from_srgb(color[..., :3]) * factor[:3]
    if not solid and (has_alpha or bool(factor[3] != 1)):
        alpha = color[..., 3:] if color is not None and has_alpha else torch.ones_like(linear[..., :1])
        color = torch.cat([linear, alpha * factor[3]], -1)
    elif color is not None or bool((factor[:3] != 1).any()):
        color = linear
    if packed is not None:
        packed = packed[..., 1:3] * torch.tensor([roughness, metallic])
    if normal is not None:
        scale = float(material["normalTexture"].get("scale", 1.0))
        normal = normalized((2 * normal[..., :3] - 1) * torch.tensor([scale, scale, 1.0]))
    return MaterialArrays(color, packed, normal, roughness, metallic)
