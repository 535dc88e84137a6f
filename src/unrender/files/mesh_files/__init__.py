"""Triangle meshes in files: PLY, OBJ and glTF are read and written, STL and OFF are read.

What is written:

- ``.ply``: binary little endian, sRGB vertex colors as bytes.
- ``.obj``: text; vertex colors follow the position, ``v x y z r g b``, sRGB from 0 to 1. Texture coordinates have their own rows (``vt``),
  so vertices are not split along texture seams; there v grows upwards. The material is in an MTL file and PNG files beside it.
- ``.glb``: glTF 2.0. The root node has the rotation to the file's axes. Vertex colors are linear light there (``COLOR_0``), so they are
  converted; a texture with the base color replaces them, because readers multiply the two. The material is double-sided; textures are
  embedded as PNG, the base color as sRGB. A vertex has one texture coordinate (``TEXCOORD_0``), so vertices along texture seams are written
  once per texture coordinate. Tangents are written if the material has a normal texture.

Every written file states the rotation back to the frame of its mesh, in a comment or in ``asset.extras``, and :func:`read` applies it.
``docs/meshes.md`` lists what is read, repaired and refused.

This package uses arrays, not :class:`unrender.geometry.mesh.Mesh`.
"""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float

from unrender.files.atomic import write_bytes
from unrender.files.mesh_files.arrays import Y_UP, Z_UP, Frame, MaterialArrays, MeshArrays, MeshFileError, read_regular, rotated
from unrender.files.mesh_files.glb import glb_bytes, offset_of
from unrender.files.mesh_files.gltf import read_gltf
from unrender.files.mesh_files.mtl import PICTURES, mtl_files
from unrender.files.mesh_files.obj import obj_bytes, read_obj
from unrender.files.mesh_files.ply import ply_bytes, read_ply
from unrender.files.mesh_files.stl_off import joined, read_off, read_stl

__all__ = [
    "FILES_OF_MATERIALS",
    "SUFFIXES",
    "Y_UP",
    "Z_UP",
    "MaterialArrays",
    "MeshArrays",
    "MeshFileError",
    "check_writable",
    "joined",
    "offset_of",
    "read",
    "write",
]

SUFFIXES = (".ply", ".obj", ".glb")
"""Formats that are written."""

FILES_OF_MATERIALS = (".mtl", *(f"_{kind}.png" for kind in PICTURES))
"""Ends of the names of the files beside an OBJ."""

_MATERIAL = "surface"
"""Name of the material in the files that are written."""

_READABLE = "give a PLY, OBJ, GLB, GLTF, STL or OFF file"


def write(path: Path, arrays: MeshArrays, *, rotation: Float[np.ndarray, "3 3"], material: MaterialArrays | None = None) -> None:
    """Write a mesh atomically: readers of ``path`` see the old or the new file, never a part. Its folder is made.

    Args:
        path: the file.
        arrays: in the frame of the mesh.
        rotation: from that frame to the axes of the file.
        material: for a GLB, or for an OBJ, which gets an MTL file and pictures beside it.

    Raises:
        ValueError: the suffix is not .ply, .obj or .glb, or positions or texture coordinates are not finite.
        OSError: the folder or the file cannot be made.
    """
    check_writable(path)
    for name, rows in (("vertices", arrays.vertices), ("texture coordinates", arrays.uvs)):
        broken = 0 if rows is None else int((~np.isfinite(rows).all(1)).sum())
        if rows is not None and broken:
            raise ValueError(f"cannot write {path}: {broken} of {len(rows)} {name} are not finite numbers")
    if material is not None and material.has_textures and arrays.uvs is None:
        raise ValueError(f"cannot write {path}: a material with textures needs a mesh with texture coordinates; unwrap it first")
    frame, suffix = Frame(rotation.T, arrays.up), path.suffix.lower()
    beside: dict[str, bytes] = {}
    if suffix == ".glb":
        data = glb_bytes(arrays, frame, material)
    else:
        is_turned = bool((rotation != np.eye(3)).any())
        turned = rotated(arrays, rotation) if is_turned else arrays
        if suffix == ".ply":
            data = ply_bytes(turned, frame if is_turned or arrays.up != Z_UP else None)
        elif material is None:
            data = obj_bytes(turned, frame)
        else:
            stem = _plain_name(path.stem)
            files, library = mtl_files(material, stem, _MATERIAL), f"{stem}.mtl"
            turned = turned if material.base_color is None else turned._replace(colors=None)
            data, beside = obj_bytes(turned, frame, (library, _MATERIAL)), {**files.pictures, library: files.mtl}
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, content in beside.items():
        write_bytes(path.with_name(name), content)
    write_bytes(path, data)


def _plain_name(stem: str) -> str:
    """Return a name for the files beside an OBJ that no program misreads.

    Programs end names at a blank, and differ in letters beyond ASCII.

    >>> _plain_name("chair"), _plain_name("my chair")
    ('chair', 'my_chair-2661bd')
    """
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", stem)
    return plain if plain == stem else f"{plain}-{hashlib.sha1(stem.encode(errors='surrogateescape')).hexdigest()[:6]}"


def check_writable(path: Path) -> None:
    """Check the suffix of a file to be written.

    Raises:
        ValueError: no such format is written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot write a mesh to {path}: the suffix {path.suffix!r} is not one of {', '.join(SUFFIXES)}")


def read(path: Path, *, own_axes: bool = False) -> MeshArrays:
    """Read positions, triangles, vertex colors and texture coordinates; polygons become triangles.

    Texture coordinates are read only where every corner of every triangle has one.

    Args:
        path: the file. Its content decides between text and binary, its suffix between formats.
        own_axes: keep the axes of the file. Otherwise a file of ours is turned back to the frame of its mesh, and another glTF from +Y up
            to +Z up; other files keep their axes.

    Raises:
        FileNotFoundError: there is no such file.
        MeshFileError: the file has no triangles or cannot be parsed.
    """
    arrays = read_with_materials(path, own_axes=own_axes, split=False)._replace(materials=None)
    is_partly = arrays.uv_faces is not None and bool((arrays.uv_faces < 0).any())
    return arrays._replace(uvs=None, uv_faces=None, tangents=None) if is_partly else arrays


def read_with_materials(path: Path, *, own_axes: bool = False, split: bool = True) -> MeshArrays:
    """Read a mesh with the number of each triangle's material, and with texture coordinates that some corners have.

    See :func:`read`. ``split`` repeats vertices of an OBJ for each of their normals.
    """
    data, suffix = read_regular(path), path.suffix.lower()
    try:
        with np.errstate(all="ignore"):  # results that are not finite are found by the checks
            if suffix == ".obj":
                return read_obj(data, own_axes=own_axes, split=split)
            if suffix == ".ply":
                return read_ply(data, own_axes=own_axes)
            if suffix in (".glb", ".gltf"):
                return read_gltf(data, path, own_axes=own_axes)
            if suffix == ".stl":
                return read_stl(data)
            if suffix == ".off":
                return read_off(data)
    except MeshFileError as error:
        raise MeshFileError(f"{path} cannot be read as a mesh: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, struct.error) as error:
        # Numbers and names of a file are used as they are found; where one has another type or size, Python or NumPy says so.
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise MeshFileError(f"{path} cannot be read as a mesh: its content does not follow the format ({detail})") from error
    raise MeshFileError(f"{path} cannot be read as a mesh: its suffix is {suffix!r}; {_READABLE}")
