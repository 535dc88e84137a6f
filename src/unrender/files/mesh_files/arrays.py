"""The content of mesh files as arrays, their error, and the checks that all readers share."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

Z_UP = (0.0, 0.0, 1.0)
Y_UP = (0.0, 1.0, 0.0)

FRAME_KEY = "source_from_file"
"""Name under which a file stores the rotation back to the frame of its mesh."""

_FRAME_COMMENT = f"unrender {FRAME_KEY}"


class MeshFileError(ValueError):
    """A mesh file cannot be read. The message is one sentence: which file, what is wrong, and what to do."""


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
    """Rows of ``uvs``; while a file is read, −1 for a corner without one."""
    tangents: Float[np.ndarray, "coordinates 4"] | None = None
    """Direction of growing u and handedness ±1, one for each texture coordinate; only together with normals."""
    up: tuple[float, float, float] = Z_UP
    """The upward direction of the coordinates."""
    materials: Int[np.ndarray, " faces"] | None = None
    """While a file is read: the number of each triangle's material, −1 without one."""


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


class Frame(NamedTuple):
    """The axes of a file that we wrote: the rotation back to the frame of the mesh, and the upward direction there."""

    source_from_file: Float[np.ndarray, "3 3"]
    up: tuple[float, float, float]

    @classmethod
    def of(cls, numbers: list[float]) -> Frame:
        """Return a frame from nine numbers of a rotation, row by row, and three of the upward direction.

        Raises:
            MeshFileError: the numbers are no rotation and no direction.
        """
        if len(numbers) != 12 or not np.isfinite(numbers).all():
            raise MeshFileError(f"its {FRAME_KEY} has {len(numbers)} numbers; it must have nine and three that are finite")
        rotation, up = np.array(numbers[:9]).reshape(3, 3), (numbers[9], numbers[10], numbers[11])
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6) or not any(up):
            raise MeshFileError(f"its {FRAME_KEY} is not a rotation, or its upward direction is zero")
        return cls(rotation, up)

    @property
    def comment(self) -> str:
        """One line for the header of a text format."""
        numbers = [*self.source_from_file.reshape(-1), *self.up]
        return f"{_FRAME_COMMENT} {' '.join(f'{number:.17g}' for number in numbers)}"

    def applied(self, arrays: MeshArrays) -> MeshArrays:
        """Return the mesh of a file in its own frame."""
        return rotated(arrays, self.source_from_file)._replace(up=self.up)


def rotated(arrays: MeshArrays, rotation: Float[np.ndarray, "3 3"]) -> MeshArrays:
    """Return the mesh in other axes; a quarter turn is exact."""

    def turned(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([rows[:, :3] @ rotation.T, rows[:, 3:]], 1).astype(rows.dtype)

    normals = None if arrays.normals is None else turned(arrays.normals)
    tangents = None if arrays.tangents is None else turned(arrays.tangents)
    return arrays._replace(vertices=turned(arrays.vertices), normals=normals, tangents=tangents)


def frame_in(comment: str) -> Frame | None:
    """Return the frame in a comment; None if the comment is another.

    >>> frame_in(Frame(np.eye(3), (0.0, 0.0, 1.0)).comment).up
    (0.0, 0.0, 1.0)
    """
    _, found, numbers = comment.partition(_FRAME_COMMENT)
    if not found:
        return None
    try:
        return Frame.of([float(word) for word in numbers.split()])
    except ValueError as error:
        raise MeshFileError(f"the comment {comment.strip()[:80]!r} is damaged ({error}); remove it to read the file's own axes") from error


def read_regular(path: Path) -> bytes:
    """Read a regular file.

    Raises:
        FileNotFoundError: there is no such file.
        MeshFileError: it is a folder, a pipe or a device.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no mesh file {path}")
    if not path.is_file():
        raise MeshFileError(f"{path} is {'a folder' if path.is_dir() else 'not a regular file'}; give a mesh file")
    return path.read_bytes()


def colors_from_codes(codes: np.ndarray) -> Float[np.ndarray, "vertices 3"] | None:
    """Convert stored sRGB colors to 0 to 1; None if one is not finite.

    Unsigned bytes and 16-bit integers are divided by their largest value. Other numbers are divided by 255 if one exceeds 1.
    """
    colors = codes.astype(np.float64)
    if not np.isfinite(colors).all():
        return None
    if codes.dtype in (np.uint8, np.uint16):
        return colors / np.iinfo(codes.dtype).max
    return (colors / 255 if colors.size and colors.max() > 1 else colors).clip(0, 1)


def checked(arrays: MeshArrays) -> MeshArrays:
    """Check corners and coordinates, and remove vertices that are not finite and in no triangle.

    Raises:
        MeshFileError: no triangles, a corner without a vertex, or a triangle with a vertex that is not finite.
    """
    if len(arrays.faces) == 0:
        raise MeshFileError("it holds no triangles; a point cloud is not a mesh")
    coordinates = 0 if arrays.uvs is None else len(arrays.uvs)
    for name, rows, least, known in (
        ("vertex", arrays.faces, 0, len(arrays.vertices)),
        ("texture coordinate", arrays.uv_faces, -1, coordinates),
    ):
        if rows is not None and (rows.min() < least or rows.max() >= known):
            row = int(rows.max() if rows.max() >= known else rows.min())
            raise MeshFileError(f"a face names {name} {row}, counted from 0, and there are {known}")
    finite = np.all(np.isfinite(arrays.vertices), axis=1)
    if finite.all():
        return arrays
    used = np.zeros(len(finite), np.bool_)
    used[arrays.faces] = True
    broken = np.flatnonzero(used & ~finite)
    if len(broken):
        raise MeshFileError(f"{len(broken)} of its vertices are not finite numbers, the first is vertex {broken[0]}, counted from 0")
    renumbered = np.cumsum(finite) - 1
    colors = None if arrays.colors is None else arrays.colors[finite]
    normals = None if arrays.normals is None else arrays.normals[finite]
    return arrays._replace(vertices=arrays.vertices[finite], faces=renumbered[arrays.faces], colors=colors, normals=normals)
